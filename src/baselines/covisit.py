"""Co-visitation: items by how often they came soon after the items of the user's context.

The counts run over all domains and to the time of the request, newer ones counting more. Item
Markov reads only the last item of the domain and what followed it directly.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.sparse import csc_array, csr_array, vstack
from torch import Tensor

from src.baselines.arrays import as_scores, in_columns, log_counts
from src.baselines.decayed_counts import LONGER, best_half_lives, known_events, tick_of
from src.dataset.batching.ragged import expand_ranges, positions_in_runs
from src.dataset.store.folder import Dataset
from src.interfaces import Features, Requests, Scores

REACH = 10  # events of a user within which one item follows another
MOST_PAIRS = 3 * 10**7  # in memory: of a larger log the reach is shorter
CONTEXT = 10  # newest events of a context whose followers are counted
DENSE = 2**22  # values of an array that sums are made in
ROWS = 128  # requests whose followers are held at a time
FOLLOWERS = 500  # newest followers of an item that are counted
OFFSET = 0.1  # what an item that followed none counts in a logarithm


@dataclass(frozen=True)
class Covisit:
    """What followed each item among the events that may be counted, in order of time."""

    feature_names: ClassVar[tuple[str, ...]] = tuple(f"covisit x{longer}" for longer in LONGER[:2])
    dataset: Dataset
    starts: np.ndarray  # [V + 2] where the followers of each item start
    followers: np.ndarray  # [pairs] int32 items
    ticks: np.ndarray  # [pairs] when they followed, ascending for each item
    tick: int  # seconds
    half_lives: np.ndarray  # [D] seconds

    @classmethod
    def fit(cls, dataset: Dataset, known: np.ndarray | None = None) -> "Covisit":
        """`known`: the events that are counted; by default `known_events`."""
        model = cls.of(dataset, known_events(dataset) if known is None else known)

        def scores(domain, requests, half_lives):
            everywhere = [np.full(len(dataset.domain_names), life) for life in half_lives]
            for counts in model.counts(requests, dataset.domain_items(domain), everywhere):
                yield counts.toarray()

        return dataclasses.replace(model, half_lives=best_half_lives(dataset, scores))

    @classmethod
    def of(cls, dataset: Dataset, known: np.ndarray) -> "Covisit":
        """Of the events `known` of a dataset, without half-lives."""
        users = np.searchsorted(dataset.offsets, known, side="right")
        tick = tick_of(dataset)
        items, ticks = dataset.items[known], dataset.times[known] // tick
        reach = int(np.clip(MOST_PAIRS // max(1, len(known)), 1, REACH))
        leaders, followers, when = [], [], []
        for lag in range(1, reach + 1):
            later = np.flatnonzero(users[lag:] == users[:-lag]) + lag
            leaders.append(items[later - lag])
            followers.append(items[later])
            when.append(ticks[later])
        leader, follower, ticks = map(np.concatenate, (leaders, followers, when))
        order = np.lexsort((ticks, leader))
        starts = np.searchsorted(leader[order], np.arange(dataset.item_rows + 1))
        none = np.zeros(len(dataset.domain_names))
        return cls(dataset, starts, follower[order], ticks[order], tick, none)

    def to_date(self) -> "Covisit":
        if self.dataset.is_temporal:  # it counts everything already
            return self
        everything = self.of(self.dataset, np.arange(len(self.dataset.items)))
        return dataclasses.replace(everything, half_lives=self.half_lives)

    def with_contexts(self, contexts: Dataset) -> "Covisit":
        return dataclasses.replace(self, dataset=contexts)

    def read(self, requests: Requests) -> "CovisitScores":
        return CovisitScores(self, requests)

    def counts(
        self, requests: Requests, items: slice, half_lives: list[np.ndarray]
    ) -> Iterator[csc_array]:
        """[n, items] for each choice of half-lives [D]: Σ over the k-th newest event of the context
        (k from 0) and the followers of its item before the time,
        2^(−age / half-life of the follower's domain) / √(1 + k)."""
        parts: list[list[csr_array]] = [[] for _ in half_lives]
        for part in self.parts(len(requests.users)):
            row, follower, weights = self.following(requests.rows(part))
            asked, domain = requests.domains, self.dataset.item_domains[follower]
            inside = (follower >= items.start) & (follower < items.stop)
            if asked is not None:
                inside &= domain == asked[part][row]
            where = row[inside], follower[inside] - items.start
            place, age, domain = weights.place[inside], weights.age[inside], domain[inside]
            shape = len(requests.users[part]), items.stop - items.start
            for counts, lives in zip(parts, half_lives, strict=True):
                counts.append(_summed(place * np.exp2(-age / lives[domain]), where, shape))
        for counts in parts:
            empty = csc_array((0, items.stop - items.start))
            yield csc_array(vstack(counts)) if counts else empty

    @staticmethod
    def parts(count: int) -> Iterator[slice]:
        """Requests whose followers are held at a time."""
        return (slice(start, start + ROWS) for start in range(0, count, ROWS))

    def following(self, requests: Requests) -> tuple[np.ndarray, np.ndarray, "_Weights"]:
        """For each follower of an item of a context: which request, which item, and its weight."""
        users, ends, times, _ = requests
        starts = np.maximum(self.dataset.offsets[users], ends - CONTEXT)
        events, row = expand_ranges(starts, ends)
        leaders = self.dataset.items[events]
        newest = (ends - starts)[row] - 1 - positions_in_runs(ends - starts)
        moments = (times // self.tick)[row]
        first, end = self.starts[leaders], self.starts[leaders + 1]
        end = _first_not_before(self.ticks, first, end, moments)
        pairs, cell = expand_ranges(np.maximum(first, end - FOLLOWERS), end)
        age = (moments[cell] - self.ticks[pairs]) * float(self.tick)
        place = 1 / np.sqrt(1.0 + newest[cell])
        return row[cell], self.followers[pairs], _Weights(place, age)


@dataclass(frozen=True)
class CovisitScores:
    """What followed the newest items of each request's context."""

    model: Covisit
    requests: Requests

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """(columns) -> [rows, columns] float32, so that equal counts tie in whatever order they
        were summed."""
        counts = self._scored[:, self.model.dataset.domain_items(domain)][rows].astype(np.float32)
        return lambda columns: as_scores(counts[:, in_columns(columns)].toarray(order="C"))

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """Scores of single items of any domain, with the half-life of `domains`: [n, N] float32."""
        model, values = self.model, np.zeros(items.shape)
        for part in model.parts(len(items)):
            row, follower, weights = model.following(self.requests.rows(part))
            half_lives = model.half_lives[domains[part]][row]
            decayed = weights.place * np.exp2(-weights.age / half_lives)
            shape = len(items[part]), model.dataset.item_rows
            counts = _summed(decayed, (row, follower), shape)
            rows = np.repeat(np.arange(shape[0]), items.shape[1])
            values[part] = np.asarray(counts[rows, items[part].ravel()]).reshape(items[part].shape)
        return as_scores(values.astype(np.float32))

    def features(self, rows: np.ndarray, domain: int) -> Features:
        """log(counts + ε), with the half-life and a longer one."""
        items = self.model.dataset.domain_items(domain)
        both = [counts[:, items][rows] for counts in self._weighed]

        def values(columns: slice | Tensor) -> list[Tensor]:
            where = in_columns(columns)
            return [log_counts(counts[:, where].toarray(order="C"), OFFSET) for counts in both]

        return values

    @cached_property
    def _scored(self) -> csc_array:  # features need more, scores don't
        return self._counts(1)[0]

    @cached_property
    def _weighed(self) -> list[csc_array]:
        return self._counts(2)

    def _counts(self, number: int) -> list[csc_array]:
        """[n, V + 1] with the half-lives and `number` − 1 longer ones."""
        half_lives = [self.model.half_lives * longer for longer in LONGER[:number]]
        every_item = slice(0, self.model.dataset.item_rows)
        return list(self.model.counts(self.requests, every_item, half_lives))


def _summed(
    values: np.ndarray, where: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> csr_array:
    """The sums of values by (row, column): in an array, which is faster, where that is small and
    not nearly empty."""
    if shape[0] * shape[1] > min(DENSE, 16 * len(values)):
        return csr_array((values, where), shape=shape)
    rows, width = shape
    sums = np.bincount(where[0] * width + where[1], values, rows * width)
    filled = np.flatnonzero(sums != 0)  # among bools: SciPy looks among floats, which is slower
    starts = np.searchsorted(filled, np.arange(rows + 1) * width)
    found, columns = sums[filled].astype(np.float64, copy=False), filled % width
    return csr_array((found, columns.astype(np.int32), starts.astype(np.int32)), shape)


@dataclass(frozen=True)
class _Weights:
    """Of each follower: by the place of its leader in the context, and its age in seconds."""

    place: np.ndarray
    age: np.ndarray


def _first_not_before(
    ticks: np.ndarray, first: np.ndarray, end: np.ndarray, moments: np.ndarray
) -> np.ndarray:
    """[n] for each range of ascending ticks the first place whose tick is not before the moment."""
    low, high = first.copy(), end.copy()
    while (searched := low < high).any():
        middle = (low + high) // 2
        before = searched & (ticks[np.minimum(middle, len(ticks) - 1)] < moments)
        low = np.where(before, middle + 1, low)
        high = np.where(searched & ~before, middle, high)
    return low
