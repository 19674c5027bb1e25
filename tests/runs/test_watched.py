"""The comparison of two run folders sees the least difference: the resume tests stand on it."""

import shutil

import pytest
import torch

from tests.support import watched


@pytest.fixture(scope="module")
def whole(finished_run):
    return finished_run("run", "--protocol=full")


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def next_float(state):
    weights = state["model"]["item_table"].view(-1)
    weights[5] = torch.nextafter(weights[5], torch.tensor(9.0))


def other_draw(state):
    state["random"]["cpu"][0, 40] ^= 1


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        (next_float, "/model/item_table"),
        (other_draw, "/random/cpu"),
        (lambda state: state.pop("lc_ntg"), ""),
    ],
)
def test_the_least_change_of_a_checkpoint_is_a_difference(run, whole, change, entry):
    assert watched.differences(run, whole) == []
    state = torch.load(run / "last.pt", weights_only=True)
    change(state)
    torch.save(state, run / "last.pt")
    assert watched.differences(run, whole) == [f"last.pt: {entry}"]


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
