"""What a run ranks itself, to compare a bundle's lists with."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from src.dataset.store.folder import Dataset
from src.evaluation.queries import Queries, domain_scores, encode_queries
from src.evaluation.top_items import top_items
from src.serving.bundle_files import Exported
from tests.support import standalone_lists

CPU = torch.device("cpu")


def ragged_requests(dataset: Dataset, users: np.ndarray, seed: int = 0) -> Queries:
    """Each user in each domain, after a part of their events: of every third user one, of the next
    all."""
    rng = np.random.default_rng(seed)
    lengths = np.diff(dataset.offsets)[users]
    parts = np.stack([np.ones_like(lengths), lengths, rng.integers(0, lengths + 1)])
    chosen = parts[np.arange(len(users)) % 3, np.arange(len(users))]
    count = len(dataset.domain_names)
    users, chosen = np.repeat(users, count), np.repeat(chosen, count)
    times = np.full(len(users), dataset.times.max()) + np.arange(len(users)) * 3600
    ends = dataset.offsets[users] + chosen
    return Queries(users, ends, np.tile(np.arange(count), len(users) // count), times)


def own_lists(exported: Exported, queries: Queries, k: int) -> dict[str, list]:
    """{path: (items [k], scores [k]) of each query} by the run's packed forward."""
    settings, dataset, ensemble = exported.settings, exported.dataset, exported.ensemble
    asked = queries if settings.reads_time else dataclasses.replace(queries, times=None)
    lists: dict[str, list] = {}
    for path in settings.paths:
        hidden = encode_queries(
            ensemble, dataset, asked, path, max_len=settings.max_len, context=settings.context,
            users_at_once=256, device=CPU,
        )  # fmt: skip
        lists[path] = []
        for h, domain in zip(hidden, queries.domains.tolist(), strict=True):
            model, number = ensemble.of(domain)
            items = dataset.domain_items(domain)
            scores = domain_scores(model, h[None], number).detach()
            best, columns = top_items(lambda _, s=scores: s, items.stop - items.start, k, CPU)
            lists[path].append((items.start + columns[0].numpy(), best[0].float().numpy()))
    return lists


def write_requests(dataset: Dataset, queries: Queries, path: Path) -> None:
    """The requests for `standalone_lists`: whole histories, padded at the end."""
    starts = dataset.offsets[queries.users]
    lengths = queries.ends - starts
    items = np.zeros((len(starts), max(1, lengths.max())), dtype=np.int64)
    times = np.zeros_like(items)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        items[row, :length] = dataset.items[start : start + length]
        times[row, :length] = dataset.times[start : start + length]
    np.savez(
        path, items=items, times=times, lengths=lengths, domain=queries.domains, now=queries.times
    )


def standalone(
    bundle: Path, graph: str, requests: Path, batches: tuple[int, ...], folder: Path
) -> list[dict]:
    """The lists, for each size of the batches, of a process that does not have this project."""
    lists = [folder / f"lists-{batch}.npz" for batch in batches]
    outputs = [word for pair in zip(batches, lists, strict=True) for word in pair]
    words = map(str, (standalone_lists.__file__, bundle, graph, requests, *outputs))
    subprocess.run([sys.executable, "-I", *words], cwd=folder, check=True, timeout=3000)
    return [dict(np.load(path)) for path in lists]


def largest_difference(own: dict[str, list], found: dict[str, np.ndarray]) -> float:
    """The largest difference of two scores; AssertionError where a list has other items, except for
    two whose scores are that close."""
    largest = 0.0
    for path, lists in own.items():
        for row, (items, scores) in enumerate(lists):
            other = found[f"{path}_items"][row][: len(items)]
            values = found[f"{path}_scores"][row][: len(items)]
            largest = max(largest, float(np.abs(scores - values).max()))
            swapped = items != other
            # two items of nearly equal scores may change places
            assert np.all(np.abs(scores - values)[swapped] < 1e-5), (path, row, items, other)
            assert set(items[:-1]) == set(other[:-1]) or swapped[-1], (path, row)
    return largest
