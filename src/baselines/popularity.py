"""Popularity: the items of the target's domain by their number of training events."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from src.dataset.store.folder import Dataset
from src.interfaces import Features, Scores


@dataclass(frozen=True)
class Popularity:
    """Training events of every item."""

    feature_names: ClassVar[tuple[str, ...]] = ("log count", "new")
    counts: np.ndarray  # [V + 1] int64
    item_starts: np.ndarray  # [D + 1]

    @classmethod
    def fit(cls, dataset: Dataset) -> "Popularity":
        return cls(dataset.training_counts, dataset.item_starts)

    def scorer(self, domain: int, users: np.ndarray, ends: np.ndarray, times: np.ndarray) -> Scores:
        """The same scores for every context: users [n] and the ends of their contexts [n] ->
        (columns) -> [n, columns] float64."""
        counts = self.counts[self.item_starts[domain] : self.item_starts[domain + 1]]
        values = torch.from_numpy(counts.astype(np.float64))
        return lambda columns: values[columns].expand(len(users), -1)

    def pairs(
        self, domains: np.ndarray, users: np.ndarray, ends: np.ndarray, times: np.ndarray,
        items: np.ndarray,
    ) -> Tensor:  # fmt: skip
        """Scores of single items of any domain: [n, N] float64."""
        return torch.from_numpy(self.counts[items].astype(np.float64))

    def features(
        self, domain: int, users: np.ndarray, ends: np.ndarray, times: np.ndarray
    ) -> Features:
        """log(1 + training events), and whether there is none."""
        counts = self.counts[self.item_starts[domain] : self.item_starts[domain + 1]]
        counted = torch.from_numpy(counts.astype(np.float32))
        pair = counted.log1p(), (counted == 0).float()
        return lambda columns: [value[columns].expand(len(users), -1) for value in pair]

    def to_date(self) -> "Popularity":
        return self
