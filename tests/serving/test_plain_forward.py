"""The plain forward of a model gives the queries of the packed one, whatever the padding."""

import dataclasses

import numpy as np
import pytest
import torch

from src.evaluation.queries import Ensemble, Queries, encode_queries
from src.serving.plain_forward import PlainForward
from tests.support.builders import make_dataset, named_model, random_times, random_users

CPU = torch.device("cpu")
SIZES = (6, 5, 9, 4)
TIMED = {"time_embedding": "interval"}
CASES = [
    ("syncrec", "syncrec", {}),
    ("syncrec", "syncrec", {"target_domain_query": True, "positions": "start", **TIMED}),
    ("syncrec", "syncrec", {"gate": "sequence", "positions": "start"}),
    ("syncrec", "syncrec", {"cross_per_domain": True, "target_domain_query": True}),
    ("syncrec", "syncrec", {"share_experts": True, "layers": 2, "heads": 2}),
    ("syncrec", "cdsr", {"target_domain_query": True, "gate": "none", **TIMED}),
    ("syncrec", "sdsr", TIMED),
    ("syncrec", "sdsr", {"sdsr_context": "own", "towers": False, **TIMED}),
    ("syncrec", "sdsr_separate", TIMED),
    ("sasrec", "cdsr", {"target_domain_query": True}),
    ("sasrec", "sdsr_separate", {}),
    ("cl4srec", "cdsr", {}),
    ("autocdsr", "cdsr", {}),
    ("shared_bottom", "cdsr", {}),
    ("mmoe", "cdsr", {}),
    ("ple", "cdsr", {}),
    ("abxi", "cdsr", {}),
    ("abxi", "cdsr", {"layers": 2, "heads": 2, "target_domain_query": True, **TIMED}),
    ("c2dsr", "cdsr", TIMED),
    ("mml", "cdsr", {}),
]


def made(name: str, mode: str, changes: dict):
    """A dataset whose users have up to four times as many events as the model reads, and models."""
    users = random_users(1, count=30, longest=40)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    parts = [dataset]
    if mode == "sdsr_separate":
        parts = [dataset.only_domain(domain) for domain in range(len(SIZES))]
    models = [named_model(part, name, mode, max_len=10, **changes).eval() for part in parts]
    return dataset, Ensemble(models, separate=len(parts) > 1)


def questions(dataset) -> Queries:
    """Each user asks in each domain, some seconds after the newest event; the last user of all has
    none."""
    users = np.repeat(np.arange(dataset.users), len(SIZES))
    ends = dataset.offsets[users + 1]
    ends[-len(SIZES) :] = dataset.offsets[users[-1]]
    times = dataset.times[ends - 1] + 5000 * np.arange(len(users))
    return Queries(users, ends, np.tile(np.arange(len(SIZES)), dataset.users), times)


def padded(dataset, queries: Queries, where: str) -> tuple[torch.Tensor, ...]:
    """The inputs of the plain forward, with zeros before, after or among the events."""
    starts = dataset.offsets[queries.users]
    longest = 2 * int((queries.ends - starts).max())
    items = np.zeros((len(starts), longest), dtype=np.int64)
    times = np.zeros_like(items)
    for row, (start, end) in enumerate(zip(starts, queries.ends, strict=True)):
        length = end - start
        places = {
            "before": slice(longest - length, longest),
            "after": slice(0, length),
            "among": slice(0, 2 * length, 2),
        }[where]
        items[row, places], times[row, places] = dataset.items[start:end], dataset.times[start:end]
    return tuple(map(torch.from_numpy, (items, times, queries.domains, queries.times)))


@pytest.mark.parametrize("where", ["before", "after", "among"])
@pytest.mark.parametrize(("name", "mode", "changes"), CASES)
@torch.no_grad()
def test_padded_histories_give_the_queries_of_packed_ones(name, mode, changes, where):
    dataset, ensemble = made(name, mode, changes)
    settings, queries = ensemble.models[0].settings, questions(dataset)
    asked = queries if settings.reads_time else dataclasses.replace(queries, times=None)
    expected = {
        path: encode_queries(
            ensemble, dataset, asked, path, max_len=10, context=settings.context,
            users_at_once=16, device=CPU,
        ).float()
        for path in settings.paths
    }  # fmt: skip
    forward = PlainForward(ensemble, dataset.item_starts.tolist())
    actual = forward(*padded(dataset, queries, where))
    assert actual.keys() == expected.keys()
    for path, values in expected.items():
        torch.testing.assert_close(actual[path], values, atol=3e-5, rtol=0)


@torch.no_grad()
def test_what_is_no_item_is_padding_and_what_is_no_domain_gives_nan():
    dataset, ensemble = made("syncrec", "syncrec", {})
    forward = PlainForward(ensemble, dataset.item_starts.tolist())
    times, now = torch.zeros(5, 3, dtype=torch.long), torch.zeros(5, dtype=torch.long)
    items = torch.tensor([[3, 5, 2], [3, 0, 2], [3, -1, 2], [3, 25, 2], [3, 2**40, 2]])
    for hidden in forward(items, times, now, now).values():
        assert not torch.equal(hidden[0], hidden[1])
        for row in (2, 3, 4):
            assert torch.equal(hidden[row], hidden[1])
    for hidden in forward(items[:4], times[:4], torch.tensor([-1, 0, 3, 4]), now[:4]).values():
        assert hidden.isnan().all(1).tolist() == [True, False, False, True]
