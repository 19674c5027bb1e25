"""The protocol `as_listed`: what recommend.py lists, and targets that stand in no list."""

import dataclasses

import numpy as np
import pytest
import torch

from src.config.names import AS_LISTED
from src.dataset.store.exclusion import excludes_seen, exclusion_text
from src.dataset.store.repeats import repeat_share
from src.evaluation.metrics import METRICS, summarise
from src.evaluation.protocols import Ranks
from src.evaluation.ranking import Plan, rank_targets
from src.evaluation.target_lists import block_lists
from src.evaluation.targets import split_targets
from src.io.errors import NotFinite
from tests.support.ranked_data import dataset_of, random_dataset, temporal, with_ids

# Four users of one domain with items 1 … 5; the last event of each is a test target.
SEQUENCES = ([1, 2, 5], [1, 2, 1], [4, 1, 2, 3, 5], [1, 2, 3, 4, 5, 4])
SCORES = (  # of items 1 … 5 for each target
    [9, 4, 3, 3, 3],  # 5 is level with 3 and 4; without 1 and 2 nothing is above
    [9, 4, 3, 2, 1],  # 1, the best, was seen
    [5, 4, 3, 2, 1],  # all others were seen
    [1, 2, 3, 9, 5],  # 4 was seen, as was everything
)
BY_HAND = {  # (better, tied, candidates) of each target
    False: [(2, 3, 5), (0, 1, 5), (4, 1, 5), (0, 1, 5)],
    True: [(0, 3, 3), (3, 0, 3), (0, 1, 1), (0, 0, 0)],
}


class Given:
    """A scorer of one domain whose scores are given for each target."""

    def __init__(self, table):
        self.table = torch.tensor(table, dtype=torch.float32)

    def of(self, rows):
        return Given(self.table[rows].tolist())

    def scores(self, rows, domain):
        return lambda columns: self.table[rows][:, columns]


def small_log():
    held = [1] * len(SEQUENCES)
    return dataset_of((5,), SEQUENCES, held, np.ones(sum(map(len, SEQUENCES)), dtype=int))


def planned(excludes: bool, protocols=(AS_LISTED,)):
    dataset = small_log()
    targets = split_targets(dataset, "test")
    plan = Plan(dataset, targets, protocols, {}, excludes_seen=excludes)
    rows = np.arange(len(targets.events))
    return plan, rows, list(plan.blocks(rows))


@pytest.mark.parametrize("excludes", [False, True])
@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_targets_rank_as_computed_by_hand(excludes, ties):
    plan, rows, blocks = planned(excludes)
    ranks = rank_targets(Given(SCORES), plan, rows, blocks)[AS_LISTED]
    columns = (ranks.better, ranks.tied, ranks.candidates)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == BY_HAND[excludes]
    assert ranks.barred.tolist() == [False, excludes, False, excludes]
    means = summarise(ranks.better, ranks.tied, plan.targets.domains, ["a"], ties)["a"]
    assert means["n"] == 4
    first = 1 / 3 if ties == "expected" else 0  # ranks 1, 2, 3
    if excludes:
        assert means["hr@1"] == pytest.approx((first + 0 + 1 + 0) / 4)
        reciprocal = (1 + 1 / 2 + 1 / 3) / 3 if ties == "expected" else 1 / 3
        for metric in ("mrr", "mrr@5"):
            assert means[metric] == pytest.approx((reciprocal + 1) / 4)
    else:
        assert means["hr@1"] == pytest.approx((0 + 1 + 0 + 1) / 4)


def test_a_barred_target_counts_where_the_mean_is_taken():
    """In n, and with 0 in every metric: a domain of barred targets alone has 0, not nothing."""
    ranks = Ranks(np.array([2, 0]), np.array([2, 1]), np.array([9, 9]))
    barred = ranks.bar(np.array([True, True]))
    assert (barred.candidates == 8).all() and (barred.better == 8).all()
    summary = summarise(barred.better, barred.tied, np.array([0, 1]), ["a", "b"])
    for name in ("a", "b", "macro", "users"):
        assert {summary[name][metric] for metric in METRICS} == {0.0}
        assert summary[name]["n"] == (1 if name in "ab" else 2)


LISTS = {  # of three items
    False: [[1, 2, 3], [1, 2, 3], [1, 2, 3], [4, 5, 3]],
    True: [[3, 4, 5], [3, 4, 5], [5], []],
}


@pytest.mark.parametrize("excludes", [False, True])
@pytest.mark.parametrize("protocols", [(AS_LISTED,), ("full", AS_LISTED), (AS_LISTED, "full")])
def test_lists_are_those_computed_by_hand(excludes, protocols):
    """Equal scores by the number of the item; the lists of `full` are the same in company."""
    plan, _, blocks = planned(excludes, protocols)
    for block in blocks:
        (lists,) = block_lists(Given(SCORES).of(block.rows), plan, block, 3, list(protocols))
        for name in protocols:
            listed = [
                items[np.isfinite(scores)].tolist()
                for items, scores in zip(lists[name].items, lists[name].scores, strict=True)
            ]
            of_targets = dict(zip(lists[name].rows.tolist(), listed, strict=True))
            expected = LISTS[excludes and name == AS_LISTED]
            assert [of_targets[row] for row in range(4)] == expected


def test_a_score_that_is_not_finite_is_named(tmp_path):
    plan, _, blocks = planned(True)
    plan = dataclasses.replace(plan, dataset=with_ids(plan.dataset, tmp_path))
    scores = [list(row) for row in SCORES]
    scores[2][3] = np.nan
    with pytest.raises(NotFinite, match=r"the score of item item-4 \(.*\) for user user-2 is not"):
        list(block_lists(Given(scores).of(blocks[0].rows), plan, blocks[0], 3, [AS_LISTED]))


# ------------------------------------------------------------------- the default


def shares(dataset) -> tuple[float, float]:
    """By the rule, and an event at a time."""
    repeated, targets = 0, np.flatnonzero(dataset.split == 2)
    for event in targets:
        user = np.searchsorted(dataset.offsets, event, side="right") - 1
        earlier = dataset.items[dataset.offsets[user] : event]
        repeated += int(dataset.items[event] in earlier)
    return repeat_share(dataset), repeated / len(targets)


@pytest.mark.parametrize("chunk", [7, 2_000_000])
def test_the_share_of_repeats_is_counted_where_the_card_lacks_it(chunk, monkeypatch):
    monkeypatch.setattr("src.dataset.store.folder.user_chunks.__defaults__", (chunk,))
    dataset = random_dataset(np.random.default_rng(3), (6, 30), users=40)
    for one in (dataset, temporal(dataset)):
        counted, expected = shares(one)
        assert counted == expected > 0
    audit = {"repeat_targets": {"events": 3, "share": 0.0}}
    with_audit = dataclasses.replace(dataset, card=dataset.card | {"audit": audit})
    assert repeat_share(with_audit) == 3 / (dataset.split == 2).sum()


def test_lists_leave_out_seen_items_below_a_tenth_of_repeats():
    assert excludes_seen(0.0) and excludes_seen(0.0999) and not excludes_seen(0.1)
    assert exclusion_text(0.0314, True) == (
        "lists leave out what the user has (--exclude_seen); 3.1% of the test targets are of an "
        "item the user had before"
    )
    assert exclusion_text(0.5, False).startswith(
        "lists keep what the user has (--no-exclude_seen); 50.0% "
    )
