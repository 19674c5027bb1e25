"""Item-to-item Markov: items by how often they followed the user's last item of the domain.

The chain runs inside a domain: the item before is the user's previous event *in that domain*, which
on the ABXI log ranks better than a chain over all domains does.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from src.baselines.arrays import in_columns
from src.baselines.popularity import Popularity
from src.dataset.store.folder import TRAIN, Dataset
from src.interfaces import Features, Requests, Scores


@dataclass(frozen=True)
class Markov:
    """Counts of training transitions between items of one domain."""

    feature_names: ClassVar[tuple[str, ...]] = ("transitions",)
    transitions: csr_array  # [V + 1, V + 1]
    popularity: Popularity
    dataset: Dataset  # whose events are the contexts
    places: np.ndarray  # [events] ascending: domain · number of events + flat position

    @classmethod
    def fit(cls, dataset: Dataset) -> "Markov":
        return cls.of(dataset, item_before(dataset))

    @classmethod
    def of(cls, dataset: Dataset, before: np.ndarray) -> Self:
        """From the item [events] that each training event follows (`item_before`)."""
        items = np.asarray(dataset.items)
        rows = np.flatnonzero(before > 0)
        size = dataset.item_rows
        pairs = (np.ones(len(rows)), (before[rows], items[rows]))
        transitions = csr_array(pairs, shape=(size, size))
        return cls(transitions, Popularity.fit(dataset), dataset, event_places(dataset))

    def read(self, requests: Requests) -> "MarkovScores":
        return MarkovScores(self, requests)

    def to_date(self) -> "Markov":
        return self

    def with_contexts(self, contexts: Dataset) -> Self:
        return dataclasses.replace(self, dataset=contexts, places=event_places(contexts))

    def last_items(self, domains: int | np.ndarray, requests: Requests) -> np.ndarray:
        """[n] the last item of a domain, or of each of `domains` [n], among the known events of
        each request; 0 without one."""
        events = len(self.places)
        number = np.searchsorted(self.places, domains * np.int64(events) + requests.ends) - 1
        domain, last = np.divmod(self.places[number.clip(min=0)], events)
        known = (number >= 0) & (domain == domains) & (last >= self.dataset.offsets[requests.users])
        return np.where(known, self.dataset.items[last], 0)

    @cached_property
    def shares(self) -> np.ndarray:
        """[V + 1] each item's share of the training events, all below 1."""
        counts = self.popularity.counts
        return counts / (counts.sum() + 1)


@dataclass(frozen=True)
class MarkovScores:
    """Transition counts from the last item of the domain that a request asks for; popularity breaks
    ties. Without such an item, popularity alone."""

    model: Markov
    requests: Requests

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """(columns) -> [rows, columns] float64."""
        items = self.model.dataset.domain_items(domain)
        last = self.model.last_items(domain, self.requests.rows(rows))
        counts = self.model.transitions[last][:, items].tocsc()  # indexed by columns below
        share = torch.from_numpy(self.model.shares[items])

        def scores(columns: slice | Tensor) -> Tensor:
            transitions = torch.from_numpy(counts[:, in_columns(columns)].toarray(order="C"))
            return transitions.add_(share[columns])

        return scores

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """Scores of single items of any domain: [n, N] float64."""
        last = np.repeat(self.model.last_items(domains, self.requests), items.shape[1])
        counts = np.asarray(self.model.transitions[last, items.ravel()]).reshape(items.shape)
        return torch.from_numpy(counts + self.model.shares[items])

    def features(self, rows: np.ndarray, domain: int) -> Features:
        """log(1 + transitions)."""
        scores = self.scores(rows, domain)
        return lambda columns: [scores(columns).floor_().log1p_().float()]


def event_places(dataset: Dataset) -> np.ndarray:
    """[events] ascending: domain · number of events + flat position."""
    count = len(dataset.items)
    return np.sort(np.asarray(dataset.domains).astype(np.int64) * count + np.arange(count))


def item_before(dataset: Dataset, any_domain: bool = False) -> np.ndarray:
    """[events] the item of the user's training event before each one, in the same domain or in
    any; 0 where there is none, and for events that are not of the training."""
    train = np.flatnonzero(np.asarray(dataset.split) == TRAIN)
    users = np.searchsorted(dataset.offsets, train, side="right") - 1
    items, domains = dataset.items[train], dataset.domains[train]
    if any_domain:
        domains = np.zeros_like(domains)
    order = np.lexsort((domains, users))  # stable: time order inside each (user, domain)
    earlier, later = order[:-1], order[1:]
    follows = (users[earlier] == users[later]) & (domains[earlier] == domains[later])
    before = np.zeros(len(dataset.items), dtype=items.dtype)
    before[train[later[follows]]] = items[earlier[follows]]
    return before
