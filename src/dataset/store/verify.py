"""The whole content of a dataset folder held against its card, some millions of events at a time.

Opening a folder looks at types and lengths alone; this reads every event, in bounded memory.
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
    """Refuse a dataset whose content is not what its card says, or cannot be trained on.

    Raises UserError for what `check_events` refuses, for id tables that cannot be read, and for
    content of another SHA-256 than the card's.
    """
    check_events(dataset)
    if hash_of(dataset) != dataset.card["sha256"]:
        raise UserError(
            f"{dataset.folder} has other content than its data_card.json says (sha256); "
            "make the dataset again"
        )


def check_events(dataset: Dataset) -> None:
    """Refuse offsets that do not rise, and an event of no item of its domain or of no part.

    Reads 7 bytes an event, and raises UserError. Nothing that passes makes training or ranking
    look up an item, a domain or an event that is not there.
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
    """The `content_hash` of what lies in the folder; UserError where an id table cannot be
    read."""
    arrays = {name: getattr(dataset, name) for name in [*ARRAYS, "offsets"]}
    item_ids, user_ids = (
        partial(_column_parts, dataset.folder / f"{table}.parquet", column)
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
                f"{dataset.folder}/sequences/offsets.npy is torn: user {user} has no events; "
                "make the dataset again"
            )


def _refuse(
    dataset: Dataset, events: slice, wrong: np.ndarray, what: str, values: np.ndarray, why: str
) -> None:
    """Name the first wrong value of a slice of the events, and its user."""
    if not wrong.any():
        return
    place = int(np.argmax(wrong))
    user = int(np.searchsorted(dataset.offsets, events.start + place, side="right")) - 1
    raise UserError(
        f"{dataset.folder}/sequences: {what} {values[place]} of user {user} {why}; "
        "make the dataset again"
    )


def _column_parts(path: Path, column: str) -> Iterator[pa.Array]:
    """A column of a Parquet file, an array at a time."""
    try:
        with pq.ParquetFile(path) as file:
            kind = file.schema_arrow.field(column).type
            parts = file.iter_batches(columns=[column]) if is_text(kind) else ()
            for batch in parts:
                yield batch.column(0)
    except (OSError, pa.ArrowException, KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); make the dataset again") from None
    if not is_text(kind):
        raise UserError(f"{path} has {kind} as {column}; make the dataset again")
