"""Popularity: the items of the target's domain by their number of training events."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src.dataset.folder import TRAIN, Dataset
from src.evaluation.ranks import Scores


@dataclass(frozen=True)
class Popularity:
    """Training events of every item."""

    counts: np.ndarray  # [V + 1] int64
    item_starts: np.ndarray  # [D + 1]

    @classmethod
    def fit(cls, dataset: Dataset) -> "Popularity":
        items = dataset.items[np.asarray(dataset.split) == TRAIN]
        return cls(np.bincount(items, minlength=dataset.item_rows), dataset.item_starts)

    def scorer(self, domain: int, events: np.ndarray) -> Scores:
        """The same scores for every target: places [n] in the flat arrays -> (columns) ->
        [n, columns] float64."""
        own = self.counts[self.item_starts[domain] : self.item_starts[domain + 1]]
        values = torch.from_numpy(own.astype(np.float64))
        return lambda columns: values[columns].expand(len(events), -1)

    def scores(self, domain: int, events: np.ndarray) -> Tensor:
        """Of all items of the domain at once [n, V_d]."""
        return self.scorer(domain, events)(slice(None))
