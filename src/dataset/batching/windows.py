"""Windows: which of their events the users of a batch contribute."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from src.dataset.batching.ragged import expand_ranges, positions_in_runs, run_lengths
from src.dataset.store.folder import TRAIN, Dataset, outside_domain, user_counts
from src.io.errors import UserError


@dataclass(frozen=True)
class Windows:
    """The events that each of B users contributes, flat [N], by user and time."""

    users: np.ndarray  # [B]
    events: np.ndarray  # [N] indices into the dataset's flat arrays
    rows: np.ndarray  # [N] which of the B users


def training_dataset(dataset: Dataset, times: bool = False) -> tuple[Dataset, np.ndarray]:
    """The dataset that training reads, and the end [users] of each user's training events in it.

    Where all of a user's training events precede the held-out ones this is the dataset itself.
    A split that holds out the last events of each domain leaves training events after held-out
    ones: then it is a copy with the training events alone, so that no window can reach a held-out
    event. The copy takes 6 bytes per event, and with `times`, which are left out otherwise, 14.
    """
    ends = train_ends(dataset)
    if not user_counts(dataset.offsets, lambda chunk: _follows_held_out(dataset, chunk)).any():
        return dataset, ends
    offsets = np.concatenate([[0], np.cumsum(ends - dataset.offsets[:-1])])
    train = np.asarray(dataset.split) == TRAIN
    training = dataclasses.replace(
        dataset,
        offsets=offsets,
        items=dataset.items[train],
        domains=dataset.domains[train],
        times=dataset.times[train] if times else dataset.times[:0],
        split=np.broadcast_to(np.int8(TRAIN), offsets[-1]),
    )
    return training, offsets[1:]


def _follows_held_out(dataset: Dataset, events: slice) -> np.ndarray:
    """[n] whether a training event comes directly after a held-out event of the same user.

    The slice holds whole users.
    """
    train = dataset.split[events] == TRAIN
    follows = np.zeros_like(train)
    follows[1:] = train[1:] & ~train[:-1]
    first, last = np.searchsorted(dataset.offsets, [events.start, events.stop])
    follows[dataset.offsets[first:last] - events.start] = False
    return follows


def train_ends(dataset: Dataset) -> np.ndarray:
    """[users] the end of each user's training events, where they precede all others."""
    train = user_counts(dataset.offsets, lambda chunk: dataset.split[chunk] == TRAIN)
    return dataset.offsets[:-1] + train


def window_lengths(dataset: Dataset, ends: np.ndarray, max_len: int, context: str) -> np.ndarray:
    """[users] the tokens of each user's window, in each view, before `ends` [users].

    With a window per domain (`context` own): the most that all of a user's windows can have.
    """
    longest = max_len * len(dataset.domain_names) if context == "own" else max_len
    return np.minimum(ends - dataset.offsets[:-1], longest)


def context_windows(
    dataset: Dataset, users: np.ndarray, ends: np.ndarray, max_len: int, context: str
) -> Windows:
    """The windows that `--sdsr_context` asks for: one per domain (own), or one over all domains."""
    select = newest_events_per_domain if context == "own" else newest_events
    return select(dataset, users, ends, max_len)


def newest_events(dataset: Dataset, users: np.ndarray, ends: np.ndarray, max_len: int) -> Windows:
    """The newest `max_len` events of each user before `ends` [B] (flat indices, exclusive)."""
    starts = np.maximum(dataset.offsets[users], ends - max_len)
    return Windows(users, *expand_ranges(starts, ends))


def newest_events_per_domain(
    dataset: Dataset, users: np.ndarray, ends: np.ndarray, max_len: int
) -> Windows:
    """The newest `max_len` events of each user in each domain before `ends` [B]."""
    events, rows = expand_ranges(dataset.offsets[users], ends)
    order = np.lexsort((-events, dataset.domains[events], rows))  # newest first in each pair
    pairs = np.stack([rows[order], dataset.domains[events[order]]])
    kept = np.sort(order[positions_in_runs(run_lengths(pairs)) < max_len])
    return Windows(users, events[kept], rows[kept])


def keep_domain(dataset: Dataset, windows: Windows, domains: np.ndarray) -> Windows:
    """The windows without the events outside each user's domain in `domains` [B]."""
    keep = dataset.domains[windows.events] == domains[windows.rows]
    return Windows(windows.users, windows.events[keep], windows.rows[keep])


def mim_user_counts(dataset: Dataset, windows: Windows) -> np.ndarray:
    """[D] users with at least two events in a domain: those that SC-MIM compares there."""
    domain_count = len(dataset.domain_names)
    pairs = windows.rows * domain_count + dataset.domains[windows.events]
    events = np.bincount(pairs, minlength=len(windows.users) * domain_count)
    return (events.reshape(-1, domain_count) >= 2).sum(0)


def read_events(dataset: Dataset, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items and domains [N] int64 of the given events.

    Opening a dataset folder reads no event, so a damaged one may show here first: UserError for an
    item outside its domain's vocabulary, which has no row in the embedding and the softmax.
    """
    items = dataset.items[events].astype(np.int64)
    domains = dataset.domains[events].astype(np.int64)
    outside = outside_domain(dataset.item_starts, items, domains)
    if outside.any():
        item = items[np.argmax(outside)]
        raise UserError(
            f"{dataset.folder}/sequences: item {item} is not in the vocabulary of its domain; "
            "make the dataset again"
        )
    return items, domains
