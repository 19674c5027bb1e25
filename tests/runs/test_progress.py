"""What a command shows while it works: first line, pace, bar; and when a run stops."""

import gc
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.config.names import MODELS, WEIGHTINGS, WITHOUT_SETTINGS, load
from src.config.settings import Settings
from src.io import starting
from src.io.starting import set_libraries_aside, starting_line
from src.training import run_clock
from src.training.processes import Process
from src.training.progress import Progress
from src.training.run_clock import RunClock, print_start
from tests.support.command_runs import ROOT, command, failing, flags, train
from tests.support.watched import differences

COMMANDS = ("make_dataset.py", "main.py", "recommend.py", "export.py", "report.py")
HEAVY = (
    "numpy", "torch", "pandas", "pyarrow", "scipy", "matplotlib", "tqdm", "duckdb", "ibis",
    "filelock",
)  # fmt: skip
# {command: words that are right as far as it can tell without loading a library}
GOOD = {
    "make_dataset.py": ["--data_name=amazon", "--strd_ym=202312"],
    "main.py": ["--hidden=8", "--weighting=pcgrad"],
    "recommend.py": ["--run=x"],
    "export.py": ["x", "--out=y"],
    "report.py": ["compare", "x", "y"],
}
HELP = [
    *((name, []) for name in COMMANDS),
    ("report.py", ["table"]),
    ("main.py", ["--model=sasrec"]),
]
WRONG = [
    *((name, ["--zzz"]) for name in COMMANDS), ("main.py", ["--hidden=x"]),
    ("main.py", ["--model=sasrec", "--lr=-1"]), ("main.py", ["--protocol=all"]),
    ("main.py", ["--evaluate=x"]), ("recommend.py", []), ("report.py", ["table", "--zzz", "x"]),
]  # fmt: skip
STARTED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import main, trainers
train_steps = trainers.Trainer.train_steps
def steps(trainer):
    print(*sys.modules)
    train_steps(trainer)
trainers.Trainer.train_steps = steps
main.main(sys.argv[1:])
print(*sys.modules)
"""


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


# ---------------------------------------------------------------- the first line


def without_libraries(folder: Path, name: str, words: list[str]) -> subprocess.CompletedProcess:
    """Run a command; the first library that it loads ends it with status 7."""
    for library in HEAVY:
        (folder / f"{library}.py").write_text(
            "import gc\nraise SystemExit(8 if gc.isenabled() else 7)"  # enabled it takes longer
        )
    return subprocess.run(
        [sys.executable, ROOT / name, *words], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(folder)}, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_speaks_before_it_loads_a_library(tmp_path, name):
    done = without_libraries(tmp_path, name, GOOD[name])
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{name}: starting\n", "")


@pytest.mark.parametrize(("name", "words"), HELP)
def test_help_loads_no_library(tmp_path, name, words):
    done = without_libraries(tmp_path, name, [*words, "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name}")


@pytest.mark.parametrize(("name", "words"), WRONG)
def test_a_wrong_command_line_loads_no_library(tmp_path, name, words):
    done = without_libraries(tmp_path, name, words)
    assert (done.returncode, done.stdout) == (2, f"{name}: starting\n")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("table", [MODELS, WEIGHTINGS])
def test_what_is_not_loaded_for_its_settings_has_none(table):
    named = {name: load(getattr(entry, "path", entry)) for name, entry in table.items()}
    without = {name for name, part in named.items() if not hasattr(part, "Settings")}
    assert without == {name for name in WITHOUT_SETTINGS if name in table}


def test_a_training_begins_without_what_only_other_steps_need(data, runs):
    words = flags(data, runs, "--run_name=run")
    done = command("-c", STARTED, ROOT, *words)
    lines = done.stdout.splitlines()
    first = set(next(line for line in lines if " torch " in line).split())
    assert not first & {"pandas", "scipy", "matplotlib", "duckdb", "ibis"}
    assert "numpy" in first
    last = set(lines[-1].split())
    assert "scipy" in last
    assert not last & {"matplotlib", "duckdb", "ibis", "torch._dynamo"}


def test_garbage_is_collected_once_the_libraries_of_a_command_are_loaded_but_not_in_them(
    monkeypatch,
):
    set_aside = gc.get_freeze_count()
    loaded = [[] for _ in range(1000)]  # as by a library
    gc.disable()
    try:
        set_libraries_aside()
        assert not gc.isenabled()  # in another process than a command's
        monkeypatch.setattr(starting, "main_script", str(ROOT / "main.py"))
        set_libraries_aside()
        assert gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_freeze_count() >= set_aside + len(loaded)


def test_nothing_is_said_for_help_for_other_scripts_and_by_other_processes(monkeypatch, tmp_path):
    script = str(ROOT / "main.py")
    assert starting_line(script, ["--hidden=8"]) == "main.py: starting"
    assert starting_line(script, ["--help"]) == starting_line(script, ["-h"]) == ""
    assert starting_line(str(tmp_path / "main.py"), []) == ""
    assert starting_line(str(ROOT / "utils.py"), []) == ""
    monkeypatch.setenv("RANK", "1")
    assert starting_line(script, []) == ""


# ---------------------------------------------------------------- the run


def test_the_lines_of_a_run_say_where_how_much_and_how_fast(data, runs, capsys):
    train(data, runs, "run", "--max_epochs=2", "--lr=.004", "--warmup_steps=6", "--protocol=full")
    lines = capsys.readouterr().out.splitlines()
    (start,) = (line for line in lines if line.startswith("training on"))
    assert re.fullmatch(
        r"training on cpu: 50 users, \d+ targets in 3 steps per epoch, at most 2 epochs; "
        r"50 validation targets; \* marks the best ndcg@10 \(macro\) of the cross path so far",
        start,
    )
    first, second = (line for line in lines if line.startswith("epoch "))
    assert re.search(r"  lr 0\.002  \d+\.\d s, at most \d\d:\d\d left  \*$", first)
    assert re.search(r"  lr 0\.004  \d+\.\d s( |$)", second)
    assert "left" not in second
    assert lines.index(start) < lines.index(first)


def test_a_run_on_several_threads_and_processes_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    settings = Settings(mode="sdsr_separate", max_epochs=1)
    print_start(settings, Process(torch.device("cpu"), 0, 2), 1234, 5678, 90, 1)
    assert capsys.readouterr().out == (
        "training on 2 processes, each on cpu (4 threads): 1,234 users, 5,678 targets in 1 step "
        "per epoch, at most 1 epoch; 90 validation targets; * marks the best ndcg@10 (macro) of "
        "the single path so far\n"
    )


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves."""
    times = [100.0]
    monkeypatch.setattr(run_clock.time, "monotonic", lambda: times[0])
    return times


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_is_the_run_s_and_its_time_left_counts_validations(now, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = RunClock(Settings(max_epochs=16), steps_per_epoch=10)
    progress = Progress(epoch=2, step=20)  # resumed: what was trained before does not count
    with clock.bar(progress, shown=True) as bar:
        assert clock.left(progress) == ""
        bar.update(10)
    assert "epoch 3 of 16 |" in sys.stderr.getvalue()
    assert "step 20 of 160" in sys.stderr.getvalue()
    progress.epoch, progress.step = 3, 30
    now[0] += 20.0  # ten steps and a validation
    assert clock.left(progress) == "04:20"  # 130 steps at 2 s
    assert clock.pace(progress) == "lr 0.0003  20.0 s, at most 04:20 left"
    with clock.bar(progress, shown=True):
        pass
    assert "epoch 4 of 16 |" in sys.stderr.getvalue()
    assert "at most 04:20 left" in sys.stderr.getvalue()
    progress.step = 160
    assert clock.left(progress) == ""


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_is_silent_where_the_output_is_no_terminal(monkeypatch, shown):
    output = io.StringIO() if shown else Terminal()
    monkeypatch.setattr(sys, "stderr", output)
    with RunClock(Settings(), 3).bar(Progress(), shown) as bar:
        bar.update()
    assert output.getvalue() == ""


# ---------------------------------------------------------------- patience in epochs


@pytest.mark.parametrize("steps", [3, 700])
@pytest.mark.parametrize(
    ("waited", "patience", "stops"), [(1, 2, False), (2, 2, True), (3, 2, True), (0, 1, False)]
)
def test_patience_in_epochs_is_the_same_for_small_and_large_models(steps, waited, patience, stops):
    settings = Settings(patience_epochs=patience, patience_steps=10**9)
    progress = Progress(epoch=9, step=9 * steps, best_step=(9 - waited) * steps)
    assert progress.finished(settings) == stops
    settings = Settings(patience_epochs=patience, patience_steps=0)  # it replaces the steps
    assert progress.finished(settings) == stops
    assert not Progress(epoch=9, step=9 * steps, position=1).finished(settings)
    assert not progress.finished(Settings(patience_epochs=patience, min_steps=10**6))


def test_no_patience_in_epochs_is_the_patience_in_steps():
    progress = Progress(epoch=9, step=90, best_step=50)
    assert progress.finished(Settings(patience_steps=40))
    assert not progress.finished(Settings(patience_steps=41))


def test_a_run_stops_by_its_epochs_and_trains_on_where_they_grow(data, runs, capsys):
    more = ("--lr=1e-9", "--max_epochs=6", "--protocol=full", "--no-target_domain_query")
    run = train(data, runs, "run", *more, "--patience_epochs=2")
    epochs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    best = max(number for number, line in enumerate(epochs) if line.endswith("*"))
    assert len(epochs) == best + 1 + 2 < 6
    for given in ("--patience_epochs=1", "--patience_epochs=0"):  # shorter, another rule
        line = failing(
            capsys, runs, lambda given=given: train(data, runs, "run", *more, given, "--resume")
        )
        assert "holds a run with --patience_epochs 2, not" in line
    train(data, runs, "run", *more, "--patience_epochs=3", "--resume")
    whole = train(data, runs, "whole", *more, "--patience_epochs=3")
    assert differences(run, whole) == []


def test_a_patience_in_steps_does_not_become_one_in_epochs(data, runs, capsys):
    train(data, runs, "run", "--protocol=full")
    more = ("--protocol=full", "--patience_epochs=5", "--resume")
    line = failing(capsys, runs, lambda: train(data, runs, "run", *more))
    assert "holds a run with --patience_epochs 0, not 5" in line


def test_a_negative_patience_is_refused(data, runs, capsys):
    line = failing(capsys, runs, lambda: train(data, runs, "run", "--patience_epochs=-1"))
    assert "--patience_epochs must not be negative" in line
