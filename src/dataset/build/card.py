"""The data card: counts of a dataset and an audit of its split, from its arrays."""

from collections import Counter

import numpy as np

from src.config.dataset_settings import as_date
from src.dataset.build.notes import FIRST_YEAR, data_notes, date_form, read_as_dates
from src.dataset.build.sequences import Sequences
from src.dataset.store.content_hash import content_hash
from src.dataset.store.folder import ARRAYS, FORMAT, TEST, TRAIN, VALID
from src.dataset.store.repeats import is_repeat

NEVER = np.iinfo(np.int64).min


def make_card(
    sequences: Sequences,
    *,
    provenance: dict,
    options: dict,
    dropped: dict,
    named_by_files: bool = False,
) -> dict:
    """The content of `data_card.json`.

    `provenance` holds data_name, strd_ym, cutoff, source, notes, raw_files, rows and rejected;
    rows is the number of events in the raw log, so that rows = events + the sum of `dropped`.
    `named_by_files`: whether the names of files are the domains.
    """
    totals = count_totals(sequences)
    counts = count_parts(sequences, totals)
    notes, similar_ids = data_notes(sequences, totals, counts, named_by_files)
    return {
        "format": FORMAT,
        **provenance,
        "options": options,
        "tie_order": options["tie_order"],
        "users": len(sequences.user_ids),
        "items": len(sequences.item_ids),
        "events": len(sequences.times),
        "domains": domain_counts(sequences, totals),
        "overlap": overlap(sequences.domain_names, totals["active"]),
        "sequence_length": sequence_length(sequences),
        "time_range": {"first": as_date(totals["first"]), "last": as_date(totals["last"])},
        "repeats": _share(counts["repeats"], len(sequences.items)),
        "split": {
            "protocol": options["split"],
            **{name: as_date(time) for name, time in sequences.cuts.items()},
            **split_counts(sequences, counts),
        },
        "audit": audit(counts, len(sequences.items)),
        "similar_ids": similar_ids,
        "data_notes": notes,
        "dropped": dropped,
        "sha256": hash_of(sequences),
    }


# --- two passes over the arrays: the second needs totals of the first --------------------------


def count_totals(sequences: Sequences) -> dict:
    """First pass: totals that the second pass needs, and others that need no second one.

    active [D, D]: users active in both domains; events [D]; trained [items + 1]: whether an item
    has a training event; newest: time of the last training event; first, last: times; early: events
    of 1970; date_form: the form of dates as which the first and the last time read; shared_users:
    users active in several domains; elsewhere [D]: those of them that are active in a domain.
    """
    domains = len(sequences.domain_names)
    active = np.zeros((domains, domains), dtype=np.int64)
    events = np.zeros(domains, dtype=np.int64)
    trained = np.zeros(len(sequences.item_ids) + 1, dtype=bool)
    elsewhere = np.zeros(domains, dtype=np.int64)
    newest, first, last = NEVER, np.iinfo(np.int64).max, NEVER
    early = shared_users = 0
    for part in sequences.parts():
        per_user = events_per_domain(part)  # [users, D]
        present = (per_user > 0).astype(np.float64)  # exact, and a fast product
        active += (present.T @ present).astype(np.int64)
        events += per_user.sum(0)
        several = present.sum(1) > 1
        shared_users += int(several.sum())
        elsewhere += present[several].sum(0).astype(np.int64)
        training = part.split == TRAIN
        trained[part.items[training]] = True
        newest = max(newest, part.times[training].max(initial=NEVER))
        first, last = min(first, part.times.min()), max(last, part.times.max())
        early += int((part.times < FIRST_YEAR).sum()) if first < FIRST_YEAR else 0
    return {
        "active": active, "events": events, "trained": trained, "newest": newest,
        "first": first, "last": last, "early": early, "date_form": date_form(first, last),
        "shared_users": shared_users, "elsewhere": elsewhere,
    }  # fmt: skip


def count_parts(sequences: Sequences, totals: dict) -> Counter:
    """Second pass: counts by the names that `split_counts` and `audit` read; targets by (split,
    domain)."""
    counts: Counter = Counter()
    cold_items = np.zeros(len(sequences.item_ids) + 1, dtype=bool)
    for part in sequences.parts():
        repeats = is_repeat(part.users, part.items)
        counts["repeats"] += int(repeats.sum())
        counts.update(tie_counts(part))
        counts.update(target_counts(part))
        if form := totals["date_form"]:
            counts["dates"] += int(read_as_dates(part.times, form).sum())
        targets = np.flatnonzero(part.split == TEST)
        counts.update(suspicious_targets(part, targets, repeats, totals["newest"]))
        counts["test_targets"] += len(targets)
        cold = ~totals["trained"][part.items[targets]]
        cold_items[part.items[targets][cold]] = True
        known_users = np.bincount(part.users[part.split == TRAIN], minlength=len(part.user_ids))
        counts["cold_test_targets"] += int(cold.sum())
        counts["cold_test_users"] += int((known_users[part.users[targets]] == 0).sum())
    counts["cold_test_items"] = int(cold_items.sum())
    return counts


def events_per_domain(part: Sequences) -> np.ndarray:
    """[users, D] the events of each user in each domain."""
    users, width = len(part.user_ids), len(part.domain_names)
    cells = part.users * width + part.domains
    return np.bincount(cells, minlength=users * width).reshape(users, width)


def tie_counts(part: Sequences) -> dict[str, int]:
    """Events that share user and time with another; those in groups that span domains; repetitions
    of the same user, item and time."""
    starts = np.flatnonzero(~same_time_as_before(part))
    sizes = np.diff(np.append(starts, len(part.items)))  # of each group of equal user and time
    across = np.minimum.reduceat(part.domains, starts) != np.maximum.reduceat(part.domains, starts)
    tied = np.repeat(sizes > 1, sizes)  # [events]
    group = np.repeat(np.arange(len(starts)), sizes)[tied]
    distinct = len(np.unique(group * (len(part.item_ids) + 1) + part.items[tied]))
    return {
        "ties": int(tied.sum()),
        "ties_across_domains": int(sizes[across].sum()),
        "duplicates": int(tied.sum()) - distinct,
    }


def target_counts(part: Sequences) -> dict[tuple[int, int], int]:
    """{(split, domain): targets}."""
    width = len(part.domain_names)
    return {
        (split, d): int(count)
        for split in (VALID, TEST)
        for d, count in enumerate(np.bincount(part.domains[part.split == split], minlength=width))
    }


def suspicious_targets(
    part: Sequences, targets: np.ndarray, repeats: np.ndarray, newest: int
) -> dict[str, int]:
    """Counts of the test targets (at the indices `targets`) that can flatter a model.

    future_leaks: older than a training event of any user (`newest` is the time of the last one);
    own_future_leaks: the same user has a training event at their time or later;
    same_time_context: they follow an event of the same user and time; repeat_targets: the user had
    their item before (`repeats` [events]).
    """
    times = part.times
    own_newest = np.maximum.reduceat(  # [users] time of each user's newest training event
        np.where(part.split == TRAIN, times, NEVER), part.offsets[:-1]
    )
    suspicious = {
        "future_leaks": newest > times[targets],
        "own_future_leaks": own_newest[part.users[targets]] >= times[targets],
        "same_time_context": same_time_as_before(part)[targets],
        "repeat_targets": repeats[targets],
    }
    return {name: int(mask.sum()) for name, mask in suspicious.items()}


def same_time_as_before(part: Sequences) -> np.ndarray:
    """[events] whether the user's previous event has the same time."""
    same = np.concatenate([[False], part.times[1:] == part.times[:-1]])
    same[part.offsets[:-1]] = False
    return same


# --- the card's entries -------------------------------------------------------------------------


def domain_counts(sequences: Sequences, totals: dict) -> dict[str, dict]:
    """{domain: users, items, events, mean_length}; the mean is over its active users."""
    users = totals["active"].diagonal()  # [D]
    items = np.bincount(sequences.item_domains, minlength=len(users))
    return {
        name: {
            "users": int(users[d]),
            "items": int(items[d]),
            "events": int(totals["events"][d]),
            "mean_length": round(float(totals["events"][d] / users[d]), 4),
        }
        for d, name in enumerate(sequences.domain_names)
    }


def overlap(names: list[str], active: np.ndarray) -> dict[str, dict[str, int]]:
    """{domain: {domain: users active in both}}; the diagonal has the users of the domain."""
    return {a: {b: int(active[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)}


def sequence_length(sequences: Sequences) -> dict[str, float]:
    """Events per user: mean, percentiles and maximum."""
    lengths = np.diff(sequences.offsets)
    return {
        "mean": round(float(lengths.mean()), 4),
        "p50": float(np.percentile(lengths, 50)),
        "p95": float(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
    }


def split_counts(sequences: Sequences, counts: Counter) -> dict:
    """Targets in all and by domain, and test targets without training data.

    cold_test_items: distinct items of test targets without a training event; cold_test_targets:
    the test targets of these items; cold_test_users: test targets whose user has no training event.
    """
    targets = {
        name: {"valid": counts[VALID, d], "test": counts[TEST, d]}
        for d, name in enumerate(sequences.domain_names)
    }
    return {
        "valid_events": sum(count["valid"] for count in targets.values()),
        "test_events": sum(count["test"] for count in targets.values()),
        "targets": targets,
        **{name: counts[name] for name in ("cold_test_items", *COLD)},
    }


COLD = ("cold_test_targets", "cold_test_users")
SHARES_OF_EVENTS = ("ties", "ties_across_domains")
SHARES_OF_TARGETS = ("future_leaks", "own_future_leaks", "same_time_context", "repeat_targets")


def audit(counts: Counter, events: int) -> dict[str, dict]:
    """What can make results look better than they are: numbers, and shares of the events or of
    the test targets."""
    targets = counts["test_targets"]
    return {
        **{name: _share(counts[name], events) for name in SHARES_OF_EVENTS},
        **{name: _share(counts[name], targets) for name in SHARES_OF_TARGETS},
        "duplicates": _share(counts["duplicates"], events),
    }


def hash_of(sequences: Sequences) -> str:
    """The `content_hash` of the sequences."""
    items = np.bincount(sequences.item_domains, minlength=len(sequences.domain_names))
    return content_hash(
        sequences.domain_names,
        lambda: sequences.item_ids.chunks,
        lambda: sequences.user_ids.chunks,
        np.concatenate([[1], 1 + np.cumsum(items)]),
        {name: getattr(sequences, name) for name in [*ARRAYS, "offsets"]},
    )


def _share(events: int, total: int) -> dict[str, float]:
    return {"events": int(events), "share": round(int(events) / total, 6) if total else 0.0}
