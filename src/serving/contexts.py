"""What is known of each user who is served: the events of a dataset, and new ones after them.

The context of a user is what make_dataset.py would make of the log with the new events in it: in
order of time, without events that the dataset has already, with its `--dedup`, `--max_len` and
`--tie_order`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.baselines.decayed_counts import tick_of
from src.dataset.batching.ragged import expand_ranges, positions_in_runs
from src.dataset.store.folder import ARRAYS, TRAIN, Dataset
from src.dataset.store.tie_order import tie_hash


@dataclass(frozen=True)
class Contexts(Dataset):
    """The events of n users as a dataset, with the catalogue of another one and its counts."""

    catalogue: Dataset = field(kw_only=True)
    ids: pa.ChunkedArray = field(kw_only=True)  # [n] user ids of the log
    repeated: int = field(kw_only=True)  # new events left out: known already, or by --dedup

    @property
    def training_counts(self) -> np.ndarray:  # type: ignore[override]
        return self.catalogue.training_counts

    @property
    def item_domains(self) -> np.ndarray:  # type: ignore[override]
        return self.catalogue.item_domains

    @property
    def item_ids(self) -> pa.ChunkedArray:  # type: ignore[override]
        return self.catalogue.item_ids

    @property
    def user_ids(self) -> pa.ChunkedArray:  # type: ignore[override]
        return self.ids


@dataclass(frozen=True)
class NewEvents:
    """E events of known items, by user, and in the order in which they were logged.

    Users of the dataset have its numbers; those of `user_ids` have the numbers after them.
    """

    user_ids: pa.Array  # ids of the users that the dataset does not have, ascending
    named: np.ndarray  # numbers of all users that the events name, ascending
    users: np.ndarray  # [E] ascending
    items: np.ndarray  # [E]
    domains: np.ndarray  # [E]
    times: np.ndarray  # [E] seconds since 1970


@dataclass(frozen=True)
class History:
    """The users that can be served: those of a dataset, which may have none, then those that only
    the new events have."""

    dataset: Dataset
    new: NewEvents | None = None

    @property
    def users(self) -> int:
        return self.dataset.users + (len(self.new.user_ids) if self.new else 0)

    @cached_property
    def user_ids(self) -> pa.ChunkedArray:
        """[users] ids in the log, by number."""
        known = self.dataset.user_ids
        if not self.new:
            return known
        return pa.chunked_array([*known.chunks, pc.cast(self.new.user_ids, known.type)], known.type)

    @cached_property
    def tick(self) -> int:
        """Seconds of a tick (src/baselines/decayed_counts.py)."""
        return tick_of(self.dataset)

    @cached_property
    def end(self) -> int:
        """The first second when every event is known."""
        newest = self.dataset.times.max(initial=0)
        if self.new:
            newest = max(newest, self.new.times.max(initial=0))
        return int(newest) + self.tick

    def contexts(self, users: np.ndarray) -> Contexts:
        """The events of the users of these numbers [n], each in order."""
        events = self._old_events(users)
        repeated = 0
        if self.new:
            new = self._new_events(users)
            if len(new.rows):
                events, repeated = self._merged(events, new, users)
        lengths = np.bincount(events.rows, minlength=len(users))
        return Contexts(
            folder=self.dataset.folder,
            card=self.dataset.card,
            domain_names=self.dataset.domain_names,
            item_starts=self.dataset.item_starts,
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            items=events.items.astype(ARRAYS["items"]),
            domains=events.domains.astype(ARRAYS["domains"]),
            times=events.times,
            split=np.full(len(events.rows), TRAIN, dtype=ARRAYS["split"]),
            catalogue=self.dataset,
            ids=self.user_ids.take(pa.array(users)),
            repeated=repeated,
        )

    def _old_events(self, users: np.ndarray) -> "_Events":
        offsets, known = self.dataset.offsets, users < self.dataset.users
        user = np.where(known, users, 0)
        starts = np.where(known, offsets[user], 0)
        ends = np.where(known, offsets[np.minimum(user + 1, self.dataset.users)], 0)
        events, rows = expand_ranges(starts, ends)
        data = self.dataset
        return _Events(rows, data.items[events], data.domains[events], data.times[events])

    def _new_events(self, users: np.ndarray) -> "_Events":
        new = self.new
        assert new is not None
        starts, ends = (np.searchsorted(new.users, users, side) for side in ("left", "right"))
        events, rows = expand_ranges(starts, ends)
        return _Events(rows, new.items[events], new.domains[events], new.times[events])

    def _merged(self, old: "_Events", new: "_Events", users: np.ndarray) -> tuple["_Events", int]:
        """The events of both in order, and how many of the new ones are left out."""
        options = self.dataset.card.get("options", {})
        dedup = options.get("dedup", "none")
        is_new = np.repeat([False, True], [len(old.rows), len(new.rows)])
        both = _Events(*map(np.concatenate, zip(old.arrays, new.arrays, strict=True)))
        kept = np.flatnonzero(_first_of_equals(both, is_new, among_new=dedup == "exact"))
        kept = kept[np.lexsort((kept, both.times[kept], both.rows[kept]))]
        if options.get("tie_order", "hashed") == "hashed":
            self._order_ties(both, is_new, kept, users)
        item = both.rows[kept] * np.int64(self.dataset.item_rows) + both.items[kept]
        if dedup == "consecutive":
            kept = kept[np.append(True, item[1:] != item[:-1])]
        elif dedup == "repeats":
            kept = kept[np.sort(np.unique(item, return_index=True)[1])]
        repeated = len(new.rows) - int(is_new[kept].sum())
        if longest := options.get("max_len", 0):
            lengths = np.bincount(both.rows[kept], minlength=len(users))
            later = np.repeat(lengths, lengths) - 1 - positions_in_runs(lengths)
            kept = kept[later < longest]
        return both.of(kept), repeated

    def _order_ties(
        self, events: "_Events", is_new: np.ndarray, order: np.ndarray, users: np.ndarray
    ) -> None:
        """Put events of one user and time in the order of their hashes, in place, where one of them
        is new: the old ones have it."""
        row, time = events.rows[order], events.times[order]
        edges = np.flatnonzero((row[1:] != row[:-1]) | (time[1:] != time[:-1])) + 1
        starts = np.concatenate([[0], edges])
        for start, end in pairwise([*starts.tolist(), len(order)]):
            if end - start > 1 and is_new[order[start:end]].any():
                user_id = self.user_ids[int(users[row[start]])].as_py()
                order[start:end] = sorted(
                    order[start:end].tolist(), key=lambda event: self._tie(events, event, user_id)
                )

    def _tie(self, events: "_Events", event: int, user_id: str) -> tuple[str, int]:
        """What orders an event among those of its user and time."""
        item, domain = int(events.items[event]), int(events.domains[event])
        item_id = self.dataset.item_ids[item - 1].as_py()
        return tie_hash(user_id, item_id, self.dataset.domain_names[domain]), item


@dataclass(frozen=True)
class _Events:
    """Events of the users of a block: the arrays of a dataset, with the row of the user."""

    rows: np.ndarray  # [E]
    items: np.ndarray  # [E]
    domains: np.ndarray  # [E]
    times: np.ndarray  # [E]

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.rows, self.items, self.domains, self.times

    def of(self, index: np.ndarray) -> "_Events":
        """The events of this index."""
        return _Events(*(array[index] for array in self.arrays))


def _first_of_equals(events: _Events, is_new: np.ndarray, among_new: bool) -> np.ndarray:
    """[E] whether an event stays: an old one, or one without an equal (user, item and time) among
    the old ones, or `among_new` also among the new ones before it."""
    order = np.lexsort((is_new, events.items, events.times, events.rows))  # stable: old ones first
    keys = np.stack([array[order] for array in (events.rows, events.items, events.times)])
    starts = np.append(True, (np.diff(keys) != 0).any(axis=0))
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    new = is_new[order]
    stays = np.empty(len(order), dtype=bool)
    stays[order] = ~new | (starts if among_new else new[first])
    return stays
