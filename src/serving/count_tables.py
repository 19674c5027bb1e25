"""The counts of a bundle: what the count models of a run know, summed up to the time of export.

A count model holds when each event was. A bundle holds sums over all users alone: counts decay at a
rate that is the same for all events of an item, so their sum at one time gives that at every later
time.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from src.baselines.covisit import FOLLOWERS, Covisit
from src.baselines.decayed_counts import LONGER
from src.baselines.markov import Markov
from src.baselines.recent import Recent
from src.dataset.batching.ragged import expand_ranges

RECENT = tuple(f"recent_x{longer}" for longer in LONGER)  # columns of items.parquet
FOLLOWED = tuple(f"x{longer}" for longer in LONGER[: len(Covisit.feature_names)])


def recent_columns(recent: Recent, time: int) -> dict[str, np.ndarray]:
    """{column: [V] float64} the decayed count of each item before `time`, with the half-life of its
    domain and longer ones."""
    domains, columns = range(len(recent.half_lives)), {}
    for name, longer in zip(RECENT, LONGER, strict=True):
        parts = [
            recent.counts.at(
                domain, np.array([time]), recent.half_lives[domain] * longer, slice(None)
            )[0]
            for domain in domains
        ]
        columns[name] = np.concatenate(parts)
    return columns


def transitions_table(markov: Markov) -> pa.Table:
    """(item, next, count): how often an item directly followed another one of its domain."""
    counts = markov.transitions.tocoo()
    counts.sum_duplicates()
    return pa.table(
        {
            "item": counts.row.astype(np.int32),
            "next": counts.col.astype(np.int32),
            "count": counts.data.astype(np.int32),
        }
    )


def followers_table(covisit: Covisit, time: int) -> pa.Table:
    """(item, follower, x1, …): how often an item came soon after another one before `time`, decayed
    with the half-life of the follower's domain and a longer one."""
    ends = covisit.starts[1:]
    pairs, leader = expand_ranges(np.maximum(covisit.starts[:-1], ends - FOLLOWERS), ends)
    follower = covisit.followers[pairs]
    age = (time // covisit.tick - covisit.ticks[pairs]) * float(covisit.tick)
    half_life = covisit.half_lives[covisit.dataset.item_domains[follower]]
    size = len(ends)
    columns: dict[str, Any] = {}
    for name, longer in zip(FOLLOWED, LONGER, strict=False):
        weights = np.exp2(-age / (half_life * longer))
        summed = csr_array((weights, (leader, follower)), shape=(size, size))
        summed.sum_duplicates()
        columns[name] = summed.data
    cells = summed.tocoo()  # the same for each half-life
    where = {"item": cells.row.astype(np.int32), "follower": cells.col.astype(np.int32)}
    return pa.table(where | columns)
