"""Raw rows that cannot be used: for which reasons, how they are counted, sampled and told."""

from dataclasses import dataclass
from pathlib import PurePath

import ibis
import ibis.expr.types as ir

from src.dataset.ingest import times
from src.io.errors import UserError

(
    FINE, MALFORMED, TOO_FEW, TOO_MANY, OPEN_QUOTE, BROKEN_JSON, NOT_UTF8, NO_USER, NO_ITEM,
    NO_DOMAIN, LINE_BREAK, NO_TIME, NOT_A_TIME, OTHER_UNIT, BEFORE_1970, BEYOND_9999,
) = range(16)  # fmt: skip

# What a user reads; {unit} is the unit of the log's times.
REASONS = {
    MALFORMED: "malformed row",
    TOO_FEW: "too few columns",
    TOO_MANY: "too many columns",
    OPEN_QUOTE: "a quote that does not close",
    BROKEN_JSON: "no JSON object",
    NOT_UTF8: "not UTF-8",
    NO_USER: "user_id is empty",
    NO_ITEM: "item_id is empty",
    NO_DOMAIN: "domain is empty",
    LINE_BREAK: "a line break or NUL in an id",
    NO_TIME: "time is empty",
    NOT_A_TIME: "time is neither a number nor an ISO date",
    OTHER_UNIT: "time is not in {unit}",
    BEFORE_1970: "time before 1970",
    BEYOND_9999: "time beyond the year 9999",
}
EMPTY = {"user_id": NO_USER, "item_id": NO_ITEM, "domain": NO_DOMAIN}
SAMPLED = 1000

UNIT_NAMES = {
    **{unit: f"{unit} since 1970" for unit in times.PER_SECOND},
    "seconds": "whole seconds since 1970",
    "iso": "ISO dates",
}


@dataclass(frozen=True)
class Rejected:
    """A raw row that is not used."""

    file: str
    row: int | None  # as an editor counts lines, from 1; of a Parquet file its row
    reason: int
    text: str  # the raw row, or what is known of it
    value: str | None = None  # of a wrong time, the time
    place: int = 0


def id_fault(ids: dict[str, ir.StringValue], numbers: frozenset[str]) -> ir.IntegerValue:
    """The first fault of the ids of an event, FINE where there is none.

    `numbers` names those that were integers: these can only be missing.
    """
    faults, broken = [], []
    for name, text in ids.items():
        if name in numbers:
            faults.append((text.isnull(), EMPTY[name]))
            continue
        # what begins beyond the space is not empty: cheaper than to strip every id
        blank = ibis.cases((text > "!", False), else_=text.fill_null("").strip() == "")
        faults.append((blank, EMPTY[name]))
        broken += [text.contains(character) for character in "\n\r\0"]
    if broken:
        faults.append((ibis.or_(*broken), LINE_BREAK))
    return ibis.cases(*faults, else_=FINE)


def reason_of(key: dict, unit: str, asked: str) -> int:
    """The reason why a row is not used, FINE when it is.

    `key` holds fault, form, before (a time below 0) and beyond (one past the year 9999).
    """
    if key["fault"]:
        return key["fault"]
    if key["form"] == times.NONE:
        return NO_TIME
    if key["form"] == times.OTHER:
        return NOT_A_TIME
    if key["form"] not in times.accepted_forms(unit, asked):
        return OTHER_UNIT
    if key["before"]:
        return BEFORE_1970
    return BEYOND_9999 if key["beyond"] else FINE


def usable(table: ir.Table, unit: str, asked: str) -> ir.BooleanValue:
    """The rows whose reason is FINE, as an expression."""
    fine = (table.fault == FINE) & table.form.isin(times.accepted_forms(unit, asked))
    return fine & ~table.before & ~table.beyond


def wording(reason: int, unit: str) -> str:
    """What a user reads of a reason."""
    return REASONS[reason].format(unit=UNIT_NAMES[unit])


def check_share(rejected: dict[str, int], rows: int, allowed: float, told: str) -> None:
    """UserError when more than the allowed share of the rows is not used.

    `told` says what is wrong with the first of them, with its path and row.
    """
    count = sum(rejected.values())
    if count <= allowed * rows:
        return
    most = ", ".join(f"{reason}: {n:,}" for reason, n in list(rejected.items())[:3])
    raise UserError(
        f"{count:,} of {rows:,} raw rows cannot be used ({most}), the first at {told}; mend them, "
        f"or allow more than --max_rejected {allowed:g}"
    )


def tell(first: Rejected, path: str, columns: dict[str, str], unit: str) -> str:
    """Where the first rejected row stands and what is wrong with it."""
    place = path if first.row is None else f"{path} row {first.row}"
    for name, reason in EMPTY.items():
        if first.reason == reason:
            return f"{place}: {columns[name]} is empty"
    said = wording(first.reason, unit)
    if first.value is not None:
        fault = said.removeprefix("time ")
        return f"{place}: {columns['unix_time']} {_short(first.value)} {_verb(fault)}"
    return f"{place}: {said}: {_short(first.text)}"


def as_record(row: Rejected, unit: str) -> dict:
    """A rejected row as a sample keeps it."""
    return {
        "file": PurePath(row.file).as_posix(),
        "row": row.row,
        "reason": wording(row.reason, unit),
        "text": row.text,
    }


def _verb(fault: str) -> str:
    return fault if fault.startswith("is ") else f"is {fault}"


def _short(text: str, longest: int = 80) -> str:
    return repr(text if len(text) <= longest else text[:longest] + "…")
