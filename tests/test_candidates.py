"""Sampled candidates: of the target's domain, distinct, fixed by the seed, stored once."""

import numpy as np
import pytest

from src.errors import UserError
from src.evaluation.candidates import sampled_candidates, stored_candidates

SIZES = np.array([50, 4, 1])
DOMAINS = np.array([0, 1, 0, 2, 1, 0] * 20)
COLUMNS = np.arange(120) % SIZES[DOMAINS]


def draw(count: int = 10, seed: int = 7) -> np.ndarray:
    return sampled_candidates(COLUMNS, DOMAINS, SIZES, count, seed)


def test_negatives_are_distinct_items_of_the_domain_without_the_target():
    for row, column, domain in zip(draw(), COLUMNS, DOMAINS, strict=True):
        drawn = row[row >= 0]
        assert len(set(drawn)) == len(drawn) == min(10, SIZES[domain] - 1)
        assert column not in drawn
        assert (drawn < SIZES[domain]).all()


def test_a_domain_with_too_few_items_gives_all_the_others_then_minus_one():
    drawn = draw()
    row = np.flatnonzero(DOMAINS == 1)[0]
    assert set(drawn[row]) == ({0, 1, 2, 3} - {COLUMNS[row]}) | {-1}
    assert (drawn[row, 3:] == -1).all()
    assert (drawn[DOMAINS == 2] == -1).all()  # one item: nothing to draw


def test_the_seed_decides_the_draw():
    assert (draw(seed=7) == draw(seed=7)).all()
    assert (draw(seed=7) != draw(seed=8)).any()


def test_every_other_item_is_drawn_equally_often():
    rows, size, count = 20_000, 10, 3
    target = 4
    drawn = sampled_candidates(
        np.full(rows, target), np.zeros(rows, dtype=int), np.array([size]), count, seed=0
    )
    often = np.bincount(drawn.ravel(), minlength=size)
    assert often[target] == 0
    share = count / (size - 1)
    error = (rows * share * (1 - share)) ** 0.5
    assert (abs(np.delete(often, target) - rows * share) < 5 * error).all()


def test_stored_candidates_are_drawn_once(tmp_path):
    path, key = tmp_path / "deep" / "test.npz", {"data_sha256": "a", "seed": 7}
    first = stored_candidates(path, key, draw)
    again = stored_candidates(path, key, lambda: pytest.fail("drawn a second time"))
    assert (first == again).all() and (first == draw()).all()
    assert [file.name for file in path.parent.iterdir()] == ["test.npz"]


def test_candidates_of_other_data_are_refused(tmp_path):
    path = tmp_path / "test.npz"
    stored_candidates(path, {"data_sha256": "a", "seed": 7}, draw)
    with pytest.raises(UserError, match=r"test\.npz"):
        stored_candidates(path, {"data_sha256": "b", "seed": 7}, draw)


def test_a_torn_file_is_refused_by_name(tmp_path):
    path = tmp_path / "test.npz"
    stored_candidates(path, {"seed": 7}, draw)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"test\.npz cannot be read"):
        stored_candidates(path, {"seed": 7}, draw)


def test_a_draw_that_fails_leaves_no_file(tmp_path):
    def fails() -> np.ndarray:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        stored_candidates(tmp_path / "test.npz", {}, fails)
    assert list(tmp_path.iterdir()) == []
