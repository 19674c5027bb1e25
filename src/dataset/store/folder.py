"""The dataset folder as training and evaluation read it: numpy arrays mapped from disk.

Only numpy, pyarrow and the standard library: the machine that trains needs no data engine.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from src.config.settings import DataSettings
from src.dataset.store.card_schema import OPEN_SCHEMA, card_error
from src.io.errors import UserError
from src.io.json_schema import Count, read_json
from src.io.paths import ROOT

FORMAT = 1  # raised when an older reader would misread the folder
TRAIN, VALID, TEST = 0, 1, 2  # values of `split`
ARRAYS = {"items": "int32", "domains": "int16", "times": "int64", "split": "int8"}
CHUNK = 2_000_000  # events looked at together: some tens of MB of temporaries, however many events


@dataclass(frozen=True)
class Dataset:
    """Every user's events in time order, users one after the other.

    Items are dense ids from 1, contiguous by domain: the items of domain d are
    `item_starts[d] … item_starts[d + 1] - 1`. User u owns the events
    `offsets[u] … offsets[u + 1] - 1`.
    """

    folder: Path
    card: dict
    domain_names: list[str]  # D names; the position is the domain's id
    item_starts: np.ndarray  # [D + 1] int64
    offsets: np.ndarray  # [users + 1] int64
    items: np.ndarray  # [events] int32
    domains: np.ndarray  # [events] int16
    times: np.ndarray  # [events] int64, seconds since 1970 UTC
    split: np.ndarray  # [events] int8: TRAIN, VALID or TEST
    folder_users: np.ndarray | None = None  # [users] ids in the folder, where only some are kept
    folder_items: int = 0  # items of the folder that come before this part's first one

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @property
    def item_rows(self) -> int:
        """Items plus one: row 0 is padding."""
        return int(self.item_starts[-1])

    @cached_property
    def training_counts(self) -> np.ndarray:
        """[item_rows] int64 training events of every item; row 0 is padding."""
        counts = np.zeros(self.item_rows, dtype=np.int64)
        for start in range(0, len(self.items), CHUNK):
            some = slice(start, start + CHUNK)
            trained = self.items[some][self.split[some] == TRAIN]
            counts += np.bincount(trained, minlength=self.item_rows)
        return counts

    @cached_property
    def split_counts(self) -> np.ndarray:
        """[3, D] int64 events of every domain in each part: TRAIN, VALID, TEST."""
        counts = np.zeros((3, len(self.domain_names)), dtype=np.int64)
        for start in range(0, len(self.items), CHUNK):
            some = slice(start, start + CHUNK)
            for part in (TRAIN, VALID, TEST):
                own = self.domains[some][self.split[some] == part]
                counts[part] += np.bincount(own, minlength=len(self.domain_names))
        return counts

    @cached_property
    def user_ids(self) -> pa.ChunkedArray:
        """[users] the ids of the log, by dense id."""
        ids = read_ids(self.folder / "users.parquet", "user_id", self.card.get("users"))
        return ids if self.folder_users is None else ids.take(pa.array(self.folder_users))

    @cached_property
    def item_ids(self) -> pa.ChunkedArray:
        """[items] the ids of the log; item i stands at position i - 1."""
        ids = read_ids(self.folder / "items.parquet", "item_id", self.card.get("items"))
        return ids.slice(self.folder_items, self.item_rows - 1)

    def only_domain(self, domain: int) -> "Dataset":
        """One domain as a dataset of its own: its events, its items from 1, its users.

        Its arrays are a copy in memory, 15 bytes an event of the domain.
        """
        keep = np.asarray(self.domains) == domain
        lengths = user_counts(self.offsets, lambda events: keep[events])
        users = np.flatnonzero(lengths)
        first, end = int(self.item_starts[domain]), int(self.item_starts[domain + 1])
        return dataclasses.replace(
            self,
            domain_names=[self.domain_names[domain]],
            item_starts=np.array([1, end - first + 1]),
            offsets=np.concatenate([[0], np.cumsum(lengths[users])]),
            items=self.items[keep] - np.int32(first - 1),
            domains=np.zeros(int(keep.sum()), dtype=np.int16),
            times=self.times[keep],
            split=self.split[keep],
            folder_users=users if self.folder_users is None else self.folder_users[users],
            folder_items=self.folder_items + first - 1,
        )


def dataset_folder(root: Path, data_name: str, strd_ym: str, variant: str = "") -> Path:
    """Where the dataset of a name, month and variant lies below the repository's root."""
    month = f"{strd_ym}-{variant}" if variant else strd_ym
    return root / "src" / "dataset" / "processed" / data_name / month


def open_named(settings: DataSettings) -> "Dataset":
    """The dataset that a run's settings name."""
    if settings.data_dir:
        return open_dataset(Path(settings.data_dir))
    folder = dataset_folder(ROOT, settings.data_name, settings.strd_ym, settings.variant)
    return open_dataset(folder)


def user_chunks(offsets: np.ndarray, size: int = CHUNK) -> Iterator[slice]:
    """Slices of users, one after the other, of at most `size` events each.

    A user with more events has a slice alone. `offsets` [users + 1] as in `Dataset`; only as many
    of them are read as it takes to find the ends.
    """
    first, users = 0, len(offsets) - 1
    while first < users:
        end = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        end = min(max(end, first + 1), users)
        yield slice(first, end)
        first = end


def user_counts(offsets: np.ndarray, marks: Callable[[slice], np.ndarray]) -> np.ndarray:
    """[users] int64: how many of each user's events are marked.

    `marks` gives one bool an event of a slice of the events; it is called for some millions of
    them at a time, so that no array has the length of all.
    """
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for users in user_chunks(offsets):
        first, end = int(offsets[users.start]), int(offsets[users.stop])
        marked = marks(slice(first, end))
        counts[users] = np.add.reduceat(marked, offsets[users] - first, dtype=np.int64)
    return counts


def outside_domain(item_starts: np.ndarray, items: np.ndarray, domains: np.ndarray) -> np.ndarray:
    """[N] whether an item is none of its domain's, or its domain none of all."""
    starts = item_starts.astype(items.dtype)
    below = items < starts.take(domains, mode="clip")
    return below | (items >= starts.take(domains + 1, mode="clip"))


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset folder; the arrays stay on disk until they are read.

    Types and lengths are compared with each other and with the card, and nothing else is read:
    it takes the same moment whatever the number of events. What the events say is for
    `src.dataset.store.verify`. Processes that open the same folder share its pages.

    Raises UserError when the folder is missing, of another format, or its parts disagree.
    """
    card = read_card(folder)
    arrays = {
        name: _map(folder / "sequences" / f"{name}.npy", kind)
        for name, kind in {**ARRAYS, "offsets": "int64"}.items()
    }
    names = list(card["domains"])
    counts = [card["domains"][name]["items"] for name in names]
    item_starts = np.concatenate([[1], 1 + np.cumsum(counts)]).astype(np.int64)
    dataset = Dataset(folder, card, names, item_starts, **arrays)
    _check_lengths(dataset)
    return dataset


def _map(path: Path, kind: str) -> np.ndarray:
    """A .npy file of one dimension, mapped from disk: its header alone is read."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        size = path.stat().st_size
    except Exception as error:  # a header can be wrong in many ways
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({said}); make the dataset again") from None
    if array.dtype != np.dtype(kind) or array.ndim != 1:
        raise UserError(
            f"{path} holds {array.dtype} in {array.ndim} dimensions, not {kind} in one; "
            "make the dataset again"
        )
    if size != array.offset + array.nbytes:
        raise UserError(
            f"{path} has {size} bytes where its header says {array.offset + array.nbytes}; "
            "make the dataset again"
        )
    return array


def read_ids(path: Path, column: str, count: int | None) -> pa.ChunkedArray:
    """The ids of the log in a table of a dataset folder; UserError where it has not `count` of
    them (None: any number, of a dataset that was made in memory)."""
    try:
        ids = pq.read_table(path, columns=[column])[column]
    except Exception as error:  # a torn table fails in many ways
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); make the dataset again"
        ) from None
    count = len(ids) if count is None else count
    if len(ids) != count or ids.null_count or not is_text(ids.type):
        raise UserError(f"{path} has not the {count} ids of {column}; make the dataset again")
    return ids


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _check_lengths(dataset: Dataset) -> None:
    """Refuse a folder whose arrays and card disagree on how many users, events and items it has."""
    folder, events = dataset.folder / "sequences", len(dataset.items)
    for name in ARRAYS:
        if len(getattr(dataset, name)) != events:
            raise UserError(
                f"{folder}/{name}.npy has another length than items.npy; make the dataset again"
            )
    offsets = dataset.offsets
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != events:
        raise UserError(
            f"{folder}/offsets.npy is torn: it does not run from 0 to the {events} events; "
            "make the dataset again"
        )
    found = {"users": dataset.users, "events": events, "items": dataset.item_rows - 1}
    for what, count in found.items():
        if dataset.card[what] != count:
            raise UserError(
                f"{dataset.folder} has {count} {what} where its data_card.json says "
                f"{dataset.card[what]}; make the dataset again"
            )


def read_card(folder: Path) -> dict:
    """The data card of a dataset folder, its format checked."""
    path = folder / "data_card.json"
    if not path.is_file():
        raise UserError(f"{folder} is no dataset folder (no data_card.json); run make_dataset.py")
    remedy = "make the dataset again"
    card = read_json(path, "the data card", {"format": Count()}, remedy)
    if card["format"] != FORMAT:
        raise UserError(
            f"{path} has format {card['format']}, this version reads {FORMAT}; {remedy}"
        )
    if fault := card_error(card, OPEN_SCHEMA):
        raise UserError(f"{path}: {fault}; {remedy}")
    return card
