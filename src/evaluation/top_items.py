"""The best items of a block of rows, in one pass over the chunks of their scores.

Sorting every chunk would take several times as long as the product that makes it. Once a row has a
list, its last score is a bar that few of the following scores clear. The maxima of short runs of
columns say where these are; no other score is read again.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from src.evaluation.rank_counts import Chunk, item_chunks, on_device
from src.interfaces import Scores

Pairs = tuple[Tensor, Tensor]  # rows [P] and columns [P]

# Columns that share a maximum. On a CPU (ns per score on one core, beside 1.4 for the product at
# H 64): .11 for the maxima of 64, 1.1 for those of 16, which do not fill its vectors; topk of 1,024
# takes 9, of 8,192 it takes 2.
RUN = 64
SHORT_RUN = 16  # where a first chunk has too few runs of 64
# A first bar is the k-th best maximum: a chunk needs more runs than k, or too much clears it.
RUNS_PER_PLACE = 3
EARLY = 8  # at most so many chunks make the first bar
# Runs per row that wait for a look at their scores: with fewer, the many small steps that follow
# would take as long as the product; with more, the bar would be that of long ago.
WAITING = 16
# If more of a chunk than this is in runs that clear their bars, as where the best items come last,
# its rows are sorted: what clears a bar takes several times the memory of a score.
CROWDED = 3 / 4
# Candidates of a row that are sorted in at once, as a multiple of its list, or the least.
ROOM, LEAST_ROOM = 2, 32


def top_items(
    scores: Scores,
    items: int,
    k: int,
    device: torch.device,
    excluded: Pairs | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best of a domain's items for a block of rows, best first, computed chunk by chunk; of
    equal scores the lower column comes first, on every device.

    `excluded` are rows [P] and columns [P] that are not recommended. Returns the scores and the
    columns, each [n, min(k, items)]; where nothing is left the score is −inf. No score may be NaN.
    """
    return top_lists(scores, items, k, device, [excluded])[0]


@torch.no_grad()
def top_lists(
    scores: Scores, items: int, k: int, device: torch.device, excluded: Sequence[Pairs | None]
) -> list[tuple[Tensor, Tensor]]:
    """`top_items` for each of the `excluded`, from the same scores."""
    k = min(k, items)
    lists = [
        _Lists(k, items, _Barred(*pairs, items) if pairs is not None and len(pairs[0]) else None)
        for pairs in excluded
    ]
    for chunk in item_chunks(items, device):
        _add(lists, scores(on_device(chunk.columns, device)), chunk)
    return [one.best() for one in lists]


def _add(lists: "list[_Lists]", scores: Tensor, chunk: Chunk) -> None:
    """A call of its own, so that a chunk of scores is freed before the next one is made."""
    for one in lists:
        one.add(scores, chunk)


class _Barred:
    """Items that are not listed: P rows and columns among `items`."""

    def __init__(self, rows: Tensor, columns: Tensor, items: int):
        self.rows, self.columns, self.items = rows, columns, items
        self.keys = self._keys(rows, columns).sort().values

    def _keys(self, rows: Tensor, columns: Tensor) -> Tensor:
        return rows.long() * self.items + columns

    def left_out(self, scores: Tensor, first: int) -> Tensor:
        """A copy of the scores [n, C] of the columns from `first` on; −inf where barred."""
        inside = (self.columns >= first) & (self.columns < first + scores.shape[1])
        scores = scores.clone()
        scores[self.rows[inside], self.columns[inside] - first] = -torch.inf
        return scores

    def hold(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[C] whether each of these is among them."""
        keys = self._keys(rows, columns)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return self.keys[place] == keys


class _Lists:
    """The k best of n rows so far, and the runs of later columns in which better ones may be."""

    def __init__(self, k: int, items: int, barred: _Barred | None):
        self.k, self.items, self.barred = k, items, barred
        self.early: list[Tensor] = []  # scores of the first chunks, before there are lists
        self.lists: tuple[Tensor, Tensor] | None = None  # values, columns [n, k], best first
        self.waiting: list[_Runs] = []

    def add(self, scores: Tensor, chunk: Chunk) -> None:
        """Take in the scores [n, width] of a chunk, whose columns follow all before."""
        if self.lists is None:
            self._begin(scores, chunk)
            return
        runs = scores.contiguous().view(-1, math.gcd(scores.shape[1], RUN))
        clear = runs.amax(1).view(len(scores), -1) > self.lists[0][:, -1:]
        hits = clear.flatten().nonzero()[:, 0]
        if len(hits) > CROWDED * len(runs):
            self._look()
            left = self._left(scores, chunk)
            values, columns = _top_columns(left, min(self.k, left.shape[1]))
            values = torch.cat([self.lists[0], values], 1)
            columns = torch.cat([self.lists[1], columns + _first(chunk)], 1)
            values, columns = _in_order(values, columns)
            self.lists = values[:, : self.k], columns[:, : self.k]
            return
        self.waiting.append(_Runs(hits, runs.index_select(0, hits), chunk))
        if sum(len(part.hits) for part in self.waiting) >= WAITING * len(scores):
            self._look()

    def best(self) -> tuple[Tensor, Tensor]:
        """Values and columns of the lists, each [n, k], best first."""
        self._look()
        assert self.lists is not None  # a domain has an item
        return self.lists

    def _left(self, scores: Tensor, chunk: Chunk) -> Tensor:
        """What counts of a chunk; −inf where barred."""
        scores = scores[:, chunk.counted]
        return scores if self.barred is None else self.barred.left_out(scores, _first(chunk))

    def _begin(self, scores: Tensor, chunk: Chunk) -> None:
        """Take in one of the first chunks, which wait until there are enough of them."""
        self.early.append(self._left(scores, chunk))
        columns = _first(chunk) + self.early[-1].shape[1]
        enough = max(self.k, min(RUNS_PER_PLACE * RUN * self.k, EARLY * chunk.width))
        if columns >= min(enough, self.items):
            self.lists, self.early = _best(self.early, self.k), []

    def _look(self) -> None:
        """Sort in what clears the bar in the runs that wait."""
        if not self.waiting:
            return
        assert self.lists is not None
        chunks, device = [part.chunk for part in self.waiting], self.lists[0].device
        lengths = torch.tensor([len(part.hits) for part in self.waiting], device=device)
        number = torch.arange(len(chunks), device=device).repeat_interleave(lengths)
        hits = torch.cat([part.hits for part in self.waiting])
        scores = torch.cat([part.scores for part in self.waiting])  # [runs, run]
        self.waiting = []
        run = scores.shape[1]
        in_row = chunks[0].width // run  # runs
        starts = torch.tensor([chunk.start for chunk in chunks], device=device)[number]
        starts += hits % in_row * run
        bar = self.lists[0][:, -1:]
        hit, rows, columns, values = _clearing(hits // in_row, starts, scores, bar, torch.gt)
        # the last chunk begins with columns of the one before
        fresh = columns >= _first(chunks[-1])
        listed = fresh | (number[hit] < len(chunks) - 1)
        if self.barred is not None:
            listed &= ~self.barred.hold(rows, columns)
        self.lists = _merged(self.lists, rows[listed], columns[listed], values[listed])


class _Runs(NamedTuple):
    """Runs of a chunk's scores that clear the bar of their row."""

    hits: Tensor  # [R] which of the chunk's
    scores: Tensor  # [R, run]
    chunk: Chunk


def _first(chunk: Chunk) -> int:
    """The first column that a chunk counts."""
    return chunk.start + chunk.counted.start


def _best(chunks: list[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """`_top_columns` of chunks of scores [n, C], one beside the other, from few of the scores where
    that can be."""
    items = sum(chunk.shape[1] for chunk in chunks)
    run = RUN if items >= RUNS_PER_PLACE * RUN * k else SHORT_RUN
    if items < RUNS_PER_PLACE * run * k or min(chunk.shape[1] for chunk in chunks) < run:
        return _top_columns(torch.cat(chunks, 1), k)
    maxima = [_maxima(chunk, run) for chunk in chunks]
    whole = [tops[:, : chunk.shape[1] // run] for tops, chunk in zip(maxima, chunks, strict=True)]
    # k scores of a row, or more, are not below the k-th best of such maxima
    bar = torch.cat(whole, 1).topk(k, dim=1).values[:, -1:]
    every = torch.cat(maxima, 1)
    if (every >= bar).sum() > CROWDED * every.numel() or bool((bar == -torch.inf).any()):
        return _top_columns(torch.cat(chunks, 1), k)
    first, found = 0, list[tuple[Tensor, Tensor, Tensor]]()
    for tops, chunk in zip(maxima, chunks, strict=True):
        hits, width = (tops >= bar).flatten().nonzero()[:, 0], chunk.shape[1]
        rows, runs = hits // tops.shape[1], hits % tops.shape[1]
        starts = (runs * run).clamp(max=width - run)
        by_start = chunk.contiguous().view(-1).unfold(0, run, 1)
        scores = by_start.index_select(0, rows * width + starts)  # [hits, run]
        hit, rows, columns, values = _clearing(rows, starts, scores, bar, torch.ge)
        once = columns >= runs[hit] * run
        found.append((rows[once], columns[once] + first, values[once]))
        first += width
    rows, columns, values = map(torch.cat, zip(*found, strict=True))
    nothing = bar.new_full((len(bar), k), -torch.inf), columns.new_zeros(len(bar), k)
    return _merged(nothing, rows, columns, values)


def _maxima(scores: Tensor, run: int) -> Tensor:
    """The maxima of runs of columns of the scores [n, C]; the last run begins before the one before
    it ends, if it must."""
    width = scores.shape[1]
    maxima = scores[:, : width // run * run].unflatten(1, (-1, run)).amax(2)
    if width % run:
        maxima = torch.cat([maxima, scores[:, -run:].amax(1, keepdim=True)], 1)
    return maxima


def _clearing(
    rows: Tensor, starts: Tensor, scores: Tensor, bar: Tensor, clears: Callable[..., Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which of the scores clear (torch.gt or torch.ge) the bar [n, 1] of their row, in order: the
    numbers of their runs, their rows, columns and values.

    scores: [R, run], of the rows [R] and the columns from `starts` [R] on.
    """
    clear = clears(scores, bar[rows]).flatten().nonzero()[:, 0]
    hit = clear // scores.shape[1]
    return hit, rows[hit], starts[hit] + clear % scores.shape[1], scores.view(-1)[clear]


def _merged(
    lists: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """The k best of lists [n, k] and of candidates [C] of higher columns; those of a row are in the
    order of columns."""
    best, best_columns = lists
    rows, order = rows.sort(stable=True)
    columns, values = columns[order], values[order]
    n, k = best.shape
    room = max(ROOM * k, LEAST_ROOM)
    while len(rows):
        counts = torch.bincount(rows, minlength=n)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        now = place < room
        width = k + min(room, int(counts.max()))
        some = values.new_full((n, width), -torch.inf)
        some_columns = columns.new_zeros(n, width)
        some[:, :k], some_columns[:, :k] = best, best_columns
        some[rows[now], k + place[now]] = values[now]
        some_columns[rows[now], k + place[now]] = columns[now]
        best, best_columns = (part[:, :k] for part in _in_order(some, some_columns))
        left = ~now & (values > best[rows, -1])
        rows, columns, values = rows[left], columns[left], values[left]
    return best, best_columns


def _in_order(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The best first; of equal values the one that stands first."""
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _top_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row of scores [n, C] and their columns, each [n, k]; of equal scores the
    lower column. torch's topk takes any of them."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        cut = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]  # rows with equals beyond the list
        values, columns = values[:, :k], columns[:, :k]
        if len(cut):
            rows, least = scores[cut], values[cut, -1:]
            above, level = rows > least, rows == least
            free = k - above.sum(1, keepdim=True)  # places left for those level with the last
            listed = above | (level & (level.cumsum(1, dtype=torch.int32) <= free))
            columns[cut] = listed.nonzero()[:, 1].view(-1, k)
    columns = columns.sort(dim=1).values
    return _in_order(scores.gather(1, columns), columns)
