"""Faults and resumptions one after the other: nothing promised is lost, nothing is left over."""

import copy
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

import make_dataset
from tests.support import soak, watched


def test_through_full_disks_nans_and_kills_a_run_ends_as_if_nothing_had_been(monkeypatch):
    monkeypatch.setattr(soak, "MEAN_GAP", 20)
    result = soak.measure(120, seed=1)
    assert all(count >= 1 for count in result["faults"].values())
    assert result["wrong"] == []
    assert result["different"] == {"faulty": [], "killed": []}
    assert set(result["left"].values()) == {0}
    assert result["steps"] == 120


def test_what_is_promised_is_the_last_multiple_or_the_last_end_of_an_epoch():
    every, epoch = soak.SAVE_EVERY, soak.STEPS_PER_EPOCH
    assert [soak.promised(done) for done in (0, every - 1, every, every + 1)] == [
        0,
        0,
        every,
        every,
    ]
    assert epoch % every and soak.promised(epoch) == soak.promised(epoch + 1) == epoch


def hold_shared_memory() -> None:
    """Have this process hold a block of shared memory with a name."""
    watched.kept = SharedMemory(create=True, size=64)


def test_shared_memory_that_a_killed_process_leaves_is_seen(tmp_path):
    flags = watched.data_flags(watched.make_log(tmp_path / "raw", 20), tmp_path / "data")
    aim = watched.Aim("data", 1, 0.0)
    for prepare, blocks in ((None, 0), (hold_shared_memory, 1)):
        ended = watched.live(make_dataset.main, flags, tmp_path / "log.txt", aim, prepare)
        assert ended.status == watched.KILLED
        assert len(ended.left) == blocks
    ended.left[0].unlink()


# ---------------------------------------------------------------- the slope of memory


def drifts(seed: int, share: float, size: int = 1500) -> np.ndarray:
    """Values that each keep a share of the one before, about 0."""
    draws = np.random.default_rng(seed).normal(size=size)
    for place in range(1, size):
        draws[place] += share * draws[place - 1]
    return draws


def test_memory_that_never_moves_has_no_slope():
    assert soak.slope(np.full(1500, 3e8)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("share", [0.0, 0.9, 0.97])
def test_the_interval_holds_the_true_slope_however_slowly_the_noise_moves(share):
    held = 0
    for seed in range(200):
        _, low, high = soak.slope(drifts(seed, share) + 0.01 * np.arange(1500))
        held += low <= 0.01 <= high
    assert held >= 180


def test_a_leak_of_a_number_a_step_is_seen_in_noise():
    found, low, high = soak.slope(8.0 * np.arange(1500) + 1000 * drifts(0, 0.5))
    assert 0 < low < found < high
    assert found == pytest.approx(8, rel=0.1)


GOOD = {
    "identical": True, "wrong": [], "left": {"files": 0},
    "memory": {"steady": {"resident": {"interval": [-3.0, 2.0]}}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("identical", False),
        ("wrong", [{"kept": False}]),
        ("left", {"files": 1}),
        ("memory", {"steady": {"resident": {"interval": [0.1, 2.0]}}}),
    ],
)
def test_the_exit_status_says_what_does_not_hold(monkeypatch, name, value):
    assert soak.holds(copy.deepcopy(GOOD))
    monkeypatch.setattr(soak, "measure", lambda steps, seed: GOOD | {name: value})
    with pytest.raises(SystemExit) as ended:
        soak.main(["--json"])
    assert ended.value.code == 1
