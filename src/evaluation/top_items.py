"""The best items of a block of rows, in one pass over the chunks of their scores.

Sorting every chunk would take several times as long as the product that makes it. Once a row has a
list, its last score is a bar that few of the following scores clear. The maxima of short runs of
columns say where these are; no other score is read again.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from src.evaluation.rank_counts import Chunk, item_chunks, on_device
from src.interfaces import Scores

# Columns that share a maximum. On a CPU (ns per score on one core, beside 1.4 for the product at
# H 64): .11 for the maxima of 64, 1.1 for those of 16, which do not fill its vectors; topk of 1,024
# takes 9, of 8,192 it takes 2.
RUN = 64
SHORT_RUN = 16  # where a first chunk has too few runs of 64
# A first bar is the k-th best maximum: a chunk needs more runs than k, or too much clears it.
RUNS_PER_PLACE = 2
# Room for the scores that wait to be sorted into a list, as a multiple of it: the shorter, the
# more often is sorted, and the higher is the bar.
ROOM, LEAST_ROOM = 2, 32
# If more of a chunk lies in runs that clear their bars, as where the best items come last, its rows
# are sorted instead: what clears a bar takes several times the memory of a score.
CROWDED = 3 / 4

Clears = Callable[[Tensor, Tensor], Tensor]  # torch.gt or torch.ge


@torch.no_grad()
def top_items(
    scores: Scores,
    items: int,
    k: int,
    device: torch.device,
    excluded: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best of a domain's items for a block of rows, best first, computed chunk by chunk; of
    equal scores the lower column comes first, on every device.

    `excluded` are rows [P] and columns [P] that are not recommended. Returns the scores and the
    columns, each [n, min(k, items)]; where nothing is left the score is −inf. No score may be NaN.
    """
    k = min(k, items)
    barred = _Barred(*excluded, items) if excluded is not None and len(excluded[0]) else None
    lists = _Lists(k, barred)
    for chunk in item_chunks(items, device):
        # not named here: a chunk of scores is freed before the next one is made in its place
        lists.add(scores(on_device(chunk.columns, device)), chunk)
    return lists.best()


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
    """The k best columns of n rows so far, and, behind them, those that wait to be sorted in."""

    def __init__(self, k: int, barred: _Barred | None):
        self.k, self.barred, self.room = k, barred, max(ROOM * k, LEAST_ROOM)
        self.values = torch.empty(0)  # [n, k + room] as soon as there are k
        self.columns = torch.empty(0)
        self.waiting: Tensor | None = None  # [n] how many wait, from then on
        self.bar = torch.empty(0)  # [n, 1] the last values of the lists

    def add(self, scores: Tensor, chunk: Chunk) -> None:
        """Take in the scores [n, width] of a chunk, whose columns follow all before."""
        scores, first = scores[:, chunk.counted], chunk.start + chunk.counted.start
        if self.waiting is None:
            self._begin(scores, first)
            return
        found = _clearing(scores, min(RUN, scores.shape[1]), self.bar, torch.gt)
        if found is None:
            self._sort_in(torch.arange(len(scores), device=scores.device), scores, first)
            return
        rows, columns = found
        if self.barred is not None:
            listed = ~self.barred.hold(rows, columns + first)
            rows, columns = rows[listed], columns[listed]
        counts, places = _by_row(rows, len(scores))
        crowded = counts > self.room
        if crowded.any():
            self._sort_in(crowded.nonzero()[:, 0], scores, first)
            others = ~crowded[rows]
            rows, columns, places = rows[others], columns[others], places[others]
            counts = counts.masked_fill(crowded, 0)
        if (self.waiting + counts > self.room).any():  # with them those that would be next
            self._settle((self.waiting + counts > self.room // 2).nonzero()[:, 0])
        places = self.k + self.waiting[rows] + places
        self.values[rows, places] = scores[rows, columns]
        self.columns[rows, places] = columns + first
        self.waiting += counts

    def best(self) -> tuple[Tensor, Tensor]:
        """The lists, each [n, k], best first."""
        assert self.waiting is not None  # every item was taken in, and k is no more
        self._settle(self.waiting.nonzero()[:, 0])
        return self.values[:, : self.k], self.columns[:, : self.k]

    def _begin(self, scores: Tensor, first: int) -> None:
        """Take in a chunk while the lists have fewer than k."""
        if self.barred is not None:
            scores = self.barred.left_out(scores, first)
        values, columns = _best(scores, min(self.k, scores.shape[1]))
        columns = columns + first
        if len(self.values):
            values, columns = _merged((self.values, self.columns), values, columns)
        self.values, self.columns = values[:, : self.k], columns[:, : self.k]
        if self.values.shape[1] == self.k:
            self.bar = self.values[:, -1:].clone()
            self.waiting = columns.new_zeros(len(columns))
            room = len(values), self.room
            self.values = torch.cat([self.values, values.new_full(room, -torch.inf)], 1)
            self.columns = torch.cat([self.columns, columns.new_zeros(room)], 1)

    def _sort_in(self, rows: Tensor, scores: Tensor, first: int) -> None:
        """Take in whole rows of the scores [n, C]."""
        if self.barred is not None:
            scores = self.barred.left_out(scores, first)
        values, columns = _top_columns(scores[rows], min(self.k, scores.shape[1]))
        before = self.values[rows], self.columns[rows]
        self._keep(rows, *_merged(before, values, columns + first))

    def _settle(self, rows: Tensor) -> None:
        """Sort in what waits in these rows."""
        self._keep(rows, *_in_order(self.values[rows], self.columns[rows]))

    def _keep(self, rows: Tensor, values: Tensor, columns: Tensor) -> None:
        self.values[rows, : self.k] = values[:, : self.k]
        self.values[rows, self.k :] = -torch.inf
        self.columns[rows, : self.k] = columns[:, : self.k]
        self.bar[rows] = values[:, self.k - 1 : self.k]
        assert self.waiting is not None
        self.waiting[rows] = 0


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`_top_columns`, where it is worth it of no more scores than may be among the best."""
    width = scores.shape[1]
    run = RUN if width >= RUNS_PER_PLACE * RUN * k else SHORT_RUN
    if width < RUNS_PER_PLACE * run * k:
        return _top_columns(scores, k)
    # k runs have a score of at least the k-th best of their maxima
    runs = scores[:, : width // run * run].unflatten(1, (-1, run))
    bar = runs.amax(2).topk(k, dim=1).values[:, -1:]
    clearing = _clearing(scores, run, bar, torch.ge)
    if clearing is None:
        return _top_columns(scores, k)
    rows, columns = clearing
    counts, places = _by_row(rows, len(scores))
    crowded = counts > k + max(ROOM * k, LEAST_ROOM)
    others = ~crowded[rows]
    rows, columns, places = rows[others], columns[others], places[others]
    longest = max(k, int(counts.masked_fill(crowded, 0).max()))
    top = scores.new_full((len(scores), longest), -torch.inf)
    top_columns = columns.new_zeros(top.shape)
    top[rows, places], top_columns[rows, places] = scores[rows, columns], columns
    top, top_columns = (part[:, :k] for part in _in_order(top, top_columns))
    if crowded.any():
        top[crowded], top_columns[crowded] = _top_columns(scores[crowded], k)
    return top, top_columns


def _clearing(
    scores: Tensor, run: int, bar: Tensor, clears: Clears
) -> tuple[Tensor, Tensor] | None:
    """Rows and columns of the scores [n, C] that clear the bar [n, 1] of their row, by row and then
    column; None where too many may."""
    width = scores.shape[1]
    maxima = scores[:, : width // run * run].unflatten(1, (-1, run)).amax(2)  # [n, C // run]
    if width % run:  # the last run begins before the one before it ends
        maxima = torch.cat([maxima, scores[:, -run:].amax(1, keepdim=True)], 1)
    rows, runs = clears(maxima, bar).nonzero(as_tuple=True)
    if len(rows) * run > CROWDED * scores.numel():
        return None
    starts = (runs * run).clamp(max=width - run)
    # [runs that clear, run]; index_select takes a fifth of the time of scores.unfold(…)[rows, starts]
    inside = scores.reshape(-1).unfold(0, run, 1).index_select(0, rows * width + starts)
    number, place = clears(inside, bar[rows]).nonzero(as_tuple=True)
    rows, columns = rows[number], starts[number] + place
    if width % run:
        once = columns >= runs[number] * run
        rows, columns = rows[once], columns[once]
    return rows, columns


def _by_row(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of ascending row numbers [C]: how many each of the `count` rows has, and the place of each
    entry among those of its row."""
    ends = torch.searchsorted(rows, torch.arange(count + 1, device=rows.device))
    return ends.diff(), torch.arange(len(rows), device=rows.device) - ends[rows]


def _merged(
    best: tuple[Tensor, Tensor], values: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Lists, and values and columns of higher columns, in one order."""
    return _in_order(torch.cat([best[0], values], 1), torch.cat([best[1], columns], 1))


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
