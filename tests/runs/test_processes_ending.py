"""When one of several processes ends, by a signal or a fault, all end and report the cause, and
--resume continues with any number of them to the state of an uninterrupted run."""

import json
from contextlib import suppress

import pytest
import torch

import main
from src.training.processes import Process
from src.training.random_state import restore_all
from src.training.signals import Interrupted
from tests.support.command_runs import ROOT, command, make_data
from tests.support.process_endings import project_lines, statuses
from tests.support.process_runs import USERS, assert_same_run, exact, launch_runs
from tests.support.process_worker import meets

LOST = (
    "error: another process has ended; its message or torchrun's report names the cause; "
    "continue from the last checkpoint with --resume ("
)
DROPOUT = ("--dropout=.5", "--batch_size=14", "--max_epochs=3", "--resume")  # 6 steps an epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), users=USERS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def stands_at(run) -> int:
    """The optimiser steps behind last.pt, which must not end an epoch."""
    state = torch.load(run / "last.pt", weights_only=True)
    assert state["position"]
    return state["step"]


# Each leg of the run, after a first one in one process: how many processes go on with it, and what
# ends them at which step.
LEGS = [
    (2, [1, 20, "SIGKILL"]),
    (3, [0, 28, "torchrun SIGTERM"]),
    (2, [0, 36, "SIGKILL"]),
    (2, [1, 46, "torchrun SIGINT"]),
]


@pytest.fixture(scope="module", params=[1, pytest.param(len(LEGS), marks=pytest.mark.nightly)])
def legs(data, runs, request):
    """A run interrupted once and then in some of the legs, each time within an epoch, and brought
    to its end by one process; and what each leg left: how it ended, the steps behind last.pt."""
    name = f"legs-{request.param}"
    flags = exact(data, runs, name, "--save_every_steps=3", "--resume")
    with suppress(Interrupted), meets(0, 13, "SIGTERM"):
        main.main(flags)
    run, left = runs / "tiny" / name, []
    assert stands_at(run) == 14
    for processes, fault in LEGS[: request.param]:
        left.append((launch_runs(processes, runs, [(flags, fault)]), stands_at(run)))
    main.main(flags)
    return run, left


def test_a_run_that_changed_its_processes_is_the_uninterrupted_one(data, runs, legs):
    main.main(exact(data, runs, "whole"))
    assert_same_run(runs / "tiny" / "whole", legs[0])


def legs_that_end(left: list, how: str) -> list:
    """(how it ended, steps behind last.pt, step of its fault, the fault) of those legs."""
    return [
        (*one, *fault[1:]) for one, (_, fault) in zip(left, LEGS, strict=False) if how in fault[2]
    ]


def test_a_killed_process_ends_the_others_with_the_cause(legs):
    for (done, step, killed_at, _), survivor in zip(
        legs_that_end(legs[1], "SIGKILL"), ("", "process 1: "), strict=False
    ):
        check_killed(done, step, killed_at, survivor)


def check_killed(done, step: int, killed_at: int, survivor: str) -> None:
    assert done.returncode == 1
    (line,) = project_lines(done.stderr)
    assert line.startswith(f"{survivor}{LOST}")
    assert "Signal 9 (SIGKILL)" in done.stderr  # in torchrun's report
    assert "]: Traceback" not in done.stderr  # torchrun has one of its own, the survivor none
    assert "Exception ignored" not in done.stderr
    assert killed_at - 3 < step <= killed_at
    assert step % 3 == 0


@pytest.mark.nightly
@pytest.mark.parametrize("legs", [len(LEGS)], indirect=True)
def test_a_signal_to_torchrun_ends_all_after_a_whole_step_with_one_line(legs):
    run, left = legs
    for done, step, sent_at, fault in legs_that_end(left, "torchrun"):
        assert done.returncode == 1
        (line,) = project_lines(done.stderr)
        where = f"step {step % 11} of epoch {step // 11 + 1}"
        assert line == (
            f"interrupted: {fault.split()[-1]}; {run / 'last.pt'} is saved after {where}; "
            "continue with --resume"
        )
        assert step > sent_at


@pytest.fixture(scope="module")
def with_dropout(data, runs):
    """A launch of two processes: two runs that one process began, one run at a stretch, and one
    interrupted, and one that meets a score that is not finite."""

    def flags(name):
        return exact(data, runs, name, *DROPOUT)

    for name in ("once", "again"):
        with suppress(Interrupted), meets(0, 8, "SIGTERM"):
            main.main(flags(name))
    names = ("once", "again", "stretch", "parts", "parts", "nan")
    faults = (None, None, None, [1, 8, "SIGTERM"], None, [1, 8, "nan"])
    return launch_runs(2, runs, list(zip(map(flags, names), faults, strict=True)))


@pytest.mark.nightly
@pytest.mark.parametrize(("one", "other"), [("once", "again"), ("stretch", "parts")])
def test_with_dropout_a_resumed_run_is_repeatable_also_with_more_processes(
    with_dropout, runs, one, other
):
    """The masks follow from the saved random states; a new process's, from seed and step."""
    first, second = (
        torch.load(runs / "tiny" / name / "last.pt", weights_only=True) for name in (one, other)
    )
    assert first["step"] == second["step"] == 18
    assert all(map(torch.equal, first["model"].values(), second["model"].values()))
    assert (runs / "tiny" / other / "results.json").is_file()


def test_each_process_restores_its_random_state():
    drawn, states = [], []
    for _ in range(3):
        states.append(torch.get_rng_state())
        drawn.append(torch.rand(5))
    for rank, expected in enumerate(drawn):
        process = Process(torch.device("cpu"), rank, 3)
        restore_all({"cpu": torch.stack(states)}, process, (0,))
        assert torch.equal(torch.rand(5), expected)


@pytest.mark.nightly
def test_a_score_that_is_not_finite_in_one_process_ends_all_with_one_line(with_dropout, runs):
    done = with_dropout
    assert done.returncode == 1
    (line,) = project_lines(done.stderr)
    fault = runs / "tiny" / "nan" / "fault.pt"
    assert line.startswith("error: the score of item ")
    assert line.endswith(f"; the state before it is in {fault}, for --replay")
    state = torch.load(fault, weights_only=True)
    assert (state["epoch"], state["position"], state["step"]) == (1, 6, 12)


@pytest.mark.nightly
def test_a_busy_thread_does_not_abort_its_ending_process():
    """Three kinds of ending in two processes, side by side; all kinds, also in three processes, are
    in tests/nightly/test_process_endings.py."""
    endings = [[(ending, 2) for ending in ("done", "own mistake", "lost")]]
    script = ROOT / "tests" / "support" / "process_endings.py"
    done = command(script, json.dumps(endings))
    for ending, codes, errors in json.loads(done.stdout):
        assert codes == statuses(ending, 2), errors
        assert "terminate called" not in errors
        assert len(project_lines(errors)) == (ending != "done")
