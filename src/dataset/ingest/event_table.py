"""Event tables: one row per event, as text with separators, JSON lines or Parquet, in any number of
files."""

import re
import shlex
from pathlib import PurePosixPath
from urllib.parse import unquote

import ibis
import ibis.expr.datatypes as dt
import pyarrow.parquet as pq
from ibis.expr.schema import Schema
from ibis.expr.types import Table

from src.dataset.ingest.json_keys import JSON, holds_json_lines, keys_of_lines
from src.dataset.ingest.raw_files import RawFile, parse_notes
from src.dataset.ingest.raw_format import (
    SPLIT_PART,
    Columns,
    RawLog,
    Source,
    check_columns,
    check_part,
    complete_columns,
    domain_column,
    list_files,
    read_head,
    read_text_files,
    text_layout,
    wanted_columns,
)
from src.dataset.ingest.table_reader import FILE, ROW
from src.dataset.ingest.text_bytes import read_errors, without_suffixes
from src.dataset.ingest.text_head import TextHead, missing_columns
from src.io.errors import UserError

PARQUET = (".parquet", ".pq")


def read_table(source: Source) -> RawLog:
    """An event table in one file or several, also folders as data engines write them.

    Without a domain column in any file, the name of the file, or of the folder that it is in, is
    the domain of its rows.
    """
    wanted = wanted_columns(source, source.columns, domain=not source.domain_from_side_file)
    schemas = {}
    for file in source.files:
        if file.table.endswith(PARQUET):
            _check_spellings(file, wanted)
            schemas[file] = source.reader.parquet_schema(file)
    lines = {file: source.reader.first_lines(file) for file in source.files if file not in schemas}
    json_keys = {
        file: keys_of_lines(its_lines, file.path)
        for file, its_lines in lines.items()
        if holds_json_lines(file.table, its_lines)
    }
    heads: dict[RawFile, TextHead] = {
        file: read_head(source, file, its_lines, wanted)
        for file, its_lines in lines.items()
        if file not in json_keys
    }
    headers = {file: head.columns for file, head in heads.items()}
    headers |= {file: tuple(schema.names) for file, schema in schemas.items()} | json_keys
    domains = {} if source.domain_from_side_file else _domains_by_name(source, headers)
    if domains:
        del wanted["domain"]
    _check_side_files(headers, wanted)
    layouts = {file: text_layout(source, head) for file, head in heads.items()}
    tables = read_text_files(source, layouts, wanted)
    for file, keys in json_keys.items():
        check_columns(file, keys, wanted, source.columns)
    if json_keys:
        tables.append(source.reader.json_lines(list(json_keys), wanted))
    integer_ids: frozenset[str] = frozenset()
    if schemas:
        tables += _read_parquet(source, schemas, wanted, times_as_text=bool(tables))
        if len(schemas) == len(headers):
            integer_ids = _integers(schemas, wanted)
    events = [
        complete_columns(table, **({"domain": domain_column(table, domains)} if domains else {}))
        for table in tables
    ]
    notes = parse_notes([comment for head in heads.values() for comment in head.comments])
    origin = [notes[key] for key in ("source", "generated") if key in notes]
    remarks = {head.remark: None for head in heads.values() if head.remark}
    return RawLog(
        ibis.union(*events),
        source.reader,
        source.files,
        source.columns,
        " · ".join([f"event table {list_files(source.files)}", *origin]),
        notes,
        cheap_to_rescan=len(schemas) == len(headers) and not events[0].unix_time.type().is_string(),
        integer_ids=integer_ids,
        remarks=tuple(remarks),
        domains_by_name=bool(domains) and not all("domain=" in name for name in domains),
    )


def _domains_by_name(source: Source, headers: dict[RawFile, tuple[str, ...]]) -> dict[str, str]:
    """{file: domain} if names define the domains; empty if a column does."""
    if source.columns.domain != Columns.domain:
        return {}
    if any(source.columns.domain in header for header in headers.values()):
        return {}
    parts: dict[str, dict[str, str]] = {}  # domain: {part of a split: first part of the path}
    domains: dict[str, str] = {}
    for file in source.files:
        path = PurePosixPath(file.name).parts
        partition = [part for part in path[:-1] if part.startswith("domain=")]
        # engines write `domain=Books/part-0.parquet`, special characters as %20
        if partition:
            domains[file.name] = unquote(partition[0].removeprefix("domain="))
            continue
        table = file.table if len(path) == 1 else without_suffixes(path[0])
        domains[file.name] = domain = _stem(table)
        if path[0] not in parts.setdefault(domain, {}).values():
            check_part(parts[domain], table, path[0], domain)
    return domains


def _stem(table: str) -> str:
    """The name of a table, or of a folder that an engine wrote as one, without its suffix and the
    part of a split."""
    suffixes = (".csv", ".tsv", ".txt", *JSON, *PARQUET)
    stem = next((table[: -len(end)] for end in suffixes if table.endswith(end)), table)
    return re.sub(rf"(?<=.){SPLIT_PART}$", "", stem)


def _check_side_files(headers: dict[RawFile, tuple[str, ...]], wanted: dict[str, str]) -> None:
    """UserError for files without a wanted column beside files that have them all."""
    incomplete = [
        file for file, header in headers.items() if not set(wanted.values()) <= set(header)
    ]
    if not incomplete or len(incomplete) == len(headers):
        return
    first = incomplete[0]
    complete = next(file for file in headers if file not in incomplete)
    names = " ".join(shlex.quote(file.name) for file in incomplete)
    column = next(column for column in wanted.values() if column not in headers[first])
    problem = missing_columns(first.path, headers[first], [column])
    raise UserError(
        f"{problem}, but {complete.name} has; leave files without events out: --exclude {names}"
    )


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
        _check_float_ids(table, wanted, files)
        picked = {
            name: _text(table[column], files[0])
            for name, column in wanted.items()
            if name != "unix_time"
        }
        time = _time(table[wanted["unix_time"]])
        picked["unix_time"] = time.cast("string") if times_as_text else time
        tables.append(table.select(file=table[FILE], row=table[ROW], **picked))
    return tables


def _check_spellings(file: RawFile, wanted: dict[str, str]) -> None:
    """UserError for two columns whose names differ in case at most: engines confuse them."""
    if file.remote:
        return
    with read_errors(file.path):
        names = pq.read_schema(file.path).names
    for column in wanted.values():
        same = [name for name in names if name.lower() == column.lower()]
        if len(same) > 1:
            raise UserError(
                f"{file.path} has two columns {same[0]!r} and {same[1]!r}, which engines confuse; "
                "rename or drop one"
            )


def _check_float_ids(table: Table, wanted: dict[str, str], files: list[RawFile]) -> None:
    """UserError for ids of floating point unless all are whole numbers that their type holds
    exactly: below 2^53, or 2^24 for 32 bits."""
    for name in ("user_id", "item_id", "domain"):
        column = wanted.get(name)
        if column is None or not table[column].type().is_floating():
            continue
        number = table[column].cast("float64")
        bits = 53 if table[column].type().is_float64() else 24
        is_number = number - number == 0  # neither NaN, which pandas writes for none, nor infinite
        is_exact = (number % 1 == 0) & (number.abs() < 2**bits)
        inexact = table.filter(is_number & ~is_exact).select(file=table[FILE], id=number)
        if row := inexact.order_by(["file", "id"]).limit(1).to_pyarrow().to_pylist():
            path = next(file.path for file in files if file.name == row[0]["file"])
            raise UserError(
                f"{path}: column {column!r} has ids of floating point that are not whole numbers "
                f"below 2^{bits} ({row[0]['id']!r} is one), so different ids may be equal; write "
                "them as integers or text"
            )


def _text(column: ibis.expr.types.Column, file: RawFile) -> ibis.expr.types.StringValue:
    """A column as strings: whole numbers without a decimal point; NaN becomes null."""
    dtype = column.type()
    if dtype.is_binary():
        raise UserError(
            f"{file.path} has bytes as ids in column {column.get_name()!r}; write them as text"
        )
    if dtype.is_nested():
        raise UserError(
            f"{file.path} has nested values as ids in column {column.get_name()!r}; write the one "
            "that identifies as a column of its own"
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
    time = column.cast("timestamp('UTC')" if zoned else "timestamp")
    if isinstance(dtype, dt.Timestamp) and dtype.scale == 9:  # DuckDB rounds nanoseconds
        time = (time > column).ifelse(time - ibis.interval(microseconds=1), time)
    return time


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
