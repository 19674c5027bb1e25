"""Queries: what a path of a model makes of a user's context when it is asked for a domain."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from src.config.modes import PATHS
from src.dataset.batching.batch import Batch
from src.dataset.batching.packing import build_query_batch
from src.dataset.batching.windows import Windows, context_windows, keep_domain, read_events
from src.dataset.store.folder import Dataset
from src.evaluation.rank_counts import to_device
from src.interfaces import Recommender

KEYS_AT_ONCE = 2**16  # queries whose contexts are held at a time to find equal ones


@dataclass(frozen=True)
class Queries:
    """Q questions: what comes next for a user, after these events, in this domain?"""

    users: np.ndarray  # [Q]
    ends: np.ndarray  # [Q] the context is the user's events before this place in the flat arrays
    domains: np.ndarray  # [Q] the domain that is asked for

    def rows(self, rows: np.ndarray | slice) -> "Queries":
        """Some of them."""
        return Queries(self.users[rows], self.ends[rows], self.domains[rows])

    def parts(self, size: int) -> Iterator["Queries"]:
        """All of them, `size` at a time."""
        for start in range(0, len(self.users), size):
            yield self.rows(slice(start, start + size))


@dataclass(frozen=True)
class Ensemble:
    """The models of a run: one for all domains, or one a domain (`separate`)."""

    models: list[Recommender]
    separate: bool = False

    @property
    def hidden(self) -> int:
        """H, the same in all of them."""
        return self.models[0].item_table.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """What their weights are kept in, and so the scores."""
        return self.models[0].item_table.dtype

    def of(self, domain: int) -> tuple[Recommender, int]:
        """The model that answers for a domain, and the domain's number in it."""
        return (self.models[domain], 0) if self.separate else (self.models[0], domain)

    def shares(self, domains: np.ndarray) -> Iterator[tuple[Recommender, np.ndarray]]:
        """Each model with the rows of the queries about `domains` [Q] that it answers."""
        if not self.separate:
            yield self.models[0], np.arange(len(domains))
            return
        for domain, model in enumerate(self.models):
            yield model, np.flatnonzero(domains == domain)


def domain_scores(
    model: Recommender, queries: Tensor, domain: int, columns: slice | Tensor = slice(None)
) -> Tensor:
    """⟨query, E_i⟩ for the items of a domain, or some of them: [n, H] -> [n, V_d]."""
    table = model.item_table[model.item_starts[domain] : model.item_starts[domain + 1]]
    return queries @ table[columns].T


@torch.no_grad()
def encode_queries(
    ensemble: Ensemble, dataset: Dataset, queries: Queries, path: str, *,
    max_len: int, context: str, users_at_once: int, device: torch.device, bar: bool = False,
) -> Tensor:  # fmt: skip
    """h of each query, [Q, H] on `device`.

    The input is the newest `max_len` − 1 events of the context; the single view keeps those of the
    domain asked for, or has as many of its own (`context` own). Queries with equal inputs (the same
    items and, where the path looks at it, the same domain) are encoded once and share one h.
    With `bar`, progress is shown on a terminal.
    """

    def inputs(some: Queries) -> Windows:
        windows = context_windows(dataset, some.users, some.ends, max_len - 1, context)
        if PATHS[path].single_domain:
            return keep_domain(dataset, windows, some.domains)
        return windows

    kind = {"device": device, "dtype": ensemble.dtype}
    hidden = torch.zeros(len(queries.users), ensemble.hidden, **kind)
    for model, rows in ensemble.shares(queries.domains):
        asked = queries.rows(rows)
        told = model.reads_domain(path)
        keys = [
            _input_keys(dataset, inputs(some), some.domains if told else np.zeros_like(some.users))
            for some in asked.parts(KEYS_AT_ONCE)
        ]
        first, same = _distinct_rows(keys)
        outputs = [hidden[:0]]  # no queries, no outputs
        waiting = list(asked.rows(first).parts(users_at_once))
        for some in tqdm(waiting, f"encode {path}", leave=False, disable=None if bar else True):
            batch = _batch(dataset, inputs(some), some.domains, ensemble.separate)
            outputs.append(model.queries(batch.to(device), path).to(ensemble.dtype))
        hidden[to_device(rows, device)] = torch.cat(outputs)[to_device(same, device)]
    return hidden


def _batch(dataset: Dataset, contexts: Windows, asked: np.ndarray, separate: bool) -> Batch:
    """The queries as a model takes them; a domain's own model numbers its items from 1."""
    items, domains = read_events(dataset, contexts.events)
    lengths = np.bincount(contexts.rows, minlength=len(contexts.users))
    if not separate:
        return build_query_batch(items, domains, lengths, asked, len(dataset.domain_names))
    items = items - dataset.item_starts[domains] + 1
    return build_query_batch(items, domains * 0, lengths, asked * 0, 1)


def _input_keys(dataset: Dataset, contexts: Windows, domains: np.ndarray) -> np.ndarray:
    """[Q, 1 + longest context] int32: what is known of the domain, then the items, then 0.

    An item says its own domain, so rows are equal where the inputs are.
    """
    lengths = np.bincount(contexts.rows, minlength=len(domains))
    first = np.cumsum(lengths) - lengths
    places = 1 + np.arange(len(contexts.rows)) - np.repeat(first, lengths)
    keys = np.zeros((len(domains), 1 + int(lengths.max(initial=0))), dtype=np.int32)
    keys[contexts.rows, places] = dataset.items[contexts.events]
    keys[:, 0] = domains
    return keys


def _distinct_rows(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each kind among the rows of all parts, in their order, and the kind of each.

    Rows of different parts are compared as if filled up with zeros.
    """
    count, width = sum(map(len, parts)), max((part.shape[1] for part in parts), default=1)
    keys = np.zeros((count, width), dtype=np.int32)
    start = 0
    for part in parts:
        keys[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    whole = keys.view(np.dtype((np.void, keys.itemsize * width)))[:, 0]  # a row as one value
    _, first, kind = np.unique(whole, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[kind]
