"""Verifying a dataset folder: its whole content is validated against its card.

Opening a folder checks only types and lengths; this reads every event, in bounded memory.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from src.dataset.store.content_hash import content_hash
from src.dataset.store.folder import (
    ARRAYS,
    CHUNK,
    TEST,
    TRAIN,
    Dataset,
    is_text,
    outside_domain,
    user_chunks,
)
from src.io.errors import UserError


def verify_dataset(dataset: Dataset) -> None:
    """UserError for a dataset that contradicts its card or cannot be trained on.

    That is: whatever `check_events` refuses, id tables that cannot be read, and content with
    another SHA-256 than the card's.
    """
    check_events(dataset)
    if hash_of(dataset) != dataset.card["sha256"]:
        raise UserError(
            f"{dataset.folder} has other content than its data_card.json states (sha256); "
            "make the dataset again"
        )


def check_events(dataset: Dataset) -> None:
    """UserError unless offsets increase and every event has an item of its domain and a split.

    Reads 7 bytes per event. With a dataset that passes, training and ranking never look up an
    item, a domain or an event that does not exist.
    """
    _check_offsets(dataset)
    for users in user_chunks(dataset.offsets):
        events = slice(int(dataset.offsets[users.start]), int(dataset.offsets[users.stop]))
        items, domains = dataset.items[events], dataset.domains[events]
        outside = outside_domain(dataset.item_starts, items, domains)
        _refuse(dataset, events, outside, "item", items, "is not in the vocabulary of its domain")
        split = dataset.split[events]
        _refuse(dataset, events, (split < TRAIN) | (split > TEST), "split", split, "is unknown")


def hash_of(dataset: Dataset) -> str:
    """The `content_hash` of the folder; UserError where an id table cannot be read."""
    arrays = {name: getattr(dataset, name) for name in [*ARRAYS, "offsets"]}
    item_ids, user_ids = (
        partial(_column_batches, dataset.folder / f"{table}.parquet", column)
        for table, column in (("items", "item_id"), ("users", "user_id"))
    )
    return content_hash(dataset.domain_names, item_ids, user_ids, dataset.item_starts, arrays)


def _check_offsets(dataset: Dataset) -> None:
    offsets = dataset.offsets
    for start in range(0, dataset.users, CHUNK):
        lengths = np.diff(offsets[start : start + CHUNK + 1])
        if (lengths < 1).any():
            user = start + int(np.argmax(lengths < 1))
            raise UserError(
                f"{dataset.folder}/sequences/offsets.npy is damaged: user {user} has no events; "
                "make the dataset again"
            )


def _refuse(
    dataset: Dataset, events: slice, wrong: np.ndarray, what: str, values: np.ndarray, why: str
) -> None:
    """UserError that names the first wrong value of a slice of the events, and its user."""
    if not wrong.any():
        return
    first = int(np.argmax(wrong))
    user = int(np.searchsorted(dataset.offsets, events.start + first, side="right")) - 1
    raise UserError(
        f"{dataset.folder}/sequences: {what} {values[first]} of user {user} {why}; "
        "make the dataset again"
    )


def _column_batches(path: Path, column: str) -> Iterator[pa.Array]:
    """A column of a Parquet file, in batches."""
    try:
        with pq.ParquetFile(path) as file:
            dtype = file.schema_arrow.field(column).type
            batches = file.iter_batches(columns=[column]) if is_text(dtype) else ()
            for batch in batches:
                yield batch.column(0)
    except (OSError, pa.ArrowException, KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); make the dataset again") from None
    if not is_text(dtype):
        raise UserError(f"{path} has {dtype} as {column}; make the dataset again")
