"""Spoiled input of every kind, by the thousand: accepted or refused in one line, never a traceback.

    python -m benchmarks.robustness.fuzz --inputs 10000 --commands 200

The short form that runs on every change is tests/commands/test_spoiled_input.py.
"""

import os
import subprocess
import sys

import pytest
from hypothesis import strategies as st

from src.io.paths import ROOT
from tests.support.fuzzing import ACCEPTED, REFUSED, TARGETS, feed, feed_target
from tests.support.spoiling import remove, spoiled
from tests.support.tiny_world import TINY, data_flags

INPUTS = int(os.environ.get("FUZZ_INPUTS", "2000"))  # to the readers, in this process
COMMANDS = int(os.environ.get("FUZZ_COMMANDS", "20"))  # each in a process of its own
SEED = int(os.environ.get("FUZZ_SEED", "0"))
OUTPUTS = {"out", "made", "made-rejected.csv"}  # the last: a sample of the rows of a refused log
LIMIT_S = 600  # a command that takes longer hangs; two seconds are usual on an idle core


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_spoiled_input_is_accepted_or_refused_in_one_line(world, target):
    feed_target(world, target, round(INPUTS * TARGETS[target] / sum(TARGETS.values())), SEED)


def commands_of(world) -> dict[str, tuple[list, list]]:
    """{name: (a command line, the files that may be spoiled for it)}."""
    data, run, out = world.data, world.run, world.root / "out"
    train = ["main.py", *TINY, f"--data_dir={data}", f"--runs_dir={out}", "--run_name=x"]
    resume = ["main.py", *TINY, f"--data_dir={data}", f"--runs_dir={world.root / 'runs'}",
              "--run_name=syncrec", "--resume"]  # fmt: skip
    report = [*world.runs.values(), f"--out={out / 'r'}"]
    run_files = sorted(path for path in run.iterdir() if path.is_file())
    stored = sorted((run.parent / "candidates").iterdir())
    made = f"--out_dir={world.root / 'made'}"
    return {
        "train": (train, [data / "data_card.json", *sorted((data / "sequences").iterdir())]),
        "config": ([*train, f"--config={run / 'config.json'}"], [run / "config.json"]),
        "resume": (resume, run_files),
        "evaluate": (["main.py", f"--evaluate={run}"], [*run_files, *stored]),
        "replay": (["main.py", f"--replay={run / 'last.pt'}"], [run / "last.pt"]),
        "recommend": (
            ["recommend.py", f"--run={run}", "--k=2"], [*run_files, data / "users.parquet"]
        ),
        "reuse": (
            ["make_dataset.py", *data_flags(world.logs["csv"]), f"--out_dir={data}"],
            [data / "data_card.json"],
        ),
        **{
            f"make {name}": (["make_dataset.py", *data_flags(log), made], sorted(log.iterdir()))
            for name, log in world.logs.items()
        },
        **{
            f"report {name}": (["report.py", name, *report], run_files)
            for name in ("table", "compare", "protocols", "transfer")
        },
    }  # fmt: skip


def answer_of(world, words: list) -> str:
    """How a command ends: accepted, refused in one line, or a finding."""
    before = set(world.root.iterdir())
    try:
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True,
            errors="replace", stdin=subprocess.DEVNULL, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"hang: more than {LIMIT_S} s"
    written = {path.name for path in set(world.root.iterdir()) - before}
    for name in OUTPUTS:
        remove(world.root / name)
    lines = done.stderr.strip().splitlines()
    if "Traceback" in done.stderr + done.stdout:
        return lines[-1][:200]
    if done.returncode not in (0, 2):
        return f"exit status {done.returncode}: {lines[-1][:100] if lines else ''}"
    if written - OUTPUTS:
        return f"wrote {written}"
    if done.returncode == 2 and not any(line.startswith("error: ") for line in lines):
        return "exit status 2 without a line"
    return REFUSED if done.returncode else ACCEPTED


def test_commands_answer_spoiled_files_in_one_line(world):
    commands = commands_of(world)

    def one_command(draw) -> str:
        words, files = commands[draw(st.sampled_from(sorted(commands)))]
        with spoiled(draw, draw(st.sampled_from(files))):
            return answer_of(world, words)

    feed("commands", one_command, COMMANDS, SEED)
