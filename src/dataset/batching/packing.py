"""Packing: the events of B users as a Batch, in both views."""

import numpy as np
import torch
from torch import Tensor

from src.config.modes import PATHS
from src.dataset.batching.batch import Batch, View
from src.dataset.batching.negatives import draw_negatives, held_out_events
from src.dataset.batching.ragged import positions_in_runs, run_lengths
from src.dataset.batching.tiles import attention_tiles, slot_count
from src.dataset.batching.windows import Windows, read_events
from src.dataset.store.folder import Dataset

VIEWS = tuple(PATHS)  # a path reads the view of its name
NOTHING = torch.zeros(0, dtype=torch.int64)
NO_VIEW = View(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, 0, None, [], NOTHING)  # of no token


def build_batch(
    dataset: Dataset,
    windows: Windows,
    seed: int,
    epoch: int,
    mim_users: np.ndarray | None = None,
    held_out: float = 0.0,
    times: bool = False,
    negatives: int = 1,
) -> Batch:
    """Pack the windows into both views; `negatives` of each target are a function of seed, epoch
    and event.

    `held_out` is the share of events that are inputs, but no targets to be trained on. `mim_users`
    [P, D] are the `mim_user_counts` of all processes' windows, where several processes share a
    batch. A process may have no user in it. With `times` the views have intervals.
    """
    items, domains = read_events(dataset, windows.events)
    drawn = draw_negatives(
        dataset.item_starts, windows.events, items, domains, seed, epoch, negatives
    )
    lengths = np.bincount(windows.rows, minlength=len(windows.users))
    trained = None
    if held_out:
        trained = ~held_out_events(windows.events, seed, held_out)
    count = len(dataset.domain_names)
    event_times = dataset.times[windows.events] if times else None
    return _pack(items, domains, lengths, drawn, count, mim_users, trained, event_times)


def build_query_batch(
    items: np.ndarray,
    domains: np.ndarray,
    lengths: np.ndarray,
    target_domains: np.ndarray,
    domain_count: int,
    times: np.ndarray | None = None,
    views: tuple[str, ...] = VIEWS,
) -> Batch:
    """Pack B contexts, each followed by a query for the next event in a domain.

    Parameters
    ----------
    items, domains: [N] the events of the contexts, one context after the other.
    lengths: [B] events of each context; 0 where it is empty.
    target_domains: [B] the domain that is queried: it becomes the last target of the context, with
        item 0, for a target is never an input.
    domain_count: D.
    times: [N + B] of the events in seconds, and of the query after each context; None: the views
        have no intervals.
    views: those that are read; the other one is left empty.
    """
    ends = np.cumsum(lengths)
    items, domains = np.insert(items, ends, 0), np.insert(domains, ends, target_domains)
    return _pack(
        items, domains, lengths + 1, items[:, None][:, :0], domain_count, times=times, views=views
    )


def _pack(
    items: np.ndarray,
    domains: np.ndarray,
    lengths: np.ndarray,
    negatives: np.ndarray,
    domain_count: int,
    mim_users: np.ndarray | None = None,
    trained: np.ndarray | None = None,
    times: np.ndarray | None = None,
    views: tuple[str, ...] = VIEWS,
) -> Batch:
    """The batch of B sequences [N] of `lengths` [B], one after the other in time order."""
    users = np.repeat(np.arange(len(lengths)), lengths)
    order = np.argsort(domains, kind="stable")  # by domain, user, time
    pairs = np.stack([domains[order], users[order]])
    pair_lengths = run_lengths(pairs)
    pair_starts = np.cumsum(pair_lengths) - pair_lengths
    counts = np.bincount(domains, minlength=domain_count)
    canonical = np.empty(len(order), dtype=np.int64)  # canonical index of each event
    canonical[order] = np.arange(len(order))
    trained_counts = counts
    if trained is not None:
        trained = trained[order]
        trained_counts = np.bincount(domains[order][trained], minlength=domain_count)
    last = canonical[np.cumsum(lengths) - 1]  # of each user
    last_order = np.argsort(last)
    last_rows = np.empty_like(last_order)
    last_rows[last_order] = np.arange(len(last))
    by_domain = None if times is None else times[order]
    in_place = np.arange(len(order))
    makers = {
        "cross": lambda: _view(items, domains, lengths, order, times),
        "single": lambda: _view(items[order], domains[order], pair_lengths, in_place, by_domain),
    }
    made = {name: make() if name in views else NO_VIEW for name, make in makers.items()}
    mim_pairs, mim_sizes = _mim_pairs(pairs[0, pair_starts], pair_lengths, domain_count, mim_users)
    return Batch(
        targets=torch.from_numpy(items[order]),
        negatives=torch.from_numpy(negatives[order]),
        counts=counts.tolist(),
        domain_counts=torch.from_numpy(counts),
        trained=None if trained is None else torch.from_numpy(trained.astype(np.float32)),
        trained_counts=torch.from_numpy(trained_counts),
        last_targets=torch.from_numpy(last[last_order]),
        last_counts=np.bincount(domains[order][last], minlength=len(counts)).tolist(),
        last_rows=torch.from_numpy(last_rows),
        pair_lengths=torch.from_numpy(pair_lengths),
        mim_pairs=mim_pairs,
        mim_sizes=mim_sizes,
        **made,
    )


def _mim_pairs(
    pair_domains: np.ndarray,
    pair_lengths: np.ndarray,
    domain_count: int,
    mim_users: np.ndarray | None,
) -> tuple[list[tuple[int, Tensor]], list[list[int]]]:
    """The (domain, user) pairs that SC-MIM compares, and how many each process has.

    A domain takes part where at least two users have two targets or more: (domain, the rows of
    these users' pairs) for each, and per process the numbers of such users [P, D] `mim_users`
    (None: there is one process).
    """
    eligible = np.flatnonzero(pair_lengths >= 2)
    domains = pair_domains[eligible]
    if mim_users is None:
        mim_users = np.bincount(domains, minlength=domain_count)[None]
    compared = np.flatnonzero(mim_users.sum(0) >= 2)
    pairs = [(int(domain), torch.from_numpy(eligible[domains == domain])) for domain in compared]
    return pairs, mim_users[:, compared].tolist()


def _view(
    items: np.ndarray, domains: np.ndarray, lengths: np.ndarray, order: np.ndarray,
    times: np.ndarray | None,
) -> View:  # fmt: skip
    """Shift the targets by one inside each sequence of `lengths` and lay them out in tiles.

    `order` holds the index of each canonical target among the tokens.
    """
    positions = positions_in_runs(lengths)
    inputs = np.where(positions == 0, 0, np.roll(items, 1))
    tiles, slots = attention_tiles(lengths)

    def lay_out(values: np.ndarray, empty: int = 0) -> Tensor:
        filled = np.full(slot_count(tiles), empty, dtype=np.int64)
        filled[slots] = values
        return torch.from_numpy(filled)

    return View(
        inputs=lay_out(inputs),
        positions=lay_out(positions),
        reversed_positions=lay_out(np.repeat(lengths, lengths) - 1 - positions),
        domains=lay_out(domains),
        intervals=None if times is None else lay_out(time_intervals(times, positions)),
        sequence_ids=lay_out(np.repeat(np.arange(len(lengths)), lengths), empty=len(lengths)),
        sequences=len(lengths),
        tiles=tiles,
        target_slots=torch.from_numpy(slots[order]),
    )


def time_intervals(times: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[N] seconds from the event before in its sequence to each event; −1 for a first one.

    times, positions: [N] of events, one sequence after the other, positions from 0 in each.
    """
    return np.where(positions == 0, -1, np.diff(times, prepend=0).clip(min=0))
