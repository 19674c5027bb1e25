"""Ranking a split: bounded memory, equal items tie, equal inputs are encoded once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.config.names import CANDIDATES, RELEASED, UNSEEN
from src.config.settings import Settings
from src.evaluation import queries as encoding
from src.evaluation.queries import Ensemble, Queries, domain_scores, encode_queries
from src.evaluation.rank_counts import SIDES, Part, Reads, count_ranks
from src.evaluation.ranking import CountScorer, ModelScorer, Plan, rank_targets
from src.evaluation.targets import Targets
from src.nn.intervals import DAY
from tests.support.builders import make_dataset, make_model

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


class Table:
    """A model as far as ranking needs one: vectors of the items of some domains; row 0 pads."""

    def __init__(self, sizes, hidden=16, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.item_starts = np.concatenate([[1], 1 + np.cumsum(sizes)]).tolist()
        vectors = torch.randn(self.item_starts[-1] - 1, hidden, generator=generator)
        self.item_table = torch.cat([torch.zeros(1, hidden), vectors])


def split(sizes, columns, domains):
    """A dataset of one target a user, by its column among the items of its domain."""
    starts = 1 + np.concatenate([[0], np.cumsum(sizes)])
    items = starts[domains] + columns
    users = [([int(item)], [int(domain)]) for item, domain in zip(items, domains, strict=True)]
    dataset = make_dataset(users, sizes)
    every = np.arange(len(columns))
    return dataset, Targets("test", every, every, items, np.asarray(domains), every, every)


def ranks_of(model, dataset, targets, hidden, protocols=("full",), drawn=None, rows=None):
    """The ranks of the targets `rows`, all without, each by an output of its own."""
    every = np.arange(len(targets.events))
    rows = every if rows is None else rows
    scorer = ModelScorer(Ensemble([model]), hidden, np.tile(every, (len(dataset.domain_names), 1)))
    plan = Plan(dataset, targets, tuple(protocols), drawn or {})
    return rank_targets(scorer, plan, rows, list(plan.blocks(rows)))


class Outputs(TorchDispatchMode):
    """Notes the largest tensor that an operation returns, and every operation's name."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.names.add(operation.name())
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize(
    "protocols",
    [("full",), ("full", "sampled"), (*CANDIDATES, *(name + UNSEEN for name in CANDIDATES))],
    ids=["full", "sampled", "all"],
)
def test_no_tensor_is_larger_than_a_chunk_however_many_items_and_targets(protocols):
    items, count = 70_001, 2500
    rng = np.random.default_rng(0)
    domains = np.zeros(count, dtype=int)
    dataset, targets = split((items, 30), rng.integers(0, items, count), domains)
    model = Table((items, 30), hidden=2)
    drawn = {
        name: rng.integers(1, items + 1, (count, 100))
        for name in ("sampled", "sampled_all", "popular")
        if name in protocols
    }
    with Outputs() as seen:
        ranks_of(model, dataset, targets, torch.randn(count, 2), protocols, drawn)
    assert seen.largest <= SIDES["cpu"] ** 2 < items * count / 100
    # what a GPU would have to wait for: a number read back, a selection of unknown size
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"} & seen.names


@pytest.mark.parametrize("side", [1024, 5, 64], ids=["one chunk", "5 x 5", "64 x 64"])
def test_many_domains_and_blocks_rank_as_sorting_does(side, monkeypatch):
    monkeypatch.setitem(SIDES, "cpu", side)
    sizes, count, rng = (600, 7, 45, 1), 330, np.random.default_rng(1)
    domains = rng.choice([0, 0, 0, 1, 2, 3], count)
    columns = rng.integers(0, 2**31, count) % np.array(sizes)[domains]
    dataset, targets = split(sizes, columns, domains)
    model, hidden = Table(sizes), torch.randint(-9, 10, (count, 16)).float()
    model.item_table = (
        8 * model.item_table
    ).round()  # scores are whole numbers, exact in any order
    negatives = rng.integers(-1, np.array(sizes)[domains][:, None], (count, 9))
    negatives[negatives == columns[:, None]] = -1
    first = dataset.item_starts[domains][:, None]
    drawn = {"sampled": np.where(negatives < 0, -1, negatives + first)}
    ranks = ranks_of(model, dataset, targets, hidden, ("full", "sampled"), drawn)
    for row, (column, domain) in enumerate(zip(columns, domains, strict=True)):
        scores = domain_scores(model, hidden[row], domain).numpy()
        rivals = negatives[row][negatives[row] >= 0]
        for name, others in (("full", scores), ("sampled", scores[[column, *rivals]])):
            descending = np.sort(others)[::-1].tolist()
            assert ranks[name].better[row] == descending.index(scores[column])
            assert ranks[name].tied[row] == descending.count(scores[column])
            assert ranks[name].candidates[row] == len(others)


@pytest.mark.parametrize("side", [1024, 64], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("items", [5, 11, 13, 130, 700, 1027])
@pytest.mark.parametrize("count", [1, 3, 90])
def test_items_with_equal_vectors_tie_exactly(count, items, side, monkeypatch):
    """Wherever in a product they stand, and however few rows or columns it has."""
    monkeypatch.setitem(SIDES, "cpu", side)
    kinds = 4
    columns = np.arange(count) * 7 % items
    dataset, targets = split((items,), columns, np.zeros(count, dtype=int))
    for hidden_size in (16, 64, 100):
        model = Table((items,), hidden_size)
        vectors = model.item_table[1 : 1 + kinds]
        model.item_table[1:] = vectors.repeat(items // kinds + 1, 1)[:items]
        actual = ranks_of(model, dataset, targets, torch.randn(count, hidden_size))["full"]
        same = np.bincount(np.arange(items) % kinds, minlength=kinds)
        assert actual.tied.tolist() == same[columns % kinds].tolist()
        assert np.isin(actual.better, [sum(s) for s in _subset_sums(same)]).all()


def _subset_sums(values):
    """Every choice of some of the values."""
    return [
        [v for bit, v in enumerate(values) if 1 << bit & mask] for mask in range(2 ** len(values))
    ]


def test_some_rows_rank_as_they_do_among_all():
    sizes, domains = (40, 7), np.arange(60) % 2
    dataset, targets = split(sizes, np.arange(60) % 7, domains)
    model, hidden, rows = Table(sizes), torch.randn(60, 16), np.arange(1, 60, 3)[::-1]
    whole = ranks_of(model, dataset, targets, hidden)["full"]
    actual = ranks_of(model, dataset, targets, hidden, rows=rows)["full"]
    for name in ("better", "tied", "candidates"):
        assert (getattr(actual, name) == getattr(whole, name)[rows]).all()


def test_a_block_waits_for_the_device_once_in_its_counts():
    """All that a block of rows brings back comes in one tensor."""
    scores = torch.randn(20, 9000)
    reads = Reads(*np.ones((3, 60), dtype=np.int32))
    parts = [Part(lambda c: scores[:, c], 9000, reads) for _ in range(2)]
    with Outputs() as seen:
        count_ranks(parts, np.arange(20), 2, CPU)
    assert "aten::stack" in seen.names and "aten::_local_scalar_dense" not in seen.names


# ------------------------------------------------------------------- equal inputs

# The events before the last one are the context of the target. Users 0 and 1 have equal contexts,
# and other targets of one domain; 2 a target of another domain; 3 more events before the same ones,
# which a window of 5 cuts off; 4 and 5 no context; 6 and 7 none in the target's domain; 8 and 9
# equal contexts of domain 1, interleaved with other events of domain 0.
USERS = [
    ([1, 7, 2, 8, 3], [0, 1, 0, 1, 0]),
    ([1, 7, 2, 8, 4], [0, 1, 0, 1, 0]),
    ([1, 7, 2, 8, 9], [0, 1, 0, 1, 1]),
    ([5, 9, 1, 7, 2, 8, 3], [0, 1, 0, 1, 0, 1, 0]),
    ([6], [0]),
    ([2], [0]),
    ([7, 8, 1], [1, 1, 0]),
    ([9, 1], [1, 0]),
    ([7, 1, 8, 7], [1, 0, 1, 1]),
    ([3, 7, 8, 7], [0, 1, 1, 1]),
    ([7, 8, 7, 7], [1, 1, 1, 1]),
    ([1, 7, 2, 3], [0, 1, 0, 0]),
]
CASES = [
    # settings, path, context, distinct inputs of USERS with a window of 5
    ({}, "cross", "paired", 8),
    ({"target_domain_query": True}, "cross", "paired", 9),
    ({"cross_per_domain": True}, "cross", "paired", 9),
    ({"gate": "sequence"}, "cross", "paired", 8),
    ({}, "single", "paired", 4),
    ({"gate": "sequence"}, "single", "paired", 4),
    ({"mode": "sdsr"}, "single", "own", 5),
    ({"share_experts": True}, "single", "paired", 4),
]


def encoded(model, dataset, path, context, rows):
    events = dataset.offsets[1:] - 1
    domains = dataset.domains[events].astype(np.int64)
    times = dataset.times[events] if model.settings.reads_time else None
    queries = Queries(np.arange(dataset.users), events, domains, times)
    return encode_queries(
        Ensemble([model]), dataset, queries.rows(rows), path,
        max_len=5, context=context, users_at_once=4, device=CPU,
    )  # fmt: skip


@pytest.mark.parametrize(("settings", "path", "context", "distinct"), CASES, ids=str)
def test_equal_inputs_are_encoded_once_and_give_what_each_alone_gives(
    settings, path, context, distinct, monkeypatch
):
    dataset = make_dataset(USERS, (6, 3))
    model = make_model(dataset, max_len=5, **settings).eval()
    users = []
    original = type(model).queries
    monkeypatch.setattr(
        type(model),
        "queries",
        lambda self, batch, task: (
            users.append(len(batch.last_targets)) or original(self, batch, task)
        ),
    )
    rows = np.random.default_rng(0).permutation(len(USERS))
    together = encoded(model, dataset, path, context, rows)
    assert sum(users) == distinct
    alone = torch.cat([encoded(model, dataset, path, context, row) for row in rows[:, None]])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_no_targets_are_encoded_as_no_rows():
    dataset = make_dataset(USERS, (6, 3))
    model = make_model(dataset, max_len=5).eval()
    actual = encoded(model, dataset, "cross", "paired", np.zeros(0, dtype=np.int64))
    assert actual.shape == (0, model.settings.hidden)


def test_equal_inputs_are_found_across_the_parts_they_are_looked_for_in(monkeypatch):
    dataset = make_dataset(USERS, (6, 3))
    model = make_model(dataset, max_len=5).eval()
    rows = np.arange(len(USERS))
    whole = encoded(model, dataset, "cross", "paired", rows)
    monkeypatch.setattr(encoding, "KEYS_AT_ONCE", 1)
    torch.testing.assert_close(encoded(model, dataset, "cross", "paired", rows), whole)


def test_the_context_is_what_tells_inputs_apart():
    """Else one h for all would pass the tests above."""
    dataset = make_dataset(USERS, (6, 3))
    model = make_model(dataset, max_len=5).eval()
    assert isinstance(model.settings, Settings)
    actual = encoded(model, dataset, "cross", "paired", np.arange(len(USERS)))
    assert torch.equal(actual[0], actual[1]) and not torch.allclose(actual[0], actual[11])


def test_a_model_of_time_tells_equal_items_apart_by_their_intervals():
    """The second user's events are a day after the first's, the third user asks three days later,
    and the fourth's second event is four days earlier."""
    days = np.array([[0, 5, 6], [1, 6, 7], [0, 5, 9], [0, 1, 2]])
    dataset = make_dataset([([1, 7, 2], [0, 1, 0])] * 4, (6, 3), times=days * DAY)
    rows = np.arange(4)
    for settings, distinct in (({}, 1), ({"time_embedding": "interval"}, 3)):
        model = make_model(dataset, max_len=5, **settings).eval()
        actual = encoded(model, dataset, "cross", "paired", rows)
        alone = torch.cat([encoded(model, dataset, "cross", "paired", rows[[row]]) for row in rows])
        torch.testing.assert_close(actual, alone, rtol=1e-6, atol=1e-6)
        assert len(actual.unique(dim=0)) == distinct


class Calls:
    """A scorer that counts how often it is asked for scores."""

    def __init__(self, item_counts):
        self.item_counts, self.calls = item_counts, 0

    def of(self, rows):
        return CallsOfBlock(self, rows)


class CallsOfBlock:
    def __init__(self, calls, targets):
        self.calls, self.targets = calls, targets

    def scores(self, rows, domain):
        self.calls.calls += 1
        rows = self.targets[rows]
        generator = np.random.default_rng([domain])
        vectors = torch.from_numpy(generator.integers(0, 99, (self.calls.item_counts[domain], 3)))
        weights = torch.from_numpy(np.stack([rows % 7, rows % 5, rows % 3], 1))
        return lambda columns: (weights @ vectors[columns].T).double()


ALL = ("full", "full_all")
MANY = {  # sizes of the domains, those of the targets, protocols, the most scorings
    "two targets each": ((20,) * 40, np.arange(80) % 40, ALL, 2 * 40),
    "one large domain": ((600, 30, 20, 20, 20), np.arange(80) % 5, ALL, 2 * 5),
    "one item each": ((1,) * 60, np.arange(80) % 60, ALL, 2 * 60),
    "targets in two of them": ((20,) * 100, np.arange(80) % 2, ALL, 100 + 2),
    "a target each": ((3,) * 120, np.arange(120), ALL, 2 * 120),
    "without known items": ((20,) * 40, np.arange(80) % 40, (*ALL, "full_all-unseen"), 2 * 40),
    "the own domain alone": ((20,) * 40, np.arange(80) % 40, ("full",), 40),
    "several blocks": ((20,) * 30, np.arange(6000) % 30, ALL, 3 * 2 * 30),
}


@pytest.mark.parametrize("form", MANY)
def test_the_scorings_grow_with_the_domains_not_with_their_square(form):
    """Each domain of a block is scored once for its own targets and once for all others."""
    sizes, domains, protocols, most = MANY[form]
    count, rng = len(domains), np.random.default_rng(0)
    columns = rng.integers(0, min(sizes), count)
    dataset, targets = split(sizes, columns, domains)
    plan, rows = Plan(dataset, targets, protocols, {}), np.arange(count)
    scorer = Calls(sizes)
    ranks = rank_targets(scorer, plan, rows, list(plan.blocks(rows)))
    assert scorer.calls <= most
    for row in rows[:: max(1, count // 20)]:  # as if each target were ranked alone
        alone = scorer.of(rows[[row]])
        every = [alone.scores(np.arange(1), d)(slice(None))[0] for d in range(len(sizes))]
        own = every[domains[row]][columns[row]]
        for name in protocols:
            scores = every[domains[row]] if name == "full" else torch.cat(every)
            assert ranks[name].better[row] == (scores > own).sum()
            assert ranks[name].tied[row] == (scores == own).sum()
            assert ranks[name].candidates[row] == len(scores)


@pytest.mark.parametrize("protocols", [("full",), ("full", "full_all"), ("full", RELEASED)])
def test_each_block_is_read_once_and_asked_once_for_single_items(protocols, monkeypatch):
    """However many domains it has; and where no other domain is ranked, each target asks for its
    own alone."""
    monkeypatch.setitem(SIDES, "cpu", 8)
    domains = np.arange(90) % 6
    dataset, targets = split((20,) * 6, np.zeros(90, dtype=np.int64), domains)
    drawn = {RELEASED: np.tile(np.array([3, 25, 119, -1]), (90, 1))}
    plan, rows = Plan(dataset, targets, protocols, drawn), np.arange(90)
    blocks, calls = list(plan.blocks(rows)), []

    class Counted:
        def read(self, requests):
            calls.append("read")
            single = protocols == ("full",)
            asked = domains[requests.users] if single else None
            assert np.array_equal(requests.domains, asked) if single else requests.domains is None
            return self

        def scores(self, rows, domain):
            return lambda columns: torch.zeros(len(rows), 20)[:, columns]

        def pairs(self, domains, items):
            calls.append("pairs")
            return torch.zeros(items.shape)

    rank_targets(CountScorer(Counted(), plan), plan, rows, blocks)
    assert len(blocks) > 2
    assert calls.count("read") == len(blocks)
    assert calls.count("pairs") == len(blocks) * (RELEASED in protocols)
