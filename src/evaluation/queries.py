"""Query vectors: what a path of a model computes from a user's context to rank a domain."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from src.config.modes import PATHS
from src.dataset.batching.batch import Batch
from src.dataset.batching.packing import VIEWS, build_query_batch, time_intervals
from src.dataset.batching.prefetch import prefetch
from src.dataset.batching.ragged import positions_in_runs
from src.dataset.batching.windows import Windows, context_windows, keep_domain, read_events
from src.dataset.store.folder import Dataset
from src.evaluation.rank_counts import to_device
from src.interfaces import Recommender

KEYS_AT_ONCE = 2**16  # queries whose contexts are compared at a time
LONGEST = 2**31 - 1  # seconds of an interval that are told apart: 68 years


@dataclass(frozen=True)
class Queries:
    """Q questions: what comes next for a user, after these events, in this domain?"""

    users: np.ndarray  # [Q]
    ends: np.ndarray  # [Q] the context is the user's events before this index of the flat arrays
    domains: np.ndarray  # [Q] the domain to rank
    times: np.ndarray | None = None  # [Q] in seconds since 1970, where the model reads the time

    def rows(self, rows: np.ndarray | slice) -> "Queries":
        """The queries of these rows."""
        times = None if self.times is None else self.times[rows]
        return Queries(self.users[rows], self.ends[rows], self.domains[rows], times)

    def parts(self, size: int) -> Iterator["Queries"]:
        """All queries, `size` at a time."""
        for start in range(0, len(self.users), size):
            yield self.rows(slice(start, start + size))


@dataclass(frozen=True)
class Ensemble:
    """The models of a run: one for all domains, or one per domain (`separate`)."""

    models: list[Recommender]
    separate: bool = False

    @property
    def hidden(self) -> int:
        """H, the same in all of them."""
        return self.models[0].item_table.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of their weights, and so of the scores."""
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
    """⟨query, E_i⟩ for the items of a domain, or for `columns` of them: [n, H] -> [n, V_d]."""
    return queries @ domain_items(model, domain)[columns].T


def domain_items(model: Recommender, domain: int) -> Tensor:
    """[V_d, H] the vectors of a domain's items."""
    return model.item_table[model.item_starts[domain] : model.item_starts[domain + 1]]


@torch.no_grad()
def encode_queries(
    ensemble: Ensemble, dataset: Dataset, queries: Queries, path: str, *,
    max_len: int, context: str, users_at_once: int, device: torch.device, bar: bool = False,
) -> Tensor:  # fmt: skip
    """h of each query, [Q, H] on `device`.

    The input is the newest `max_len` − 1 events of the context; the single view keeps those of the
    domain to rank, or the newest `max_len` − 1 of that domain (`context` own). Queries with equal
    inputs (the same items and, where the path reads them, domain and intervals) are encoded once
    and share one h. With `bar`, progress is shown on a terminal.
    """

    def inputs(part: Queries) -> Windows:
        windows = context_windows(dataset, part.users, part.ends, max_len - 1, context)
        if PATHS[path].single_domain:
            return keep_domain(dataset, windows, part.domains)
        return windows

    hidden = torch.zeros(len(queries.users), ensemble.hidden, device=device, dtype=ensemble.dtype)
    for model, rows in ensemble.shares(queries.domains):
        model_queries = queries.rows(rows)
        reads_domain = model.reads_domain(path)
        keys = [
            _input_keys(dataset, inputs(part), part, reads_domain)
            for part in model_queries.parts(KEYS_AT_ONCE)
        ]
        first, same = _distinct_rows(keys)
        outputs = [hidden[:0]]  # no queries, no outputs
        parts = list(model_queries.rows(first).parts(users_at_once))
        views = (path,) if model.queries_read == "view" else VIEWS
        batches = (_batch(dataset, inputs(part), part, ensemble.separate, views) for part in parts)
        ahead, hidden_bar = prefetch(batches), None if bar else True
        for batch in tqdm(ahead, f"encode {path}", len(parts), leave=False, disable=hidden_bar):
            outputs.append(model.queries(batch.to(device), path).to(ensemble.dtype))
        hidden[to_device(rows, device)] = torch.cat(outputs)[to_device(same, device)]
    return hidden


def _batch(
    dataset: Dataset, contexts: Windows, queries: Queries, separate: bool, views: tuple[str, ...]
) -> Batch:
    """The contexts and the queries about them as a model's batch, in the `views` that it reads; a
    model of one domain numbers its items from 1."""
    items, domains = read_events(dataset, contexts.events)
    ranked, lengths = queries.domains, np.bincount(contexts.rows, minlength=len(contexts.users))
    times = _times(dataset, contexts, queries)
    if not separate:
        count = len(dataset.domain_names)
        return build_query_batch(items, domains, lengths, ranked, count, times, views)
    items = items - dataset.item_starts[domains] + 1
    return build_query_batch(items, domains * 0, lengths, ranked * 0, 1, times, views)


def _times(dataset: Dataset, contexts: Windows, queries: Queries) -> np.ndarray | None:
    """[N + Q] the times of the contexts' N events and, after each context, of its query."""
    if queries.times is None:
        return None
    ends = np.searchsorted(contexts.rows, np.arange(len(queries.users)), side="right")
    return np.insert(dataset.times[contexts.events], ends, queries.times)


def _input_keys(
    dataset: Dataset, contexts: Windows, queries: Queries, reads_domain: bool
) -> np.ndarray:
    """[Q, 1 + longest context] int32: the domain that the path reads (0: none), the items, then 0;
    where the queries have times, each item is followed by the seconds to the next event.

    An item determines its domain, so rows are equal where the inputs are.
    """
    lengths = np.bincount(contexts.rows, minlength=len(queries.users))
    times = _times(dataset, contexts, queries)
    width = 1 if times is None else 2  # columns of an event
    columns = 1 + width * positions_in_runs(lengths)
    keys = np.zeros((len(lengths), 1 + width * int(lengths.max(initial=0))), dtype=np.int32)
    keys[contexts.rows, columns] = dataset.items[contexts.events]
    if times is not None:
        positions = positions_in_runs(lengths + 1)
        intervals = time_intervals(times, positions)[positions > 0]
        keys[contexts.rows, columns + 1] = intervals.clip(max=LONGEST)
    keys[:, 0] = queries.domains * reads_domain
    return keys


def _distinct_rows(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of all parts, in order of first occurrence: the index of the first, and for
    every row which of the distinct rows it equals.

    Rows of different parts are compared as if padded with zeros.
    """
    count, width = sum(map(len, parts)), max((part.shape[1] for part in parts), default=1)
    keys = np.zeros((count, width), dtype=np.int32)
    start = 0
    for part in parts:
        keys[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    whole = keys.view(np.dtype((np.void, keys.itemsize * width)))[:, 0]  # a row as one value
    _, first, value_of = np.unique(whole, return_index=True, return_inverse=True)
    order = np.argsort(first)
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return first[order], position[value_of]
