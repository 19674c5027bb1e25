"""Approximate search among the item vectors of a domain, for lists by the paths that score by
⟨query, item vector⟩; faiss, an optional dependency (requirements-index.txt).

The vectors keep their lengths, which carry much of an item's popularity, so the metric is the inner
product everywhere; faiss's own default for these indexes is the Euclidean distance.
"""

import importlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from src.interfaces import Requests
from src.io.errors import UserError
from src.serving.contexts import Contexts, History
from src.serving.lists import Served, best_items, not_finite

LINKS, LEAST_BREADTH = 32, 200  # hnsw: links of an item; candidates that a search keeps, 10 · k or
IVF_SHARE = 8  # ivf: √V cells, of which a search reads one in so many
SAMPLE = 500  # users whose lists the recall is measured on


class Factored(Served, Protocol):
    """What an index is made for: a run or a bundle."""

    @property
    def model_paths(self) -> tuple[str, ...]:
        """The paths that score by ⟨query, item vector⟩."""

    def item_vectors(self, domain: int) -> Tensor:
        """[V_d, H] those of a domain."""

    def path_queries(
        self, contexts: Contexts, requests: Requests, domain: int, path: str
    ) -> Tensor:
        """[n, H] for n requests about a domain, by one of `model_paths`."""


def import_faiss(kind: str) -> Any:
    """The library; UserError where it is missing."""
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise UserError(
            f"--index {kind} needs faiss: pip install -r requirements-index.txt, or --index exact"
        ) from None


class ItemIndex:
    """An index of the items of one domain of a run."""

    def __init__(self, run: Factored, domain: int, kind: str):
        self.run, self.domain = run, domain
        vectors = run.item_vectors(domain).detach().float().cpu().numpy()
        if not np.isfinite(vectors).all():
            name = run.dataset.domain_names[domain]
            raise UserError(f"an item vector of {name} is not finite: the model has diverged")
        self.faiss = import_faiss(kind)
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        self.index = MAKERS[kind](self.faiss, *vectors.shape)
        self.index.train(vectors)
        self.index.add(vectors)

    def serves(self, path: str) -> bool:
        """Whether a path scores by ⟨query, item vector⟩."""
        return path in self.run.model_paths

    def search(
        self, contexts: Contexts, requests: Requests, path: str, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and columns [n, k] of the best items that are found for n requests, best first; of
        equal scores the lower column. Where none is found the column is −1. UserError for a query
        that is not finite."""
        queries = self.run.path_queries(contexts, requests, self.domain, path).float().cpu().numpy()
        faults = ~np.isfinite(queries).all(axis=1)
        if faults.any():
            raise not_finite(contexts, int(requests.users[np.argmax(faults)]), self.domain)
        if hasattr(self.index, "hnsw"):
            self.index.hnsw.efSearch = max(LEAST_BREADTH, 10 * k)
        scores, columns = self.index.search(queries, k)
        order = np.lexsort((columns, -scores), axis=1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(columns, order, 1)


def _hnsw(faiss: Any, items: int, hidden: int) -> Any:
    index = faiss.IndexHNSWFlat(hidden, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = LEAST_BREADTH
    return index


def _ivf(faiss: Any, items: int, hidden: int) -> Any:
    cells = max(1, round(items**0.5))
    index = faiss.index_factory(hidden, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # no warning about small catalogues
    index.nprobe = -(-cells // IVF_SHARE)
    return index


MAKERS = {"hnsw": _hnsw, "ivf": _ivf}


def build_indexes(
    run: Factored,
    history: History,
    users: np.ndarray,
    domains: tuple[int, ...] | None,
    kind: str,
    k: int,
) -> tuple[dict[int, ItemIndex], list[str]]:
    """{domain: its index} of the domains (None: all), and a line for each with its recall on some
    of the users."""
    every = tuple(range(len(run.dataset.domain_names)))
    indexes = {domain: ItemIndex(run, domain, kind) for domain in domains or every}
    chosen = np.sort(np.random.default_rng(0).permutation(users)[:SAMPLE])
    contexts = history.contexts(chosen)
    lines = []
    for domain, index in indexes.items():
        recall, count = _recall(index, history, contexts, k)
        measured = f"recall@{k} {recall:.3f} on {count} users" if count else "no user to measure on"
        lines.append(f"--index {kind}, {run.dataset.domain_names[domain]}: {measured}")
    return indexes, lines


def _recall(index: ItemIndex, history: History, contexts: Contexts, k: int) -> tuple[float, int]:
    """Which share of the exact lists the index finds, seen items among them; and of how many
    users."""
    users, ends = np.arange(contexts.users), contexts.offsets[1:]
    requests = Requests(users, ends, np.full(len(users), history.end))
    found = listed = count = 0
    paths = index.run.rows_by_path(contexts, users, ends, index.domain, "auto")
    for path, rows in paths.items():
        if not index.serves(path):
            continue
        some, count = requests.rows(rows), count + len(rows)
        pairs = []
        for search in (None, index):
            lists = best_items(index.run, contexts, some, index.domain, path, k, search=search)
            pairs.append(lists.rows * len(index.run.dataset.item_ids) + lists.items - 1)
        listed += len(pairs[0])
        found += len(np.intersect1d(*pairs))
    return found / max(listed, 1), count
