"""Event tables: a row an event, as CSV, TSV or Parquet, in one file or many."""

from pathlib import PurePosixPath
from urllib.parse import unquote

import ibis
import ibis.expr.datatypes as dt
from ibis.expr.schema import Schema
from ibis.expr.types import Table

from src.dataset.ingest.raw_files import RawFile, notes_of, unpacked_name
from src.dataset.ingest.raw_log import (
    EVENT,
    Columns,
    RawLog,
    Source,
    by_layout,
    check_columns,
    domain_of,
    event_columns,
    files_said,
    text_layout,
)
from src.dataset.ingest.table_reader import FILE, ROW, Layout
from src.io.errors import UserError

PARQUET = (".parquet", ".pq")


def read_table(source: Source) -> RawLog:
    """An event table: a row an event, in one file or several, also as engines write folders.

    When no file has a domain column, the name of a file, or of the folder that it lies in, is the
    domain of its rows.
    """
    layouts: dict[RawFile, Layout] = {}
    schemas: dict[RawFile, Schema] = {}
    comments: list[str] = []
    for file in source.files:
        if file.name.endswith(PARQUET):
            schemas[file] = source.scan.parquet_schema(file)
        else:
            layouts[file], above = text_layout(source, file)
            comments += above
    headers = {file: layout.columns for file, layout in layouts.items()}
    headers |= {file: tuple(schema.names) for file, schema in schemas.items()}
    domains = _domains_by_name(source, headers)
    wanted = {name: getattr(source.columns, name) for name in EVENT}
    if domains:
        del wanted["domain"]
    tables = by_layout(source, layouts, wanted)
    numbers: frozenset[str] = frozenset()
    if schemas:
        typed = _of_parquet(source, schemas, wanted, textual=bool(layouts))
        tables.append(typed)
        if not layouts:
            numbers = _integers(schemas, wanted)
    events = [
        event_columns(table, **({"domain": domain_of(table, domains)} if domains else {}))
        for table in tables
    ]
    notes = notes_of(comments)
    said = [notes[key] for key in ("source", "generated") if key in notes]
    return RawLog(
        ibis.union(*events),
        source.scan,
        source.files,
        source.columns,
        " · ".join([f"event table {files_said(source.files)}", *said]),
        notes,
        again=not layouts and not events[0].unix_time.type().is_string(),
        numbers=numbers,
    )


def _domains_by_name(source: Source, headers: dict[RawFile, tuple[str, ...]]) -> dict[str, str]:
    """{file: domain} where the names tell; empty where a column does, or one file has to."""
    if source.columns.domain != Columns.domain:
        return {}
    if any(source.columns.domain in header for header in headers.values()):
        return {}
    heads: dict[str, str] = {}  # domain: what stands first in the name of its files
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
                f"{other} and {parts[0]} in {source.place} both name domain {domain}; keep one"
            )
        domains[file.name] = domain
    return domains if len(heads) > 1 or partitioned else {}


def _stem(part: str) -> str:
    """A file name, or that of a folder that an engine wrote as a file, without its suffix."""
    plain = unpacked_name(part)
    suffixes = (".csv", ".tsv", ".txt", *PARQUET)
    return next((plain[: -len(end)] for end in suffixes if plain.endswith(end)), part)


def _of_parquet(
    source: Source, schemas: dict[RawFile, Schema], wanted: dict[str, str], textual: bool
) -> Table:
    """The wanted columns: ids as strings, times as they are typed (beside texts as strings)."""
    groups: dict[tuple, list[RawFile]] = {}
    kinds: dict[str, RawFile] = {}
    for file, schema in schemas.items():
        check_columns(file, tuple(schema.names), wanted, source.columns)
        groups.setdefault(tuple(schema[column] for column in wanted.values()), []).append(file)
        kinds.setdefault(_kind(schema[wanted["unix_time"]]), file)
    if len(kinds) > 1:
        first, second = list(kinds.values())[:2]
        raise UserError(
            f"{first.path} and {second.path} have times of different types "
            f"({', '.join(list(kinds)[:2])}); write them alike"
        )
    if textual and next(iter(kinds)) not in ("text", "whole numbers"):
        raise UserError(
            f"{next(iter(schemas)).path} holds times that are {next(iter(kinds))}, beside text "
            "files; write all files alike"
        )
    tables = []
    for files in groups.values():
        table = source.scan.parquet(files)
        picked = {
            name: _id(table[column], files[0])
            for name, column in wanted.items()
            if name != "unix_time"
        }
        time = _time(table[wanted["unix_time"]])
        picked["unix_time"] = time.cast("string") if textual else time
        tables.append(table.select(file=table[FILE], row=table[ROW], **picked))
    return ibis.union(*tables)


def _id(column: ibis.expr.types.Column, file: RawFile) -> ibis.expr.types.StringValue:
    """A column as ids: whole numbers without a point, whatever their type; NaN is no id."""
    kind = column.type()
    if kind.is_binary():
        raise UserError(
            f"{file.path} has ids of bytes in column {column.get_name()!r}; write them as text"
        )
    if not kind.is_floating():
        return column.cast("string")
    number = (column - column == 0).ifelse(column, None)  # neither NaN nor infinite
    whole = (number % 1 == 0) & (number.abs() < 2**53)
    return whole.ifelse(number.try_cast("int64").cast("string"), number.cast("string"))


def _time(column: ibis.expr.types.Column) -> ibis.expr.types.Value:
    kind = column.type()
    to = {
        "whole numbers": "int64", "numbers": "float64", "text": "string",
    }.get(_kind(kind))  # fmt: skip
    if to:
        return column.try_cast(to)
    zoned = kind.is_timestamp() and kind.timezone is not None
    return column.cast("timestamp('UTC')" if zoned else "timestamp")


def _kind(kind: dt.DataType) -> str:
    if kind.is_integer():
        return "whole numbers"
    if kind.is_numeric():
        return "numbers"
    return "timestamps" if kind.is_timestamp() or kind.is_date() else "text"


def _integers(schemas: dict[RawFile, Schema], wanted: dict[str, str]) -> frozenset[str]:
    """The ids that are integers in every file."""
    return frozenset(
        name
        for name, column in wanted.items()
        if name != "unix_time" and all(schema[column].is_integer() for schema in schemas.values())
    )
