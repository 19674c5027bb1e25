"""Drawn candidates: whose they are, how likely each is, fixed by the seed, stored once."""

import dataclasses
import errno
import itertools
import os

import numpy as np
import pytest

from src.evaluation import candidates
from src.evaluation import targets as targets_module
from src.evaluation.candidates import (
    membership,
    popular_candidates,
    released_candidates,
    sampled_candidates,
    stored_candidates,
)
from src.evaluation.targets import drawn_candidates, split_targets
from src.io.errors import UserError
from tests.support.ranked_data import DRAWN, random_dataset

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


# ------------------------------------------------------------------- by popularity


def popular(weights: list[list[int]], columns, domains, count: int, seed: int = 0) -> np.ndarray:
    counts = [np.array(own) for own in weights]
    return popular_candidates(np.asarray(columns), np.asarray(domains), counts, count, seed)


def test_popular_negatives_are_distinct_items_of_the_domain_that_were_trained_on():
    rng = np.random.default_rng(0)
    weights = [rng.integers(0, 30, size).tolist() for size in SIZES[:2]] + [[5]]
    weights[1] = [0, 4, 1, 9]
    for row, column, domain in zip(
        popular(weights, COLUMNS, DOMAINS, 10), COLUMNS, DOMAINS, strict=True
    ):
        trained = set(np.flatnonzero(weights[domain]).tolist()) - {column}
        drawn = row[row >= 0].tolist()
        assert len(set(drawn)) == len(drawn) == min(10, len(trained))
        assert set(drawn) <= trained
        assert (row[len(drawn) :] == -1).all()  # only at the end


def test_popular_negatives_of_a_domain_do_not_depend_on_the_others():
    weights, seeds = [[3, 1, 5, 2], [1, 1, 1, 9]], (0, 0, 1)
    both, again, other = (popular(weights, [0, 1, 2, 3] * 9, [0, 1] * 18, 2, s) for s in seeds)
    alone = popular(weights[:1], [0, 2] * 9, [0] * 18, 2)
    assert (both == again).all() and (both != other).any()
    assert (both[::2] == alone).all()


@pytest.mark.parametrize("rounds", [8, 1, 0], ids=["as shipped", "one round", "noise alone"])
@pytest.mark.parametrize(
    ("weights", "count"), [([4, 5, 3, 2, 1], 2), ([7, 900, 4, 0, 2, 3], 3)], ids=["even", "skewed"]
)
def test_popular_negatives_come_one_after_the_other_by_their_share(
    weights, count, rounds, monkeypatch
):
    """Each order of items as often as its exact chance, whichever way the draws are made; the
    target is item 0."""
    monkeypatch.setattr(candidates, "STREAM_ROUNDS", rounds)
    rows = 10_000
    drawn = popular([weights], np.zeros(rows, dtype=int), np.zeros(rows, dtype=int), count)
    rest = [item for item in range(1, len(weights)) if weights[item]]
    actual = dict.fromkeys(itertools.permutations(rest, count), 0)
    for order in map(tuple, drawn.tolist()):
        actual[order] += 1  # KeyError: an order that cannot be
    for order, times in actual.items():
        chance, left = 1.0, sum(weights[item] for item in rest)
        for item in order:
            chance *= weights[item] / left
            left -= weights[item]
        assert abs(times - rows * chance) < 5 * (rows * chance * (1 - chance)) ** 0.5 + 1e-9, order


def test_an_item_with_nearly_all_the_weight_leaves_the_others_their_shares():
    """What the stream of draws does not find within its rounds is drawn by noise."""
    rows, weights = 5000, [10**12, 10**12, 6, 3, 1]
    drawn = popular([weights], np.zeros(rows, dtype=int), np.zeros(rows, dtype=int), 10)
    assert (drawn[:, 0] == 1).all() and (drawn[:, 4:] == -1).all()
    for item, chance in ((2, 0.6), (3, 0.3), (4, 0.1)):
        error = (rows * chance * (1 - chance)) ** 0.5
        assert abs((drawn[:, 1] == item).sum() - rows * chance) < 5 * error
    assert (np.sort(drawn[:, 1:4], axis=1) == [2, 3, 4]).all()


# ------------------------------------------------------------------- as the released code draws

ITEMS, OFFSETS = np.array([3, 3, 1, 5, 1, 2, 3, 4, 5, 6]), np.array([0, 3, 4, 10])


def test_released_negatives_are_uniform_over_what_the_user_never_had():
    """In the whole log, what came after the target too; each draw on its own."""
    users = np.array([0, 1, 0, 2] * 5000)
    drawn = released_candidates(users, OFFSETS, ITEMS, 6, 3, seed=1)
    assert (drawn[users == 2] == -1).all()  # the last user has everything
    for user, left in ((0, [2, 4, 5, 6]), (1, [1, 2, 3, 4, 6])):
        own = drawn[users == user]
        often = np.bincount(own.ravel(), minlength=7)
        assert np.flatnonzero(often).tolist() == left
        chance = 1 / len(left)
        error = (own.size * chance * (1 - chance)) ** 0.5
        assert (abs(often[left] - own.size * chance) < 5 * error).all()
        repeats = (own[:, 0] == own[:, 1]).sum()
        assert abs(repeats - len(own) * chance) < 5 * (len(own) * chance * (1 - chance)) ** 0.5


def test_the_seed_decides_the_released_draw():
    users = np.array([0, 1] * 20)
    first, again, other = (
        released_candidates(users, OFFSETS, ITEMS, 6, 3, seed) for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()


# ------------------------------------------------------------------- of a split, and stored


def test_a_split_s_candidates_are_items_of_the_right_domains(tmp_path):
    dataset = random_dataset(np.random.default_rng(0), (2, 30, 9), users=40)
    targets = split_targets(dataset, "test")
    drawn = drawn_candidates(dataset, targets, DRAWN, 5, 0, tmp_path)
    assert list(drawn) == list(DRAWN)
    trained = np.bincount(dataset.items[dataset.split == 0], minlength=dataset.item_rows)
    for row, (item, domain) in enumerate(zip(targets.items, targets.domains, strict=True)):
        own = set(range(dataset.item_starts[domain], dataset.item_starts[domain + 1])) - {item}
        everything = set(range(1, dataset.item_rows)) - {item}
        sampled, popular, sampled_all, _ = (drawn[name][row] for name in DRAWN)
        assert set(sampled.tolist()) - {-1} <= own and (sampled >= 0).sum() == min(5, len(own))
        of_use = {other for other in own if trained[other]}
        assert set(popular.tolist()) - {-1} <= of_use
        assert (popular >= 0).sum() == min(5, len(of_use))
        assert set(sampled_all.tolist()) <= everything and len(set(sampled_all.tolist())) == 5
    whole = set(drawn["sampled_all"].ravel().tolist()) | set(targets.items.tolist())
    assert whole == set(range(1, dataset.item_rows))  # the first and the last item too


def test_candidates_are_stored_by_set_split_count_seed_and_data(tmp_path, monkeypatch):
    dataset = random_dataset(np.random.default_rng(0), (6, 30, 9), users=20)
    valid, test = (split_targets(dataset, split) for split in ("valid", "test"))
    first = drawn_candidates(dataset, test, ("sampled", "popular"), 5, 0, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(
        targets_module, "sampled_candidates", lambda *_: pytest.fail("drawn a second time")
    )
    again = drawn_candidates(dataset, test, ("popular", "sampled"), 5, 0, tmp_path)
    assert all((first[name] == again[name]).all() for name in first)
    monkeypatch.undo()
    drawn_candidates(dataset, valid, ("sampled",), 5, 0, tmp_path)
    fewer = drawn_candidates(dataset, test, ("sampled",), 4, 0, tmp_path)
    other = drawn_candidates(dataset, test, ("sampled",), 5, 1, tmp_path)
    card = dataset.card | {"sha256": "another log"}
    drawn_candidates(dataclasses.replace(dataset, card=card), test, ("sampled",), 5, 0, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    assert fewer["sampled"].shape[1] == 4 and (other["sampled"] != first["sampled"]).any()


def test_strict_contexts_are_ranked_against_the_same_candidates(tmp_path):
    dataset = random_dataset(np.random.default_rng(0), (6, 30, 9), users=20)
    actual = [
        drawn_candidates(dataset, split_targets(dataset, "test", strict), DRAWN, 5, 0, tmp_path)
        for strict in (False, True)
    ]
    assert all((actual[0][name] == actual[1][name]).all() for name in DRAWN)
    assert len(list(tmp_path.iterdir())) == len(DRAWN)


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


def test_a_full_disk_is_told_by_name_and_leaves_no_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match=r"test\.npz cannot be written \(No space left"):
        stored_candidates(tmp_path / "test.npz", {}, draw)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("members", [[], [0], [3, 4, 9]])
@pytest.mark.parametrize("table", [0, 10], ids=["searched", "looked up"])
def test_members_are_found_by_search_and_in_a_table(members, table, monkeypatch):
    monkeypatch.setattr(candidates, "TABLE", table)
    holds = membership(np.array(members, dtype=np.int64), 10)
    assert np.flatnonzero(holds(np.arange(10))).tolist() == members
    assert holds(np.array([9, 3, 9])).tolist() == [9 in members, 3 in members, 9 in members]
