"""What a raw format takes and returns: the files of a log in, its events as written out."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import ibis
from ibis.expr.types import StringValue, Table

from src.dataset.ingest.raw_files import RawFile, decompressed_name, parse_head
from src.dataset.ingest.table_reader import TableReader, TextLayout
from src.io.errors import UserError


@dataclass(frozen=True)
class Columns:
    """The names of the four columns in the raw table."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    domain: str = "domain"
    unix_time: str = "unix_time"

    def flag(self, name: str) -> str:
        """The flag that names a column."""
        return {"user_id": "--user_col", "item_id": "--item_col", "domain": "--domain_col"}.get(
            name, "--time_col"
        )


EVENT_COLUMNS = tuple(vars(Columns()))  # the columns of every event
RAW_COLUMNS = (*EVENT_COLUMNS, "file", "row", "index_in_row", "read_error", "text")


@dataclass(frozen=True)
class Source:
    """The input of a format's read function."""

    reader: TableReader
    location: str  # the folder, glob or URI
    files: list[RawFile]  # those of this format, sorted by name
    columns: Columns = Columns()  # as given by the flags


@dataclass(frozen=True)
class RawLog:
    """A raw log as it was written.

    `events` has the columns RAW_COLUMNS: user_id, item_id, domain: string; unix_time: string, or
    the type in a Parquet file (int64, float64, timestamp, date); file: string; row, index_in_row:
    int64, the row in its file and the index in a row that holds several events; read_error: int8,
    null or the reason (of rejects.py) why the raw row cannot be read; text: the row, only then.
    """

    events: Table
    reader: TableReader
    files: list[RawFile]
    columns: Columns  # the column names in the log, for messages
    description: str  # `source` of the data card
    notes: dict[str, str] = field(default_factory=dict)
    cheap_to_rescan: bool = False  # reading the files again costs no more than reading a copy
    integer_ids: frozenset[str] = frozenset()  # ids that were integers
    domains_by_name: bool = False  # whether file names, not a column or a publisher, name domains


def complete_columns(table: Table, **more: ibis.expr.types.Value) -> Table:
    """The table with exactly RAW_COLUMNS: missing ones are null, `index_in_row` 0."""
    defaults = {
        "index_in_row": ibis.literal(0, "int64"),
        "read_error": ibis.literal(None, "int8"),
        "text": ibis.literal(None, "string"),
    }
    table = table.mutate(**more)
    added = {name: value for name, value in defaults.items() if name not in table.columns}
    return table.mutate(**added).select(*RAW_COLUMNS)


def text_layout(source: Source, file: RawFile, **options: bool) -> tuple[TextLayout, list[str]]:
    """The layout of a text file with a header, and its leading comments."""
    head = parse_head(file.path, source.reader.first_lines(file))
    layout = TextLayout(tuple(head.columns), head.delimiter, comments=len(head.comments), **options)
    return layout, head.comments


def read_text_files(
    source: Source, layouts: dict[RawFile, TextLayout], wanted: dict[str, str]
) -> list[Table]:
    """The wanted columns of the files, one table per layout."""
    groups: dict[TextLayout, list[RawFile]] = {}
    for file, layout in layouts.items():
        check_columns(file, layout.columns, wanted, source.columns)
        groups.setdefault(layout, []).append(file)
    return [source.reader.delimited(files, layout, wanted) for layout, files in groups.items()]


def check_columns(
    file: RawFile, header: tuple[str, ...], wanted: dict[str, str], columns: Columns
) -> None:
    """UserError unless each wanted column is in the header, once."""
    for name, column in wanted.items():
        if list(header).count(column) == 1:
            continue
        problem = "has more than one" if column in header else "has no"
        raise UserError(
            f"{file.path} {problem} column {column!r} (its columns: {', '.join(header)}); "
            f"name the right one with {columns.flag(name)}"
        )


def domains_from_file_names(
    files: list[RawFile], pattern: re.Pattern[str], parts: bool = False
) -> dict[str, str]:
    """{file name: domain} by the group `domain` of the pattern.

    UserError when two files name the same domain, unless files may be `parts` of a domain.
    """
    domains: dict[str, str] = {}
    for file in files:
        base = PurePosixPath(file.name).name
        match = pattern.fullmatch(base)
        domain = match["domain"] if match else PurePosixPath(decompressed_name(base)).stem
        for other, other_domain in domains.items():
            if other_domain == domain and not parts:
                raise UserError(f"{other} and {file.name} both name domain {domain}; keep one")
        domains[file.name] = domain
    return domains


def domain_column(table: Table, domains: dict[str, str]) -> StringValue:
    """The domain of each row, from its file."""
    if len(set(domains.values())) == 1:
        return ibis.literal(next(iter(domains.values())))
    return table.file.cases(*domains.items())


def list_files(files: list[RawFile], most: int = 8) -> str:
    """The names of the files, for the data card."""
    names = ", ".join(file.name for file in files[:most])
    return names if len(files) <= most else f"{names} and {len(files) - most} more"


def require_default_columns(source: Source, allowed: tuple[str, ...] = ()) -> None:
    """UserError when a flag names a column of a format that has its own names."""
    for name in EVENT_COLUMNS:
        if name not in allowed and getattr(source.columns, name) != getattr(Columns, name):
            raise UserError(
                f"{source.columns.flag(name)} is for event tables; this raw format has its own "
                "column names (use --format table to read the files as event tables)"
            )
