"""The dataset folder as it is written: arrays, Parquet tables and the data card, all or nothing."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from src.dataset.card import events_per_domain
from src.dataset.card_text import card_markdown
from src.dataset.folder import ARRAYS, open_dataset
from src.dataset.sequences import Sequences
from src.errors import UserError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name on success and vanishes otherwise."""
    target = target.absolute()
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{target.parent} cannot be written to ({error})") from None
    try:
        yield partial
        try:
            partial.rename(target)
        except OSError as error:
            raise UserError(f"{target} came into being meanwhile ({error}); run again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_dataset(folder: Path, sequences: Sequences, card: dict) -> None:
    """Fill an empty folder with everything that a dataset folder holds; the card comes last."""
    _write_arrays(folder / "sequences", sequences)
    domain = _domain_names(sequences.item_domains, sequences)
    pq.write_table(_item_table(sequences, domain), folder / "items.parquet")
    pq.write_table(_user_table(sequences), folder / "users.parquet")
    pq.write_table(_cross_table(sequences), folder / "cross.parquet")
    (folder / "single").mkdir()
    for d, name in enumerate(sequences.domain_names):
        pq.write_table(
            _single_table(sequences, d), folder / "single" / f"{file_name(name)}.parquet"
        )
    (folder / "data_card.md").write_text(card_markdown(card), encoding="utf-8")
    text = json.dumps(card, indent=2, ensure_ascii=False)
    (folder / "data_card.json").write_text(text + "\n", encoding="utf-8")
    open_dataset(folder)  # what cannot be read back is never given the final name


def file_name(domain: str) -> str:
    """A domain's name as a file name: bytes other than [A-Za-z0-9._-] as %XX, a first dot too."""
    safe = re.sub(
        r"[^A-Za-z0-9._-]",
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()),
        domain,
    )
    return f"%2E{safe[1:]}" if safe.startswith(".") else safe


def _write_arrays(folder: Path, sequences: Sequences) -> None:
    folder.mkdir()
    for name, kind in {**ARRAYS, "offsets": "int64"}.items():
        np.save(folder / f"{name}.npy", getattr(sequences, name).astype(kind))


def _item_table(sequences: Sequences, domain: pa.DictionaryArray) -> pa.Table:
    items = len(sequences.item_ids)
    return pa.table(
        {
            "item": pa.array(np.arange(1, items + 1, dtype=np.int32)),
            "item_id": sequences.item_ids,
            "domain": domain,
            "count": pa.array(np.bincount(sequences.items, minlength=items + 1)[1:]),
        }
    )


def _user_table(sequences: Sequences) -> pa.Table:
    per_domain = events_per_domain(sequences).astype(np.int32)  # [users, D]
    columns = {
        "user": pa.array(np.arange(len(per_domain), dtype=np.int64)),
        "user_id": sequences.user_ids,
    }
    for d, name in enumerate(sequences.domain_names):
        columns[f"events_{name}"] = pa.array(np.ascontiguousarray(per_domain[:, d]))
    return pa.table(columns)


def _cross_table(sequences: Sequences) -> pa.Table:
    """A row a user: the offsets of the arrays are those of the lists."""
    names = _domain_names(sequences.domains, sequences)
    return pa.table(
        {
            "user": pa.array(np.arange(len(sequences.user_ids), dtype=np.int64)),
            "items": _lists(sequences.offsets, pa.array(sequences.items)),
            "domains": _lists(sequences.offsets, names),
            "times": _lists(sequences.offsets, pa.array(sequences.times)),
        }
    )


def _single_table(sequences: Sequences, d: int) -> pa.Table:
    """A row a user active in domain d: the events of d, their order kept."""
    inside = sequences.domains == d
    users, lengths = np.unique(sequences.users[inside], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.table(
        {
            "user": pa.array(users),
            "items": _lists(offsets, pa.array(sequences.items[inside])),
            "times": _lists(offsets, pa.array(sequences.times[inside])),
        }
    )


def _lists(offsets: np.ndarray, values: pa.Array) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)


def _domain_names(domains: np.ndarray, sequences: Sequences) -> pa.DictionaryArray:
    """Names in place of domain ids, each stored once."""
    return pa.DictionaryArray.from_arrays(
        pa.array(domains.astype(np.int32)), pa.array(sequences.domain_names, pa.string())
    )
