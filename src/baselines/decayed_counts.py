"""How often each item occurred until a given time, older events counting less.

c_h(i, t) = Σ 2^(−(t − t_e) / h) over the events e of item i that were known before t. Time runs in
ticks: seconds, or days (UTC) where the log has no times of day, since the order inside a tick is
not known. An event counts from the next tick on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from src.dataset.batching.ragged import expand_ranges
from src.dataset.store.folder import TRAIN, Dataset
from src.evaluation.metrics import target_metrics
from src.evaluation.targets import split_targets

DAY = 86_400
HALF_LIVES = tuple(  # seconds, from half an hour to two years
    round(days * DAY) for days in (1 / 48, 1 / 8, 1, 3, 7, 14, 30, 90, 365, 730)
)
# A half-life is tried on this many validation targets of a domain, so many scores at a time
TRIED_TARGETS, TRIED_SCORES = 1000, 2**22
LIVES_AT_ONCE = 500  # half-lives that counts are summed over at a time: float64 ends at 2^1024
ROWS = 256  # whose single items are counted at a time
LONGER = (1, 8, 64)  # half-lives of features, as multiples of the one that validates best


@dataclass(frozen=True)
class DecayedCounts:
    """The known events of every item, by item and time."""

    item_starts: np.ndarray  # [D + 1]
    starts: np.ndarray  # [V + 2] where the events of each item start
    ticks: np.ndarray  # [events] int64, ascending for each item
    tick: int  # seconds

    @classmethod
    def of(cls, dataset: Dataset, known: np.ndarray) -> "DecayedCounts":
        """Of the events `known` of a dataset."""
        tick = tick_of(dataset)
        items, ticks = dataset.items[known], dataset.times[known] // tick
        order = np.lexsort((ticks, items))
        starts = np.searchsorted(items[order], np.arange(dataset.item_rows + 1))
        return cls(dataset.item_starts, starts, ticks[order], tick)

    def at(
        self, domain: int, times: np.ndarray, half_life: float, columns: slice | np.ndarray
    ) -> np.ndarray:
        """c_h of a domain's items before each of the times [n], in seconds: [n, columns] float64,
        whose last bits depend on the other times.

        The columns are a slice of the domain's items, or their numbers.
        """
        first, end = self.item_starts[domain : domain + 2]
        return self._at(times, half_life, np.arange(first, end)[columns])

    def of_items(self, times: np.ndarray, half_lives: np.ndarray, items: np.ndarray) -> np.ndarray:
        """c_h of single items [n, N] of any domain before each of the times [n], with the half-life
        of each [n]: [n, N] float64, as in `at`."""
        counts = np.empty(items.shape)
        for half_life in np.unique(half_lives):
            asking = np.flatnonzero(half_lives == half_life)
            for start in range(0, len(asking), ROWS):
                rows = asking[start : start + ROWS]
                # what several rows ask for is counted once
                distinct, column = np.unique(items[rows], return_inverse=True)
                every = self._at(times[rows], half_life, distinct)
                counts[rows] = np.take_along_axis(every, column.reshape(len(rows), -1), axis=1)
        return counts

    def _at(self, times: np.ndarray, half_life: float, items: np.ndarray) -> np.ndarray:
        """c_h of the items before each of the times: [n, items]."""
        moments, row = np.unique(times // self.tick, return_inverse=True)
        events, column = expand_ranges(self.starts[items], self.starts[items + 1])
        ticks = self.ticks[events]
        since = np.searchsorted(moments, ticks, side="right")  # the first moment that knows it
        known = np.flatnonzero(since < len(moments))
        since, ticks, column = since[known], ticks[known], column[known]
        weights = self._decay(moments[since] - ticks, half_life)
        counts = np.bincount(since * len(items) + column, weights, len(moments) * len(items))
        counts = counts.reshape(len(moments), len(items)).astype(np.float64, copy=False)
        self._add_earlier(counts, moments, half_life)
        return counts[row]

    def _add_earlier(self, counts: np.ndarray, moments: np.ndarray, half_life: float) -> None:
        """Add to the counts [moments, items] of the events between two moments those of all before,
        decayed.

        A sum of counts divided by how far they have decayed since the first moment; a new first one
        is taken before the quotients are too large for float64.
        """
        if not len(moments):
            return
        lives = (moments - moments[:1]) * (self.tick / half_life)
        edges = np.flatnonzero(np.diff(lives // LIVES_AT_ONCE)) + 1
        for first, end in pairwise([0, *edges.tolist(), len(moments)]):
            if first:
                gap = moments[first] - moments[first - 1]
                counts[first] += counts[first - 1] * self._decay(gap, half_life)
            age = moments[first:end, None] - moments[first : first + 1]
            decay = self._decay(age, half_life)
            part = counts[first:end]
            part /= decay
            np.cumsum(part, axis=0, out=part)
            part *= decay

    def _decay(self, age: np.ndarray, half_life: float) -> np.ndarray:
        """The weight of events of this age, in ticks."""
        return np.exp2(-np.maximum(age, 0) * (self.tick / half_life))


def known_events(dataset: Dataset) -> np.ndarray:
    """The events that may be counted, once their time is past: those of training. In a temporal
    split all: what lies before a target is known at its time, as it is in its context."""
    if dataset.is_temporal:
        return np.arange(len(dataset.items))
    return np.flatnonzero(np.asarray(dataset.split) == TRAIN)


def tick_of(dataset: Dataset) -> int:
    """Seconds of a tick: a day where at least half of the events have one time of day."""
    times = np.asarray(dataset.times[:: max(1, len(dataset.times) // 100_000)]) % DAY
    _, counts = np.unique(times, return_counts=True)
    return DAY if counts.max(initial=0) * 2 >= max(1, len(times)) else 1


def best_half_lives(dataset: Dataset, scores: Callable[..., Iterator[np.ndarray]]) -> np.ndarray:
    """[D] seconds: the half-life whose scores rank each domain's validation targets best (NDCG@10,
    `full`).

    `scores(domain, requests, half_lives)` gives those of all items of a domain [n, V_d],
    for one half-life after the other. Of many validation targets, evenly spaced ones are tried. Of
    equally good half-lives the middle one is chosen.
    """
    targets = split_targets(dataset, "valid")
    tick = tick_of(dataset)
    half_lives = np.array([life for life in HALF_LIVES if life >= tick])
    chosen = []
    for domain, size in enumerate(np.diff(dataset.item_starts)):
        rows = np.flatnonzero(targets.domains == domain)
        rows = rows[:: -(-len(rows) // TRIED_TARGETS) or 1]
        gains = np.zeros(len(half_lives))
        height = max(1, TRIED_SCORES // int(size))
        for start in range(0, len(rows), height):
            part = rows[start : start + height]
            columns = (targets.items[part] - dataset.item_starts[domain])[:, None]
            requests = targets.requests(part)
            for number, values in enumerate(scores(domain, requests, half_lives)):
                target = np.take_along_axis(values, columns, axis=1)
                better, level = (values > target).sum(1), (values == target).sum(1)
                gains[number] += target_metrics(better, level)["ndcg@10"].sum()
        best = np.flatnonzero(gains == gains.max())
        chosen.append(half_lives[best[len(best) // 2]])
    return np.array(chosen)
