"""Recent popularity, habit, co-visitation: equal to loops over the events; no later one counts."""

import dataclasses

import numpy as np
import pytest
import torch

from src.baselines import decayed_counts
from src.baselines.covisit import CONTEXT, REACH, Covisit
from src.baselines.decayed_counts import DAY, HALF_LIVES, DecayedCounts, best_half_lives, tick_of
from src.baselines.own import Own
from src.baselines.recent import Recent
from src.dataset.store.folder import TEST, TRAIN, VALID
from src.interfaces import Requests
from tests.support.builders import make_dataset, random_users

SIZES = (6, 5, 9, 4)
MODELS = [Recent, Own, Covisit]
LIVES = np.array([3.0, 1.0, 2.0, 30.0]) * DAY  # of the domains


def dataset_of(seed=0, step=DAY // 2, temporal=False, users=20):
    """A log over some days, each user's times ascending; the last two events are held out, or the
    last fifth of all."""
    several = [user for user in random_users(seed, 2 * users, SIZES) if len(user[0]) > 2][:users]
    dataset = make_dataset(several, SIZES, held_out=2)
    rng = np.random.default_rng(seed)
    times = np.concatenate(
        [
            np.sort(rng.integers(0, 40, end - first))
            for first, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)
        ]
    )
    dataset = dataclasses.replace(dataset, times=times * step)
    if temporal:
        split = np.where(times >= 36, TEST, np.where(times >= 32, VALID, TRAIN)).astype(np.int8)
        card = dataset.card | {"split": {"protocol": "temporal"}}
        dataset = dataclasses.replace(dataset, split=split, card=card)
    return dataset


def requests(dataset):
    """Each event as a request: its user, the end of its context, its time."""
    events = np.arange(len(dataset.items))
    users = np.searchsorted(dataset.offsets, events, side="right") - 1
    return Requests(users, events, np.asarray(dataset.times))


def all_scores(model, domain, asked):
    """[n, V_d] of all items of a domain."""
    return model.read(asked).scores(np.arange(len(asked.users)), domain)(slice(None))


def with_half_life(model):
    """The model with the half-lives LIVES, where it has any."""
    if not hasattr(model, "half_lives"):
        return model
    return dataclasses.replace(model, half_lives=LIVES)


def known(dataset, event):
    return dataset.is_temporal or dataset.split[event] == TRAIN


def slow_recent(dataset, domain, time, tick):
    first, end = dataset.item_starts[domain : domain + 2]
    counts = np.zeros(end - first)
    for event, item in enumerate(dataset.items):
        age = time // tick - dataset.times[event] // tick
        if first <= item < end and age > 0 and known(dataset, event):
            counts[item - first] += 2.0 ** (-age * tick / LIVES[domain])
    return counts


def slow_covisit(dataset, domain, user, context_end, time, tick):
    """Loops over the context, and over all pairs of known events of a user."""
    first, end = dataset.item_starts[domain : domain + 2]
    counts = np.zeros(end - first)
    context = range(int(dataset.offsets[user]), context_end)[-CONTEXT:]
    for newest, event in enumerate(reversed(context)):
        for start, stop in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True):
            counted = [other for other in range(start, stop) if known(dataset, other)]
            for place, leader in enumerate(counted):
                if dataset.items[leader] != dataset.items[event]:
                    continue
                for follower in counted[place + 1 : place + 1 + REACH]:
                    age = time // tick - dataset.times[follower] // tick
                    item = dataset.items[follower]
                    if first <= item < end and age > 0:
                        weight = 2.0 ** (-age * tick / LIVES[domain]) / np.sqrt(1 + newest)
                        counts[item - first] += weight
    return counts


@pytest.mark.parametrize("temporal", [False, True], ids=["leave one out", "temporal"])
@pytest.mark.parametrize("step", [DAY, 5000], ids=["days", "seconds"])
def test_recent_is_the_loop_over_the_events(step, temporal):
    dataset = dataset_of(1, step, temporal)
    tick = DAY if step == DAY else 1
    asked = requests(dataset)
    model = with_half_life(Recent.fit(dataset))
    for domain in range(len(SIZES)):
        scores = all_scores(model, domain, asked)
        slow = [slow_recent(dataset, domain, time, tick) for time in asked.times]
        np.testing.assert_allclose(scores, slow, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("half_life", [1800, DAY, 730 * DAY])
def test_counts_hold_over_any_number_of_half_lives(half_life):
    """A year has 17,520 half-hours: more than one float64 can scale."""
    rng = np.random.default_rng(0)
    items, times = rng.integers(1, 9, 300), np.sort(rng.integers(0, 365 * DAY, 300))
    dataset = make_dataset([(items.tolist(), [0] * 300)], [8])
    dataset = dataclasses.replace(dataset, times=times)
    counts = DecayedCounts.of(dataset, np.arange(300))
    asked = np.concatenate([times, times + 1, times + 3600])
    age = asked[:, None] - times
    weights = np.where(age > 0, np.exp2(-np.maximum(age, 0) / half_life), 0.0)
    slow = weights @ (items[:, None] == np.arange(1, 9))
    together = counts.at(0, asked, half_life, slice(None))
    np.testing.assert_allclose(together, slow, rtol=1e-12, atol=1e-150)
    singly = counts.of_items(asked, np.full(900, half_life), np.tile(np.arange(1, 9), (900, 1)))
    np.testing.assert_allclose(singly, slow, rtol=1e-12, atol=1e-150)
    assert (together[300:600].max(1) > 0.99).all()


def test_single_items_have_the_half_life_of_their_row(monkeypatch):
    rng = np.random.default_rng(1)
    dataset = dataset_of(3, 5000, False, users=12)
    counts = DecayedCounts.of(dataset, np.arange(len(dataset.items)))
    times = rng.choice(dataset.times, 40)
    half_lives = rng.choice([1800.0, DAY, 30 * DAY], 40)
    items = rng.integers(1, dataset.item_rows, (40, 7))  # of any domain, some of them twice
    monkeypatch.setattr(decayed_counts, "ROWS", 6)
    found = counts.of_items(times, half_lives, items)
    age = (times[:, None] - dataset.times)[:, None]
    weights = np.exp2(-np.maximum(age, 0) / half_lives[:, None, None])
    counted = (age > 0) & (dataset.items == items[:, :, None])
    np.testing.assert_allclose(found, (weights * counted).sum(2), rtol=1e-12)


@pytest.mark.parametrize("temporal", [False, True], ids=["leave one out", "temporal"])
@pytest.mark.parametrize("step", [DAY, 5000], ids=["days", "seconds"])
def test_covisit_is_the_loop_over_the_pairs(step, temporal):
    dataset = dataset_of(2, step, temporal, users=12)
    tick = DAY if step == DAY else 1
    asked = requests(dataset)
    model = with_half_life(Covisit.fit(dataset))
    for domain in range(len(SIZES)):
        scores = all_scores(model, domain, asked)
        slow = [
            slow_covisit(dataset, domain, user, end, time, tick)
            for user, end, time in zip(*asked[:3], strict=True)
        ]
        np.testing.assert_allclose(scores, slow, rtol=1e-6, atol=1e-12)


def test_own_counts_the_context_newest_first_then_popularity():
    users = [([1, 2, 1, 3, 2, 1, 4], [0] * 7), ([4, 4, 4, 3], [0] * 4)]
    dataset = make_dataset(users, [5], held_out=2)
    asked = Requests(*(np.array([value]) for value in (0, 5, 0)))
    scores = all_scores(Own.fit(dataset), 0, asked)
    assert scores[0].floor().tolist() == [2, 2, 1, 0, 0]
    # of items 1 and 2, twice each, 2 came last; 4 is more popular than 5
    assert scores[0].argsort(descending=True).tolist() == [1, 0, 2, 3, 4]


@pytest.mark.parametrize("temporal", [False, True], ids=["leave one out", "temporal"])
@pytest.mark.parametrize("kind", MODELS)
def test_no_score_depends_on_its_own_target_or_on_anything_later(kind, temporal):
    """Every event from the request's day on is exchanged, and what is held out anyhow."""
    dataset = dataset_of(3, DAY // 2, temporal)
    day = 11
    later = np.asarray(dataset.times) // DAY >= day
    if not temporal:
        later |= np.asarray(dataset.split) != TRAIN
    rng = np.random.default_rng(0)
    first = dataset.item_starts[dataset.domains]
    size = np.diff(dataset.item_starts)[dataset.domains]
    others = first + rng.integers(0, 100, len(first)) % size
    changed = dataclasses.replace(
        dataset, items=np.where(later, others, dataset.items).astype(np.int32)
    )
    assert (changed.items != dataset.items).sum() > 20
    users = np.arange(dataset.users)
    ends = np.array(
        [
            first + int((~later[first:end]).argmin() if later[first:end].any() else end - first)
            for first, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)
        ]
    )
    asked = Requests(users, ends, np.full(len(users), day * DAY))
    values = []
    for data in (dataset, changed):
        model = with_half_life(kind.fit(data))
        scores = all_scores(model, 0, asked)
        scores = scores.floor() if kind is Own else scores  # below 1: training popularity
        values.append([scores, *model.read(asked).features(users, 0)(slice(None))])
    for before, after in zip(*values, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("kind", MODELS)
def test_some_columns_and_single_items_have_the_scores_of_all(kind):
    dataset = dataset_of(4)
    asked = requests(dataset)
    model = with_half_life(kind.fit(dataset))
    read, every = model.read(asked), np.arange(len(asked.users))
    whole = read.scores(every, 2)(slice(None))
    features = read.features(every, 2)(slice(None))
    assert len(features) == len(model.feature_names)
    for columns in (slice(1, 3), slice(0, 1), torch.tensor([2, 0, 2])):
        assert torch.equal(read.scores(every, 2)(columns), whole[:, columns])
        some = read.features(every, 2)(columns)
        for of_some, of_all in zip(some, features, strict=True):
            assert of_some.dtype == torch.float32
            assert torch.equal(of_some, of_all[:, columns])
    items = np.tile(np.array([[2, 0, 2]]), (len(whole), 1))
    pairs = read.pairs(np.full(len(whole), 2), items + dataset.item_starts[2])
    torch.testing.assert_close(pairs, whole[:, [2, 0, 2]], rtol=1e-6, atol=1e-12)
    alone = model.read(asked._replace(domains=np.full(len(whole), 2)))  # about no other domain
    assert torch.equal(alone.scores(every, 2)(slice(None)), whole)
    for of_alone, of_all in zip(alone.features(every, 2)(slice(None)), features, strict=True):
        assert torch.equal(of_alone, of_all)
    for rows in (every[:1], every[3::2], every[[4, 0, 4]]):  # whatever else is scored or read
        assert torch.equal(read.scores(rows, 2)(slice(None)), whole[rows])
        assert torch.equal(all_scores(model, 2, asked.rows(rows)), whole[rows])
        some = read.features(rows, 2)(slice(None))
        for of_some, of_all in zip(some, features, strict=True):
            assert torch.equal(of_some, of_all[rows])


@pytest.mark.parametrize("kind", [Recent, Covisit])
def test_to_date_counts_what_was_held_out(kind):
    dataset = dataset_of(5)
    users = np.arange(dataset.users)
    tomorrow = np.full(len(users), int(dataset.times.max()) + DAY)
    now = Requests(users, dataset.offsets[1:], tomorrow)
    everything = dataclasses.replace(dataset, split=np.zeros_like(dataset.split))
    served, all_trained = (
        with_half_life(model) for model in (kind.fit(dataset).to_date(), kind.fit(everything))
    )
    trained = with_half_life(kind.fit(dataset))
    scores = [all_scores(model, 1, now) for model in (served, all_trained, trained)]
    torch.testing.assert_close(scores[0], scores[1])
    assert (scores[0] > scores[2]).any()


def test_a_log_is_in_days_where_most_events_have_one_time_of_day():
    dataset = dataset_of(6, DAY)
    seven = dataclasses.replace(dataset, times=np.asarray(dataset.times) + 7 * 3600)
    assert [tick_of(data) for data in (dataset, seven, dataset_of(6, 5000))] == [DAY, DAY, 1]


def test_of_equally_good_half_lives_the_middle_one_is_chosen():
    dataset = dataset_of(7, DAY)
    same = np.zeros((1, 1))
    (chosen, *_) = best_half_lives(
        dataset,
        lambda domain, asked, half_lives: (
            same.repeat(len(asked.users), 0).repeat(SIZES[domain], 1) for _ in half_lives
        ),
    )
    assert chosen == 30 * DAY


@pytest.mark.parametrize(("turn", "share"), [(2, 0.6), (60, 0.15)])
def test_the_half_life_is_the_one_that_ranks_validation_best(turn, share):
    """What is bought changes every `turn` days: yesterday tells it, or only the last weeks do."""
    rng = np.random.default_rng(0)
    days, per_day = 400, 6
    times = np.repeat(np.arange(days), per_day)
    liked = times // turn % 20 + 1
    items = np.where(rng.random(len(times)) < share, liked, rng.integers(1, 21, len(times)))
    dataset = make_dataset([([int(item)], [0]) for item in items], [20])
    split = np.where(times % 5 == 4, VALID, TRAIN).astype(np.int8)
    dataset = dataclasses.replace(dataset, times=times * DAY, split=split)
    counts = DecayedCounts.of(dataset, np.flatnonzero(split == TRAIN))

    def scores(domain, asked, half_lives):
        return (counts.at(domain, asked.times, life, slice(None)) for life in half_lives)

    (chosen,) = best_half_lives(dataset, scores)
    assert chosen in HALF_LIVES
    assert (chosen <= 3 * DAY) if turn == 2 else (chosen >= 7 * DAY)
