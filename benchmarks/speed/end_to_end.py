"""The phases of train.sh from a bare copy of the repository: environment, dataset, training.

    python benchmarks/speed/end_to_end.py
    python benchmarks/speed/end_to_end.py --skip_install --json -- --max_epochs 1

Copies what the repository holds (no environment, dataset or run), and runs `bash train.sh` there as
a user would; bash's own trace says when each command began. `--skip_install` gives the copy the
interpreter that runs this script in place of an environment of its own. Flags after `--` go to
train.sh, and with it to main.py.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import print_result, say
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.io.paths import ROOT

# The command of the trace that begins each phase
PHASES = {
    "environment_s": r"make_environment ",
    "dataset_s": r"\S*python\S* \S*make_dataset\.py ",
    "training_s": r"\S*python\S* \S*main\.py ",
}
NOT_COPIED = (".git", ".venv*", "runs", "processed", "__pycache__", ".*_cache", ".hypothesis")


def copy_repository(target: Path) -> None:
    """The files that git knows or would add; without git, all but what a run makes."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode:
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():  # not one that was removed in the working tree
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def lend_interpreter(copy: Path) -> None:
    """A .venv whose python is this one, stamped as installed, so that train.sh installs nothing."""
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    needed = (copy / "requirements.txt").read_text()
    (copy / ".venv" / ".installed-requirements.txt").write_text(2 * needed)  # src/environment.sh


def run_traced(copy: Path, flags: list[str]) -> tuple[str, float, float]:
    """Run train.sh under bash's trace; the trace, and when it began and ended (Unix seconds)."""
    trace, prompt = copy.parent / "trace", copy.parent / "prompt.sh"
    prompt.write_text("PS4='+ $EPOCHREALTIME '\n")  # root's bash takes no PS4 from the environment
    # what the commands say goes to standard error: the result alone is on standard output
    with trace.open("w") as file:
        environment = os.environ | {
            "BASH_XTRACEFD": str(file.fileno()), "BASH_ENV": str(prompt), "LC_NUMERIC": "C",
        }  # fmt: skip
        began = time.time()
        done = subprocess.run(
            ["bash", "-x", "train.sh", *flags], cwd=copy, env=environment, check=False,
            pass_fds=[file.fileno()], stdin=subprocess.DEVNULL, stdout=2,
        )  # fmt: skip
        ended = time.time()
    if done.returncode:
        raise UserError(f"train.sh ended with status {done.returncode}; see above")
    return trace.read_text(), began, ended


def phase_times(trace: str, began: float, ended: float) -> dict[str, float]:
    """Seconds of each phase, from its command's place in the trace to the next phase's, and in all.

    A line of the trace is one or more '+', the time, and the command.
    """
    starts = []
    for phase, command in PHASES.items():
        line = re.search(rf"^\++ (\d+)[.,](\d+) {command}", trace, re.MULTILINE)
        if line is None:
            raise UserError(f"train.sh has no command for {phase}: {command}")
        starts.append(float(f"{line[1]}.{line[2]}"))
    ends = [*starts[1:], ended]
    times = {phase: end - first for phase, first, end in zip(PHASES, starts, ends, strict=True)}
    return times | {"total_s": ended - began}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--skip_install", action="store_true", help="use this interpreter, install nothing"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        copy_repository(copy)
        if parsed.skip_install:
            lend_interpreter(copy)
        say("running train.sh in a copy of the repository")
        times = phase_times(*run_traced(copy, parsed.flags))
    result = {"installed": not parsed.skip_install, **times}
    rows = [["phase", "s"]]
    rows += [[name.removesuffix("_s"), f"{value:.1f}"] for name, value in times.items()]
    print_result(result, rows, parsed.json)


if __name__ == "__main__":
    run_command(main)
