"""Item kNN and Markov over all domains: equal to loops over the events; nothing later counts."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from src.baselines import itemknn
from src.baselines.itemknn import ItemKNN
from src.baselines.markov_any import MarkovAny
from src.baselines.popularity import Popularity
from src.dataset.store.folder import TRAIN
from src.evaluation.targets import split_targets
from src.interfaces import Requests
from tests.support.builders import make_dataset, random_users
from tests.support.ranked_data import random_dataset, temporal

SIZES = (6, 5, 9, 4)
KINDS = [ItemKNN, MarkovAny]


def dataset_of(seed: int):
    users = [user for user in random_users(seed, 36, SIZES) if len(user[0]) > 2]
    return make_dataset(users, SIZES, held_out=2)


def every_request(dataset) -> Requests:
    """About every event, its user and what came before, no event at all among them."""
    events = np.arange(len(dataset.items))
    users = np.searchsorted(dataset.offsets, events, side="right") - 1
    return Requests(users, events, dataset.times[events])


def all_scores(model, domain: int, requests: Requests) -> torch.Tensor:
    return model.read(requests).scores(np.arange(len(requests.users)), domain)(slice(None))


def contexts(dataset, requests: Requests) -> list[list[int]]:
    """The items of each context, the oldest first."""
    return [
        dataset.items[dataset.offsets[user] : end].tolist()
        for user, end in zip(requests.users, requests.ends, strict=True)
    ]


# ------------------------------------------------------------------------ against loops


def similarities(dataset, neighbours: int) -> np.ndarray:
    """[V + 1, V + 1] the cosine of each item (row) with its most similar others."""
    had: list[set[int]] = [set() for _ in range(dataset.item_rows)]
    for user in range(dataset.users):
        for event in range(dataset.offsets[user], dataset.offsets[user + 1]):
            if dataset.split[event] == TRAIN:
                had[dataset.items[event]].add(user)
    cosines = np.zeros((len(had), len(had)))
    for item, users in enumerate(had):
        for other, others in enumerate(had):
            if item != other and users & others:
                cosines[item, other] = len(users & others) / math.sqrt(len(users) * len(others))
    kept = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
    nearest = np.zeros_like(cosines)
    np.put_along_axis(nearest, kept, np.take_along_axis(cosines, kept, 1), 1)
    return nearest


@pytest.mark.parametrize("neighbours", [3, 100])
def test_item_knn_is_the_loop_over_users_and_contexts(neighbours, monkeypatch):
    monkeypatch.setattr(itemknn, "NEIGHBOURS", neighbours)
    monkeypatch.setattr(itemknn, "ROWS", 7)
    dataset = dataset_of(1)
    asked, nearest = every_request(dataset), similarities(dataset, neighbours)
    slow = np.zeros((len(asked.users), dataset.item_rows))
    for row, items in enumerate(contexts(dataset, asked)):
        for age, item in enumerate(reversed(items)):
            slow[row] += nearest[:, item] / math.sqrt(1 + age)
    assert (np.count_nonzero(nearest, axis=1) > 3).any() == (neighbours > 3)
    model, popularity = ItemKNN.fit(dataset), Popularity.fit(dataset)
    for domain in range(len(SIZES)):
        scores = all_scores(model, domain, asked)
        items = dataset.domain_items(domain)
        np.testing.assert_allclose(scores, slow[:, items], atol=1e-8)
        others = [item for item in range(1, dataset.item_rows) if item not in range(*_ends(items))]
        assert nearest[items, others].any(), "items of other domains are evidence too"
        empty = scores[asked.ends == dataset.offsets[asked.users]]
        assert len(empty)
        order = popularity.counts[items]
        assert (np.diff(order[empty[0].argsort(descending=True)]) <= 0).all()


def _ends(items: slice) -> tuple[int, int]:
    return items.start, items.stop


def test_markov_any_is_the_loop_over_the_transitions():
    dataset = dataset_of(2)
    asked = every_request(dataset)
    followed = np.zeros((dataset.item_rows, dataset.item_rows))
    for user in range(dataset.users):
        for event in range(dataset.offsets[user] + 1, dataset.offsets[user + 1]):
            if dataset.split[event] == TRAIN:
                followed[dataset.items[event - 1], dataset.items[event]] += 1
    model = MarkovAny.fit(dataset)
    for domain in range(len(SIZES)):
        items = dataset.domain_items(domain)
        scores = all_scores(model, domain, asked)
        slow = [
            followed[context[-1], items] if context else np.zeros(SIZES[domain])
            for context in contexts(dataset, asked)
        ]
        np.testing.assert_array_equal(scores.floor(), slow)
        share = (scores - scores.floor())[0]
        assert (share < 1).all()
        assert (share.argsort(stable=True).numpy() == _by_popularity(dataset, items)).all()
    other = followed[:, dataset.domain_items(0)][dataset.item_domains != 0]
    assert other.any(), "transitions from other domains count"


def _by_popularity(dataset, items: slice) -> np.ndarray:
    return np.argsort(Popularity.fit(dataset).counts[items], kind="stable")


# ------------------------------------------------------------------------ nothing later


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_event_counts_but_those_of_the_context(kind):
    dataset = dataset_of(3)
    first = dataset.item_starts[dataset.domains]
    changed = dataclasses.replace(
        dataset, items=np.where(dataset.split == TRAIN, dataset.items, first).astype(np.int32)
    )
    assert (changed.items != dataset.items).sum() > 20
    asked = split_targets(dataset, "valid").requests(slice(None))
    for domain in range(len(SIZES)):
        scores = [all_scores(kind.fit(data), domain, asked) for data in (dataset, changed)]
        assert torch.equal(*scores)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_or_after_a_target_s_time_counts_in_a_temporal_split(kind, split):
    dataset = temporal(random_dataset(np.random.default_rng(4), SIZES, users=40))
    targets = split_targets(dataset, split)
    for time in np.unique(targets.times):
        later = dataset.times >= time
        first = dataset.item_starts[dataset.domains]
        items = np.where(later, first, dataset.items).astype(np.int32)
        changed = dataclasses.replace(dataset, items=items)
        assert (changed.items != dataset.items).any()
        asked = targets.requests(np.flatnonzero(targets.times == time))
        scores = [all_scores(kind.fit(data), 2, asked) for data in (dataset, changed)]
        assert torch.equal(*scores)


# ------------------------------------------------------------------------ what ranking asks for


@pytest.mark.parametrize("kind", KINDS)
def test_some_columns_and_single_items_have_the_scores_of_all(kind):
    dataset = dataset_of(5)
    asked = every_request(dataset)
    model = kind.fit(dataset)
    read, every = model.read(asked), np.arange(len(asked.users))
    whole = read.scores(every, 2)(slice(None))
    (feature,) = read.features(every, 2)(slice(None))
    assert len(model.feature_names) == 1
    for columns in (slice(1, 3), slice(0, 1), torch.tensor([2, 0, 2])):
        assert torch.equal(read.scores(every, 2)(columns), whole[:, columns])
        assert torch.equal(read.features(every, 2)(columns)[0], feature[:, columns])
    items = np.tile(np.array([[2, 0, 2]]), (len(whole), 1))
    pairs = read.pairs(np.full(len(whole), 2), items + dataset.item_starts[2])
    assert torch.equal(pairs, whole[:, [2, 0, 2]])
    for rows in (every[:1], every[3::2], every[[4, 0, 4]]):  # whatever else is scored or read
        assert torch.equal(read.scores(rows, 2)(slice(None)), whole[rows])
        assert torch.equal(all_scores(model, 2, asked.rows(rows)), whole[rows])
    assert feature.dtype == torch.float32
    counted = whole + itemknn.OFFSET if kind is ItemKNN else whole.floor() + 1
    torch.testing.assert_close(feature, counted.log().float(), rtol=1e-5, atol=1e-5)
    assert model.to_date() is model
