"""The files released with SyNCRec: one row per user with comma lists, and two vocabularies."""

from pathlib import PurePosixPath

import ibis
from ibis import _
from ibis.expr.types import Table

from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.raw_format import (
    Columns,
    RawLog,
    Source,
    complete_columns,
    read_head,
    require_default_columns,
    text_layout,
)
from src.dataset.ingest.rejects import RejectedRow
from src.io.errors import UserError

SEQUENCES, ITEM_VOCABULARY, DOMAIN_VOCABULARY = "amazon_seq.txt", "voca_item.txt", "voca_type.txt"
FILES = (SEQUENCES, ITEM_VOCABULARY, DOMAIN_VOCABULARY)
LISTS = {"user_id": "user_id", "item_id": "item", "domain": "type", "unix_time": "unix_time"}


def read_syncrec(source: Source) -> RawLog:
    """Turn every list into events; lists of a user are equally long, every word is known."""
    require_default_columns(source)
    files = {PurePosixPath(file.name).name: file for file in source.files}
    for name in FILES:
        if name not in files:
            raise UserError(f"{source.location}: {name} is missing; the released format needs it")
    sequences = files[SEQUENCES]
    users = source.reader.load(_columns(source, sequences, LISTS | {"list_len": "list_len"}))
    _check_lengths(source, users, sequences)
    split = users.mutate(
        **{name: _[name].split(",") for name in ("item_id", "domain", "unix_time")}
    )
    indexed = split.mutate(index_in_row=ibis.range(split.item_id.length()).unnest())
    events = indexed.select(
        "user_id",
        *[_[name][_.index_in_row].name(name) for name in ("item_id", "domain", "unix_time")],
        "file",
        "row",
        "read_error",
        "text",
        index_in_row=_.index_in_row.cast("int64"),
    )
    for name, file, column in (
        ("item_id", files[ITEM_VOCABULARY], "item"),
        ("domain", files[DOMAIN_VOCABULARY], "type"),
    ):
        _check_vocabulary(source, events, name, file, column, sequences)
    return RawLog(
        complete_columns(events),
        source.reader,
        [files[name] for name in FILES],
        Columns(**LISTS),
        f"released SyNCRec format {', '.join(FILES)}",
    )


def _columns(source: Source, file: RawFile, wanted: dict[str, str]) -> Table:
    layout = text_layout(source, read_head(source, file, source.reader.first_lines(file), wanted))
    for name in wanted.values():
        if name not in layout.columns:
            raise UserError(
                f"{file.path} has no column {name!r}; it has {', '.join(layout.columns)}"
            )
    return source.reader.delimited([file], layout, wanted)


def _check_lengths(source: Source, users: Table, file: RawFile) -> None:
    """UserError unless each user's lists are as long as `list_len` says."""
    lengths = [users[name].split(",").length() for name in ("item_id", "domain", "unix_time")]
    wrong = ibis.or_(*[length != users.list_len.try_cast("int64") for length in lengths])
    first = users.filter(wrong.fill_null(True)).order_by("row").limit(1).to_pyarrow().to_pylist()
    if first:
        raise UserError(
            f"{_location(source, file, first[0]['row'])}: the lists of user "
            f"{first[0]['user_id']!r} are not all of length list_len; fix the row"
        )


def _check_vocabulary(
    source: Source, events: Table, name: str, file: RawFile, column: str, sequences: RawFile
) -> None:
    """UserError unless every item, or domain, of the sequences is in its vocabulary."""
    known = source.reader.load(_columns(source, file, {name: column}))
    unknown = events.anti_join(known, name).order_by(["row", "index_in_row"]).limit(1)
    first = unknown.to_pyarrow().to_pylist()
    if first:
        raise UserError(
            f"{_location(source, sequences, first[0]['row'])}: {column} "
            f"{first[0][name]!r} is not in {file.name}; fix one of them"
        )


def _location(source: Source, file: RawFile, row: int | None) -> str:
    """The path, and the line number where the engine knows the row."""
    if row is None:
        return file.path
    (numbered,) = source.reader.with_line_numbers([RejectedRow(file.name, row, 0, "")])
    return f"{file.path} row {numbered.row}"
