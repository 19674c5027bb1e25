"""The dataset folder as training and evaluation read it: numpy arrays mapped from disk.

Only numpy, pyarrow and the standard library: the machine that trains needs no data engine.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from src.errors import UserError

FORMAT = 1  # raised when an older reader would misread the folder
TRAIN, VALID, TEST = 0, 1, 2  # values of `split`
ARRAYS = {"items": "int32", "domains": "int16", "times": "int64", "split": "int8"}


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
        trained = self.items[np.asarray(self.split) == TRAIN]
        return np.bincount(trained, minlength=self.item_rows)

    @cached_property
    def user_ids(self) -> pa.ChunkedArray:
        """[users] the ids of the log, by dense id."""
        ids = pq.read_table(self.folder / "users.parquet", columns=["user_id"])["user_id"]
        return ids if self.folder_users is None else ids.take(pa.array(self.folder_users))

    @cached_property
    def item_ids(self) -> pa.ChunkedArray:
        """[items] the ids of the log; item i stands at position i - 1."""
        ids = pq.read_table(self.folder / "items.parquet", columns=["item_id"])["item_id"]
        return ids.slice(self.folder_items, self.item_rows - 1)

    def only_domain(self, domain: int) -> "Dataset":
        """One domain as a dataset of its own: its events, its items from 1, its users."""
        keep = np.asarray(self.domains) == domain
        lengths = np.add.reduceat(keep.astype(np.int64), self.offsets[:-1])
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


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset folder; the arrays stay on disk until they are read.

    Raises UserError when the folder is missing, of another format, or its parts disagree.
    """
    card = read_card(folder)
    try:
        arrays = {
            name: np.load(folder / "sequences" / f"{name}.npy", mmap_mode="r")
            for name in [*ARRAYS, "offsets"]
        }
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}/sequences cannot be read ({error}); make the dataset again"
        ) from None
    names = list(card["domains"])
    counts = [card["domains"][name]["items"] for name in names]
    item_starts = np.concatenate([[1], 1 + np.cumsum(counts)]).astype(np.int64)
    dataset = Dataset(folder, card, names, item_starts, **arrays)
    _check(dataset)
    return dataset


def read_card(folder: Path) -> dict:
    """The data card of a dataset folder, its format checked."""
    path = folder / "data_card.json"
    if not path.is_file():
        raise UserError(f"{folder} is no dataset folder (no data_card.json); run make_dataset.py")
    try:
        card = json.loads(path.read_text())
        version = card["format"]
        card["data_name"], card["sha256"], card["domains"]  # what every reader needs
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); make the dataset again") from None
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version}, this version reads {FORMAT}; make the dataset again"
        )
    return card


def _check(dataset: Dataset) -> None:
    """Refuse a folder whose parts disagree; item and domain are compared event by event."""
    events = len(dataset.items)
    for name in ARRAYS:
        if len(getattr(dataset, name)) != events:
            raise UserError(
                f"{dataset.folder}/sequences/{name}.npy has another length than items.npy; "
                "make the dataset again"
            )
    offsets = dataset.offsets
    if offsets[0] != 0 or offsets[-1] != events or (np.diff(offsets) < 1).any():
        raise UserError(f"{dataset.folder}/sequences/offsets.npy is torn; make the dataset again")
    domain_of_item = np.searchsorted(dataset.item_starts, dataset.items, side="right") - 1
    wrong = np.flatnonzero(domain_of_item != dataset.domains)
    if len(wrong):
        user = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
        raise UserError(
            f"{dataset.folder}/sequences: item {dataset.items[wrong[0]]} of user {user} is not in "
            "the vocabulary of its domain; make the dataset again"
        )
