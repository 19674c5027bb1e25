"""Raw logs: one function a raw format, each from a folder to the same table of events.

A new format is one function here and one entry in `READERS`.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import ibis
from ibis import _
from ibis.backends import BaseBackend
from ibis.expr.types import Table

from src.dataset.engine import materialise
from src.dataset.rawfiles import editor_row, notes_of, read_head, without_comments
from src.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
SEQUENCES, ITEM_VOCABULARY, DOMAIN_VOCABULARY = "amazon_seq.txt", "voca_item.txt", "voca_type.txt"
LAST_SECOND = 253_402_300_799  # the end of the year 9999; milliseconds lie beyond
NUMBER = r"^\s*[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*$"


@dataclass(frozen=True)
class Columns:
    """What the raw table calls the four columns."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    domain: str = "domain"
    unix_time: str = "unix_time"

    def flag(self, field: str) -> str:
        return {"user_id": "--user_col", "item_id": "--item_col"}.get(
            field, "--domain_col" if field == "domain" else "--time_col"
        )


@dataclass(frozen=True)
class RawLog:
    """A raw log as it was written: `events` holds strings, and file, row and place of each event.

    `row` is the event's row in its file from 1 (header and comments not counted), `place` its place
    in the row where a row holds several.
    """

    events: Table  # user_id, item_id, domain, unix_time, file: string; row, place: int64
    files: list[Path]
    columns: Columns
    source: str
    notes: dict[str, str]


def choose_format(folder: Path, asked: str) -> tuple[str, str]:
    """The raw format and why; UserError when the folder is missing or holds no log."""
    if not folder.exists():
        raise UserError(f"the raw folder {folder} does not exist; name one with --raw_dir")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name its folder with --raw_dir")
    if asked != "auto":
        return asked, "as --format says"
    if (folder / SEQUENCES).is_file():
        return "syncrec", f"{folder} holds {SEQUENCES}"
    files = _tables_in(folder)
    if files:
        return "table", f"{folder} holds {files[0].name}"
    raise UserError(
        f"{folder} holds no raw log: neither {SEQUENCES} nor a file ending in "
        f"{', '.join(TABLE_SUFFIXES)}"
    )


def raw_files(folder: Path, raw_format: str) -> list[Path]:
    """The files that a reader of this format reads, by name."""
    if raw_format == "table":
        files = _tables_in(folder)
        if not files:
            raise UserError(f"{folder} holds no file ending in {', '.join(TABLE_SUFFIXES)}")
        return files
    files = [folder / name for name in (SEQUENCES, ITEM_VOCABULARY, DOMAIN_VOCABULARY)]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} is missing; the released format has it beside {SEQUENCES}")
    return files


def read_table(engine: BaseBackend, folder: Path, columns: Columns) -> RawLog:
    """An event table: a row an event, in one file or several.

    When none of several files has a domain column, the name of a file is the domain of its rows.
    """
    files = raw_files(folder, "table")
    headers = {path: _columns_of(engine, path) for path in files}
    by_file = (
        len(files) > 1
        and columns.domain == Columns.domain
        and not any(columns.domain in header for header in headers.values())
    )
    if by_file:
        _check_stems(files)
    parts = []
    for path in files:
        wanted = [name for name in vars(columns) if not (by_file and name == "domain")]
        for field in wanted:
            _check_column(path, headers[path], field, columns)
        part = _read_strings(engine, path, {name: getattr(columns, name) for name in wanted})
        if by_file:
            part = part.mutate(domain=ibis.literal(_stem(path)))
        parts.append(part.mutate(file=ibis.literal(path.name), place=ibis.literal(0, "int64")))
    order = [*vars(columns), "file", "row", "place"]
    events = ibis.union(*[part.select(order) for part in parts])
    comments = [line for path in files for line in _comments_of(path)]
    notes = notes_of(comments)
    said = [notes[key] for key in ("source", "generated") if key in notes]
    source = " · ".join([f"event table {', '.join(path.name for path in files)}", *said])
    return RawLog(events, files, columns, source, notes)


def read_syncrec(engine: BaseBackend, folder: Path, columns: Columns) -> RawLog:
    """The files released with SyNCRec: a row a user with comma lists, and two vocabularies."""
    if columns != Columns():
        raise UserError(
            "--user_col, --item_col, --domain_col and --time_col are for event tables; "
            "the released format has its own names"
        )
    files = raw_files(folder, "syncrec")
    sequences = folder / SEQUENCES
    lists = {"user_id": "user_id", "item_id": "item", "domain": "type", "unix_time": "unix_time"}
    lengths = {"list_len": "list_len"}
    header = _columns_of(engine, sequences)
    for name in [*lists.values(), *lengths]:
        if name not in header:
            raise UserError(f"{sequences} has no column {name!r}; it has {', '.join(header)}")
    users = materialise(engine, _read_strings(engine, sequences, lists | lengths))
    _check_lengths(users, sequences)
    split = users.mutate(
        **{name: _[name].split(",") for name in ("item_id", "domain", "unix_time")}
    )
    placed = split.mutate(place=ibis.range(split.item_id.length()).unnest())
    events = placed.select(
        "user_id",
        *[_[name][_.place].name(name) for name in ("item_id", "domain", "unix_time")],
        "row",
        file=ibis.literal(SEQUENCES),
        place=_.place.cast("int64"),
    )
    events = materialise(engine, events)
    _check_vocabulary(engine, events, "item_id", folder / ITEM_VOCABULARY, "item", sequences)
    _check_vocabulary(engine, events, "domain", folder / DOMAIN_VOCABULARY, "type", sequences)
    source = f"released SyNCRec format {', '.join(path.name for path in files)}"
    return RawLog(events, files, columns, source, {})


READERS: dict[str, Callable[[BaseBackend, Path, Columns], RawLog]] = {
    "table": read_table,
    "syncrec": read_syncrec,
}


def parse(engine: BaseBackend, raw: RawLog) -> Table:
    """The events with times as integers.

    UserError, with file and row, at the first event that lacks an id or whose time is no whole
    number of seconds; UserError too when there is no event.
    """
    number = _.unix_time.re_search(NUMBER).ifelse(_.unix_time.strip(), None).try_cast("float64")
    checked = raw.events.mutate(number=number)
    whole = (_.number == _.number.floor()) & (_.number.abs() <= LAST_SECOND)
    fault = ibis.cases(
        *[((_[name].fill_null("").strip() == ""), name) for name in vars(raw.columns)],
        (~whole.fill_null(False), "time"),
        else_="",
    )
    faults = checked.mutate(fault=fault).filter(_.fault != "")
    first = faults.order_by(["file", "row", "place"]).limit(1).to_pyarrow().to_pylist()
    if first:
        raise UserError(_fault_message(raw, first[0]))
    if not raw.events.limit(1).to_pyarrow().num_rows:
        raise UserError(f"{raw.files[0]} is empty; it has a header but no events")
    typed = checked.mutate(unix_time=_.number.cast("int64")).drop("number")
    return materialise(engine, typed)


def _fault_message(raw: RawLog, event: dict) -> str:
    path = next(path for path in raw.files if path.name == event["file"])
    place = f"{path} row {editor_row(path, event['row'])}"
    if event["fault"] != "time":
        return f"{place}: {getattr(raw.columns, event['fault'])} is empty; fill or remove the row"
    return (
        f"{place}: {raw.columns.unix_time} {event['unix_time']!r} is no time in whole seconds "
        "since 1970; mend it, or name the right column with --time_col"
    )


def _tables_in(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_file() and path.name.endswith(TABLE_SUFFIXES)
    )


def _stem(path: Path) -> str:
    """The file name without the suffix of a table."""
    suffix = max((end for end in TABLE_SUFFIXES if path.name.endswith(end)), key=len)
    return path.name.removesuffix(suffix)


def _check_stems(files: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in files:
        other = seen.setdefault(_stem(path), path)
        if other != path:
            raise UserError(f"{other} and {path.name} both name domain {_stem(path)}; keep one")


def _comments_of(path: Path) -> list[str]:
    return [] if path.suffix == ".parquet" else read_head(path).comments


def _columns_of(engine: BaseBackend, path: Path) -> list[str]:
    if path.suffix != ".parquet":
        return read_head(path).columns
    with _told_as(path):
        return list(engine.read_parquet(path).columns)


def _check_column(path: Path, header: list[str], field: str, columns: Columns) -> None:
    name = getattr(columns, field)
    if header.count(name) != 1:
        fault = "has more than one" if name in header else "has no"
        raise UserError(
            f"{path} {fault} column {name!r} (its columns: {', '.join(header)}); "
            f"name the right one with {columns.flag(field)}"
        )


def _read_strings(engine: BaseBackend, path: Path, wanted: dict[str, str]) -> Table:
    """The wanted columns under their new names, as strings, and `row` from 1.

    Strings, so that an id keeps its leading zeros.
    """
    if path.suffix == ".parquet":
        with _told_as(path):
            table = engine.read_parquet(path)
            picked = {new: table[old].cast("string") for new, old in wanted.items()}
            return _with_rows(engine, table.select(**picked))
    head = read_head(path)
    names = [f"column_{place}" for place in range(len(head.columns))]
    with _told_as(path, len(head.comments)), without_comments(path, head) as text:
        table = engine.read_csv(
            text,
            auto_detect=False,
            columns=dict.fromkeys(names, "VARCHAR"),
            delim=head.delimiter,
            quote='"',
            escape='"',
            header=True,
        )
        picked = {new: table[names[head.columns.index(old)]] for new, old in wanted.items()}
        return _with_rows(engine, table.select(**picked))


def _with_rows(engine: BaseBackend, table: Table) -> Table:
    """Read the table now and number its rows; the engine keeps the order of a file."""
    row = (ibis.row_number() + 1).cast("int64")
    return materialise(engine, table.mutate(row=row))


@contextmanager
def _told_as(path: Path, comments: int = 0) -> Iterator[None]:
    """An error of the engine as one line: the file, the row in it, and what was expected.

    `comments` lines stand above what the engine was given.
    """
    try:
        yield
    except (duckdb.Error, OSError, EOFError, zlib.error) as error:
        text = str(error)
        line = re.search(r"Line: (\d+)", text)
        counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
        fault = text.splitlines()[0] if text else repr(error)
        if line:
            fault = f"row {int(line[1]) + comments} is malformed"
        if line and counts:
            fault += f", with {counts[2]} columns in place of {counts[1]}"
        raise UserError(f"{path} cannot be read: {fault}") from None


def _check_lengths(users: Table, path: Path) -> None:
    """Each user's lists are as long as `list_len` says."""
    lengths = [users[name].split(",").length() for name in ("item_id", "domain", "unix_time")]
    wrong = ibis.or_(*[length != users.list_len.try_cast("int64") for length in lengths])
    first = users.filter(wrong.fill_null(True)).order_by("row").limit(1).to_pyarrow().to_pylist()
    if first:
        raise UserError(
            f"{path} row {editor_row(path, first[0]['row'])}: the lists of user "
            f"{first[0]['user_id']!r} are not all of length list_len; mend the row"
        )


def _check_vocabulary(
    engine: BaseBackend, events: Table, field: str, path: Path, column: str, sequences: Path
) -> None:
    """Every item, or domain, of the sequences stands in its vocabulary."""
    header = _columns_of(engine, path)
    if column not in header:
        raise UserError(f"{path} has no column {column!r}; it has {', '.join(header)}")
    known = _read_strings(engine, path, {field: column})
    unknown = events.anti_join(known, field).order_by(["row", "place"]).limit(1)
    first = unknown.to_pyarrow().to_pylist()
    if first:
        raise UserError(
            f"{sequences} row {editor_row(sequences, first[0]['row'])}: {column} "
            f"{first[0][field]!r} is not in {path.name}; mend one of them"
        )
