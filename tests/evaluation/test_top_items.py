"""Lists of the best items are those of sorting all scores, whatever is skipped on the way."""

import numpy as np
import pytest
import torch

from src.evaluation import rank_counts as ranks
from src.evaluation import top_items as lists
from src.evaluation.top_items import top_items

CPU = torch.device("cpu")
ROWS = 37


def sorted_items(
    scores: torch.Tensor, k: int, excluded: tuple[torch.Tensor, torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slow way: all scores in one stable order."""
    left = scores.clone()
    if excluded is not None:
        left[excluded] = -torch.inf
    values, columns = left.sort(dim=1, descending=True, stable=True)
    return values[:, :k], columns[:, :k]


def check(
    scores: torch.Tensor, k: int, excluded: tuple[torch.Tensor, torch.Tensor] | None = None
) -> None:
    """Values and columns are the slow ones, bit for bit; columns that are not listed are free."""
    before = scores.clone()
    values, columns = top_items(lambda part: scores[:, part], scores.shape[1], k, CPU, excluded)
    expected, expected_columns = sorted_items(scores, k, excluded)
    assert values.dtype == scores.dtype
    assert torch.equal(values, expected)
    listed = expected > -torch.inf
    assert torch.equal(columns[listed], expected_columns[listed])
    assert torch.equal(scores, before)  # what the scorer gave is its own


def some_excluded(items: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row some items, among them the first; all of them for the last row."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, ROWS - 1, 20 * ROWS), rng.integers(0, items, 20 * ROWS)
    rows = np.concatenate([rows, np.arange(ROWS), np.full(items, ROWS - 1)])
    columns = np.concatenate([columns, np.zeros(ROWS, dtype=np.int64), np.arange(items)])
    return torch.from_numpy(rows), torch.from_numpy(columns)


@pytest.fixture(params=[64, 192, 1024])
def side(request, monkeypatch):
    """Chunks of one run of columns, of three, and as they are."""
    monkeypatch.setitem(ranks.SIDES, "cpu", request.param)
    return request.param


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("k", [1, 10, 60])
@pytest.mark.parametrize("levels", [2, 30, 1000, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_are_those_of_sorting(dtype, levels, k, excluded, side):
    items = 2500 if side < 1024 else 9001  # some chunks, the last of them shorter
    generator = torch.Generator().manual_seed(k)
    scores = torch.randn(ROWS, items, generator=generator, dtype=dtype)
    if levels is not None:
        scores = (scores * levels / 4).round()
    check(scores, k, some_excluded(items, k) if excluded else None)


@pytest.mark.parametrize("items", [1, 15, 16, 63, 64, 65, 1349, 3001])
@pytest.mark.parametrize("k", [1, 20, 4000])
def test_catalogues_of_one_chunk(items, k):
    scores = torch.randn(ROWS, items, generator=torch.Generator().manual_seed(items))
    check(scores, k)
    check(scores.round(), k)
    check(scores.round(), k, some_excluded(items, items))


ORDERS = {
    "best last": lambda scores: scores.sort(dim=1).values,
    "best first": lambda scores: scores.sort(dim=1, descending=True).values,
    "best last in one row": lambda scores: torch.cat([scores[:-1], scores[-1:].sort().values]),
    "best together": lambda scores: scores.index_fill(1, torch.arange(2000, 2064), 9.0),
    "all equal": torch.zeros_like,
    "nothing left": lambda scores: torch.full_like(scores, -torch.inf),
    "nothing left in a row": lambda scores: scores.index_fill(0, torch.tensor([3]), -torch.inf),
    "little left in a row": lambda scores: torch.cat(
        [scores[:-1], torch.full_like(scores[-1:], -torch.inf).index_fill(1, torch.tensor([7]), 1)]
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_lists_where_much_clears_the_bar_or_nothing_does(order, side):
    scores = ORDERS[order](torch.randn(ROWS, 9001, generator=torch.Generator().manual_seed(0)))
    check(scores, 10)
    check(scores, 10, some_excluded(9001, 0))


def test_few_scores_are_looked_at(monkeypatch):
    """Else the lists are right, but no faster than sorting."""
    looked = []
    clearing = lists._clearing

    def counted(rows, starts, scores, bar, clears):
        looked.append(scores.numel())
        return clearing(rows, starts, scores, bar, clears)

    monkeypatch.setattr(lists, "_clearing", counted)
    monkeypatch.setattr(lists, "_top_columns", None)
    scores = torch.randn(ROWS, 50_000, generator=torch.Generator().manual_seed(0))
    check(scores, 10)
    assert sum(looked) < scores.numel() / 10
