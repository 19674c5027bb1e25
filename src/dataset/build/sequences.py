"""The sequences of all users as flat arrays on disk, split into training and targets."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from ibis import _
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings, as_date, first_second
from src.dataset.build import transforms
from src.dataset.build.selection import Selection
from src.dataset.engine.base import Engine, count_rows
from src.dataset.store.folder import ARRAYS, CHUNK, user_chunks
from src.io.errors import UserError
from src.io.files import reserve


@dataclass(frozen=True)
class Sequences:
    """Numbered events, by user and then in order, and the ids behind the numbers.

    The arrays of events are on disk; `parts` reads them with bounded memory.
    """

    domain_names: list[str]  # D
    item_ids: pa.ChunkedArray  # [items] strings; item i is at i - 1
    item_domains: np.ndarray  # [items] int16
    item_counts: pa.ChunkedArray  # [items] events
    user_ids: pa.ChunkedArray  # [users] strings
    offsets: np.ndarray  # [users + 1] int64
    items: np.ndarray  # [events] int32
    domains: np.ndarray  # [events] int16
    times: np.ndarray  # [events] int64
    split: np.ndarray  # [events] int8
    cuts: dict[str, int] = field(default_factory=dict)  # of `find_cuts`
    first_user: int = 0  # of a part: the number of users before it

    @property
    def users(self) -> np.ndarray:
        """[events] int64: the user of each event, from 0, also in a part."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def parts(self) -> Iterator["Sequences"]:
        """The users in parts of at most some millions of events, each in memory.

        With many domains the parts are smaller: they are counted by user and domain.
        """
        size = CHUNK // (1 + len(self.domain_names) // 16)
        for users in user_chunks(self.offsets, size):
            offsets = self.offsets[users.start : users.stop + 1]
            events = slice(offsets[0], offsets[-1])
            yield replace(
                self,
                user_ids=self.user_ids.slice(users.start, users.stop - users.start),
                offsets=offsets - offsets[0],
                first_user=users.start,
                items=np.asarray(self.items[events]),
                domains=np.asarray(self.domains[events]),
                times=np.asarray(self.times[events]),
                split=np.asarray(self.split[events]),
            )


def build_sequences(
    engine: Engine, selection: Selection, settings: DatasetSettings, folder: Path
) -> Sequences:
    """Split the selected events and write them to the arrays of `folder`.

    UserError for cuts in time that leave a split without events.
    """
    cuts = find_cuts(selection.events, settings)
    split = transforms.SPLITS[settings.split](selection.ordered, **cuts)
    offsets = np.concatenate([[0], np.cumsum(selection.users["events"].to_numpy())])
    arrays = empty_arrays(folder, offsets.astype(np.int64))
    positioned = split.select(*transforms.NUMBERS, "split", "position")
    for batch in engine.batches(positioned):
        columns = {name: batch[name].to_numpy() for name in batch.schema.names}
        index = offsets[columns["user"]] + columns["position"]
        for name, column in COLUMNS.items():
            arrays[name][index] = columns[column]
    return Sequences(
        domain_names=selection.domain_names,
        item_ids=selection.items["item_id"],
        item_domains=selection.items["domain"].to_numpy().astype(ARRAYS["domains"]),
        item_counts=selection.items["count"],
        user_ids=selection.users["user_id"],
        offsets=arrays["offsets"],
        items=arrays["items"],
        domains=arrays["domains"],
        times=arrays["times"],
        split=arrays["split"],
        cuts=cuts,
    )


COLUMNS = {"items": "item", "domains": "domain", "times": "time", "split": "split"}


def empty_arrays(folder: Path, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """`ARRAYS` and `offsets` as memory-mapped .npy files, `offsets` filled.

    Their disk space is reserved first: writing to a memory map on a full disk kills the process.
    OSError when the disk is too full.
    """
    folder.mkdir()
    arrays = {}
    for name, type_name in {**ARRAYS, "offsets": "int64"}.items():
        length = len(offsets) if name == "offsets" else offsets[-1]
        dtype = np.dtype(type_name).newbyteorder("<")
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": (int(length),)}
            np.lib.format.write_array_header_1_0(file, header)
            reserve(file, max(1, int(length) * dtype.itemsize))
        arrays[name] = np.load(path, mmap_mode="r+")
    arrays["offsets"][:] = offsets
    return arrays


def find_cuts(events: Table, settings: DatasetSettings) -> dict[str, int]:
    """The seconds `valid_from` and `test_from` of a temporal split; empty for other splits.

    Without dates, the times at which the newest events reach the shares; events at the time of a
    cut are after it. UserError when a split would have no event.
    """
    if settings.split != "temporal":
        return {}
    if settings.valid_from:
        dates = {"valid_from": settings.valid_from, "test_from": settings.test_from}
        cuts = {name: first_second(date, name) for name, date in dates.items()}
    else:
        shares = {
            "valid_from": settings.valid_share + settings.test_share,
            "test_from": settings.test_share,
        }
        total = count_rows(events)
        cuts = {
            name: transforms.start_of_newest(events, round(share * total)).to_pyarrow().as_py()
            for name, share in shares.items()
        }
    _check_cuts(events, cuts)
    return cuts


def _check_cuts(events: Table, cuts: dict[str, int]) -> None:
    """UserError unless each of the three splits has an event."""
    parts = {
        "training": _.time < cuts["valid_from"],
        "validation": (_.time >= cuts["valid_from"]) & (_.time < cuts["test_from"]),
        "test": _.time >= cuts["test_from"],
    }
    sums = {name: part.sum() for name, part in parts.items()}
    counts = events.agg(first=_.time.min(), last=_.time.max(), **sums).to_pyarrow().to_pylist()[0]
    for name in parts:
        if not counts[name]:
            first, last = as_date(counts["first"]), as_date(counts["last"])
            raise UserError(
                f"--split temporal leaves no {name} event: validation starts at "
                f"{as_date(cuts['valid_from'])}, the test at {as_date(cuts['test_from'])}, and the "
                f"events are from {first} to {last}; choose other dates or shares"
            )
