"""Bad input: spoiled files through every parser and loader, and through the commands.

    python -m benchmarks.robustness.fuzz
    python -m benchmarks.robustness.fuzz --inputs 10000 --commands 200 --seed 0 --json

A spoiled input may be accepted or told in one line; a traceback, a hang or a file outside the
folders of the command is a finding. The same seed feeds the same inputs.
"""

import io
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from benchmarks.robustness import fuzz_commands
from benchmarks.robustness.fuzz_targets import TARGETS
from benchmarks.robustness.fuzz_world import World, build
from benchmarks.speed.common import print_result, say
from src.config.cli import OneLineParser
from src.io.errors import EXIT_USER_ERROR, UserError

LIMIT_S = 20.0  # of processor time: an input that takes more hangs, however busy the machine is
WAIT_S = 600.0  # of the clock: one that waits for so long hangs too


class Hang(BaseException):
    """An input took longer than it may."""


def answer(run: Callable[[], Any], limit: float = LIMIT_S) -> str:
    """How `run` ends: accepted, refused, or a finding: the exception and where it came from."""

    def ring(*_: Any) -> None:
        raise Hang

    before = {number: signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, WAIT_S)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            run()
    except UserError:
        return "refused"
    except SystemExit as stopped:
        return "refused" if stopped.code == EXIT_USER_ERROR else f"exit status {stopped.code}"
    except Hang:
        return f"hang: more than {limit:g} s"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "site-packages" not in frame.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]} ({place})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    return "accepted"


def fuzz_inputs(world: World, count: int, seed: int) -> dict[str, Counter]:
    """{target: how often each answer came} of `count` inputs in this process."""
    found: dict[str, Counter] = {target.__name__: Counter() for target in TARGETS}
    shares = random.Random(seed).choices(list(TARGETS), list(TARGETS.values()), k=count)
    for number, target in enumerate(shares):
        rng = random.Random(f"{seed} {number}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = answer(lambda target=target, rng=rng: target(world, rng))
        found[target.__name__][told] += 1
        if is_finding(told) and found[target.__name__][told] == 1:
            say(f"input {number}, {target.__name__}: {told}")
        if (number + 1) % 1000 == 0:
            say(f"{number + 1} of {count} inputs")
    return found


def is_finding(told: str) -> bool:
    return told not in ("accepted", "refused")


def summary(inputs: dict[str, Counter], commands: dict[str, Counter], seconds: float) -> dict:
    """The JSON object."""
    every = inputs | commands
    findings = {
        f"{target}: {told}": times
        for target, answers in every.items()
        for told, times in answers.items()
        if is_finding(told)
    }
    hangs = sum(times for told, times in findings.items() if ": hang" in told)
    return {
        "inputs": sum(map(Counter.total, inputs.values())),
        "commands": sum(map(Counter.total, commands.values())),
        "tracebacks": sum(findings.values()) - hangs,
        "hangs": hangs,
        "seconds": round(seconds, 1),
        "by_target": {
            target: {
                "accepted": answers["accepted"],
                "refused": answers["refused"],
                "findings": sum(times for told, times in answers.items() if is_finding(told)),
            }
            for target, answers in every.items()
        },
        "findings": findings,
    }


def parse(arguments: list[str] | None) -> Any:
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--inputs", type=int, default=2000, help="in this process (2000)")
    parser.add_argument("--commands", type=int, default=20, help="through the commands (20)")
    parser.add_argument("--workers", type=int, default=1, help="processes that start these (1)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Feed, and print what came of it; exit status 1 where there is a finding."""
    given = parse(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as root,
        ProcessPoolExecutor(given.workers, context) as pool,
    ):
        shares = [
            pool.submit(fuzz_commands.run_share, given.commands, given.seed, share, given.workers)
            for share in range(given.workers if given.commands else 0)
        ]
        inputs = fuzz_inputs(build(Path(root)), given.inputs, given.seed)
        commands: dict[str, Counter] = {}
        for share in shares:
            for command, answers in share.result().items():
                commands.setdefault(command, Counter()).update(answers)
    result = summary(inputs, commands, time.perf_counter() - start)
    head = ("target", "accepted", "refused", "findings")
    rows = [(target, *own.values()) for target, own in result["by_target"].items()]
    print_result(result, [head, *rows], given.json)
    if result["findings"]:
        say(json.dumps(result["findings"], indent=2))
        sys.exit(1)


if __name__ == "__main__":
    main()
