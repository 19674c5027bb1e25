"""Item kNN: items by their cosine similarity to the items of the user's context, of all domains.

Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001, with binary
events. U_i are the users who had item i in training, k counts the events of the context from the
newest (0), and an item takes part in the score of another one as one of its `NEIGHBOURS` most
similar items of any domain:

    sim(i, j) = |U_i ∩ U_j| / √(|U_i| |U_j|)          score(j) = Σ_k sim(i_k, j) / √(1 + k)
"""

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
from src.dataset.batching.ragged import expand_ranges, positions_in_runs, run_lengths
from src.dataset.store.folder import TRAIN, Dataset
from src.interfaces import Features, Requests, Scores

NEIGHBOURS = 100  # of an item; usual values are 20 to 200
ROWS = 512  # items whose similarities to all others are held at a time
REST = 1e-9  # scale of the popularity that orders items of equal similarity
OFFSET = 0.01  # what an item without a similar one counts in a logarithm


@dataclass(frozen=True)
class ItemKNN:
    """The neighbours of every item, from the training events."""

    feature_names: ClassVar[tuple[str, ...]] = ("similarity",)
    dataset: Dataset  # whose events are the contexts
    popularity: Popularity
    neighbours: csr_array  # [V + 1, V + 1] sim(i, j): row i of a context's item, column j

    @classmethod
    def fit(cls, dataset: Dataset) -> "ItemKNN":
        train = np.flatnonzero(np.asarray(dataset.split) == TRAIN)
        users = np.searchsorted(dataset.offsets, train, side="right") - 1
        cells = np.unique(users * np.int64(dataset.item_rows) + dataset.items[train])
        shape = dataset.users, dataset.item_rows
        had = csr_array((np.ones(len(cells)), np.divmod(cells, dataset.item_rows)), shape=shape)
        return cls(dataset, Popularity.fit(dataset), nearest(had))

    def read(self, requests: Requests) -> "ItemKNNScores":
        users, ends, *_ = requests
        lengths = ends - self.dataset.offsets[users]
        events, row = expand_ranges(self.dataset.offsets[users], ends)
        newest = lengths[row] - 1 - positions_in_runs(lengths)  # k
        where, shape = (row, self.dataset.items[events]), (len(ends), self.dataset.item_rows)
        weights = csr_array((1 / np.sqrt(1.0 + newest), where), shape=shape)
        return ItemKNNScores(self, (weights @ self.neighbours).tocsc())

    def to_date(self) -> "ItemKNN":
        return self

    def with_contexts(self, contexts: Dataset) -> "ItemKNN":
        return dataclasses.replace(self, dataset=contexts)

    @cached_property
    def rest(self) -> np.ndarray:
        """[V + 1] each item's share of the training events, far below any similarity."""
        counts = self.popularity.counts
        return counts * (REST / (counts.sum() + 1))


@dataclass(frozen=True)
class ItemKNNScores:
    """Similarities to the context of each request; popularity breaks ties."""

    model: ItemKNN
    similar: csc_array  # [n, V + 1]

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """(columns) -> [rows, columns] float64."""
        items = self.model.dataset.domain_items(domain)
        similar, rest = self.similar[:, items][rows], torch.from_numpy(self.model.rest[items])

        def scores(columns: slice | Tensor) -> Tensor:
            values = similar[:, in_columns(columns)].toarray(order="C")
            return as_scores(values).add_(rest[columns])

        return scores

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """Scores of single items of any domain: [n, N] float64."""
        rows = np.repeat(np.arange(len(items)), items.shape[1])
        similar = np.asarray(self.similar[rows, items.ravel()]).reshape(items.shape)
        return as_scores(similar + self.model.rest[items])

    def features(self, rows: np.ndarray, domain: int) -> Features:
        """log(similarity + ε)."""
        similar = self.similar[:, self.model.dataset.domain_items(domain)][rows]
        return lambda columns: [
            log_counts(similar[:, in_columns(columns)].toarray(order="C"), OFFSET)
        ]


def nearest(had: csr_array) -> csr_array:
    """[V + 1, V + 1] the cosines of the `NEIGHBOURS` most similar other items of each item
    (column), of equally similar ones those of the smallest numbers.

    had: [users, V + 1] 1 where a user had an item.
    """
    users_of = had.T.tocsr()
    counts, parts = np.diff(users_of.indptr), []
    for start in range(0, len(counts), ROWS):
        both = (users_of[start : start + ROWS] @ had).tocoo()  # users who had both
        item, other = both.row + start, both.col
        cosine = both.data / np.sqrt(counts[item] * counts[other].astype(np.float64))
        order = np.lexsort((other, -cosine, item))
        order = order[item[order] != other[order]]
        order = order[positions_in_runs(run_lengths(item[order][None])) < NEIGHBOURS]
        parts.append((cosine[order], other[order], item[order]))
    cosine, other, item = map(np.concatenate, zip(*parts, strict=True))
    return csr_array((cosine, (other, item)), shape=(len(counts), len(counts)))
