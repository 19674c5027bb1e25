"""Feed spoiled files to every parser, loader and command.

    python -m benchmarks.robustness.fuzz
    python -m benchmarks.robustness.fuzz --inputs 10000 --commands 200 --seed 0 --json

Runs tests/nightly/test_fuzz.py with that many inputs. A spoiled input may be accepted or refused in
one line; a traceback, a hang or a file outside the folders of the command is a finding, which
hypothesis prints with the smallest input that causes it. The same seed gives the same inputs.
"""

import os
import sys
import time
from contextlib import redirect_stdout

import pytest
import torch

from benchmarks.speed.common import print_result
from src.config.cli import OneLineParser
from tests.support.fuzzing import ACCEPTED, ANSWERS, REFUSED


def main(arguments: list[str] | None = None) -> None:
    """Run the tests and print how often each answer came; exit status 1 after a finding."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--inputs", type=int, default=2000, help="in this process (2000)")
    parser.add_argument("--commands", type=int, default=20, help="through the commands (20)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    options = parser.parse_args(arguments)
    for name in ("inputs", "commands", "seed"):
        os.environ[f"FUZZ_{name.upper()}"] = str(getattr(options, name))
    torch.set_num_threads(1)
    began = time.perf_counter()
    with redirect_stdout(sys.stderr):
        status = pytest.main(
            ["-m", "nightly", "-p", "no:cacheprovider", "tests/nightly/test_fuzz.py"]
        )
    rows = {
        name: (
            counts[ACCEPTED],
            counts[REFUSED],
            counts.total() - counts[ACCEPTED] - counts[REFUSED],
        )
        for name, counts in ANSWERS.items()
    }
    findings = {
        f"{name}: {answer}": times
        for name, counts in ANSWERS.items()
        for answer, times in counts.items()
        if answer not in (ACCEPTED, REFUSED)
    }
    hangs = sum(times for answer, times in findings.items() if ": hang" in answer)
    commands = ANSWERS["commands"].total()
    result = {
        "inputs": sum(counts.total() for counts in ANSWERS.values()) - commands,
        "commands": commands,
        "tracebacks": sum(findings.values()) - hangs,
        "hangs": hangs,
        "seconds": round(time.perf_counter() - began, 1),
        "by_target": {
            name: dict(zip(("accepted", "refused", "findings"), row, strict=True))
            for name, row in rows.items()
        },
        "findings": findings,
    }
    head = ("target", "accepted", "refused", "findings")
    print_result(result, [head, *((name, *row) for name, row in rows.items())], options.json)
    sys.exit(1 if status or findings else 0)


if __name__ == "__main__":
    main()
