"""The files released with SyNCRec: a row a user with comma lists, and two vocabularies."""

from pathlib import PurePosixPath

import ibis
from ibis import _
from ibis.expr.types import Table

from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.raw_log import (
    Columns,
    RawLog,
    Source,
    default_columns,
    event_columns,
    text_layout,
)
from src.dataset.ingest.rejects import Rejected
from src.io.errors import UserError

SEQUENCES, ITEM_VOCABULARY, DOMAIN_VOCABULARY = "amazon_seq.txt", "voca_item.txt", "voca_type.txt"
FILES = (SEQUENCES, ITEM_VOCABULARY, DOMAIN_VOCABULARY)
LISTS = {"user_id": "user_id", "item_id": "item", "domain": "type", "unix_time": "unix_time"}


def read_syncrec(source: Source) -> RawLog:
    """Every list becomes events; the lists of a user are equally long, every word is known."""
    default_columns(source)
    found = {PurePosixPath(file.name).name: file for file in source.files}
    for name in FILES:
        if name not in found:
            raise UserError(
                f"{source.place}: {name} is missing; the released format has it beside {SEQUENCES}"
            )
    sequences = found[SEQUENCES]
    users = source.scan.keep(_columns(source, sequences, LISTS | {"list_len": "list_len"}))
    _check_lengths(source, users, sequences)
    split = users.mutate(
        **{name: _[name].split(",") for name in ("item_id", "domain", "unix_time")}
    )
    placed = split.mutate(place=ibis.range(split.item_id.length()).unnest())
    events = placed.select(
        "user_id",
        *[_[name][_.place].name(name) for name in ("item_id", "domain", "unix_time")],
        "file",
        "row",
        "broken",
        "text",
        place=_.place.cast("int64"),
    )
    for name, file, column in (
        ("item_id", found[ITEM_VOCABULARY], "item"),
        ("domain", found[DOMAIN_VOCABULARY], "type"),
    ):
        _check_vocabulary(source, events, name, file, column, sequences)
    said = f"released SyNCRec format {', '.join(FILES)}"
    files = [found[name] for name in FILES]
    return RawLog(event_columns(events), source.scan, files, Columns(**LISTS), said)


def _columns(source: Source, file: RawFile, wanted: dict[str, str]) -> Table:
    layout, _comments = text_layout(source, file)
    for name in wanted.values():
        if name not in layout.columns:
            raise UserError(
                f"{file.path} has no column {name!r}; it has {', '.join(layout.columns)}"
            )
    return source.scan.delimited([file], layout, wanted)


def _check_lengths(source: Source, users: Table, file: RawFile) -> None:
    """Each user's lists are as long as `list_len` says."""
    lengths = [users[name].split(",").length() for name in ("item_id", "domain", "unix_time")]
    wrong = ibis.or_(*[length != users.list_len.try_cast("int64") for length in lengths])
    first = users.filter(wrong.fill_null(True)).order_by("row").limit(1).to_pyarrow().to_pylist()
    if first:
        raise UserError(
            f"{_place(source, file, first[0]['row'])}: the lists of user "
            f"{first[0]['user_id']!r} are not all of length list_len; mend the row"
        )


def _check_vocabulary(
    source: Source, events: Table, name: str, file: RawFile, column: str, sequences: RawFile
) -> None:
    """Every item, or domain, of the sequences stands in its vocabulary."""
    known = source.scan.keep(_columns(source, file, {name: column}))
    unknown = events.anti_join(known, name).order_by(["row", "place"]).limit(1)
    first = unknown.to_pyarrow().to_pylist()
    if first:
        raise UserError(
            f"{_place(source, sequences, first[0]['row'])}: {column} "
            f"{first[0][name]!r} is not in {file.name}; mend one of them"
        )


def _place(source: Source, file: RawFile, row: int | None) -> str:
    """The path, and the row as an editor counts where the engine knows it."""
    if row is None:
        return file.path
    (found,) = source.scan.located([Rejected(file.name, row, 0, "")])
    return f"{file.path} row {found.row}"
