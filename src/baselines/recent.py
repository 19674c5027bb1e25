"""Recent popularity: the items of the target's domain by how often they occurred of late."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from src.baselines.decayed_counts import (
    LONGER,
    DecayedCounts,
    as_scores,
    best_half_lives,
    in_columns,
    known_events,
    log_counts,
)
from src.dataset.store.folder import Dataset
from src.interfaces import Features, Scores

OFFSET = 0.01  # what an item without a recent event counts in a logarithm


@dataclass(frozen=True)
class Recent:
    """Decayed counts of all users' events, with the half-life that validates best per domain."""

    feature_names: ClassVar[tuple[str, ...]] = tuple(f"recent x{longer}" for longer in LONGER)
    dataset: Dataset
    counts: DecayedCounts
    half_lives: np.ndarray  # [D] seconds

    @classmethod
    def fit(cls, dataset: Dataset) -> "Recent":
        counts = DecayedCounts.of(dataset, known_events(dataset))

        def scores(domain, users, ends, times, half_life):
            return counts.at(domain, times, half_life, slice(None))

        return cls(dataset, counts, best_half_lives(dataset, scores))

    def to_date(self) -> "Recent":
        everything = np.arange(len(self.dataset.items))
        return dataclasses.replace(self, counts=DecayedCounts.of(self.dataset, everything))

    def scorer(self, domain: int, users: np.ndarray, ends: np.ndarray, times: np.ndarray) -> Scores:
        """The same scores for every user: times [n] -> (columns) -> [n, columns] float64."""
        half_life = self.half_lives[domain]
        return lambda columns: as_scores(
            self.counts.at(domain, times, half_life, in_columns(columns))
        )

    def pairs(
        self, domain: int, users: np.ndarray, ends: np.ndarray, times: np.ndarray,
        items: np.ndarray,
    ) -> Tensor:  # fmt: skip
        """Scores of single items of any domain: [n, N] float64."""
        return as_scores(self.counts.of_items(times, self.half_lives[domain], items))

    def features(
        self, domain: int, users: np.ndarray, ends: np.ndarray, times: np.ndarray
    ) -> Features:
        """log(c_h + ε), with the half-life and longer ones."""

        def values(columns: slice | Tensor) -> list[Tensor]:
            lives = [self.half_lives[domain] * longer for longer in LONGER]
            counts = (self.counts.at(domain, times, life, in_columns(columns)) for life in lives)
            return [log_counts(count, OFFSET) for count in counts]

        return values
