"""Event tables: one row per event, as CSV, TSV or Parquet, in one file or many."""

from pathlib import PurePosixPath
from urllib.parse import unquote

import ibis
import ibis.expr.datatypes as dt
from ibis.expr.schema import Schema
from ibis.expr.types import Table

from src.dataset.ingest.raw_files import RawFile, decompressed_name, parse_notes
from src.dataset.ingest.raw_format import (
    EVENT_COLUMNS,
    Columns,
    RawLog,
    Source,
    check_columns,
    complete_columns,
    domain_column,
    list_files,
    read_text_files,
    text_layout,
)
from src.dataset.ingest.table_reader import FILE, ROW, TextLayout
from src.io.errors import UserError

PARQUET = (".parquet", ".pq")


def read_table(source: Source) -> RawLog:
    """An event table in one file or several, also folders as data engines write them.

    Without a domain column in any file, the name of the file, or of the folder that it is in, is
    the domain of its rows.
    """
    layouts: dict[RawFile, TextLayout] = {}
    schemas: dict[RawFile, Schema] = {}
    comments: list[str] = []
    for file in source.files:
        if file.name.endswith(PARQUET):
            schemas[file] = source.reader.parquet_schema(file)
        else:
            layouts[file], file_comments = text_layout(source, file)
            comments += file_comments
    headers = {file: layout.columns for file, layout in layouts.items()}
    headers |= {file: tuple(schema.names) for file, schema in schemas.items()}
    domains = _domains_by_name(source, headers)
    wanted = {name: getattr(source.columns, name) for name in EVENT_COLUMNS}
    if domains:
        del wanted["domain"]
    tables = read_text_files(source, layouts, wanted)
    integer_ids: frozenset[str] = frozenset()
    if schemas:
        tables += _read_parquet(source, schemas, wanted, times_as_text=bool(layouts))
        if not layouts:
            integer_ids = _integers(schemas, wanted)
    events = [
        complete_columns(table, **({"domain": domain_column(table, domains)} if domains else {}))
        for table in tables
    ]
    notes = parse_notes(comments)
    origin = [notes[key] for key in ("source", "generated") if key in notes]
    return RawLog(
        ibis.union(*events),
        source.reader,
        source.files,
        source.columns,
        " · ".join([f"event table {list_files(source.files)}", *origin]),
        notes,
        cheap_to_rescan=not layouts and not events[0].unix_time.type().is_string(),
        integer_ids=integer_ids,
        domains_by_name=bool(domains) and not all("domain=" in name for name in domains),
    )


def _domains_by_name(source: Source, headers: dict[RawFile, tuple[str, ...]]) -> dict[str, str]:
    """{file: domain} if names define the domains; empty if a column does, or for a single file."""
    if source.columns.domain != Columns.domain:
        return {}
    if any(source.columns.domain in header for header in headers.values()):
        return {}
    heads: dict[str, str] = {}  # domain: the first part of the names of its files
    domains: dict[str, str] = {}
    partitioned = False
    for file in source.files:
        parts = PurePosixPath(file.name).parts
        partition = [part for part in parts[:-1] if part.startswith("domain=")]
        partitioned |= bool(partition)
        # engines write `domain=Books/part-0.parquet`, special characters as %20
        domain = unquote(partition[0].removeprefix("domain=")) if partition else _stem(parts[0])
        other = heads.setdefault(domain, parts[0])
        if other != parts[0] and not partition:
            raise UserError(
                f"{other} and {parts[0]} in {source.location} both name domain {domain}; keep one"
            )
        domains[file.name] = domain
    return domains if len(heads) > 1 or partitioned else {}


def _stem(part: str) -> str:
    """The name of a file, or of a folder that an engine wrote as one, without its suffix."""
    name = decompressed_name(part)
    suffixes = (".csv", ".tsv", ".txt", *PARQUET)
    return next((name[: -len(end)] for end in suffixes if name.endswith(end)), part)


def _read_parquet(
    source: Source, schemas: dict[RawFile, Schema], wanted: dict[str, str], times_as_text: bool
) -> list[Table]:
    """The wanted columns, one table per schema: ids as strings, times as they are typed.

    Beside text files (`times_as_text`) times become strings.
    """
    groups: dict[tuple, list[RawFile]] = {}
    time_types: dict[str, RawFile] = {}
    for file, schema in schemas.items():
        check_columns(file, tuple(schema.names), wanted, source.columns)
        groups.setdefault(tuple(schema[column] for column in wanted.values()), []).append(file)
        time_types.setdefault(_time_type(schema[wanted["unix_time"]]), file)
    if len(time_types) > 1:
        first, second = list(time_types.values())[:2]
        raise UserError(
            f"{first.path} and {second.path} have times of different types "
            f"({', '.join(list(time_types)[:2])}); write them with one type"
        )
    time_type = next(iter(time_types))
    if times_as_text and time_type not in ("text", "whole numbers"):
        raise UserError(
            f"{next(iter(schemas)).path} has times that are {time_type}, beside text files; write "
            "all files in one format"
        )
    tables = []
    for files in groups.values():
        table = source.reader.parquet(files)
        picked = {
            name: _id(table[column], files[0])
            for name, column in wanted.items()
            if name != "unix_time"
        }
        time = _time(table[wanted["unix_time"]])
        picked["unix_time"] = time.cast("string") if times_as_text else time
        tables.append(table.select(file=table[FILE], row=table[ROW], **picked))
    return tables


def _id(column: ibis.expr.types.Column, file: RawFile) -> ibis.expr.types.StringValue:
    """A column as id strings: whole numbers without a decimal point; NaN becomes null."""
    dtype = column.type()
    if dtype.is_binary():
        raise UserError(
            f"{file.path} has bytes as ids in column {column.get_name()!r}; write them as text"
        )
    if not dtype.is_floating():
        return column.cast("string")
    number = (column - column == 0).ifelse(column, None)  # neither NaN nor infinite
    whole = (number % 1 == 0) & (number.abs() < 2**53)
    return whole.ifelse(number.try_cast("int64").cast("string"), number.cast("string"))


def _time(column: ibis.expr.types.Column) -> ibis.expr.types.Value:
    dtype = column.type()
    target = {
        "whole numbers": "int64", "numbers": "float64", "text": "string",
    }.get(_time_type(dtype))  # fmt: skip
    if target:
        return column.try_cast(target)
    zoned = dtype.is_timestamp() and dtype.timezone is not None
    return column.cast("timestamp('UTC')" if zoned else "timestamp")


def _time_type(dtype: dt.DataType) -> str:
    if dtype.is_integer():
        return "whole numbers"
    if dtype.is_numeric():
        return "numbers"
    return "timestamps" if dtype.is_timestamp() or dtype.is_date() else "text"


def _integers(schemas: dict[RawFile, Schema], wanted: dict[str, str]) -> frozenset[str]:
    """The ids that are integers in every file."""
    return frozenset(
        name
        for name, column in wanted.items()
        if name != "unix_time" and all(schema[column].is_integer() for schema in schemas.values())
    )
