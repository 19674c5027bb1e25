"""Logs in memory, and the notes of the cards that are made of them."""

import numpy as np
import pyarrow as pa

from src.dataset.build.card import make_card
from src.dataset.build.sequences import Sequences
from src.dataset.store.folder import TEST, TRAIN, VALID
from tests.support.data_logs import MONTH


def sequences_from(rows: list[tuple]) -> Sequences:
    """The sequences of (user, item, domain, time) rows, split by leave_one_out."""
    names = sorted({row[2] for row in rows})
    items = sorted({(row[2], row[1]) for row in rows})
    users = sorted({row[0] for row in rows})
    number = {key: n for n, key in enumerate(items, start=1)}
    events = sorted((users.index(u), time, number[d, i], names.index(d)) for u, i, d, time in rows)
    owners, times, of_items, domains = map(np.array, zip(*events, strict=True))
    sizes = np.bincount(owners)
    left = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(events)) - 1
    split = np.where(left == 0, TEST, np.where(left == 1, VALID, TRAIN))
    split[sizes[owners] < 3] = TRAIN
    return Sequences(
        domain_names=names,
        item_ids=pa.chunked_array([[item for _, item in items]], pa.string()),
        item_domains=np.array([names.index(domain) for domain, _ in items], dtype=np.int16),
        item_counts=pa.chunked_array([np.bincount(of_items, minlength=len(items) + 1)[1:]]),
        user_ids=pa.chunked_array([users], pa.string()),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        items=of_items.astype(np.int32),
        domains=domains.astype(np.int16),
        times=times.astype(np.int64),
        split=split.astype(np.int8),
    )


def notes_of(rows: list[tuple], named_by_files: bool = False) -> dict[str, dict]:
    """{key: entry} of the card's notes, without the one on tiny domains, as nearly all here are."""
    options = {"tie_order": "hashed", "split": "leave_one_out"}
    card = make_card(
        sequences_from(rows), provenance={}, options=options, dropped={},
        named_by_files=named_by_files,
    )  # fmt: skip
    notes = {entry["key"]: entry for entry in card["data_notes"]}
    notes.pop("tiny_domains", None)
    return notes


def plain_log(users: int = 30, events: int = 6, domains: tuple = ("Books", "Toys"), start=MONTH):
    """A log in order: every user in every domain, times some hours apart."""
    return [
        (f"u{n:02d}", f"i{n * 7 + e * 5 % 11:02d}", domains[(n + e) % len(domains)],
         start + 3601 * (n + 40 * e))
        for n in range(users)
        for e in range(events)
    ]  # fmt: skip


def renamed(column: int, change, rows=None) -> list[tuple]:
    """The plain log with a column changed by a function of (its value, the row's number)."""
    rows = rows or plain_log()
    return [(*r[:column], change(r[column], n), *r[column + 1 :]) for n, r in enumerate(rows)]
