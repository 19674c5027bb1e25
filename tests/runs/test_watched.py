"""The comparison of two run folders sees the least difference: the resume tests stand on it."""

import shutil

import pytest
import torch

from tests.support import watched
from tests.support.command_runs import make_data, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    return train(make_data(place), place, "run")


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def changed(path, change):
    """Write a checkpoint again with a change."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def next_float(state):
    weights = state["model"]["item_table"].view(-1)
    weights[5] = torch.nextafter(weights[5], torch.tensor(9.0))


def no_warm_up(state):
    state["scheduler"]["last_epoch"] += 1


def other_draw(state):
    state["random"]["cpu"][0, 40] ^= 1


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (next_float, "/model/item_table"),
        (no_warm_up, "/scheduler/last_epoch"),
        (other_draw, "/random/cpu"),
        (lambda state: state.pop("lc_ntg"), ""),
    ],
)
def test_the_least_change_of_a_checkpoint_is_a_difference(run, whole, change, place):
    assert watched.differences(run, whole) == []
    changed(run / "last.pt", change)
    assert watched.differences(run, whole) == [f"last.pt: {place}"]


def test_zeros_of_other_signs_differ_and_nan_equals_itself():
    zeros = torch.tensor([0.0]), torch.tensor([-0.0])
    assert watched.unequal_parts({"a": [zeros[0]]}, {"a": [zeros[1]]}) == ["/a/0"]
    assert watched.unequal_parts(torch.tensor([torch.nan]), torch.tensor([torch.nan])) == []


def test_a_file_more_or_less_or_changed_is_a_difference(run, whole):
    (run / "best.pt").unlink()
    (run / ".last.pt.7.tmp").touch()
    (run / "metrics.csv").write_text("epoch\n")
    assert watched.differences(run, whole) == [
        ".last.pt.7.tmp is in one alone", "best.pt is in one alone", "metrics.csv",
    ]  # fmt: skip


def test_after_a_kill_torn_files_and_rows_of_another_run_are_seen(run, whole):
    (run / "results.json").unlink()
    rows = (whole / "metrics.csv").read_bytes().splitlines(keepends=True)
    (run / "metrics.csv").write_bytes(b"".join(rows[:4]))
    assert watched.faults_after_a_kill(run, whole) == []
    (run / "metrics.csv").write_bytes(b"".join(rows[:4]) + b"9,9,train\n")
    (run / "former.pt").write_bytes((whole / "last.pt").read_bytes()[:2000])
    (run / "ranks.parquet").write_bytes(b"")
    torn, rows, ranks = watched.faults_after_a_kill(run, whole)
    assert "former.pt is damaged" in torn
    assert (rows, ranks) == (
        "metrics.csv is no beginning of the whole run's",
        "ranks.parquet differs",
    )
