"""Item-to-item Markov: what followed the user's last item of the target's domain.

The chain runs inside a domain: the item before is the user's previous event *in that domain*, which
on the ABXI log ranks better than a chain over all domains does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from src.baselines.popularity import Popularity
from src.dataset.folder import TRAIN, Dataset
from src.evaluation.ranks import Scores


@dataclass(frozen=True)
class Markov:
    """Counts of training transitions between items of one domain."""

    transitions: csr_array  # [V + 1, V + 1]
    before: np.ndarray  # [events] the item before in the same domain; 0: none
    popularity: Popularity

    @classmethod
    def fit(cls, dataset: Dataset) -> "Markov":
        items = np.asarray(dataset.items)
        before = item_before(dataset)
        rows = np.flatnonzero((np.asarray(dataset.split) == TRAIN) & (before > 0))
        size = dataset.item_rows
        pairs = (np.ones(len(rows)), (before[rows], items[rows]))
        return cls(csr_array(pairs, shape=(size, size)), before, Popularity.fit(dataset))

    def scorer(self, domain: int, events: np.ndarray) -> Scores:
        """Transition counts from the item before each target; popularity breaks ties.

        Places [n] of the targets in the flat arrays -> (columns) -> [n, columns] float64. Without
        an item before, popularity alone.
        """
        starts = self.popularity.item_starts
        own = slice(int(starts[domain]), int(starts[domain + 1]))
        counts = self.transitions[self.before[events]][:, own].tocsc()  # asked for by columns
        popularity = self.popularity.counts
        share = torch.from_numpy(popularity[own] / (popularity.sum() + 1))  # [V_d], each below 1

        def scores(columns: slice | Tensor) -> Tensor:
            where = columns if isinstance(columns, slice) else columns.numpy()
            transitions = torch.from_numpy(counts[:, where].toarray(order="C"))
            return transitions.add_(share[columns])

        return scores

    def scores(self, domain: int, events: np.ndarray) -> Tensor:
        """Of all items of the domain at once [n, V_d]."""
        return self.scorer(domain, events)(slice(None))


def item_before(dataset: Dataset) -> np.ndarray:
    """[events] the item of the user's previous event in the same domain; 0 where there is none."""
    items, domains = np.asarray(dataset.items), np.asarray(dataset.domains)
    users = np.repeat(np.arange(dataset.users), np.diff(dataset.offsets))
    order = np.lexsort((domains, users))  # stable: time order inside each (user, domain)
    earlier, later = order[:-1], order[1:]
    follows = (users[earlier] == users[later]) & (domains[earlier] == domains[later])
    before = np.zeros(len(items), dtype=items.dtype)
    before[later[follows]] = items[earlier[follows]]
    return before
