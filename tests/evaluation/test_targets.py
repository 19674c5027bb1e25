"""Targets, their contexts and what is known of them; nothing of a target's time leaks into it."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config.names import PROTOCOLS, RELEASED
from src.config.settings import Settings
from src.dataset.store.folder import TEST, TRAIN, VALID
from src.evaluation.path_scores import fit_count_models, score_paths
from src.evaluation.queries import Ensemble, Queries, encode_queries
from src.evaluation.ranking import Plan
from src.evaluation.targets import (
    context_events,
    drawn_candidates,
    split_targets,
    target_facts,
    time_starts,
)
from src.runs.evaluate import result_names
from src.training.processes import Process
from tests.support.builders import make_dataset, make_model
from tests.support.ranked_data import dataset_of, random_dataset, temporal, with_ids

CPU = torch.device("cpu")

# Two users. Items 1 … 3 are of domain 0, 4 … 6 of domain 1. The first user's validation target (4)
# has the time of the event before it, the test target (1) a time of its own; all events of the
# second have one time, the last one of the first user's too.
USERS = [([1, 4, 1, 4, 1], [0, 1, 0, 1, 0]), ([5, 2, 6], [1, 0, 1])]
TIMES = [10, 20, 30, 30, 40, 40, 40, 40]


@pytest.fixture
def dataset(tmp_path):
    made = make_dataset(USERS, [3, 3], held_out=2)
    return with_ids(dataclasses.replace(made, times=np.array(TIMES)), tmp_path)


def test_the_targets_of_a_split_and_where_their_contexts_end(dataset):
    valid, test = (split_targets(dataset, split) for split in ("valid", "test"))
    assert (valid.events.tolist(), test.events.tolist()) == ([3, 6], [4, 7])
    assert (valid.users.tolist(), valid.items.tolist(), valid.domains.tolist()) == (
        [0, 1], [4, 2], [1, 0],
    )  # fmt: skip
    assert (valid.ends.tolist(), test.ends.tolist()) == ([3, 6], [4, 7])
    events, rows = context_events(dataset, test, np.array([1, 0]))
    assert (events.tolist(), rows.tolist()) == ([5, 6, 0, 1, 2, 3], [0, 0, 1, 1, 1, 1])


def test_a_strict_context_ends_before_the_target_s_time(dataset):
    valid, test = (split_targets(dataset, split, strict=True) for split in ("valid", "test"))
    # the second user has nothing before: the sequence starts at that time, and the first user's
    # last event, which has it too, is another's
    assert (valid.ends.tolist(), test.ends.tolist()) == ([2, 5], [4, 5])
    users = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    assert time_starts(dataset, users, np.arange(8)).tolist() == [0, 1, 2, 2, 4, 5, 5, 5]


@pytest.mark.parametrize("seed", range(3))
def test_contexts_are_those_of_looking_at_each_event(seed):
    dataset = random_dataset(np.random.default_rng(seed), (5, 6), users=25)
    for split, number in (("valid", VALID), ("test", TEST)):
        for strict in (False, True):
            targets = split_targets(dataset, split, strict)
            events, rows = context_events(dataset, targets, np.arange(len(targets.events)))
            actual = [events[rows == row].tolist() for row in range(len(targets.events))]
            expected = []
            for user in range(dataset.users):
                own = range(dataset.offsets[user], dataset.offsets[user + 1])
                for target in (event for event in own if dataset.split[event] == number):
                    time = dataset.times[target]
                    before = [event for event in own if event < target]
                    expected.append([e for e in before if not strict or dataset.times[e] < time])
            assert actual == expected


def test_the_facts_of_a_target_by_hand(dataset):
    facts = target_facts(dataset, split_targets(dataset, "valid")).to_pylist()
    assert facts == [
        {
            "split": "valid", "target": 0, "user_id": "user-0", "domain": "domain1",
            "item_id": "item-4", "history": 3, "domain_history": 1, "domains": 2, "item_count": 1,
            "seen": True, "same_time": True,
        },
        {
            "split": "valid", "target": 1, "user_id": "user-1", "domain": "domain0",
            "item_id": "item-2", "history": 1, "domain_history": 0, "domains": 1, "item_count": 0,
            "seen": False, "same_time": True,
        },
    ]  # fmt: skip
    test = target_facts(dataset, split_targets(dataset, "test")).to_pylist()
    assert [row["item_id"] for row in test] == ["item-1", "item-6"]
    assert [row["history"] for row in test] == [4, 2]
    assert [row["domain_history"] for row in test] == [2, 1]
    assert [row["item_count"] for row in test] == [2, 0]  # of training alone
    assert [row["seen"] for row in test] == [True, False]
    assert [row["same_time"] for row in test] == [False, True]


def test_the_facts_of_a_strict_context_say_what_it_dropped(dataset):
    facts = target_facts(dataset, split_targets(dataset, "valid", strict=True)).to_pydict()
    assert facts["history"] == [2, 0] and facts["domains"] == [2, 0]
    assert facts["same_time"] == [True, True]


def test_there_may_be_no_targets(dataset):
    none = dataclasses.replace(dataset, split=np.zeros(8, dtype=np.int8))
    targets = split_targets(none, "test")
    assert len(targets.events) == 0 and target_facts(none, targets).num_rows == 0


# ------------------------------------------------------------------- split by time


def test_in_a_temporal_split_every_context_is_strict_and_there_is_no_second_kind(dataset):
    by_time = temporal(dataclasses.replace(dataset, times=np.array([0, 1, 3, 3, 3, 5, 5, 6])))
    assert by_time.is_temporal and not dataset.is_temporal
    valid, test = split_targets(by_time, "valid"), split_targets(by_time, "test")
    assert (valid.events.tolist(), valid.ends.tolist()) == ([2, 3, 4], [2, 2, 2])
    assert (test.events.tolist(), test.ends.tolist()) == ([5, 6, 7], [5, 5, 7])
    wanted = Settings(strict_context=True)
    assert result_names(wanted, by_time) == list(PROTOCOLS)
    strict = [name + "-strict" for name in PROTOCOLS]
    assert result_names(wanted, dataset) == [*PROTOCOLS, *strict]
    assert result_names(Settings(), dataset) == list(PROTOCOLS)


def test_drawn_popularity_counts_training_events_only(dataset, tmp_path):
    """Item 6 is in validation and test alone, 4 and 5 in training once each."""
    sequences = [[1, 4, 6, 6], [2, 5, 6, 6], [3, 4, 6, 5]]
    dataset = dataset_of([3, 3], sequences, [2, 2, 2], [0, 1, 2, 3] * 3)
    for folder, data in (("a", dataset), ("b", temporal(dataset))):
        targets = split_targets(data, "test")
        drawn = drawn_candidates(data, targets, ("popular",), 3, 0, tmp_path / folder)
        trained = data.items[data.split == TRAIN]
        assert set(trained.tolist()) == {1, 2, 3, 4, 5}
        for item, row in zip(targets.items, drawn["popular"].tolist(), strict=True):
            assert sorted(row) == sorted([-1, 4, 5] if item == 6 else [-1, -1, 4])


MODEL = {"hidden": 4, "layers": 1, "max_len": 6, "dtype": torch.float32}
PATHS = ("cross", "single")


@st.composite
def logs(draw):
    """A temporal log over two domains of five items, and the number of one of its events."""
    sequences = draw(
        st.lists(st.lists(st.integers(1, 10), min_size=2, max_size=8), min_size=2, max_size=4)
    )
    count = sum(map(len, sequences))
    gaps = draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=count, max_size=count))
    return temporal(dataset_of([5, 5], sequences, [1] * len(sequences), gaps))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(dataset=logs(), choice=st.integers(0, 99), split=st.sampled_from(["valid", "test"]))
def test_nothing_at_or_after_a_target_s_time_reaches_its_scores(dataset, choice, split):
    """Change every item of that time or later, of any user, but the target: all stays.

    Half-lives alone are chosen on all validation targets.
    """
    targets = split_targets(dataset, split)
    if not len(targets.events):
        return
    row = choice % len(targets.events)
    event = targets.events[row]
    later = (dataset.times >= dataset.times[event]) & (np.arange(len(dataset.items)) != event)
    moved = (dataset.items - 1) // 5 * 5 + dataset.items % 5 + 1  # the next item of the domain
    other = dataclasses.replace(
        dataset, items=np.where(later, moved, dataset.items).astype(np.int32)
    )
    assert (other.items[later] != dataset.items[later]).all()
    ensemble = Ensemble([make_model(dataset, **MODEL).eval()])
    actual = []
    for data in (dataset, other):
        own = split_targets(data, split)
        queries = Queries(own.users, own.ends, own.domains).rows(np.array([row]))
        hidden = [
            encode_queries(
                ensemble, data, queries, path, max_len=6, context="paired", users_at_once=1,
                device=CPU,
            )
            for path in PATHS
        ]  # fmt: skip
        models = fit_count_models(data, Settings(joint_transitions=True))
        for name in ("recent", "covisit"):
            models[name] = dataclasses.replace(models[name], half_lives=np.full(2, 86_400))
        baselines = [
            model.read(own.requests([row])).scores(np.arange(1), domain)(slice(None))
            for model in models.values()
            for domain in (0, 1)
        ]
        actual.append([*hidden, *baselines])
    assert all(torch.equal(first, second) for first, second in zip(*actual, strict=True))


def test_what_comes_before_a_target_s_time_does_reach_its_scores():
    """Else the test above would pass on scores that look at nothing."""
    dataset = temporal(dataset_of([5, 5], [[1, 6, 2, 7]], [1], [0, 1, 1, 3]))
    targets = split_targets(dataset, "test")
    items = np.array([1, 6, 3, 7], dtype=np.int32)
    ensemble = Ensemble([make_model(dataset, **MODEL).eval()])
    first, second = (
        encode_queries(
            ensemble, data, Queries(targets.users, targets.ends, targets.domains), "cross",
            max_len=6, context="paired", users_at_once=1, device=CPU,
        )
        for data in (dataset, dataclasses.replace(dataset, items=items))
    )  # fmt: skip
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("seed", range(2))
def test_ranks_of_a_temporal_split_know_nothing_of_later_items(seed, tmp_path):
    """Through the whole scoring, by every protocol but the released code's, whose negatives leave
    out what the user has later."""
    dataset = temporal(random_dataset(np.random.default_rng(seed), (9, 7), users=15))
    targets = split_targets(dataset, "test")
    last = targets.events[np.argmin(dataset.times[targets.events])]  # the earliest of them
    later = (dataset.times >= dataset.times[last]) & (np.arange(len(dataset.items)) != last)
    moved = np.where(dataset.domains == 0, dataset.items % 9 + 1, (dataset.items - 9) % 7 + 10)
    other = dataclasses.replace(
        dataset, items=np.where(later, moved, dataset.items).astype(np.int32)
    )
    model = make_model(dataset, **MODEL).eval()
    protocols = tuple(name for name in PROTOCOLS if name != RELEASED)
    sets = ("sampled", "sampled_all", "popular")
    drawn = drawn_candidates(dataset, targets, sets, 4, 0, tmp_path)
    row = np.flatnonzero(targets.events == last)
    actual = []
    for data in (dataset, other):
        plan = Plan(data, split_targets(data, "test"), protocols, drawn)
        scores = score_paths(
            Ensemble([model]),
            model.settings,
            plan,
            Process(CPU),
            fit_count_models(data, Settings(joint_transitions=True)),
            lists=False,
        )
        actual.append(
            [
                (path, name, ranks.better[row].item(), ranks.tied[row].item())
                for path, by_path in scores.items()
                for name, ranks in by_path.ranks.items()
            ]
        )
    assert actual[0] == actual[1]
