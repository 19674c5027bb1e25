"""What a raw format takes and gives: the files of a log in, its events as they were written out."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import ibis
from ibis.expr.types import StringValue, Table

from src.dataset.ingest.raw_files import RawFile, parse_head, unpacked_name
from src.dataset.ingest.table_reader import Layout, Scan
from src.io.errors import UserError


@dataclass(frozen=True)
class Columns:
    """What the raw table calls the four columns."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    domain: str = "domain"
    unix_time: str = "unix_time"

    def flag(self, name: str) -> str:
        return {"user_id": "--user_col", "item_id": "--item_col", "domain": "--domain_col"}.get(
            name, "--time_col"
        )


EVENT = tuple(vars(Columns()))  # the columns of every event
READ = (*EVENT, "file", "row", "place", "broken", "text")


@dataclass(frozen=True)
class Source:
    """What the function of a format is given."""

    scan: Scan
    place: str  # the folder, glob or URI
    files: list[RawFile]  # those of this format, by name
    columns: Columns = Columns()  # as the flags say


@dataclass(frozen=True)
class RawLog:
    """A raw log as it was written.

    `events` has the columns READ: user_id, item_id, domain: string; unix_time: string, or what a
    Parquet file has (int64, float64, timestamp, date); file: string; row, place: int64, the row in
    its file, in its order, and the place in a row that holds several events; broken: int8, null or
    the reason (of rejects.py) why the raw row cannot be read, and then text, the row.
    """

    events: Table
    scan: Scan
    files: list[RawFile]
    columns: Columns  # what the log calls the four, for messages
    source: str  # a sentence for the data card
    notes: dict[str, str] = field(default_factory=dict)
    again: bool = False  # scanning the files again costs no more than scanning a copy
    numbers: frozenset[str] = frozenset()  # ids that were integers


def event_columns(table: Table, **more: ibis.expr.types.Value) -> Table:
    """The table with exactly the columns READ: what is not there is null, `place` 0."""
    nothing = {
        "place": ibis.literal(0, "int64"),
        "broken": ibis.literal(None, "int8"),
        "text": ibis.literal(None, "string"),
    }
    table = table.mutate(**more)
    added = {name: value for name, value in nothing.items() if name not in table.columns}
    return table.mutate(**added).select(*READ)


def text_layout(source: Source, file: RawFile, **options: bool) -> tuple[Layout, list[str]]:
    """The layout of a text file with a header, and its leading comments."""
    head = parse_head(file.path, source.scan.first_lines(file))
    layout = Layout(tuple(head.columns), head.delimiter, comments=len(head.comments), **options)
    return layout, head.comments


def by_layout(
    source: Source, layouts: dict[RawFile, Layout], wanted: dict[str, str]
) -> list[Table]:
    """The wanted columns of the files, one table a layout."""
    groups: dict[Layout, list[RawFile]] = {}
    for file, layout in layouts.items():
        check_columns(file, layout.columns, wanted, source.columns)
        groups.setdefault(layout, []).append(file)
    return [source.scan.delimited(files, layout, wanted) for layout, files in groups.items()]


def check_columns(
    file: RawFile, header: tuple[str, ...], wanted: dict[str, str], columns: Columns
) -> None:
    """UserError unless each wanted column is in the header, once."""
    for name, column in wanted.items():
        if list(header).count(column) == 1:
            continue
        fault = "has more than one" if column in header else "has no"
        raise UserError(
            f"{file.path} {fault} column {column!r} (its columns: {', '.join(header)}); "
            f"name the right one with {columns.flag(name)}"
        )


def named_domains(
    files: list[RawFile], names: re.Pattern[str], parts: bool = False
) -> dict[str, str]:
    """{file name: domain} by the group `domain` of the pattern.

    UserError when two share one, unless files can be `parts` of a domain.
    """
    domains: dict[str, str] = {}
    for file in files:
        base = PurePosixPath(file.name).name
        match = names.fullmatch(base)
        domain = match["domain"] if match else PurePosixPath(unpacked_name(base)).stem
        for other, taken in domains.items():
            if taken == domain and not parts:
                raise UserError(f"{other} and {file.name} both name domain {domain}; keep one")
        domains[file.name] = domain
    return domains


def domain_of(table: Table, domains: dict[str, str]) -> StringValue:
    """The domain of each row by its file."""
    if len(set(domains.values())) == 1:
        return ibis.literal(next(iter(domains.values())))
    return table.file.cases(*domains.items())


def files_said(files: list[RawFile], most: int = 8) -> str:
    """The names of files for the data card."""
    names = ", ".join(file.name for file in files[:most])
    return names if len(files) <= most else f"{names} and {len(files) - most} more"


def default_columns(source: Source, allowed: tuple[str, ...] = ()) -> None:
    """UserError when a column was named though the format has its own names."""
    for name in EVENT:
        if name not in allowed and getattr(source.columns, name) != getattr(Columns, name):
            raise UserError(
                f"{source.columns.flag(name)} is for event tables; this raw format has its own "
                "column names (--format table reads a file as an event table)"
            )
