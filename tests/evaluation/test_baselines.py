"""Popularity and item-to-item Markov on sequences small enough to count by hand."""

import numpy as np
import pytest
import torch

from src.baselines.markov import Markov, item_before
from src.baselines.popularity import Popularity
from src.interfaces import Requests
from tests.support.builders import make_dataset, random_users

# Domain 0 has the items 1, 2, 3, domain 1 the items 4, 5, 6. The last two events of a user are
# the validation and the test target.
USERS = [
    ([1, 4, 2, 5, 1, 2, 3], [0, 1, 0, 1, 0, 0, 0]),  # trains on 1 4 2 5 1
    ([1, 2, 6, 4, 1, 3], [0, 0, 1, 1, 0, 0]),  # trains on 1 2 6 4
    ([3, 5, 4], [0, 1, 1]),  # trains on 3
]


@pytest.fixture
def dataset():
    return make_dataset(USERS, [3, 3], held_out=2)


def before(events, offsets=(0, 7, 13, 16)):
    """Requests of the users of some events, whose contexts are all before these."""
    events = np.asarray(events)
    return Requests(np.searchsorted(offsets, events, side="right") - 1, events, events)


def scores(model, domain, requests, columns=slice(None)):
    """[n, columns] of the items of a domain."""
    return model.read(requests).scores(np.arange(len(requests.users)), domain)(columns)


def test_popularity_counts_training_events_only(dataset):
    popularity = Popularity.fit(dataset)
    assert scores(popularity, 0, before([6, 12])).tolist() == [[3, 2, 1], [3, 2, 1]]
    assert scores(popularity, 1, before([15])).tolist() == [[2, 1, 1]]


def test_the_item_before_is_the_last_of_the_same_domain_and_user(dataset):
    actual = item_before(dataset)
    # no transition leads to, or from, what is held out
    assert actual[:7].tolist() == [0, 0, 1, 4, 2, 0, 0]
    assert actual[7:13].tolist() == [0, 1, 0, 6, 0, 0]
    assert actual[13:].tolist() == [0, 0, 0]


def test_the_test_target_is_ranked_from_the_validation_event(dataset):
    markov = Markov.fit(dataset)
    # first user: 1 2 1 in domain 0, then 2 (valid), 3 (test): the item before the test target is 2
    counts = np.floor(scores(markov, 0, before([6])).numpy())
    assert counts.tolist() == [[1, 0, 0]]  # in training 1 followed 2 once


def test_transitions_are_counted_from_training_events_only(dataset):
    counts = np.floor(scores(Markov.fit(dataset), 0, before([5, 12])).numpy())
    assert counts.tolist() == [[0, 2, 0], [0, 2, 0]]  # 1 -> 2 twice; 1 -> 3 is a test target


def test_popularity_orders_what_no_transition_tells_apart(dataset):
    values = scores(Markov.fit(dataset), 0, before([6]))[0]
    assert values.argsort(descending=True).tolist() == [0, 1, 2]
    assert 0 < values[2] < values[1] < 1


def test_popularity_never_outweighs_one_transition():
    users = [([1] * 50 + [2, 3, 1, 1], [0] * 54), ([2, 2, 2], [0] * 3)]
    markov = Markov.fit(make_dataset(users, [3], held_out=2))
    # the first user's training ends 2, 3: from 2 only 3 follows, though 1 is far more popular
    values = scores(markov, 0, Requests(*np.array([[0], [51], [51]])))[0]
    assert values.argmax() == 2


def test_without_an_item_before_popularity_alone_ranks(dataset):
    values = scores(Markov.fit(dataset), 1, before([14]))[0]
    assert (values < 1).all()
    assert values.argsort(descending=True)[0] == 0


@pytest.mark.parametrize("kind", [Popularity, Markov])
def test_scores_of_some_columns_are_those_of_all_of_them(kind, dataset):
    """Ranking asks for a chunk of items at a time, or for any columns, one perhaps twice."""
    model, contexts = kind.fit(dataset), before([5, 6, 12])
    whole = scores(model, 0, contexts)
    assert whole.shape == (3, 3)
    for columns in (slice(1, 3), slice(0, 1), torch.tensor([2, 0, 2])):
        assert torch.equal(scores(model, 0, contexts, columns), whole[:, columns])


@pytest.mark.parametrize("seed", range(3))
def test_the_last_item_of_a_domain_is_the_user_s_own_and_of_the_context(seed):
    dataset = make_dataset(random_users(seed, count=12), (6, 5, 9, 4))
    users = np.random.default_rng(seed).permutation(np.arange(12).repeat(3))
    ends = np.random.default_rng(seed).integers(dataset.offsets[users], dataset.offsets[users + 1])
    markov, requests = Markov.fit(dataset), Requests(users, ends, ends)
    for domain in range(4):
        actual = markov.last_items(domain, requests)
        assert (actual == markov.last_items(np.full(len(users), domain), requests)).all()
        for user, end, last in zip(users, ends, actual, strict=True):
            context = range(dataset.offsets[user], end)
            own = [dataset.items[event] for event in context if dataset.domains[event] == domain]
            assert last == (own[-1] if own else 0)


@pytest.mark.parametrize("kind", [Popularity, Markov])
def test_single_items_have_the_scores_that_they_have_among_all(kind, dataset):
    """Of another domain too, where no transition leads: its share of all events is left."""
    model, contexts = kind.fit(dataset), before([5, 6, 12])
    items, here = np.array([[1, 3, 1], [2, 2, 3], [3, 1, 2]]), np.zeros(3, dtype=np.int64)
    whole = scores(model, 0, contexts)
    assert torch.equal(
        model.read(contexts).pairs(here, items), whole.gather(1, torch.tensor(items) - 1)
    )
    elsewhere = model.read(contexts).pairs(here, np.full((3, 1), 4))
    share = Popularity.fit(dataset).counts[4] / (1 if kind is Popularity else 11)  # of 10 events
    assert elsewhere.tolist() == [[share]] * 3
