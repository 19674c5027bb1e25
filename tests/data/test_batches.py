"""Batches: every event is a target once in each view, however the users are grouped; dropout."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from src.dataset.batching.negatives import draw_negatives
from src.dataset.batching.packing import build_batch, build_query_batch
from src.dataset.batching.prefetch import prefetch
from src.dataset.batching.windows import keep_domain, newest_events, newest_events_per_domain
from src.evaluation.queries import Ensemble, Queries, encode_queries
from src.evaluation.targets import split_targets
from src.nn.dropout import dropout
from src.nn.intervals import DAY, EDGES, IntervalEmbedding
from tests.support.builders import (
    make_dataset,
    make_model,
    random_times,
    random_users,
    train_batch,
)

SIZES = (6, 5, 9, 4)


def sequences(view):
    """[(positions, inputs, domains)] of a view, sequence by sequence."""
    found = []
    for number in range(view.sequences):
        rows = view.sequence_ids == number
        parts = view.positions[rows], view.inputs[rows], view.domains[rows]
        found.append(tuple(part.tolist() for part in parts))
    return found


def by_domain(items, domains):
    """{domain: its items in time order}."""
    return {d: [x for x, own in zip(items, domains, strict=True) if own == d] for d in set(domains)}


# ------------------------------------------------------------------------ the two views


@pytest.mark.parametrize("seed", range(3))
def test_every_training_event_is_a_target_once_in_each_view(seed):
    users = random_users(seed, longest=14)
    batch = train_batch(make_dataset(users, SIZES))
    order = sorted(  # canonical: by domain, then user, then time
        (domains[t], user, t)
        for user, (_, domains) in enumerate(users)
        for t in range(len(domains))
    )
    assert batch.targets.tolist() == [users[user][0][t] for _, user, t in order]
    for view in (batch.single, batch.cross):
        assert view.domains[view.target_slots].tolist() == [domain for domain, _, _ in order]
    places = batch.cross.target_slots
    users_and_times = zip(
        batch.cross.sequence_ids[places], batch.cross.positions[places], strict=True
    )
    assert [(int(user), int(t)) for user, t in users_and_times] == [place[1:] for place in order]
    assert batch.counts == np.bincount([domain for domain, _, _ in order], minlength=4).tolist()
    assert batch.domain_counts.tolist() == batch.counts
    last = [order.index((domains[-1], u, len(domains) - 1)) for u, (_, domains) in enumerate(users)]
    assert batch.last_targets[batch.last_rows].tolist() == last
    assert batch.last_targets.tolist() == sorted(last)
    assert batch.last_counts == np.bincount([d[-1] for _, d in users], minlength=4).tolist()


def test_the_cross_view_is_each_users_whole_sequence_shifted_by_one():
    users = random_users(5)
    batch = train_batch(make_dataset(users, SIZES))
    expected = [(list(range(len(x))), [0, *x[:-1]], d) for x, d in users]
    assert sequences(batch.cross) == expected


def test_the_single_view_is_each_users_events_of_one_domain_shifted_by_one():
    users = random_users(5)
    batch = train_batch(make_dataset(users, SIZES))
    expected = [
        (list(range(len(own))), [0, *own[:-1]], [domain] * len(own))
        for domain in range(4)
        for own in (by_domain(*user).get(domain, []) for user in users)
        if own
    ]
    assert sequences(batch.single) == expected
    assert batch.pair_lengths.tolist() == [len(positions) for positions, _, _ in expected]


def test_held_out_events_are_no_training_targets_and_no_inputs():
    users = [([1, 2, 3, 6], [0, 0, 0, 0]), ([4, 7, 5, 6], [0, 1, 0, 0])]
    batch = train_batch(make_dataset(users, SIZES, held_out=2))
    assert sorted(batch.targets.tolist()) == [1, 2, 4, 7]
    assert set(batch.cross.inputs.tolist()) == {0, 1, 4}


# ------------------------------------------------------------------------ windows

ITEMS = [1, 2, 7, 3, 8, 9, 4, 5]
DOMAINS = [0, 0, 1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("max_len", "kept"), [(3, [9, 4, 5]), (8, ITEMS), (20, ITEMS)], ids=["cut", "equal", "longer"]
)
def test_a_window_holds_the_newest_events(max_len, kept):
    dataset = make_dataset([([6], [0]), (ITEMS, DOMAINS), ([6], [0])], SIZES)
    windows = newest_events(dataset, np.array([1]), np.array([9]), max_len)
    assert dataset.items[windows.events].tolist() == kept
    assert windows.rows.tolist() == [0] * len(kept)


def test_a_window_of_each_domain_holds_the_newest_events_of_each():
    dataset = make_dataset([([6, 7], [0, 1]), (ITEMS, DOMAINS)], SIZES)
    windows = newest_events_per_domain(dataset, np.array([1, 0]), np.array([10, 2]), 2)
    kept = [dataset.items[windows.events[windows.rows == row]].tolist() for row in (0, 1)]
    assert kept == [[8, 9, 4, 5], [6, 7]]
    batch = build_batch(dataset, windows, 0, 0)
    assert int(batch.single.positions.max()) == 1
    earlier = newest_events_per_domain(dataset, np.array([1]), np.array([7]), 2)
    assert dataset.items[earlier.events].tolist() == [2, 7, 3, 8]


def test_only_domains_keeps_each_users_events_of_its_own_domain():
    dataset = make_dataset([(ITEMS, DOMAINS), (ITEMS, DOMAINS)], SIZES)
    windows = newest_events(dataset, np.array([0, 1]), np.array([8, 16]), 5)
    own = keep_domain(dataset, windows, np.array([1, 0]))
    assert dataset.items[own.events[own.rows == 0]].tolist() == [8, 9]
    assert dataset.items[own.events[own.rows == 1]].tolist() == [3, 4, 5]


# ------------------------------------------------------------------------ intervals


def test_the_buckets_of_intervals_by_hand():
    seconds = [-1, 0, 1, 3599, 3600, DAY - 1, DAY, 2 * DAY - 1, 2 * DAY, 1024 * DAY, 9999 * DAY]
    embedding = IntervalEmbedding(1)
    with torch.no_grad():
        embedding.weight += torch.arange(16.0)[:, None]
    buckets = embedding(torch.tensor(seconds))[:, 0].tolist()
    assert buckets == [0, 1, 2, 2, 3, 3, 4, 4, 5, 14, 15]
    assert embedding(torch.tensor(EDGES))[:, 0].tolist() == list(range(1, 16))


def test_each_view_has_the_seconds_since_its_own_inputs():
    """From the event before in the view to the target; a window's first target has none."""
    times = [0, 0, 300, 500, 500, 1200]
    users = [([6], [0]), ([1, 7, 2, 3, 8, 9], [0, 1, 0, 0, 1, 1]), ([7, 1], [1, 0])]
    dataset = make_dataset(users, SIZES, times=[[5], times, [0, 9]])
    batch = train_batch(dataset, np.array([1]), max_len=5)
    # domain 0: 2 (at 300), 3 (at 500); domain 1: 7 (at 0), 8 (at 500), 9 (at 1200)
    for view, expected in (
        (batch.cross, [300, 200, -1, 0, 700]),
        (batch.single, [-1, 200, -1, 500, 700]),
    ):
        assert view.intervals[view.target_slots].tolist() == expected


def test_without_times_the_views_have_no_intervals():
    dataset = make_dataset([(ITEMS, DOMAINS)], SIZES)
    windows = newest_events(dataset, np.array([0]), np.array([8]), 8)
    batch = build_batch(dataset, windows, 0, 0)
    assert batch.cross.intervals is None and batch.single.intervals is None


# ------------------------------------------------------------------------ negatives


def negatives_of(users, copies, seed=0, epoch=0):
    """(dataset, targets, their domains, negatives) of every user `copies` times in the log."""
    dataset = make_dataset(users * copies, SIZES)
    events = np.arange(len(dataset.items))
    items, domains = dataset.items.astype(np.int64), dataset.domains.astype(np.int64)
    drawn = draw_negatives(dataset.item_starts, events, items, domains, seed, epoch)
    return dataset, items, domains, drawn[:, 0]


def test_a_negative_is_another_item_of_the_targets_domain():
    dataset, items, domains, drawn = negatives_of(random_users(1), 50)
    assert (drawn != items).all()
    assert (drawn >= dataset.item_starts[domains]).all()
    assert (drawn < dataset.item_starts[domains + 1]).all()


@pytest.mark.parametrize("target", [12, 16, 20])
def test_negatives_are_uniform_over_the_other_items(target):
    """Chi-square over the eight others of a domain of nine; first, inner and last target."""
    _, _, _, drawn = negatives_of([([target] * 10, [2] * 10)], 400)
    counts = np.bincount(drawn, minlength=21)[12:21]
    others = np.delete(counts, target - 12)
    assert counts[target - 12] == 0
    statistic = float(((others - 500) ** 2 / 500).sum())
    assert statistic < chi2.ppf(1 - 1e-4, df=7)


def test_negatives_change_with_seed_and_epoch_and_with_nothing_else():
    users = random_users(2)
    dataset = make_dataset(users, SIZES)
    whole = negative_of_each_event(dataset, [np.arange(7)])
    assert negative_of_each_event(dataset, [np.array([5, 0, 3]), np.array([6, 1, 4, 2])]) == whole
    for key in ({"seed": 4}, {"epoch": 1}):
        other = negative_of_each_event(dataset, [np.arange(7)], **key)
        same = sum(other[place] == negative for place, negative in whole.items())
        assert same < len(whole) / 2


def negative_of_each_event(dataset, parts, seed=3, epoch=0):
    """{(user, t): negative} of the training events, batched as `parts` says."""
    found = {}
    for users in parts:
        batch = train_batch(dataset, users, seed=seed, epoch=epoch)
        rows = users[batch.cross.sequence_ids[batch.cross.target_slots]].tolist()
        times = batch.cross.positions[batch.cross.target_slots].tolist()
        found |= dict(
            zip(zip(rows, times, strict=True), batch.negatives[:, 0].tolist(), strict=True)
        )
    return found


# ------------------------------------------------------------------------ the context of a target


def encode(dataset, model, path, max_len, split="test", context="paired"):
    targets = split_targets(dataset, split)
    times = targets.times if model.settings.reads_time else None
    return encode_queries(
        Ensemble([model]), dataset,
        Queries(targets.users, targets.ends, targets.domains, times), path,
        max_len=max_len, context=context, users_at_once=8, device=torch.device("cpu"),
    )[0]  # fmt: skip


HELD = ([1, 7, 2, 8, 3, 9, 4], [0, 1, 0, 1, 0, 1, 0])  # validation target 9, test target 4
CONTEXTS = {  # what the output may depend on, of the places 0 … 6; never place 6, the target
    ("cross", 16, "paired"): {0, 1, 2, 3, 4, 5},
    ("cross", 4, "paired"): {3, 4, 5},
    ("single", 16, "paired"): {0, 2, 4},
    ("single", 4, "paired"): {4},
    ("single", 2, "own"): {4},
    ("single", 3, "own"): {2, 4},
}


@pytest.mark.parametrize("case", CONTEXTS, ids=str)
def test_a_test_target_is_ranked_from_the_newest_events_before_it(case):
    """The validation event included, at most max_len − 1; the single view's own domain alone."""
    path, max_len, context = case
    dataset = make_dataset([HELD], SIZES, held_out=2)
    model = make_model(dataset, max_len=max_len).eval()
    before = encode(dataset, model, path, max_len, context=context)
    seen = set()
    for place, (item, domain) in enumerate(zip(*HELD, strict=True)):
        items = list(HELD[0])
        items[place] = item + 1 if domain else item % 6 + 1
        other = make_dataset([(items, HELD[1])], SIZES, held_out=2)
        after = encode(other, model, path, max_len, context=context)
        if (after - before).abs().max() > 1e-6:
            seen.add(place)
    assert seen == CONTEXTS[case]


@pytest.mark.parametrize("time_embedding", ["none", "interval"])
def test_a_target_is_ranked_as_the_same_event_would_be_in_training(time_embedding):
    """Position, input and interval of the last place are those of a training window that ends
    there."""
    trained = make_dataset([HELD], SIZES, times=random_times([HELD]))
    model = make_model(trained, max_len=5, time_embedding=time_embedding).eval()
    batch = train_batch(trained, max_len=5)
    held_out = make_dataset([HELD], SIZES, held_out=1, times=random_times([HELD]))
    for path in ("cross", "single"):
        ranked = encode(held_out, model, path, 5)
        torch.testing.assert_close(ranked, model.queries(batch, path)[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_query_is_packed_as_the_event_that_it_asks_for(seed):
    """The question comes last, is no input of anything, and an empty context has it alone."""
    users = random_users(seed, count=9, longest=5)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    whole = train_batch(dataset)
    assert any(len(items) == 1 for items, _ in users)
    kept = np.delete(np.arange(len(dataset.items)), dataset.offsets[1:] - 1)
    asked = dataset.domains[dataset.offsets[1:] - 1].astype(np.int64)
    packed = (
        dataset.items[kept].astype(np.int64), dataset.domains[kept].astype(np.int64),
        np.diff(dataset.offsets) - 1, asked, len(SIZES), dataset.times,
    )  # fmt: skip
    query = build_query_batch(*packed)
    for name in ("cross", "single"):
        own, other = getattr(query, name), getattr(whole, name)
        assert own.tiles == other.tiles and own.sequences == other.sequences
        for field in (
            "inputs", "positions", "domains", "intervals", "sequence_ids", "target_slots",
        ):  # fmt: skip
            assert torch.equal(getattr(own, field), getattr(other, field)), (name, field)
    for field in ("last_targets", "last_rows", "domain_counts", "pair_lengths"):
        assert torch.equal(getattr(query, field), getattr(whole, field)), field
    assert query.last_counts == np.bincount(asked, minlength=len(SIZES)).tolist()
    for name, other in (("cross", "single"), ("single", "cross")):
        part = build_query_batch(*packed, views=(name,))
        assert all(
            torch.equal(values, getattr(getattr(query, name), field))
            for field, values in vars(getattr(part, name)).items()
            if isinstance(values, torch.Tensor)
        )
        assert getattr(part, name).tiles == getattr(query, name).tiles
        assert not getattr(part, other).tiles and not len(getattr(part, other).inputs)
    assert not query.targets[query.last_targets].any()
    assert (query.targets > 0).sum() == len(kept)


# ------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    n = 100_003  # no multiple of the four draws of a random word
    out = dropout(torch.ones(n), rate, training=True)
    kept = out != 0
    assert torch.equal(out[kept], torch.full_like(out[kept], 1 / (1 - rate)))
    sigma = (rate * (1 - rate) / n) ** 0.5
    assert abs(float(kept.float().mean()) - (1 - rate)) < 4 * sigma
    assert abs(float(out.mean()) - 1.0) < 4 * sigma / (1 - rate)
    for lag in (1, 2, 3, 4):  # neighbours share a random word, and are independent all the same
        both = float((kept[lag:] & kept[:-lag]).float().mean())
        assert abs(both - (1 - rate) ** 2) < 5 * sigma


def test_dropout_draws_a_new_mask_each_time_and_the_same_one_from_a_seed():
    torch.manual_seed(0)
    first, second = (dropout(torch.ones(64), 0.5, training=True) for _ in "ab")
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(dropout(torch.ones(64), 0.5, training=True), first)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False)])
def test_dropout_of_rate_zero_or_in_evaluation_is_the_identity(rate, training):
    x = torch.randn(3, 5)
    assert torch.equal(dropout(x, rate, training), x)


@pytest.mark.parametrize("shape", [(7,), (3, 5, 2)], ids=str)
def test_the_gradient_passes_where_the_value_passed(shape):
    torch.manual_seed(0)
    x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    out = dropout(x, 0.4, training=True)
    out.sum().backward()
    assert 0 < int((out == 0).sum()) < x.numel()
    assert torch.equal(x.grad, out.detach())  # of ones, so the mask itself


# ------------------------------------------------------------------------ one batch ahead


def test_batches_made_ahead_are_the_same_in_the_same_order():
    assert list(prefetch(iter(range(1, 9)))) == list(range(1, 9))
    assert list(prefetch(iter(()))) == []


def test_an_error_of_the_loader_reaches_the_training_loop():
    def broken():
        yield 1
        raise ValueError("row 2")

    actual = []
    with pytest.raises(ValueError, match="row 2"):
        for item in prefetch(broken()):
            actual.append(item)
    assert actual in ([], [1])
