"""The targets of a split, the context of each, and the candidates drawn for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from src.dataset.batching.ragged import expand_ranges
from src.dataset.store.folder import TEST, VALID, Dataset
from src.evaluation.candidates import (
    popular_candidates,
    released_candidates,
    sampled_candidates,
    stored_candidates,
)
from src.evaluation.protocols import RELEASED
from src.interfaces import Requests
from src.io.errors import UserError

SPLITS = {"valid": VALID, "test": TEST}


@dataclass(frozen=True)
class Targets:
    """The n events of a split that are ranked.

    A target's context is what its user did before it: the events `offsets[user] … end − 1`.
    """

    split: str
    events: np.ndarray  # [n] indices of the dataset's flat arrays
    users: np.ndarray  # [n]
    items: np.ndarray  # [n]
    domains: np.ndarray  # [n]
    ends: np.ndarray  # [n] where the context ends, exclusive
    times: np.ndarray  # [n] seconds since 1970

    def requests(self, rows: np.ndarray, own_domain: bool = False) -> Requests:
        """What a count model is asked for the targets `rows`: about any domain, or about that of
        each target."""
        domains = self.domains[rows] if own_domain else None
        return Requests(self.users[rows], self.ends[rows], self.times[rows], domains)


def split_targets(dataset: Dataset, split: str, strict: bool = False) -> Targets:
    """All targets of `valid` or `test`.

    With `strict`, and in a temporal split always, the context ends before the user's first event
    that has the target's time.
    """
    events = np.flatnonzero(np.asarray(dataset.split) == SPLITS[split])
    users = np.searchsorted(dataset.offsets, events, side="right") - 1
    items, domains = dataset.items[events], dataset.domains[events]
    ends = time_starts(dataset, users, events) if strict or dataset.is_temporal else events
    return Targets(
        split, events, users, items.astype(np.int64), domains.astype(np.int64), ends,
        dataset.times[events],
    )  # fmt: skip


def check_macro(dataset: Dataset, least: int) -> None:
    """UserError where no domain has `least` targets of a split that has targets
    (`--min_domain_targets`)."""
    largest = {name: int(dataset.split_counts[split].max()) for name, split in SPLITS.items()}
    split = min((name for name in largest if largest[name]), key=largest.__getitem__, default="")
    if split and largest[split] < least:
        raise UserError(
            f"--min_domain_targets {least} leaves no domain in the mean over domains: none has "
            f"more than {largest[split]} {split} targets; give at most {largest[split]}"
        )


def time_starts(dataset: Dataset, users: np.ndarray, events: np.ndarray) -> np.ndarray:
    """[n] for each event the first event of its user with the same time."""
    first = events.copy()
    while True:
        before = np.maximum(first - 1, dataset.offsets[users])
        moves = (before < first) & (dataset.times[before] == dataset.times[events])
        if not moves.any():
            return first
        first = np.where(moves, before, first)


def context_events(
    dataset: Dataset, targets: Targets, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The events before each of the targets `rows`: flat indices, and the index into `rows`."""
    return user_events(dataset, targets.users[rows], targets.ends[rows])


def user_events(
    dataset: Dataset, users: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The events of each user [n] before `ends` [n]: flat indices, and the index into the n."""
    return expand_ranges(dataset.offsets[users], ends)


def drawn_candidates(
    dataset: Dataset, targets: Targets, names: tuple[str, ...], count: int, seed: int, folder: Path
) -> dict[str, np.ndarray]:
    """{set: [n, count] items, padded with −1} for the candidate sets `names`.

    Stored in `folder` by the data's hash, so that every model and process ranks the same ones.
    `dataset` has all domains, also where each domain has a separate model.
    """
    starts, domains = dataset.item_starts, targets.domains
    columns = targets.items - starts[domains]
    everything = int(starts[-1]) - 1

    def popularity() -> list[np.ndarray]:
        return np.split(dataset.training_counts[1:], starts[1:-1] - 1)

    makers: dict[str, Callable[[], np.ndarray]] = {
        "sampled": lambda: sampled_candidates(columns, domains, np.diff(starts), count, seed),
        "popular": lambda: popular_candidates(columns, domains, popularity(), count, seed),
        "sampled_all": lambda: sampled_candidates(
            targets.items - 1, np.zeros_like(domains), np.array([everything]), count, seed
        ),
        RELEASED: lambda: released_candidates(
            targets.users, dataset.offsets, dataset.items, everything, count, seed
        ),
    }
    first_item = {"sampled_all": 1, RELEASED: 0}  # the others are numbered inside their domain
    drawn = {}
    for name in names:
        key = {
            "data_sha256": dataset.card["sha256"], "domains": dataset.domain_names, "set": name,
            "split": targets.split, "negatives": count, "seed": seed,
        }  # fmt: skip
        path = folder / f"{name}-{targets.split}-{key['data_sha256'][:12]}-{count}-{seed}.npz"
        stored = stored_candidates(path, key, makers[name])
        every = {"sampled_all": everything, RELEASED: everything + 1}
        ends = np.full(len(columns), every[name]) if name in every else np.diff(starts)[domains]
        _check_candidates(path, stored, count, ends)
        shift = first_item.get(name, starts[domains][:, None])
        drawn[name] = np.where(stored < 0, -1, stored + shift)
    return drawn


def _check_candidates(path: Path, stored: np.ndarray, count: int, ends: np.ndarray) -> None:
    """UserError unless `stored` is [n, count] numbers from -1 to below `ends` [n]."""
    if (
        stored.shape != (len(ends), count)
        or stored.dtype != np.int64
        or (stored < -1).any()
        or (stored >= ends[:, None]).any()
    ):
        raise UserError(f"{path} does not fit these targets; delete it to draw again")


def target_facts(dataset: Dataset, targets: Targets) -> pa.Table:
    """Rows of targets.parquet: facts about each target that do not depend on a model.

    Columns split, target (its number), user_id, domain, item_id, history (events of the context),
    domain_history (of them in the target's domain), domains (how many the context has), item_count
    (training events of the item), seen (the item is in the context), same_time (an earlier event of
    the user has its time, whether or not the context is strict).
    """
    everyone = np.arange(len(targets.events))
    events, row = context_events(dataset, targets, everyone)
    width = len(dataset.domain_names)
    by_domain = np.bincount(row * width + dataset.domains[events], minlength=len(everyone) * width)
    by_domain = by_domain.reshape(-1, width)
    seen = np.zeros(len(everyone), dtype=bool)
    seen[row[dataset.items[events] == targets.items[row]]] = True
    same_time = time_starts(dataset, targets.users, targets.events) < targets.events
    return pa.table(
        {
            **target_columns(dataset, targets),
            "history": by_domain.sum(1),
            "domain_history": by_domain[everyone, targets.domains],
            "domains": (by_domain > 0).sum(1),
            "item_count": dataset.training_counts[targets.items],
            "seen": seen,
            "same_time": same_time,
        }
    )


def target_columns(dataset: Dataset, targets: Targets) -> dict[str, pa.Array]:
    """The columns that identify a target: split, target, user_id, domain, item_id."""
    count = len(targets.events)
    return {
        "split": pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [targets.split]),
        "target": pa.array(np.arange(count, dtype=np.int32)),
        "user_id": dataset.user_ids.take(pa.array(targets.users)),
        "domain": pa.DictionaryArray.from_arrays(
            targets.domains.astype(np.int32), pa.array(dataset.domain_names, pa.string())
        ),
        "item_id": dataset.item_ids.take(pa.array(targets.items - 1)),
    }
