"""Held-out events of a dataset that were training events of another dataset of the same log.

A run that starts from a former run's weights must not be scored on events that those weights were
trained on. docs/retraining.md says when that can happen.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from src.dataset.store.folder import TEST, TRAIN, VALID, Dataset, user_chunks

NEVER = np.iinfo(np.int64).max
EVENT = ["user", "item_id", "time", "copy"]


def trained_targets(former: Dataset, now: Dataset) -> dict[str, int]:
    """{"valid": n, "test": n}: targets of `now` that are training events of `former`.

    Users and items are matched by the ids of the log; events with the same user, item and time in
    their order.
    """
    in_former = _indices(now.user_ids, former.user_ids)  # [users of now]
    bound_now = _first_targets(now)  # [users of now]
    bound_former = np.full(former.users, NEVER)
    both = np.flatnonzero(in_former >= 0)
    bound_former[in_former[both]] = bound_now[both]
    seen = _users_trained_late(former, bound_former)
    seen &= np.isin(np.arange(former.users), in_former)
    in_now = np.full(former.users, -1)
    in_now[in_former[both]] = both
    users = np.flatnonzero(seen)  # few: the others have no training event that late
    before = _late_events(former, users, bound_former)
    before["user"] = in_now[before["user"]]
    after = _late_events(now, np.sort(in_now[users]), bound_now)
    trained = before.loc[before["split"] == TRAIN, EVENT]
    held = after.merge(trained, on=EVENT)["split"]
    return {"valid": int((held == VALID).sum()), "test": int((held == TEST).sum())}


def _indices(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """[ids] the index of each in `among`; −1 where it is missing."""
    strings = (pc.cast(part, pa.large_string()).combine_chunks() for part in (ids, among))
    indices = pc.index_in(*strings)
    return pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _first_targets(data: Dataset) -> np.ndarray:
    """[users] the time of each user's first held-out event; NEVER without one."""
    first = np.full(data.users, NEVER)
    for users, events in _blocks(data):
        times = np.where(data.split[events] == TRAIN, NEVER, data.times[events])
        starts = data.offsets[users.start : users.stop] - events.start
        first[users] = np.minimum.reduceat(times, starts)
    return first


def _users_trained_late(data: Dataset, bound: np.ndarray) -> np.ndarray:
    """[users] whether the user has a training event at the time `bound` [users] or later."""
    trained_late = np.zeros(data.users, dtype=bool)
    for users, events in _blocks(data):
        starts = data.offsets[users.start : users.stop] - events.start
        times = np.where(data.split[events] == TRAIN, data.times[events], -NEVER)
        trained_late[users] = np.maximum.reduceat(times, starts) >= bound[users]
    return trained_late


def _blocks(data: Dataset) -> Iterator[tuple[slice, slice]]:
    """Chunks of users, and their events."""
    for users in user_chunks(data.offsets):
        yield users, slice(int(data.offsets[users.start]), int(data.offsets[users.stop]))


def _late_events(data: Dataset, users: np.ndarray, bound: np.ndarray) -> pd.DataFrame:
    """The events of `users` from the time `bound` [all users] on, in order.

    Columns user (dense), item_id, time, split, and copy: the number of equal events before it.
    """
    lengths = data.offsets[users + 1] - data.offsets[users]
    owner = np.repeat(users, lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    events = data.offsets[owner] + within
    late = data.times[events] >= bound[owner]
    events, owner = events[late], owner[late]
    ids = data.item_ids.take(pa.array(data.items[events].astype(np.int64) - 1))
    columns = {
        "user": owner,
        "item_id": pc.cast(ids, pa.string()).to_pandas().astype(object),
        "time": data.times[events],
        "split": data.split[events],
    }
    table = pd.DataFrame(columns)
    return table.assign(copy=table.groupby(["user", "item_id", "time"]).cumcount())
