"""The data card: what a dataset folder holds, counted from its arrays, and an audit of it."""

import hashlib
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from src.dataset.folder import ARRAYS, FORMAT, TEST, TRAIN, VALID
from src.dataset.sequences import Sequences


def make_card(
    sequences: Sequences, *, provenance: dict, options: dict, rows: int, dropped: dict[str, int]
) -> dict:
    """The content of `data_card.json`.

    `provenance` holds data_name, strd_ym, cutoff, source, notes and raw_files; `rows` is the number
    of events in the raw log, so that rows = events + the sum of `dropped`.
    """
    times = sequences.times
    return {
        "format": FORMAT,
        **provenance,
        "options": options,
        "tie_order": options["tie_order"],
        "rows": rows,
        "users": len(sequences.user_ids),
        "items": len(sequences.item_ids),
        "events": len(times),
        "domains": domain_counts(sequences),
        "overlap": overlap(sequences),
        "sequence_length": sequence_length(sequences),
        "time_range": {"first": as_date(times.min()), "last": as_date(times.max())},
        "repeats": repeats(sequences),
        "split": {"protocol": options["split"], **split_counts(sequences)},
        "audit": audit(sequences),
        "dropped": dropped,
        "sha256": content_hash(sequences),
    }


def as_date(unix_time: int) -> str:
    """A time as ISO 8601, UTC."""
    return datetime.fromtimestamp(int(unix_time), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def events_per_domain(sequences: Sequences) -> np.ndarray:
    """[users, D] how many events a user has in each domain."""
    users, width = len(sequences.user_ids), len(sequences.domain_names)
    cells = sequences.users * width + sequences.domains
    return np.bincount(cells, minlength=users * width).reshape(users, width)


def domain_counts(sequences: Sequences) -> dict[str, dict]:
    """{domain: users, items, events, mean_length}; a mean over the users active there."""
    per_user = events_per_domain(sequences)  # [users, D]
    users = (per_user > 0).sum(0)  # [D]
    events = per_user.sum(0)
    items = np.bincount(sequences.item_domains, minlength=len(users))
    return {
        name: {
            "users": int(users[d]),
            "items": int(items[d]),
            "events": int(events[d]),
            "mean_length": round(float(events[d] / users[d]), 4),
        }
        for d, name in enumerate(sequences.domain_names)
    }


def overlap(sequences: Sequences) -> dict[str, dict[str, int]]:
    """{domain: {domain: users active in both}}; on the diagonal the users of the domain."""
    active = (events_per_domain(sequences) > 0).astype(np.int64)  # [users, D]
    shared = active.T @ active  # [D, D]
    names = sequences.domain_names
    return {a: {b: int(shared[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)}


def sequence_length(sequences: Sequences) -> dict[str, float]:
    """Events of a user, over the users."""
    lengths = np.diff(sequences.offsets)
    return {
        "mean": round(float(lengths.mean()), 4),
        "p50": float(np.percentile(lengths, 50)),
        "p95": float(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
    }


def repeats(sequences: Sequences) -> dict[str, float]:
    """Events whose user had an event of the same item before."""
    pairs = sequences.users * (len(sequences.item_ids) + 1) + sequences.items
    return _share(len(pairs) - len(np.unique(pairs)), len(pairs))


def split_counts(sequences: Sequences) -> dict[str, int]:
    """Targets, and distinct test items that no training event has."""
    split, items = sequences.split, sequences.items
    cold = np.setdiff1d(items[split == TEST], items[split == TRAIN])
    return {
        "valid_events": int((split == VALID).sum()),
        "test_events": int((split == TEST).sum()),
        "cold_test_items": len(cold),
    }


def audit(sequences: Sequences) -> dict[str, dict]:
    """What can make results look better than they are, each as events and share.

    ties: events that share user and time with another; ties_across_domains: those in groups that
    span domains; future_leaks: test events that an event of anybody's training data is later than
    (the share is of the test events); duplicates: events that repeat user, item and time of
    another, the first not counted.
    """
    users, times, domains = sequences.users, sequences.times, sequences.domains
    starts = np.flatnonzero(
        np.concatenate([[True], (users[1:] != users[:-1]) | (times[1:] != times[:-1])])
    )  # first event of each group of equal user and time
    sizes = np.diff(np.append(starts, len(users)))
    across = np.minimum.reduceat(domains, starts) != np.maximum.reduceat(domains, starts)
    group = np.repeat(np.arange(len(starts)), sizes)  # [events]
    distinct = len(np.unique(group * (len(sequences.item_ids) + 1) + sequences.items))
    test_times = times[sequences.split == TEST]
    last_training = times[sequences.split == TRAIN].max()
    return {
        "ties": _share(sizes[sizes > 1].sum(), len(users)),
        "ties_across_domains": _share(sizes[across].sum(), len(users)),
        "future_leaks": _share((test_times < last_training).sum(), len(test_times)),
        "duplicates": _share(len(users) - distinct, len(users)),
    }


def content_hash(sequences: Sequences) -> str:
    """SHA-256 of the content: names and ids as lengths (int64) and bytes, arrays little-endian."""
    digest = hashlib.sha256()
    for strings in (
        pa.chunked_array([sequences.domain_names], pa.string()),
        sequences.item_ids,
        sequences.user_ids,
    ):
        whole = pa.concat_arrays(strings.cast(pa.large_binary()).chunks)
        offsets = np.frombuffer(whole.buffers()[1], np.int64)[: len(whole) + 1]
        digest.update(np.int64(len(whole)).tobytes())
        digest.update(np.diff(offsets).astype("<i8").tobytes())
        digest.update(memoryview(whole.buffers()[2])[offsets[0] : offsets[-1]])
    digest.update(sequences.item_domains.astype("<i2").tobytes())
    for name, kind in {**ARRAYS, "offsets": "int64"}.items():
        array = getattr(sequences, name)
        digest.update(array.astype(np.dtype(kind).newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _share(events: int, of: int) -> dict[str, float]:
    return {"events": int(events), "share": round(int(events) / of, 6) if of else 0.0}
