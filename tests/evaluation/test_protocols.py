"""Every protocol is what its definition says, a score and a candidate at a time; also with ties,
several targets a user, strict contexts, many chunks, and two processes."""

import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.baselines import covisit, decayed_counts
from src.config.names import COUNT_MODELS, PROTOCOLS, RELEASED, UNSEEN, load
from src.config.protocols import chosen_protocols
from src.config.settings import Settings
from src.evaluation import path_scores as scoring
from src.evaluation import rank_counts as ranks
from src.evaluation.path_scores import model_scorer, score_paths
from src.evaluation.protocols import Ranks, ties_of
from src.evaluation.queries import Ensemble, Queries, domain_scores, encode_queries
from src.evaluation.ranking import CountScorer, Plan, rank_targets
from src.evaluation.targets import drawn_candidates, split_targets
from src.training.processes import Process
from tests.support.builders import make_model
from tests.support.ranked_data import (
    DRAWN,
    WholeNumbers,
    dataset_of,
    random_dataset,
    ranks_by_hand,
    temporal,
)

CPU = torch.device("cpu")
NEGATIVES = 4
SEPARATE = tuple(name for name in PROTOCOLS if name != RELEASED)


def drawn_for(dataset, targets, folder, seed=0):
    return drawn_candidates(dataset, targets, DRAWN, NEGATIVES, seed, Path(folder))


def rank(scorer, dataset, targets, drawn, protocols=PROTOCOLS, rows=None, excludes=False):
    plan = Plan(dataset, targets, tuple(protocols), drawn, excludes_seen=excludes)
    rows = np.arange(len(targets.events)) if rows is None else rows
    return rank_targets(scorer, plan, rows, list(plan.blocks(rows)))


def as_rows(found: Ranks) -> list[tuple]:
    columns = (found.better, found.tied, found.candidates)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def check(dataset, targets, drawn, scorer, found, excludes=False):
    """The ranks found against the definition, for every protocol and target."""

    def score(row, domain, item):
        return float(scorer.table[row, domain, item])

    for protocol, some in found.items():
        expected = [
            ranks_by_hand(protocol, dataset, targets, drawn, score, row, excludes)
            for row in range(len(targets.events))
        ]
        assert as_rows(some) == expected, protocol


@st.composite
def logs(draw):
    """A log of few users over up to three domains; the smallest has two items."""
    sizes = draw(st.lists(st.sampled_from([2, 3, 7, 45]), min_size=1, max_size=3))
    items = st.integers(1, sum(sizes))
    if draw(st.booleans()):
        items = st.integers(1, sizes[0])  # one domain, soon all of it seen
    sequences = draw(st.lists(st.lists(items, min_size=1, max_size=8), min_size=1, max_size=6))
    count = sum(map(len, sequences))
    held = draw(st.lists(st.integers(1, 4), min_size=len(sequences), max_size=len(sequences)))
    gaps = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    dataset = dataset_of(sizes, sequences, held, gaps)
    return temporal(dataset) if draw(st.booleans()) else dataset


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    dataset=logs(), strict=st.booleans(), side=st.sampled_from([5, 1024]), kinds=st.integers(1, 4),
    split=st.sampled_from(["valid", "test"]), excludes=st.booleans(),
)  # fmt: skip
def test_every_protocol_ranks_as_its_definition_says(dataset, strict, side, kinds, split, excludes):
    targets = split_targets(dataset, split, strict)
    scorer = WholeNumbers(dataset, len(targets.events), kinds)
    with tempfile.TemporaryDirectory() as folder, patch.dict(ranks.SIDES, cpu=side):
        drawn = drawn_for(dataset, targets, folder)
        found = rank(scorer, dataset, targets, drawn, excludes=excludes)
        check(dataset, targets, drawn, scorer, found, excludes)


@pytest.mark.parametrize("side", [5, 1024], ids=["many chunks", "one chunk"])
@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("excludes", [False, True], ids=["", "excludes seen"])
def test_many_blocks_and_chunks_rank_as_the_definition_says(
    side, strict, excludes, monkeypatch, tmp_path
):
    monkeypatch.setitem(ranks.SIDES, "cpu", side)
    dataset = random_dataset(np.random.default_rng(1), (2, 61, 17, 90), users=60)
    targets = split_targets(dataset, "test", strict)
    scorer, drawn = (
        WholeNumbers(dataset, len(targets.events)),
        drawn_for(dataset, targets, tmp_path),
    )
    actual = rank(scorer, dataset, targets, drawn, excludes=excludes)
    check(dataset, targets, drawn, scorer, actual, excludes)
    assert actual["as_listed"].barred.any() == excludes and not actual["full"].barred.any()
    assert (actual["full"].tied > 1).any() and (actual["full-unseen"].candidates == 1).any()
    assert np.bincount(targets.users).max() > 1  # several targets a user


def test_all_protocols_at_once_rank_as_each_alone(tmp_path):
    dataset = random_dataset(np.random.default_rng(2), (3, 20, 8), users=30)
    targets = split_targets(dataset, "test")
    scorer, drawn = (
        WholeNumbers(dataset, len(targets.events)),
        drawn_for(dataset, targets, tmp_path),
    )
    together = rank(scorer, dataset, targets, drawn)
    assert list(together) == list(PROTOCOLS)
    for protocol in PROTOCOLS:
        alone = rank(scorer, dataset, targets, drawn, (protocol,))
        assert list(alone) == [protocol]
        assert as_rows(alone[protocol]) == as_rows(together[protocol]), protocol
    for excludes in (False, True):  # also where no other protocol asks for the seen items
        some = ("full", "as_listed")
        actual = rank(scorer, dataset, targets, drawn, some, excludes=excludes)
        check(dataset, targets, drawn, scorer, actual, excludes)
    some = ("full", "popular-unseen", "released", "sampled_all")
    for protocol, actual in rank(scorer, dataset, targets, drawn, some).items():
        assert as_rows(actual) == as_rows(together[protocol]), protocol


def test_all_other_items_drawn_rank_as_the_whole_domain_does(tmp_path):
    """Popular too, where every item has been trained on."""
    rng = np.random.default_rng(3)
    sizes, count = (4, 5), 5 + 4
    sequences = [[*range(1, 10), *rng.integers(1, 10, 2)] for _ in range(8)]
    dataset = dataset_of(sizes, sequences, [2] * 8, np.ones(8 * 11, dtype=int))
    targets = split_targets(dataset, "test")
    drawn = drawn_candidates(dataset, targets, DRAWN, count, 0, tmp_path)
    actual = rank(WholeNumbers(dataset, 8), dataset, targets, drawn)
    for suffix in ("", UNSEEN):
        for drawn_set, whole in (
            ("sampled", "full"),
            ("popular", "full"),
            ("sampled_all", "full_all"),
        ):
            assert as_rows(actual[drawn_set + suffix]) == as_rows(actual[whole + suffix])
    assert as_rows(actual["full-unseen"]) == [(0, 1, 1)] * 8  # everything seen: the target alone
    assert as_rows(actual[RELEASED]) == [(0, 1, 1)] * 8  # nothing left to draw


def test_the_released_protocol_draws_as_often_as_told_and_reads_ties_for_the_model(tmp_path):
    dataset = random_dataset(np.random.default_rng(4), (6, 5), users=40)
    targets = split_targets(dataset, "test")
    drawn = drawn_candidates(dataset, targets, (RELEASED,), 100, 0, tmp_path)
    for row, items in enumerate(drawn[RELEASED]):
        user = targets.users[row]
        had = dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]].tolist()
        left = set(range(1, 12)) - set(had)
        assert set(items.tolist()) == (left or {-1})  # of all domains, again and again
    actual = rank(WholeNumbers(dataset, len(targets.events)), dataset, targets, drawn, (RELEASED,))
    full = (drawn[RELEASED] >= 0).all(1)
    assert (actual[RELEASED].candidates == np.where(full, 101, 1)).all()
    assert (
        ties_of(RELEASED, "expected") == ties_of("released-strict", "pessimistic") == "optimistic"
    )
    assert ties_of("full-unseen", "pessimistic") == "pessimistic"


# ------------------------------------------------------------------- with a model's own queries

MODELS = [
    ({}, "cross"),
    ({"target_domain_query": True}, "cross"),
    ({"cross_per_domain": True}, "cross"),
    ({}, "single"),
    ({"share_experts": True}, "single"),
    ({"mode": "sdsr_separate"}, "single"),
]


def ensemble_of(dataset, **more):
    models = [dataset]
    if more.get("mode") == "sdsr_separate":
        models = [dataset.only_domain(domain) for domain in range(len(dataset.domain_names))]
    made = [
        make_model(part, seed=seed, dtype=torch.float32, **more).eval()
        for seed, part in enumerate(models)
    ]
    return Ensemble(made, separate=len(made) > 1), made[0].settings


@pytest.mark.parametrize(("more", "path"), MODELS, ids=str)
def test_each_item_is_scored_as_if_its_own_domain_were_asked_for(more, path, tmp_path):
    """Over all domains; the released protocol asks for the target's domain alone."""
    dataset = random_dataset(np.random.default_rng(5), (6, 9, 4), users=10)
    targets = split_targets(dataset, "test")
    ensemble, own = ensemble_of(dataset, **more)
    protocols = SEPARATE if ensemble.separate else PROTOCOLS
    plan = Plan(dataset, targets, protocols, drawn_for(dataset, targets, tmp_path))
    rows = np.arange(len(targets.events))
    scorer = model_scorer(ensemble, own, plan, rows, path, bar=False)
    actual = rank_targets(scorer, plan, rows, list(plan.blocks(rows)))
    table = alone(ensemble, dataset, targets, path, own)
    unequal = np.diff(np.sort(table, axis=2), axis=2)
    assert unequal.min() > 1e-6  # so that rounding decides nothing
    for protocol in protocols:
        for row, got in enumerate(as_rows(actual[protocol])):
            assert got == ranks_by_hand(
                protocol, dataset, targets, plan.drawn, lambda r, d, i: table[r, d, i - 1], row
            ), protocol


def alone(ensemble, dataset, targets, path, own):
    """[n, D, V] scores of all items as if each domain were asked for, one query at a time."""
    found = np.zeros((len(targets.events), len(dataset.domain_names), dataset.item_rows - 1))
    for row, domain in np.ndindex(found.shape[:2]):
        query = Queries(targets.users[[row]], targets.ends[[row]], np.array([domain]))
        hidden = encode_queries(
            ensemble, dataset, query, path, max_len=own.max_len, users_at_once=1, device=CPU,
            context=own.context,
        )  # fmt: skip
        for other in range(found.shape[1]):
            model, number = ensemble.of(other)
            columns = slice(dataset.item_starts[other] - 1, dataset.item_starts[other + 1] - 1)
            with torch.no_grad():
                found[row, domain, columns] = domain_scores(model, hidden, number)[0].numpy()
    return found


class Share(Process):
    """A process that keeps its own sums, as if the others had none."""

    def sum(self, tensor):
        return tensor

    def together(self, work):
        return work()


@pytest.mark.parametrize(
    ("processes", "at_once"), [(2, 2**14), (5, 2**14), (40, 2**14), (1, 4), (2, 3)]
)
def test_the_shares_of_the_processes_add_up_to_the_whole(processes, at_once, monkeypatch, tmp_path):
    """Also where a process holds the queries of a few targets at a time, or has no target."""
    dataset = random_dataset(np.random.default_rng(6), (6, 30, 4), users=16)
    targets = split_targets(dataset, "valid")
    assert len(targets.events) > 10
    ensemble, own = ensemble_of(dataset)
    drawn = drawn_for(dataset, targets, tmp_path)
    plan = Plan(dataset, targets, PROTOCOLS, drawn, excludes_seen=True)

    def score(process):
        return score_paths(ensemble, own, plan, process, {}, lists=True)

    whole = score(Process(CPU))
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", at_once)
    parts = [score(Share(CPU, number, processes)) for number in range(processes)]
    for path in ("cross", "single"):
        for name, lists in whole[path].lists.items():
            assert (sum(part[path].lists[name] for part in parts) == lists).all()
        for protocol in PROTOCOLS:
            for column in ("better", "tied", "candidates"):
                values = [getattr(part[path].ranks[protocol], column) for part in parts]
                assert (sum(values) == getattr(whole[path].ranks[protocol], column)).all()
                assert (np.count_nonzero(values, axis=0) <= 1).all()  # each target has one share


@pytest.mark.parametrize("name", ["recent", "covisit"])
def test_single_items_are_scored_in_parts_as_all_at_once(name, monkeypatch, tmp_path):
    dataset = random_dataset(np.random.default_rng(3), (7, 9), users=40)
    targets = split_targets(dataset, "test")
    rows, drawn = np.arange(len(targets.events)), drawn_for(dataset, targets, tmp_path)
    plan = Plan(dataset, targets, (RELEASED,), drawn)
    scorer, found = CountScorer(load(COUNT_MODELS[name]).fit(dataset), plan), []
    for at_once in (len(rows), 3):
        monkeypatch.setattr(decayed_counts, "ROWS", at_once)
        monkeypatch.setattr(covisit, "ROWS", at_once)
        found.append(rank_targets(scorer, plan, rows, list(plan.blocks(rows)))[RELEASED])
    assert len(rows) > 6
    assert as_rows(found[0]) == as_rows(found[1])


def test_protocols_are_chosen_in_their_own_order_and_those_that_draw_need_negatives():
    assert chosen_protocols((), 100) == PROTOCOLS
    assert chosen_protocols(("released", "full"), 100) == ("full", "released")
    without = chosen_protocols((), 0)
    assert without == ("full", "full_all", "full-unseen", "full_all-unseen", "as_listed")
    assert Settings().protocol == ()
