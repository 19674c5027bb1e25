"""--domain_from: the domain of an item, taken from a table beside the log."""

from dataclasses import dataclass
from pathlib import Path

from ibis.expr.types import Table

from src.dataset.ingest.event_table import PARQUET
from src.dataset.ingest.json_keys import holds_json_lines, keys_of_lines
from src.dataset.ingest.raw_files import RawFile, is_remote, strip_file_scheme
from src.dataset.ingest.raw_format import Source, text_before
from src.dataset.ingest.table_reader import TextLayout
from src.dataset.ingest.text_head import missing_columns, parse_head
from src.io.errors import UserError


@dataclass(frozen=True)
class SideFile:
    """What --domain_from names."""

    file: RawFile
    key: str  # a column, or its number from 1 in a file without a header
    column: str
    separator: str  # the domain ends before it; "": it is the whole value


def side_file(location: str, domain_from: str) -> SideFile:
    """The parsed value of --domain_from; a relative file may be beside the log.

    UserError when the file does not exist.
    """
    name, key, column, *rest = domain_from.split(":", 3)
    folder = Path(strip_file_scheme(location))
    while not is_remote(location) and not folder.is_dir() and folder != folder.parent:
        folder = folder.parent  # of a file, or of a glob
    paths = [folder / name, Path(name)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"--domain_from: there is no file {name} in {folder}; name it with its folder"
        )
    return SideFile(RawFile(path.name, str(path)), key, column, rest[0] if rest else "")


def is_side_file(file: RawFile, location: str, domain_from: str) -> bool:
    """Whether a file of a folder is the one that --domain_from names."""
    if not domain_from or file.remote:
        return False
    return Path(file.path).samefile(side_file(location, domain_from).file.path)


def with_domains(source: Source, events: Table, domain_from: str) -> Table:
    """The events with the domains of their items; null for an item that the table does not have.

    UserError for a missing column and for an item with two domains.
    """
    side = side_file(source.location, domain_from)
    rows = _rows(source, side)
    value = rows.column
    if side.separator:
        value = text_before(rows.column, side.separator)
    domains = rows.select(key=rows.key.strip(), name=value.strip()).distinct()
    domains = source.reader.load(domains.filter(domains.key.notnull() & (domains.key != "")))
    source.reader.forget_rejected_rows()  # they are no events
    twice = domains.group_by("key").agg(names=domains.count(), first=domains.name.min())
    for row in twice.filter(twice.names > 1).order_by("key").limit(1).to_pyarrow().to_pylist():
        raise UserError(
            f"{side.file.path} has {row['names']} values of {side.column} for {side.key} "
            f"{row['key']!r}; --domain_from needs one"
        )
    columns = events.columns
    events, domains = events.drop("domain"), domains.select(item_key="key", domain="name")
    return events.left_join(domains, events.item_id == domains.item_key).select(*columns)


def _rows(source: Source, side: SideFile) -> Table:
    """`key` and `column` of each row of the file, as strings."""
    file, wanted = side.file, {"key": side.key, "column": side.column}
    if file.table.endswith(PARQUET):
        _check(file, tuple(source.reader.parquet_schema(file).names), side)
        table = source.reader.parquet([file])
        return table.select(**{name: table[old].cast("string") for name, old in wanted.items()})
    lines = source.reader.first_lines(file)
    if holds_json_lines(file.table, lines):
        _check(file, keys_of_lines(lines, file.path), side)
        return _readable(source.reader.json_lines([file], wanted))
    has_header = not (side.key.isdigit() and side.column.isdigit())
    head = parse_head(file, lines, "", (), set(wanted.values()) if has_header else set())
    columns = head.columns
    if not has_header:
        columns = tuple(str(number) for number in range(1, len(columns) + 1))
    _check(file, columns, side)
    layout = TextLayout(columns, head.delimiter, header=has_header, comments=len(head.comments))
    return _readable(source.reader.delimited([file], layout, wanted))


def _readable(rows: Table) -> Table:
    return rows.filter(rows.read_error.isnull())


def _check(file: RawFile, header: tuple[str, ...], side: SideFile) -> None:
    columns = (side.key, side.column)
    if missing := [column for column in columns if header.count(column) != 1]:
        raise UserError(
            f"--domain_from: {missing_columns(file.path, header, missing)}; write "
            "FILE:KEY:COLUMN with two of its columns"
        )
