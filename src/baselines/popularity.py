"""Popularity: the items of the target's domain by their number of training events."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from src.dataset.store.folder import Dataset
from src.interfaces import Features, Requests, Scores


@dataclass(frozen=True)
class Popularity:
    """Training events of every item."""

    feature_names: ClassVar[tuple[str, ...]] = ("log count", "new")
    counts: np.ndarray  # [V + 1] int64
    item_starts: np.ndarray  # [D + 1]

    @classmethod
    def fit(cls, dataset: Dataset) -> "Popularity":
        return cls(dataset.training_counts, dataset.item_starts)

    def read(self, requests: Requests) -> "Popularity":
        """The model itself: its scores are the same for every request."""
        return self

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """(columns) -> [rows, columns] float64."""
        counts = self.counts[self.item_starts[domain] : self.item_starts[domain + 1]]
        values = torch.from_numpy(counts.astype(np.float64))
        return lambda columns: values[columns].expand(len(rows), -1)

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """Scores of single items of any domain: [n, N] float64."""
        return torch.from_numpy(self.counts[items].astype(np.float64))

    def features(self, rows: np.ndarray, domain: int) -> Features:
        """log(1 + training events), and whether there is none."""
        counts = self.counts[self.item_starts[domain] : self.item_starts[domain + 1]]
        counted = torch.from_numpy(counts.astype(np.float32))
        pair = counted.log1p(), (counted == 0).float()
        return lambda columns: [value[columns].expand(len(rows), -1) for value in pair]

    def to_date(self) -> "Popularity":
        return self

    def with_contexts(self, contexts: Dataset) -> "Popularity":
        return self
