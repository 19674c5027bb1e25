"""New events: read a file as make_dataset.py reads a log, and match them to a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.config.cli import checked_values
from src.config.dataset_settings import DatasetSettings
from src.config.names import load
from src.dataset.store.folder import ARRAYS, Dataset
from src.dataset.store.spelling import as_written
from src.io.errors import UserError, plain
from src.serving.contexts import NewEvents

READ_EVENTS = "src.dataset.ingest.event_file:read_events"  # loads a data engine
COLUMNS = ("user_id", "item_id", "domain", "unix_time")
LATEST = 253_402_300_799  # the last second of the year 9999, as make_dataset.py accepts it
# settings of which the flag of one replaces what the dataset has for the others
INSTEAD_OF = {
    "domain_col": ("domain_from",),
    "domain_from": ("domain_col",),
    "time_unit": ("time_format",),
    "time_format": ("time_unit",),
}


@dataclass(frozen=True)
class MatchedEvents:
    """New events of known items, and what became of the others."""

    events: NewEvents
    rows: int  # events in all
    skipped: dict[str, int]  # {reason: events}
    examples: dict[str, str]  # {reason: the first of them}

    def lines(self, where: str) -> list[str]:
        """What to say about them."""
        new = len(self.events.user_ids)
        lines = [
            f"{where}: {self.rows:,} events of {len(self.events.named):,} users, {new:,} of whom "
            "the dataset does not have"
        ]
        for reason, count in self.skipped.items():
            if count:
                lines.append(
                    f"{where}: {count:,} events of {reason} are skipped (first: "
                    f"{self.examples[reason]})"
                )
        return lines


def read_new_events(
    path: str, dataset: Dataset, given: Mapping[str, Any]
) -> tuple[MatchedEvents, list[str]]:
    """The events of a file in a format that make_dataset.py reads, and lines about its other rows.

    `given` are settings of make_dataset.py that say how to read it; the others are as the dataset
    was made. UserError for a file that cannot be read so.
    """
    settings = reading_settings(dataset, given)
    try:
        read_events = load(READ_EVENTS)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--events needs the data engine ({error.name} is not installed): "
            "pip install -r requirements.txt"
        ) from None
    events, notes = read_events(path, settings)
    return match_events(dataset, events), notes


def reading_settings(dataset: Dataset, given: Mapping[str, Any]) -> DatasetSettings:
    """How to read new events: as the log of the dataset was read, except for what is `given`.

    The format is never that of the log: a file of new events often has another one.
    """
    options = dict(dataset.card.get("options", {}))
    replaced = {other for name in given for other in INSTEAD_OF.get(name, ())}
    for name in {"format", *given, *replaced}:
        options.pop(name, None)
    where = f"{dataset.folder}: options of the data card"
    options = checked_values(DatasetSettings, options, where, ignore_unknown=True)
    return DatasetSettings(**{"data_name": dataset.card["data_name"], **options, **given})


def match_events(dataset: Dataset, events: pa.Table) -> MatchedEvents:
    """The events whose item the dataset has, by the ids of the log.

    `events` has user_id, item_id, domain (text) and unix_time (seconds since 1970), in the order in
    which they were logged. UserError for a missing column or value.
    """
    check_columns(events)
    options = dataset.card.get("options", {})
    spelling = options.get("strip", False), options.get("fold_case", False)
    users, items, domains = (
        as_written(pc.cast(events[name], pa.large_string()), *spelling) for name in COLUMNS[:3]
    )
    times = pc.cast(events["unix_time"], pa.int64()).to_numpy()
    number, new_ids = _user_numbers(dataset, users)
    item, known_domain = _item_numbers(dataset, items, domains, options.get("shared_items", False))
    kept = np.flatnonzero(item > 0)
    kept = kept[np.argsort(number[kept], kind="stable")]
    domain_of = np.searchsorted(dataset.item_starts, item[kept], side="right") - 1
    new = NewEvents(
        new_ids,
        np.unique(number),
        number[kept],
        item[kept].astype(ARRAYS["items"]),
        domain_of.astype(ARRAYS["domains"]),
        times[kept],
    )
    reasons = {"unknown domains": ~known_domain, "unknown items": known_domain & (item == 0)}
    examples = {}
    for reason, mask in reasons.items():
        if mask.any():
            first = int(np.argmax(mask))
            examples[reason] = plain(f"{items[first]} in {domains[first]}")
    skipped = {reason: int(mask.sum()) for reason, mask in reasons.items()}
    return MatchedEvents(new, len(number), skipped, examples)


def check_columns(events: pa.Table) -> None:
    """UserError unless the table has COLUMNS without missing values, times as whole seconds."""
    for name in COLUMNS:
        if events.column_names.count(name) != 1:
            raise UserError(
                f"new events need the columns {', '.join(COLUMNS)}; there is no {name} among "
                f"{plain(', '.join(events.column_names))}"
            )
        if events[name].null_count:
            raise UserError(f"new events: {name} is missing in {events[name].null_count} of them")
    if not pa.types.is_integer(events["unix_time"].type):
        raise UserError(
            f"new events: unix_time is of type {events['unix_time'].type}; give whole seconds "
            "since 1970"
        )
    outside = pc.or_(pc.less(events["unix_time"], 0), pc.greater(events["unix_time"], LATEST))
    if first := events["unix_time"].filter(outside)[:1].to_pylist():
        raise UserError(
            f"new events: unix_time {first[0]} is no time from 1970 to 9999 in seconds; give whole "
            "seconds since 1970, not milliseconds"
        )


def _user_numbers(dataset: Dataset, users: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """[E] the number of each event's user, and the ids of those that the dataset does not have."""
    known = pc.cast(dataset.user_ids, pa.large_string())
    numbers = pc.index_in(users, value_set=known)
    missing = pc.unique(users.filter(numbers.is_null()))
    missing = missing.take(pc.array_sort_indices(missing))
    new = pc.add(pc.index_in(users, value_set=missing), dataset.users)
    return pc.coalesce(numbers, new).to_numpy().astype(np.int64), missing


def _item_numbers(
    dataset: Dataset, items: pa.ChunkedArray, domains: pa.ChunkedArray, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """[E] the dense id of each event's item in its domain, 0 where the dataset has none, and
    whether it has the domain. With `shared` an id is one item, in whatever domain it stands."""
    ids = pc.cast(dataset.item_ids, pa.large_string())
    names = pa.array(dataset.domain_names, pa.large_string())
    number = pc.fill_null(pc.index_in(domains, value_set=names), -1).to_numpy()
    if shared:
        everywhere = pc.index_in(items, value_set=ids)
        item = pc.fill_null(pc.add(everywhere, 1), 0).to_numpy().astype(np.int64)
        return item, (number >= 0) | (item > 0)
    item = np.zeros(len(number), dtype=np.int64)
    for domain in np.unique(number[number >= 0]).tolist():
        rows = np.flatnonzero(number == domain)
        first, end = dataset.item_starts[domain : domain + 2].tolist()
        value_set = ids.slice(first - 1, end - first)
        place = pc.index_in(items.take(pa.array(rows)), value_set=value_set)
        item[rows] = pc.fill_null(pc.add(pc.cast(place, pa.int64()), first), 0).to_numpy()
    return item, number >= 0
