"""Which path makes a list: the one that serves the domain, or what stands in for it.

A path of single domains has nothing to read where its window has no event of the domain, and would
give all these users one list: the cross path stands in, where the run has it. A user without any
event gets what is popular of late.
"""

from typing import Protocol

import numpy as np

from src.config.modes import CROSS, PATHS
from src.config.names import NEWCOMER_MODEL
from src.config.settings import Settings
from src.dataset.batching.windows import context_windows, keep_domain
from src.dataset.store.folder import Dataset
from src.evaluation.targets import Targets


class Reads(Protocol):
    """What the paths of a model read: of its `Settings`, or of a bundle."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The ranking paths."""

    @property
    def max_len(self) -> int:
        """The length of a sequence, start token included."""

    @property
    def context(self) -> str:
        """Of which events the newest are read (src/dataset/batching/windows.py)."""


def rows_by_path(
    dataset: Dataset,
    users: np.ndarray,
    ends: np.ndarray,
    domain: int,
    path: str,
    settings: Reads,
) -> dict[str, np.ndarray]:
    """{path: which of the n users it serves in a domain, ascending} for their events before `ends`
    [n], where `path` serves the domain; paths that serve none are left out."""
    empty = ends == dataset.offsets[users]
    marks = {path: ~empty, NEWCOMER_MODEL: empty}
    if path in PATHS and PATHS[path].single_domain and CROSS in settings.paths:
        windows = context_windows(dataset, users, ends, settings.max_len - 1, settings.context)
        windows = keep_domain(dataset, windows, np.full(len(users), domain))
        reads = np.bincount(windows.rows, minlength=len(users)) > 0
        marks |= {path: reads, CROSS: ~empty & ~reads}
    return {name: np.flatnonzero(rows) for name, rows in marks.items() if rows.any()}


def made_by(
    dataset: Dataset, targets: Targets, rows: np.ndarray, path: str, settings: Settings
) -> np.ndarray:
    """[n] the name of the path that makes the list of each of the targets `rows` in its domain,
    where `path` serves."""
    names = np.full(len(rows), path, dtype=object)
    users, ends, domains = targets.users[rows], targets.ends[rows], targets.domains[rows]
    for domain in np.unique(domains).tolist():
        asked = np.flatnonzero(domains == domain)
        serving = rows_by_path(dataset, users[asked], ends[asked], domain, path, settings)
        for name, chosen in serving.items():
            names[asked[chosen]] = name
    return names
