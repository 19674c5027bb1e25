"""Recent popularity: the items of the target's domain by how often they occurred of late."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from src.baselines.arrays import as_scores, in_columns, log_counts
from src.baselines.decayed_counts import LONGER, DecayedCounts, best_half_lives, known_events
from src.dataset.store.folder import Dataset
from src.interfaces import Features, Requests, Scores

OFFSET = 0.01  # what an item without a recent event counts in a logarithm


@dataclass(frozen=True)
class Recent:
    """Decayed counts of all users' events, with the half-life that validates best per domain."""

    feature_names: ClassVar[tuple[str, ...]] = tuple(f"recent x{longer}" for longer in LONGER)
    dataset: Dataset
    counts: DecayedCounts
    half_lives: np.ndarray  # [D] seconds

    @classmethod
    def fit(cls, dataset: Dataset, known: np.ndarray | None = None) -> "Recent":
        """`known`: the events that are counted; by default `known_events`."""
        counts = DecayedCounts.of(dataset, known_events(dataset) if known is None else known)

        def scores(domain, requests, half_lives):
            return (counts.at(domain, requests.times, life, slice(None)) for life in half_lives)

        return cls(dataset, counts, best_half_lives(dataset, scores))

    def read(self, requests: Requests) -> "RecentScores":
        return RecentScores(self, requests.times)

    def to_date(self) -> "Recent":
        if self.dataset.is_temporal:  # it counts everything already
            return self
        everything = np.arange(len(self.dataset.items))
        return dataclasses.replace(self, counts=DecayedCounts.of(self.dataset, everything))

    def with_contexts(self, contexts: Dataset) -> "Recent":
        return self


@dataclass(frozen=True)
class RecentScores:
    """The counts at the times of n requests, the same for every user."""

    model: Recent
    times: np.ndarray  # [n]

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """(columns) -> [rows, columns] float32, so that they don't depend on which other requests
        are scored at the same time."""
        half_life = self.model.half_lives[domain]

        def scores(columns: slice | Tensor) -> Tensor:
            where = in_columns(columns)
            counts = self.model.counts.at(domain, self.times[rows], half_life, where)
            return as_scores(counts.astype(np.float32))

        return scores

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """Scores of single items of any domain: [n, N] float32."""
        half_lives = self.model.half_lives[domains]
        counts = self.model.counts.of_items(self.times, half_lives, items)
        return as_scores(counts.astype(np.float32))

    def features(self, rows: np.ndarray, domain: int) -> Features:
        """log(c_h + ε), with the half-life and longer ones."""
        half_lives = [self.model.half_lives[domain] * longer for longer in LONGER]

        def values(columns: slice | Tensor) -> list[Tensor]:
            where, times = in_columns(columns), self.times[rows]
            counts = (self.model.counts.at(domain, times, life, where) for life in half_lives)
            return [log_counts(count, OFFSET) for count in counts]

        return values
