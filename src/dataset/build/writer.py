"""Writing a dataset folder: Parquet tables and the data card beside the arrays."""

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from src.dataset.build.card import events_per_domain
from src.dataset.build.sequences import Sequences
from src.dataset.store.card_text import card_markdown

MAX_NAME_LENGTH = 200  # file systems allow 255 bytes


def write_tables(folder: Path, sequences: Sequences, card: dict, commands: dict[str, str]) -> None:
    """Write the tables and, last, the card into a folder that has the arrays; `commands` as
    `card_markdown` shows them."""
    pq.write_table(_item_table(sequences), folder / "items.parquet")
    (folder / "single").mkdir()
    with ExitStack() as files:
        users = files.enter_context(_writer(folder / "users.parquet"))
        cross = files.enter_context(_writer(folder / "cross.parquet"))
        singles = [
            files.enter_context(_writer(folder / "single" / f"{file_name(name)}.parquet"))
            for name in sequences.domain_names
        ]
        for part in sequences.parts():
            users(_user_table(part))
            cross(_cross_table(part))
            for write, table in zip(singles, _single_tables(part), strict=True):
                write(table)
    (folder / "data_card.md").write_text(card_markdown(card, commands), encoding="utf-8")
    text = json.dumps(card, indent=2, ensure_ascii=False)
    (folder / "data_card.json").write_text(text + "\n", encoding="utf-8")


def write_rejected(path: Path, sample: list[dict]) -> None:
    """Write rejected raw rows as CSV: file, row, reason and text; no file if there are none."""
    if not sample:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(sample[0]))
        table.writeheader()
        table.writerows(sample)


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table to a Parquet file as a new row group."""
    writers: list[pq.ParquetWriter] = []

    def write(table: pa.Table) -> None:
        if not writers:
            writers.append(pq.ParquetWriter(path, table.schema))
        writers[0].write_table(table)

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


def file_name(domain: str) -> str:
    """A domain's name as a file name: bytes other than [A-Za-z0-9._-] and a leading dot as %XX.

    A long name is cut and completed by its SHA-256.
    """
    safe = re.sub(
        r"[^A-Za-z0-9._-]",
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()),
        domain,
    )
    safe = f"%2E{safe[1:]}" if safe.startswith(".") else safe
    if len(safe) <= MAX_NAME_LENGTH:
        return safe
    return f"{safe[:MAX_NAME_LENGTH]}-{hashlib.sha256(domain.encode()).hexdigest()[:16]}"


def _item_table(sequences: Sequences) -> pa.Table:
    items = len(sequences.item_ids)
    return pa.table(
        {
            "item": pa.array(np.arange(1, items + 1, dtype=np.int32)),
            "item_id": sequences.item_ids,
            "domain": _domain_names(sequences.item_domains, sequences),
            "count": sequences.item_counts,
        }
    )


def _user_table(part: Sequences) -> pa.Table:
    per_domain = events_per_domain(part).astype(np.int32)  # [users, D]
    columns = {"user": _numbers(part), "user_id": part.user_ids}
    for d, name in enumerate(part.domain_names):
        columns[f"events_{name}"] = pa.array(np.ascontiguousarray(per_domain[:, d]))
    return pa.table(columns)


def _cross_table(part: Sequences) -> pa.Table:
    """A row a user: the offsets of the arrays are those of the lists."""
    return pa.table(
        {
            "user": _numbers(part),
            "items": _lists(part.offsets, pa.array(part.items)),
            "domains": _lists(part.offsets, _domain_names(part.domains, part)),
            "times": _lists(part.offsets, pa.array(part.times)),
        }
    )


def _single_tables(part: Sequences) -> Iterator[pa.Table]:
    """For each domain one row per active user: the events in the domain, in order."""
    order = np.argsort(part.domains, kind="stable")  # by domain, user, time
    starts = np.searchsorted(part.domains[order], np.arange(len(part.domain_names) + 1))
    owners = part.users[order]
    for start, end in itertools.pairwise(starts):
        events = order[start:end]
        users, lengths = np.unique(owners[start:end], return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        yield pa.table(
            {
                "user": pa.array(users + part.first_user),
                "items": _lists(offsets, pa.array(part.items[events])),
                "times": _lists(offsets, pa.array(part.times[events])),
            }
        )


def _numbers(part: Sequences) -> pa.Array:
    return pa.array(np.arange(part.first_user, part.first_user + len(part.user_ids)))


def _lists(offsets: np.ndarray, values: pa.Array) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)


def _domain_names(domains: np.ndarray, sequences: Sequences) -> pa.DictionaryArray:
    """The names of domain numbers."""
    return pa.DictionaryArray.from_arrays(
        pa.array(domains.astype(np.int32)), pa.array(sequences.domain_names, pa.string())
    )
