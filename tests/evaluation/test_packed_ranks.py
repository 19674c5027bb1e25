"""Packed ranks: exact where they must be, few bytes, and read by numpy alone."""

import io

import numpy as np
import pytest

from src.evaluation.metrics import CUTOFFS, target_metrics
from src.evaluation.packed_ranks import PRESENT, WHOLE, npz_bytes, pack, unpack

EVERY = (WHOLE, 10, 6, 3, 1, 0, PRESENT)


@pytest.fixture(scope="module")
def ranks():
    """[2, n] every small rank with and without ties, and large ones up to a large catalogue."""
    rng = np.random.default_rng(0)
    better = np.concatenate([np.repeat(np.arange(40), 3), rng.integers(0, 10**6, 5000)])
    tied = np.where(rng.random(len(better)) < 0.3, rng.integers(1, 400, len(better)), 1)
    return np.stack([better, tied])


@pytest.mark.parametrize("ties", ["expected", "pessimistic", "optimistic"])
@pytest.mark.parametrize("digits", EVERY)
def test_metrics_with_a_cut_off_are_exact_whatever_the_digits(ranks, digits, ties):
    before = target_metrics(*ranks, ties)
    after = target_metrics(*unpack(pack(ranks, digits), digits), ties)
    for name in before:
        if name != "mrr" or digits == WHOLE:
            np.testing.assert_array_equal(after[name], before[name], name)
    assert {int(name.split("@")[1]) for name in before if "@" in name} == set(CUTOFFS)


def test_whole_ranks_come_back_as_they_were(ranks):
    np.testing.assert_array_equal(unpack(pack(ranks, WHOLE), WHOLE), ranks)


@pytest.mark.parametrize("digits", [0, 1, 3, 6])
def test_a_rounded_rank_is_near_the_middle_of_its_ties(ranks, digits):
    better, tied = unpack(pack(ranks, digits), digits)
    far = ranks[0] >= 31
    middle = ranks[0] + (ranks[1] - 1) // 2
    error = np.abs(better - middle)[far] / (middle[far] + 1)
    assert error.max() <= 0.5 ** (digits + 1)
    assert (tied[far] == 1).all()


def test_fewer_digits_take_fewer_bytes(ranks):
    sizes = [len(npz_bytes(pack(ranks, digits))) for digits in EVERY]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 5


def test_numpy_reads_the_file_and_equal_ranks_are_equal_bytes(ranks):
    content = npz_bytes(pack(ranks, WHOLE))
    assert content == npz_bytes(pack(ranks.copy(), WHOLE))
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        np.testing.assert_array_equal(unpack(file, WHOLE), ranks)


def test_no_targets_are_no_ranks():
    none = np.zeros((2, 0), dtype=np.int64)
    assert unpack(pack(none, WHOLE), WHOLE).shape == (2, 0)


def test_arrays_of_different_lengths_are_refused(ranks):
    packed = pack(ranks, WHOLE)
    with pytest.raises(ValueError, match="packed ranks"):
        unpack(packed | {"tied": packed["tied"][:, 1:]}, WHOLE)
