"""Batches: the events of some users, packed in the two aligned views.

Every event of the window is a target once in each view. The canonical order of the targets is by
domain, then user, then time, so the targets of a domain are one slice and the two losses of a
target stand at the same place.
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from src.dataset.store.folder import TRAIN, Dataset, outside_domain, user_counts
from src.io.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class View:
    """N tokens of one view; a sequence is a user (cross) or a user's events in a domain (single).

    The tokens stand in M slots, M a little above N: attention runs over tiles, runs of slots of
    one length that hold whole sequences one after the other. `groups` lists (tiles, length) of one
    block after the other. A slot that no sequence fills has zeros and the number `sequences`.
    """

    inputs: Tensor  # [M] the item before the target in this view; 0: the start token
    positions: Tensor  # [M] from 0 at the start token
    domains: Tensor  # [M] domain of the target
    sequence: Tensor  # [M] number of the sequence, `sequences` where there is none
    sequences: int
    groups: list[tuple[int, int]]
    places: Tensor  # [N] slot of each target, in the canonical order


@dataclass(frozen=True)
class Batch:
    """B users and their N targets, in the canonical order."""

    targets: Tensor  # [N] items
    negatives: Tensor  # [N] one other item of the target's domain
    counts: list[int]  # D numbers of targets
    domain_counts: Tensor  # [D] the same on the device
    last: Tensor  # [B] places of the users' last targets, in the canonical order
    last_counts: list[int]  # D numbers of them
    last_rank: Tensor  # [B] where each user's stands among them
    pair_lengths: Tensor  # [S] targets of each (domain, user) pair
    mim_pairs: list[tuple[int, Tensor]]  # (domain, rows of S with at least two targets)
    mim_sizes: list[list[int]]  # of each process, how many users it has in each of these domains
    cross: View
    single: View

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; on the CPU it is the batch itself."""
        return self if device.type == "cpu" else _to(self, device)


def _to(value: Any, device: torch.device) -> Any:
    """Move every tensor inside, whatever holds it, without waiting for the copies."""
    if isinstance(value, Tensor):
        return value.pin_memory().to(device, non_blocking=True)
    if isinstance(value, (list, tuple)):
        return type(value)(_to(member, device) for member in value)
    if dataclasses.is_dataclass(value):
        moved = {
            field.name: _to(getattr(value, field.name), device)
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **moved)
    return value


@dataclass(frozen=True)
class Windows:
    """Which events each of B users contributes: flat events [N], by user and time."""

    users: np.ndarray  # [B]
    events: np.ndarray  # [N] positions in the dataset's flat arrays
    rows: np.ndarray  # [N] which of the B users


def training_part(dataset: Dataset) -> tuple[Dataset, np.ndarray]:
    """What training reads: a dataset, and the end [users] of each user's training events in it.

    Where a user's training events come before all others it is the dataset itself. The last events
    of each domain held out leave training events behind others: then it is a copy that has the
    training events alone, so that no window can reach another. The copy has 6 bytes an event; the
    times, which no window looks at, are left out.
    """
    ends = train_ends(dataset)
    if not user_counts(dataset.offsets, lambda some: _behind_other(dataset, some)).any():
        return dataset, ends
    offsets = np.concatenate([[0], np.cumsum(ends - dataset.offsets[:-1])])
    train = np.asarray(dataset.split) == TRAIN
    part = dataclasses.replace(
        dataset,
        offsets=offsets,
        items=dataset.items[train],
        domains=dataset.domains[train],
        times=dataset.times[:0],
        split=np.broadcast_to(np.int8(TRAIN), offsets[-1]),
    )
    return part, offsets[1:]


def _behind_other(dataset: Dataset, events: slice) -> np.ndarray:
    """[n] whether an event trains and the one before it, if it is the same user's, does not.

    The slice holds whole users.
    """
    train = dataset.split[events] == TRAIN
    behind = np.zeros_like(train)
    behind[1:] = train[1:] & ~train[:-1]
    first, last = np.searchsorted(dataset.offsets, [events.start, events.stop])
    behind[dataset.offsets[first:last] - events.start] = False
    return behind


def train_ends(dataset: Dataset) -> np.ndarray:
    """[users] the end of each user's training events, where they come before all others."""
    train = user_counts(dataset.offsets, lambda some: dataset.split[some] == TRAIN)
    return dataset.offsets[:-1] + train


def window_lengths(dataset: Dataset, ends: np.ndarray, max_len: int, context: str) -> np.ndarray:
    """[users] the tokens of each user's window, in each view, before `ends` [users].

    With `own` windows of each domain it is the most that they can have together.
    """
    longest = max_len * len(dataset.domain_names) if context == "own" else max_len
    return np.minimum(ends - dataset.offsets[:-1], longest)


def newest(dataset: Dataset, users: np.ndarray, ends: np.ndarray, max_len: int) -> Windows:
    """The newest `max_len` events of each user before `ends` [B] (exclusive, flat)."""
    starts = np.maximum(dataset.offsets[users], ends - max_len)
    return Windows(users, *_ranges(starts, ends))


def newest_of_each_domain(
    dataset: Dataset, users: np.ndarray, ends: np.ndarray, max_len: int
) -> Windows:
    """The newest `max_len` events of each user in each domain before `ends` [B]."""
    events, rows = _ranges(dataset.offsets[users], ends)
    order = np.lexsort((-events, dataset.domains[events], rows))  # newest first in each pair
    keys = np.stack([rows[order], dataset.domains[events[order]]])
    keep = _places(_lengths(keys)) < max_len
    kept = np.sort(order[keep])
    return Windows(users, events[kept], rows[kept])


def context_windows(
    dataset: Dataset, users: np.ndarray, ends: np.ndarray, max_len: int, context: str
) -> Windows:
    """The windows that `--sdsr_context` names: `own` ones of each domain, or the newest of all."""
    window = newest_of_each_domain if context == "own" else newest
    return window(dataset, users, ends, max_len)


def only_domains(dataset: Dataset, windows: Windows, domains: np.ndarray) -> Windows:
    """The events of each user's own domain of `domains` [B]."""
    keep = dataset.domains[windows.events] == domains[windows.rows]
    return Windows(windows.users, windows.events[keep], windows.rows[keep])


def _ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of each half-open range one after the other, and the range of each."""
    lengths = ends - starts
    rows = np.repeat(np.arange(len(starts)), lengths)
    return starts[rows] + _places(lengths), rows


def _places(lengths: np.ndarray) -> np.ndarray:
    """0 … length − 1 of each run, one after the other."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _lengths(keys: np.ndarray) -> np.ndarray:
    """Lengths of the runs of equal columns of keys [k, N]."""
    if keys.shape[1] == 0:
        return np.zeros(0, dtype=np.int64)
    edges = np.flatnonzero((np.diff(keys) != 0).any(axis=0)) + 1
    return np.diff(np.concatenate([[0], edges, [keys.shape[1]]]))


def build_batch(
    dataset: Dataset,
    windows: Windows,
    seed: int,
    epoch: int,
    mim_users: np.ndarray | None = None,
) -> Batch:
    """Pack the windows into both views; negatives are a function of seed, epoch and event.

    `mim_users` [P, D] are the `repeat_users` of all processes' windows, where several share a
    batch. A process may have no user in it.
    """
    items, domains = read_events(dataset, windows.events)
    negatives = draw_negatives(dataset, windows.events, items, domains, seed, epoch)
    lengths = np.bincount(windows.rows, minlength=len(windows.users))
    return _pack(items, domains, lengths, negatives, len(dataset.domain_names), mim_users)


def repeat_users(dataset: Dataset, windows: Windows) -> np.ndarray:
    """[D] how many users have at least two events in a domain: those that SC-MIM compares."""
    count = len(dataset.domain_names)
    pairs = windows.rows * count + dataset.domains[windows.events]
    events = np.bincount(pairs, minlength=len(windows.users) * count)
    return (events.reshape(-1, count) >= 2).sum(0)


def read_events(dataset: Dataset, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items and domains [N] int64 of some events.

    Opening a dataset folder reads no event, so a damaged one may show here first: UserError for an
    item that is none of its domain's, which no embedding and no softmax has a row for.
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


def build_queries(
    items: np.ndarray, domains: np.ndarray, lengths: np.ndarray, asked: np.ndarray, count: int
) -> Batch:
    """Pack B contexts, each followed by the question what comes next in a domain.

    Parameters
    ----------
    items, domains: [N] the events of the contexts, one context after the other.
    lengths: [B] events of each; 0 where nothing is known.
    asked: [B] the domain whose next event is asked for: the last target of the context, with item
        0, for a target is never an input.
    count: D, how many domains there are.
    """
    ends = np.cumsum(lengths)
    items, domains = np.insert(items, ends, 0), np.insert(domains, ends, asked)
    return _pack(items, domains, lengths + 1, np.zeros_like(items), count)


def _pack(
    items: np.ndarray,
    domains: np.ndarray,
    lengths: np.ndarray,
    negatives: np.ndarray,
    count: int,
    mim_users: np.ndarray | None = None,
) -> Batch:
    """The batch of B sequences [N] of `lengths` [B], one after the other in time order."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.argsort(domains, kind="stable")  # by domain, user, time
    pairs = np.stack([domains[order], rows[order]])
    pair_lengths = _lengths(pairs)
    pair_starts = np.cumsum(pair_lengths) - pair_lengths
    counts = np.bincount(domains, minlength=count)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))  # where each event of the cross view stands canonically
    last = place[np.cumsum(lengths) - 1]  # of each user
    last_order = np.argsort(last)
    last_rank = np.empty_like(last_order)
    last_rank[last_order] = np.arange(len(last))
    last_domains = domains[order][last]
    mim_pairs, mim_sizes = _mim_pairs(pairs[0, pair_starts], pair_lengths, count, mim_users)
    return Batch(
        targets=torch.from_numpy(items[order]),
        negatives=torch.from_numpy(negatives[order]),
        counts=counts.tolist(),
        domain_counts=torch.from_numpy(counts),
        last=torch.from_numpy(last[last_order]),
        last_counts=np.bincount(last_domains, minlength=len(counts)).tolist(),
        last_rank=torch.from_numpy(last_rank),
        pair_lengths=torch.from_numpy(pair_lengths),
        mim_pairs=mim_pairs,
        mim_sizes=mim_sizes,
        cross=_view(items, domains, lengths, order),
        single=_view(items[order], domains[order], pair_lengths, np.arange(len(order))),
    )


def _mim_pairs(
    pair_domains: np.ndarray, pair_lengths: np.ndarray, count: int, users: np.ndarray | None
) -> tuple[list[tuple[int, Tensor]], list[list[int]]]:
    """For each domain with at least two users of two targets or more: it, and their rows here;
    and how many such users each process has there. `users` [P, D]; None: there is one process."""
    eligible = np.flatnonzero(pair_lengths >= 2)
    domains = pair_domains[eligible]
    if users is None:
        users = np.bincount(domains, minlength=count)[None]
    compared = np.flatnonzero(users.sum(0) >= 2)
    pairs = [(int(domain), torch.from_numpy(eligible[domains == domain])) for domain in compared]
    return pairs, users[:, compared].tolist()


def _view(items: np.ndarray, domains: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> View:
    """Shift the targets by one inside each sequence of `lengths` and lay them out in tiles.

    `order` holds the place of each canonical target among the tokens.
    """
    positions = _places(lengths)
    inputs = np.where(positions == 0, 0, np.roll(items, 1))
    groups, slots = attention_tiles(lengths)

    def laid_out(values: np.ndarray, empty: int = 0) -> Tensor:
        filled = np.full(sum(count * length for count, length in groups), empty, dtype=np.int64)
        filled[slots] = values
        return torch.from_numpy(filled)

    return View(
        inputs=laid_out(inputs),
        positions=laid_out(positions),
        domains=laid_out(domains),
        sequence=laid_out(np.repeat(np.arange(len(lengths)), lengths), empty=len(lengths)),
        sequences=len(lengths),
        groups=groups,
        places=torch.from_numpy(slots[order]),
    )


# Lengths up to which sequences share tiles of one length. Short tiles cost attention little, many
# kinds of them cost calls: the coarse steps unless they would leave more than a twentieth empty.
SHORTEST_TILE = 32
COARSE_STEPS = tuple(32 * 2**k for k in range(12))
FINE_STEPS = tuple(4 * 2**k * eighth for k in range(12) for eighth in range(8, 16))


def attention_tiles(lengths: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Lay sequences [S] of N tokens out in tiles, whole and without overlap.

    Returns the (tiles, length) of each block and the slot of each token [N].
    """
    for steps in (COARSE_STEPS, FINE_STEPS):
        groups, starts = _fill_tiles(lengths, steps)
        if lengths.sum() >= 0.95 * sum(count * length for count, length in groups):
            break
    return groups, np.repeat(starts, lengths) + _places(lengths)


def _fill_tiles(
    lengths: np.ndarray, steps: tuple[int, ...]
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The (tiles, length) of each block and the first slot of each sequence [S].

    The longest sequence left opens a tile; the longest that still fits goes on in it.
    """
    order = np.argsort(-lengths, kind="stable")
    present, first = np.unique(-lengths[order], return_index=True)
    sizes = (-present).tolist()  # the lengths that occur, longest first
    waiting = np.diff(np.append(first, len(order))).tolist()
    taken, starts = first.tolist(), np.empty(len(lengths), dtype=np.int64)
    groups, slot, tokens = [], 0, int(lengths.sum())
    longest = 0
    while longest < len(sizes):
        shortest = max((step for step in steps if step < sizes[longest]), default=0)
        length = sizes[longest] if shortest else min(SHORTEST_TILE, tokens)
        count = 0
        while longest < len(sizes) and sizes[longest] > shortest:
            room, kind = length, longest
            while kind < len(sizes) and room:
                fitting = min(waiting[kind], room // sizes[kind])
                if fitting:
                    own = order[taken[kind] : taken[kind] + fitting]
                    starts[own] = slot + length - room + sizes[kind] * np.arange(fitting)
                    taken[kind] += fitting
                    waiting[kind] -= fitting
                    room -= fitting * sizes[kind]
                    tokens -= fitting * sizes[kind]
                kind += 1
            slot, count = slot + length, count + 1
            while longest < len(sizes) and not waiting[longest]:
                longest += 1
        groups.append((count, length))
    return groups, starts


def draw_negatives(
    dataset: Dataset,
    events: np.ndarray,
    items: np.ndarray,
    domains: np.ndarray,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """[N] an item of each target's domain other than the target, uniformly.

    A hash of (seed, epoch, event) in place of a stream of random numbers: the same negatives
    however the users are batched or spread over processes.
    """
    key = _mix(np.uint64(seed) ^ _mix(np.asarray(epoch, dtype=np.uint64)))
    draws = _mix(events.astype(np.uint64) ^ key)
    first = dataset.item_starts[domains]
    others = dataset.item_starts[domains + 1] - first - 1
    negative = first + (draws % np.maximum(others, 1).astype(np.uint64)).astype(np.int64)
    return negative + (negative >= items)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014): 64 bits in, 64 well-mixed bits out."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
