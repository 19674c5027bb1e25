"""The dataset folder as training and evaluation read it: memory-mapped numpy arrays.

Needs only numpy, pyarrow and the standard library: training needs no data engine.
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
CARD = "data_card.json"
ARRAYS = {"items": "int32", "domains": "int16", "times": "int64", "split": "int8"}
CHUNK = 2_000_000  # events processed at once, which bounds temporary memory to some tens of MB


@dataclass(frozen=True)
class Dataset:
    """Every user's events in time order, users one after the other.

    Items are dense ids from 1, contiguous by domain: the items of domain d are
    `item_starts[d] … item_starts[d + 1] - 1`. User u owns the events
    `offsets[u] … offsets[u + 1] - 1`.
    """

    folder: Path
    card: dict
    domain_names: list[str]  # D names, by domain id
    item_starts: np.ndarray  # [D + 1] int64
    offsets: np.ndarray  # [users + 1] int64
    items: np.ndarray  # [events] int32
    domains: np.ndarray  # [events] int16
    times: np.ndarray  # [events] int64, seconds since 1970 UTC
    split: np.ndarray  # [events] int8: TRAIN, VALID or TEST
    folder_users: np.ndarray | None = None  # [users] ids in the folder, if only some are kept
    folder_items: int = 0  # items of the folder before the first one of this part

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @property
    def item_rows(self) -> int:
        """Items plus one: row 0 is padding."""
        return int(self.item_starts[-1])

    @property
    def is_temporal(self) -> bool:
        """Whether the dataset is split by time, which makes every context strict."""
        return self.card.get("split", {}).get("protocol") == "temporal"

    @cached_property
    def training_counts(self) -> np.ndarray:
        """[item_rows] int64 training events of each item; row 0 is padding."""
        counts = np.zeros(self.item_rows, dtype=np.int64)
        for start in range(0, len(self.items), CHUNK):
            chunk = slice(start, start + CHUNK)
            trained = self.items[chunk][self.split[chunk] == TRAIN]
            counts += np.bincount(trained, minlength=self.item_rows)
        return counts

    @cached_property
    def item_domains(self) -> np.ndarray:
        """[item_rows] the domain of each item; -1 for padding."""
        return np.searchsorted(self.item_starts, np.arange(self.item_rows), side="right") - 1

    @cached_property
    def split_counts(self) -> np.ndarray:
        """[3, D] int64 events of each split (TRAIN, VALID, TEST) and domain."""
        counts = np.zeros((3, len(self.domain_names)), dtype=np.int64)
        for start in range(0, len(self.items), CHUNK):
            chunk = slice(start, start + CHUNK)
            for split in (TRAIN, VALID, TEST):
                domains = self.domains[chunk][self.split[chunk] == split]
                counts[split] += np.bincount(domains, minlength=len(self.domain_names))
        return counts

    @cached_property
    def user_ids(self) -> pa.ChunkedArray:
        """[users] ids in the log, by dense id."""
        ids = read_ids(self.folder / "users.parquet", "user_id", self.card.get("users"))
        return ids if self.folder_users is None else ids.take(pa.array(self.folder_users))

    @cached_property
    def item_ids(self) -> pa.ChunkedArray:
        """[items] ids in the log; item i is at i - 1."""
        ids = read_ids(self.folder / "items.parquet", "item_id", self.card.get("items"))
        return ids.slice(self.folder_items, self.item_rows - 1)

    def shares_users(self) -> bool:
        """Whether a user is active in two domains; reads the domains until one is."""
        for users in user_chunks(self.offsets, CHUNK):
            first, end = int(self.offsets[users.start]), int(self.offsets[users.stop])
            changes = np.diff(self.domains[first:end]) != 0
            changes[self.offsets[users][1:] - first - 1] = False  # from one user to the next
            if changes.any():
                return True
        return False

    def domain_items(self, domain: int) -> slice:
        """The items of a domain."""
        return slice(int(self.item_starts[domain]), int(self.item_starts[domain + 1]))

    def only_domain(self, domain: int) -> "Dataset":
        """One domain as a separate dataset: its events, its items from 1, its users.

        Its arrays are a copy in memory, 15 bytes per event of the domain.
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
    """The default folder of the dataset of a name, month and variant, below the root `root`."""
    month = f"{strd_ym}-{variant}" if variant else strd_ym
    return root / "src" / "dataset" / "processed" / data_name / month


def named_folder(settings: DataSettings) -> Path:
    """The dataset folder that a run's settings name."""
    if settings.data_dir:
        return Path(settings.data_dir)
    return dataset_folder(ROOT, settings.data_name, settings.strd_ym, settings.variant)


def open_trained_on(settings: DataSettings, data_dir: str = "") -> "Dataset":
    """The dataset that a finished run names; `data_dir` is its folder, if it has moved."""
    folder = Path(data_dir) if data_dir else named_folder(settings)
    if not data_dir and not (folder / CARD).is_file():
        raise UserError(
            f"the run was trained on {folder}, where there is no dataset now (no {CARD}); if it "
            "has moved, give its folder as --data_dir, else make it again with make_dataset.py"
        )
    return open_dataset(folder)


def open_named(settings: DataSettings) -> "Dataset":
    """The dataset that a run's settings name."""
    folder = named_folder(settings)
    if not settings.data_dir and not (folder / CARD).is_file():
        raise UserError(f"{folder} is not a dataset folder (no {CARD}); {_other_datasets(folder)}")
    return open_dataset(folder)


def _other_datasets(folder: Path) -> str:
    """What to do where a named dataset is missing: the flags of those that exist."""
    data_name, making = folder.parent.name, "run make_dataset.py"
    others = sorted(path.parent.name for path in folder.parent.glob(f"*/{CARD}"))
    if not others:
        return making
    flags = []
    for name in others:
        month, _, variant = name.partition("-")
        flags.append(f"--strd_ym {month}" + (f" --variant {variant}" if variant else ""))
    return f"of {data_name} there are {', '.join(flags)}; give one of these, or {making}"


def user_chunks(offsets: np.ndarray, size: int = CHUNK) -> Iterator[slice]:
    """Consecutive slices of users with at most `size` events each.

    A user with more events is a slice alone. `offsets` [users + 1] as in `Dataset`; only a few of
    them are read to find the ends.
    """
    first, users = 0, len(offsets) - 1
    while first < users:
        end = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        end = min(max(end, first + 1), users)
        yield slice(first, end)
        first = end


def user_counts(offsets: np.ndarray, marks: Callable[[slice], np.ndarray]) -> np.ndarray:
    """[users] int64: the number of each user's events that are marked.

    `marks` returns one bool per event of a slice; it is called for some millions of events at a
    time, so that no array has the length of all.
    """
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for users in user_chunks(offsets):
        first, end = int(offsets[users.start]), int(offsets[users.stop])
        marked = marks(slice(first, end))
        counts[users] = np.add.reduceat(marked, offsets[users] - first, dtype=np.int64)
    return counts


def outside_domain(item_starts: np.ndarray, items: np.ndarray, domains: np.ndarray) -> np.ndarray:
    """[N] whether an item is outside its domain's vocabulary, or its domain does not exist."""
    starts = item_starts.astype(items.dtype)
    below = items < starts.take(domains, mode="clip")
    return below | (items >= starts.take(domains + 1, mode="clip"))


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset folder; the arrays stay on disk until they are read.

    Types and lengths are validated against each other and the card, and nothing else is read: the
    time does not depend on the number of events. `src.dataset.store.verify` checks the events.
    Processes that open the same folder share its pages.

    UserError when the folder is missing, of another format, or its parts contradict each other.
    """
    card = read_card(folder)
    arrays = {
        name: _memory_map(folder / "sequences" / f"{name}.npy", dtype)
        for name, dtype in {**ARRAYS, "offsets": "int64"}.items()
    }
    names = list(card["domains"])
    counts = [card["domains"][name]["items"] for name in names]
    item_starts = np.concatenate([[1], 1 + np.cumsum(counts)]).astype(np.int64)
    dataset = Dataset(
        folder,
        card,
        names,
        item_starts,
        offsets=arrays["offsets"],
        items=arrays["items"],
        domains=arrays["domains"],
        times=arrays["times"],
        split=arrays["split"],
    )
    _check_lengths(dataset)
    return dataset


def _memory_map(path: Path, dtype: str) -> np.ndarray:
    """A one-dimensional .npy file as a memory map: only its header is read."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        size = path.stat().st_size
    except Exception as error:  # a header can be wrong in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}); make the dataset again") from None
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise UserError(
            f"{path} holds {array.dtype} in {array.ndim} dimensions, not {dtype} in one; "
            "make the dataset again"
        )
    if size != array.offset + array.nbytes:
        raise UserError(
            f"{path} has {size} bytes, but its header states {array.offset + array.nbytes}; "
            "make the dataset again"
        )
    return array


def read_ids(path: Path, column: str, count: int | None) -> pa.ChunkedArray:
    """The log's ids in a table of a dataset folder; UserError unless there are `count` of them
    (None: any number, for a dataset made in memory)."""
    try:
        ids = pq.read_table(path, columns=[column])[column]
    except Exception as error:  # a damaged table fails in many ways
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); make the dataset again"
        ) from None
    count = len(ids) if count is None else count
    if len(ids) != count or ids.null_count or not is_text(ids.type):
        raise UserError(f"{path} does not have {count} values of {column}; make the dataset again")
    return ids


def is_text(dtype: pa.DataType) -> bool:
    """Whether a column holds strings."""
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)


def _check_lengths(dataset: Dataset) -> None:
    """UserError if arrays and card disagree about the number of users, events or items."""
    folder, events = dataset.folder / "sequences", len(dataset.items)
    for name in ARRAYS:
        if len(getattr(dataset, name)) != events:
            raise UserError(
                f"{folder}/{name}.npy differs in length from items.npy; make the dataset again"
            )
    offsets = dataset.offsets
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != events:
        raise UserError(
            f"{folder}/offsets.npy is damaged: it does not go from 0 to {events} events; "
            "make the dataset again"
        )
    counts = {"users": dataset.users, "events": events, "items": dataset.item_rows - 1}
    for what, count in counts.items():
        if dataset.card[what] != count:
            raise UserError(
                f"{dataset.folder} has {count} {what}, but its data_card.json states "
                f"{dataset.card[what]}; make the dataset again"
            )


def read_card(folder: Path) -> dict:
    """The data card of a dataset folder, validated."""
    path = folder / CARD
    if not path.is_file():
        raise UserError(f"{folder} is not a dataset folder (no {CARD}); run make_dataset.py")
    remedy = "make the dataset again"
    card = read_json(path, "the data card", {"format": Count()}, remedy)
    if card["format"] != FORMAT:
        raise UserError(
            f"{path} has format {card['format']}, but this version reads {FORMAT}; {remedy}"
        )
    if error := card_error(card, OPEN_SCHEMA):
        raise UserError(f"{path}: {error}; {remedy}")
    return card
