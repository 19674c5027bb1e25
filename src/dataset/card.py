"""The data card: what a dataset folder holds, counted from its arrays, and an audit of it."""

import hashlib

import numpy as np
import pyarrow as pa

from src.dataset.folder import ARRAYS, FORMAT, TEST, TRAIN, VALID
from src.dataset.sequences import Sequences
from src.dataset.settings import as_date


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
        "split": {
            "protocol": options["split"],
            **{name: as_date(time) for name, time in sequences.cuts.items()},
            **split_counts(sequences),
        },
        "audit": audit(sequences),
        "dropped": dropped,
        "sha256": content_hash(sequences),
    }


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


def repeated(sequences: Sequences) -> np.ndarray:
    """[events] whether the user had an event of the same item before."""
    pairs = sequences.users * (len(sequences.item_ids) + 1) + sequences.items
    found = np.ones(len(pairs), dtype=bool)
    found[np.unique(pairs, return_index=True)[1]] = False
    return found


def repeats(sequences: Sequences) -> dict[str, float]:
    """Events whose user had an event of the same item before."""
    return _share(repeated(sequences).sum(), len(sequences.items))


def split_counts(sequences: Sequences) -> dict:
    """Targets, whole and by domain, and what of the test no training event knows.

    cold_test_items: distinct items of test targets without a training event; cold_test_targets:
    the test targets of these items; cold_test_users: test targets whose user has no training event.
    """
    split, items, users = sequences.split, sequences.items, sequences.users
    training, test = split == TRAIN, split == TEST
    known_items = np.bincount(items[training], minlength=len(sequences.item_ids) + 1) > 0
    known_users = np.bincount(users[training], minlength=len(sequences.user_ids)) > 0
    cold = ~known_items[items[test]]
    return {
        "valid_events": int((split == VALID).sum()),
        "test_events": int(test.sum()),
        "targets": target_counts(sequences),
        "cold_test_items": len(np.unique(items[test][cold])),
        "cold_test_targets": int(cold.sum()),
        "cold_test_users": int((~known_users[users[test]]).sum()),
    }


def target_counts(sequences: Sequences) -> dict[str, dict[str, int]]:
    """{domain: targets of each split}."""
    names = sequences.domain_names
    counts = {
        name: np.bincount(sequences.domains[sequences.split == part], minlength=len(names))
        for name, part in (("valid", VALID), ("test", TEST))
    }
    return {
        domain: {name: int(count[d]) for name, count in counts.items()}
        for d, domain in enumerate(names)
    }


def audit(sequences: Sequences) -> dict[str, dict]:
    """What can make results look better than they are, each as events and share.

    ties: events that share user and time with another; ties_across_domains: those in groups that
    span domains; duplicates: events that repeat user, item and time of another, the first not
    counted; and what `target_audit` finds.
    """
    users, domains = sequences.users, sequences.domains
    starts = np.flatnonzero(~same_time_as_before(sequences))
    sizes = np.diff(np.append(starts, len(users)))  # of each group of equal user and time
    across = np.minimum.reduceat(domains, starts) != np.maximum.reduceat(domains, starts)
    group = np.repeat(np.arange(len(starts)), sizes)  # [events]
    distinct = len(np.unique(group * (len(sequences.item_ids) + 1) + sequences.items))
    return {
        "ties": _share(sizes[sizes > 1].sum(), len(users)),
        "ties_across_domains": _share(sizes[across].sum(), len(users)),
        **target_audit(sequences),
        "duplicates": _share(len(users) - distinct, len(users)),
    }


def target_audit(sequences: Sequences) -> dict[str, dict]:
    """What is suspicious of test targets, each as events and share of the test targets.

    future_leaks: those that a training event of anybody is later than; own_future_leaks: those
    whose own user has a training event at their time or later; same_time_context: those that have
    an event of their user and time before them; repeat_targets: those whose item the user had
    before.
    """
    times, training = sequences.times, sequences.split == TRAIN
    targets = np.flatnonzero(sequences.split == TEST)
    never = np.iinfo(np.int64).min
    newest = np.maximum.reduceat(  # [users] time of each user's newest training event
        np.where(training, times, never), sequences.offsets[:-1]
    )
    own_newest = newest[sequences.users[targets]]
    found = {
        "future_leaks": newest.max() > times[targets],
        "own_future_leaks": own_newest >= times[targets],
        "same_time_context": same_time_as_before(sequences)[targets],
        "repeat_targets": repeated(sequences)[targets],
    }
    return {name: _share(those.sum(), len(targets)) for name, those in found.items()}


def same_time_as_before(sequences: Sequences) -> np.ndarray:
    """[events] whether the user's event before has the same time."""
    users, times = sequences.users, sequences.times
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    return np.concatenate([[False], same])


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
