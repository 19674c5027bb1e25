"""Habit: the user's own most frequent items."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from src.baselines.arrays import as_scores, in_columns, log_counts
from src.baselines.popularity import Popularity
from src.dataset.batching.ragged import expand_ranges
from src.dataset.store.folder import Dataset
from src.interfaces import Features, Requests, Scores

REST = 1e-9  # scale of the popularity of the items that a user never had


@dataclass(frozen=True)
class Own:
    """How often each user had each item, from the events of the context."""

    feature_names: ClassVar[tuple[str, ...]] = ("had", "own log count")
    dataset: Dataset
    popularity: Popularity

    @classmethod
    def fit(cls, dataset: Dataset) -> "Own":
        return cls(dataset, Popularity.fit(dataset))

    def read(self, requests: Requests) -> "OwnScores":
        return OwnScores(self, self.frequencies(requests).tocsc())

    def to_date(self) -> "Own":
        return self

    def with_contexts(self, contexts: Dataset) -> "Own":
        return dataclasses.replace(self, dataset=contexts)

    def frequencies(self, requests: Requests) -> csr_array:
        """[n, V + 1] how often each item is in each context, plus how far on, from 0 to 1, it stood
        there the last time."""
        starts, ends = self.dataset.offsets[requests.users], requests.ends
        events, row = expand_ranges(starts, ends)
        items = self.dataset.items[events]
        shape = len(ends), self.dataset.item_rows
        counts = csr_array((np.ones(len(events)), (row, items)), shape=shape)
        order = np.lexsort((events, items, row))
        cells = np.stack([row[order], items[order]])
        last = order[np.append((np.diff(cells) != 0).any(0), True)] if len(order) else order
        place = (events[last] - starts[row[last]] + 1) / (ends - starts + 1)[row[last]]
        return counts + csr_array((place, (row[last], items[last])), shape=shape)

    @cached_property
    def rest(self) -> np.ndarray:
        """[V + 1] each item's share of the training events, far below one occurrence."""
        counts = self.popularity.counts
        return counts * (REST / (counts.sum() + 1))


@dataclass(frozen=True)
class OwnScores:
    """Occurrences in the context of each request, of as many the item that came last first, then
    popularity."""

    model: Own
    had: csc_array  # [n, V + 1], as `frequencies`

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """(columns) -> [rows, columns] float64."""
        items = self.model.dataset.domain_items(domain)
        had, rest = self.had[:, items][rows], torch.from_numpy(self.model.rest[items])

        def scores(columns: slice | Tensor) -> Tensor:
            own = had[:, in_columns(columns)].toarray(order="C")
            return as_scores(own).add_(rest[columns])

        return scores

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """Scores of single items of any domain: [n, N] float64."""
        rows = np.repeat(np.arange(len(items)), items.shape[1])
        had = np.asarray(self.had[rows, items.ravel()]).reshape(items.shape)
        return as_scores(had + self.model.rest[items])

    def features(self, rows: np.ndarray, domain: int) -> Features:
        """Whether the user had the item, and log(1 + how often)."""
        had = self.had[:, self.model.dataset.domain_items(domain)][rows]

        def values(columns: slice | Tensor) -> list[Tensor]:
            counts = np.floor(had[:, in_columns(columns)].toarray(order="C"))
            return [as_scores((counts > 0).astype(np.float32)), log_counts(counts, 1.0)]

        return values
