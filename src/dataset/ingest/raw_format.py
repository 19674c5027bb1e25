"""What a raw format takes and returns: the files of a log in, its events as written out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import ibis
from ibis.expr.types import StringValue, Table

from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.table_reader import TableReader, TextLayout
from src.dataset.ingest.text_head import TextHead, has_no_header, missing_columns, parse_head
from src.io.errors import UserError

EVENT_COLUMNS = ("user_id", "item_id", "domain", "unix_time")  # the columns of every event
FILTER_COLUMNS = ("event", "rating")  # of which --events and --min_rating keep some values
RAW_COLUMNS = (
    *EVENT_COLUMNS, *FILTER_COLUMNS, "file", "row", "index_in_row", "read_error", "text",
)  # fmt: skip
SPLIT_PART = r"(?:\.(?:train|valid|val|test))?"  # of a published split, at the end of a stem


@dataclass(frozen=True)
class Columns:
    """The names of the columns in the raw table; the last two are for filters."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    domain: str = "domain"
    unix_time: str = "unix_time"
    event: str = "event"
    rating: str = "rating"

    def flag(self, name: str) -> str:
        """The flag that names a column."""
        return f"--{'time' if name == 'unix_time' else name.removesuffix('_id')}_col"

    def given(self) -> dict[str, str]:
        """Those that differ from the default."""
        return {name: value for name, value in vars(self).items() if value != vars(Columns())[name]}


@dataclass(frozen=True)
class Source:
    """The input of a format's read function."""

    reader: TableReader
    location: str  # the folder, file, glob or URI
    files: list[RawFile]  # those of this format, sorted by name
    columns: Columns = Columns()  # as given by the flags
    filters: tuple[str, ...] = ()  # those of FILTER_COLUMNS that are needed
    delimiter: str = ""  # as given by --delimiter
    header: tuple[str, ...] = ()  # as given by --columns, of files without a header
    domain_from_side_file: bool = False  # --domain_from: the log needs no domain of its own


@dataclass(frozen=True)
class RawLog:
    """A raw log as it was written.

    `events` has the columns RAW_COLUMNS: user_id, item_id, domain: string; unix_time: string, or
    the type in a Parquet file (int64, float64, timestamp, date); event, rating: string, null unless
    a filter needs them; file: string; row, index_in_row: int64, the row in its file and the index
    in a row that holds several events; read_error: int8, null or the reason (of rejects.py) why the
    raw row cannot be read; text: the row, only then.
    """

    events: Table
    reader: TableReader
    files: list[RawFile]
    columns: Columns  # the column names in the log, for messages
    description: str  # `source` of the data card
    notes: dict[str, str] = field(default_factory=dict)
    cheap_to_rescan: bool = False  # reading the files again costs no more than reading a copy
    integer_ids: frozenset[str] = frozenset()  # ids that were integers
    remarks: tuple[str, ...] = ()  # what was detected, and is not usual
    time_unit: str = "auto"  # of this format, unless a flag says otherwise
    time_format: str = ""
    domains_by_name: bool = False  # whether file names, not a column or a publisher, name domains


def complete_columns(table: Table, **more: ibis.expr.types.Value) -> Table:
    """The table with exactly RAW_COLUMNS: missing ones are null, `index_in_row` 0."""
    strings = ("domain", *FILTER_COLUMNS, "text")
    defaults = {
        **{name: ibis.literal(None, "string") for name in strings},
        "index_in_row": ibis.literal(0, "int64"),
        "read_error": ibis.literal(None, "int8"),
    }
    table = table.mutate(**more)
    added = {name: value for name, value in defaults.items() if name not in table.columns}
    return table.mutate(**added).select(*RAW_COLUMNS)


def wanted_columns(source: Source, columns: Columns, domain: bool) -> dict[str, str]:
    """{column of an event: its name in the log}, for the columns to read."""
    names = [name for name in EVENT_COLUMNS if domain or name != "domain"]
    return {name: getattr(columns, name) for name in [*names, *source.filters]}


def read_head(
    source: Source, file: RawFile, lines: list[str], wanted: Mapping[str, str]
) -> TextHead:
    """The comments, columns and separator of a text file, from its first lines."""
    return parse_head(file, lines, source.delimiter, source.header, set(wanted.values()))


def text_layout(source: Source, head: TextHead, quoted: bool = True) -> TextLayout:
    """The layout of a text file with this head."""
    header = not source.header
    return TextLayout(head.columns, head.delimiter, quoted, header, comments=len(head.comments))


def read_text_files(
    source: Source, layouts: Mapping[RawFile, TextLayout], wanted: dict[str, str]
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
    """UserError, for all of them at once, unless each wanted column is in the header, once."""
    missing = [name for name, column in wanted.items() if list(header).count(column) != 1]
    if not missing:
        return
    if has_no_header(header):
        remedy = "name the columns with --columns, such as --columns user_id,item_id,-,unix_time"
    else:
        remedy = f"name the right one with {', '.join(map(columns.flag, missing))}"
        if "domain" not in wanted and columns.domain == Columns.domain:
            remedy += ", and that of the domain, if there is one, with --domain_col"
    names = [wanted[name] for name in missing]
    raise UserError(f"{missing_columns(file.path, header, names)}; {remedy}")


def domains_from_file_names(files: list[RawFile], pattern: re.Pattern[str]) -> dict[str, str]:
    """{file name: domain} by the group `domain` of the pattern.

    UserError when two files name the same domain, unless they are parts of a published split, such
    as Books.train.csv and Books.test.csv.
    """
    domains: dict[str, str] = {}
    parts: dict[str, dict[str, str]] = {}  # domain: {part of the split: file}
    for file in files:
        match = pattern.fullmatch(file.table)
        domain = match["domain"] if match else PurePosixPath(file.table).stem
        check_part(parts.setdefault(domain, {}), file.table, file.name, domain)
        domains[file.name] = domain
    return domains


def check_part(parts: dict[str, str], table: str, name: str, domain: str) -> None:
    """Add a file to the {part of a split: file} of its domain; UserError for one too many."""
    part = re.sub(rf".*?({SPLIT_PART})(\.[a-z]+)?", r"\1", table)
    if parts and (not part or "" in parts or part in parts):
        first = next(iter(parts.values()))
        raise UserError(f"{first} and {name} both name domain {domain}; keep one")
    parts[part] = name


def domain_column(table: Table, domains: dict[str, str]) -> StringValue:
    """The domain of each row, from its file."""
    if len(set(domains.values())) == 1:
        return ibis.literal(next(iter(domains.values())))
    return table.file.cases(*domains.items())


def text_before(text: StringValue, separator: str) -> StringValue:
    """The part of a text before the first separator; not by `split`, which takes a regular
    expression in Spark."""
    position = text.find(separator)
    return (position >= 0).ifelse(text.substr(0, position), text)


def list_files(files: list[RawFile], most: int = 8) -> str:
    """The names of the files, for the data card."""
    names = ", ".join(file.name for file in files[:most])
    return names if len(files) <= most else f"{names} and {len(files) - most} more"


def require_default_columns(source: Source) -> None:
    """UserError when a flag describes the columns of a format that has its own."""
    flags = [source.columns.flag(name) for name in source.columns.given()]
    flags += ["--delimiter"] * bool(source.delimiter) + ["--columns"] * bool(source.header)
    flags += ["--events" if name == "event" else "--min_rating" for name in source.filters]
    if flags:
        raise UserError(
            f"{flags[0]} is for event tables; this raw format has its own column names (use "
            "--format table to read the files as event tables)"
        )
