"""Habit: the user's own most frequent items."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from src.baselines.decayed_counts import as_scores, in_columns, log_counts
from src.baselines.popularity import Popularity
from src.dataset.batching.ragged import expand_ranges
from src.dataset.store.folder import Dataset
from src.interfaces import Features, Scores

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

    def scorer(self, domain: int, users: np.ndarray, ends: np.ndarray, times: np.ndarray) -> Scores:
        """Occurrences in each context, of as many the item that came last first, then popularity.

        Users [n] and the ends of their contexts [n] -> (columns) -> [n, columns] float64.
        """
        first, end = (int(start) for start in self.popularity.item_starts[domain : domain + 2])
        had = self.frequencies(users, ends)[:, first:end].tocsc()  # indexed by columns below
        rest = torch.from_numpy(self._rest()[first:end])

        def scores(columns: slice | Tensor) -> Tensor:
            own = had[:, in_columns(columns)].toarray(order="C")
            return as_scores(own).add_(rest[columns])

        return scores

    def pairs(
        self, domains: np.ndarray, users: np.ndarray, ends: np.ndarray, times: np.ndarray,
        items: np.ndarray,
    ) -> Tensor:  # fmt: skip
        """Scores of single items of any domain: [n, N] float64."""
        rows = np.repeat(np.arange(len(users)), items.shape[1])
        had = np.asarray(self.frequencies(users, ends)[rows, items.ravel()]).reshape(items.shape)
        return as_scores(had + self._rest()[items])

    def features(
        self, domain: int, users: np.ndarray, ends: np.ndarray, times: np.ndarray
    ) -> Features:
        """Whether the user had the item, and log(1 + how often)."""
        first, end = (int(start) for start in self.popularity.item_starts[domain : domain + 2])
        had = self.frequencies(users, ends)[:, first:end].tocsc()

        def values(columns: slice | Tensor) -> list[Tensor]:
            counts = np.floor(had[:, in_columns(columns)].toarray(order="C"))
            return [as_scores((counts > 0).astype(np.float32)), log_counts(counts, 1.0)]

        return values

    def to_date(self) -> "Own":
        return self

    def frequencies(self, users: np.ndarray, ends: np.ndarray) -> csr_array:
        """[n, V + 1] how often each item is in each context, plus how far on, from 0 to 1, it stood
        there the last time."""
        starts = self.dataset.offsets[users]
        events, row = expand_ranges(starts, ends)
        items = self.dataset.items[events]
        shape = len(users), self.dataset.item_rows
        counts = csr_array((np.ones(len(events)), (row, items)), shape=shape)
        order = np.lexsort((events, items, row))
        cells = np.stack([row[order], items[order]])
        last = order[np.append((np.diff(cells) != 0).any(0), True)] if len(order) else order
        place = (events[last] - starts[row[last]] + 1) / (ends - starts + 1)[row[last]]
        return counts + csr_array((place, (row[last], items[last])), shape=shape)

    def _rest(self) -> np.ndarray:
        """[V + 1] each item's share of the training events, far below one occurrence."""
        counts = self.popularity.counts
        return counts * (REST / (counts.sum() + 1))
