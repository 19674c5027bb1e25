"""Raw rows that cannot be used: the reasons, how they are counted, sampled and reported."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import ibis
import ibis.expr.types as ir

from src.dataset.ingest import times
from src.io.errors import UserError

(
    ACCEPTED, MALFORMED, TOO_FEW, TOO_MANY, OPEN_QUOTE, NOT_JSON, NESTED, NOT_UTF8, NO_USER,
    NO_ITEM, NO_DOMAIN, LINE_BREAK, NO_TIME, NOT_A_TIME, OTHER_UNIT, BEFORE_1970, AFTER_9999,
    OTHER_EVENT, LOW_RATING,
) = range(19)  # fmt: skip

# What a user reads; {unit} is the unit of the log's times.
REASONS = {
    MALFORMED: "malformed row",
    TOO_FEW: "too few columns",
    TOO_MANY: "too many columns",
    OPEN_QUOTE: "unclosed quote",
    NOT_JSON: "not a JSON object",
    NESTED: "a JSON object or array as an id or domain",
    NOT_UTF8: "not UTF-8",
    NO_USER: "user_id is empty",
    NO_ITEM: "item_id is empty",
    NO_DOMAIN: "domain is empty",
    LINE_BREAK: "line break or NUL in an id",
    NO_TIME: "time is empty",
    NOT_A_TIME: "time is neither a number nor an ISO date",
    OTHER_UNIT: "time is not in {unit}",
    BEFORE_1970: "time is before 1970",
    AFTER_9999: "time is after the year 9999",
}
# Rows that the user did not ask for are no fault of the log; their names in `dropped` of the card
FILTERED = {OTHER_EVENT: "other_events", LOW_RATING: "min_rating"}
TIME_REASONS = (NOT_A_TIME, OTHER_UNIT, BEFORE_1970, AFTER_9999)
EMPTY = {"user_id": NO_USER, "item_id": NO_ITEM, "domain": NO_DOMAIN}
SAMPLE_SIZE = 1000
REJECTED = "rejected.csv"  # the sample in a dataset folder

Record = dict[str, str | int | None]  # a row of rejected.csv: file, row, reason, text

UNIT_NAMES = {
    **{unit: f"{unit} since 1970" for unit in times.PER_SECOND},
    "iso": "ISO dates",
    "yyyymmdd": "the form YYYYMMDD",
    "mmdd": "the form MMDD",
    times.FORMATTED: "the form of --time_format",
}


@dataclass(frozen=True)
class RejectedRow:
    """A raw row that is not used."""

    file: str
    row: int | None  # the line as an editor counts, from 1; in a Parquet file the row
    reason: int
    text: str  # the raw row, or what is known of it
    time: str | None = None  # the time as written, for the TIME_REASONS
    index_in_row: int = 0


def id_error(ids: dict[str, ir.StringValue], integer_ids: frozenset[str]) -> ir.IntegerValue:
    """The first reason to reject the ids of an event, or ACCEPTED.

    `integer_ids` names those that were integers: these can only be missing.
    """
    errors, line_breaks = [], []
    for name, text in ids.items():
        if name in integer_ids:
            errors.append((text.isnull(), EMPTY[name]))
            continue
        # a text that starts after the space character is not blank: cheaper than to strip every id
        blank = ibis.cases((text > "!", False), else_=text.fill_null("").strip() == "")
        errors.append((blank, EMPTY[name]))
        line_breaks += [text.contains(character) for character in "\n\r\0"]
    if line_breaks:
        errors.append((ibis.or_(*line_breaks), LINE_BREAK))
    return ibis.cases(*errors, else_=ACCEPTED)


def rejection_reason(row: Mapping[str, Any], unit: str, requested: str) -> int:
    """The reason why a row is not used, or ACCEPTED.

    `row` has error (of the text or the ids), form (of the time), before_1970 and after_9999.
    """
    if row["error"]:
        return row["error"]
    if row["form"] == times.MISSING:
        return NO_TIME
    if row["form"] == times.OTHER:
        return NOT_A_TIME
    if row["form"] not in times.accepted_forms(unit, requested):
        return OTHER_UNIT
    if row["before_1970"]:
        return BEFORE_1970
    return AFTER_9999 if row["after_9999"] else ACCEPTED


def is_accepted(table: ir.Table, unit: str, requested: str) -> ir.BooleanValue:
    """The rows whose reason is ACCEPTED, as an expression."""
    accepted = (table.error == ACCEPTED) & table.form.isin(times.accepted_forms(unit, requested))
    return accepted & ~table.before_1970 & ~table.after_9999


def reason_text(reason: int, unit: str) -> str:
    """A reason as a user reads it."""
    if reason == NOT_A_TIME and unit in (*times.DAY_NUMBERS, times.FORMATTED):
        reason = OTHER_UNIT
    return REASONS[reason].format(unit=UNIT_NAMES[unit])


class TooManyRejected(UserError):
    """More rows were rejected than `--max_rejected` allows; `sample` has the first, as records."""

    def __init__(self, message: str, sample: list[Record]):
        super().__init__(message)
        self.sample = sample


def check_rejected_share(
    rejected: dict[str, int],
    rows: int,
    allowed: float,
    first: str,
    sample: list[Record],
    remedy: str = "fix them",
) -> None:
    """TooManyRejected when more than the allowed share of the rows is rejected, or all of them.

    `first` says what is wrong with the first of them, with its path and row; `remedy` what to do.
    """
    count = sum(rejected.values())
    if count <= allowed * rows and count < rows:
        return
    reasons = ", ".join(f"{reason}: {n:,}" for reason, n in rejected.items())
    numbers = f"{count:,} of {rows:,} raw rows cannot be used ({reasons}), the first at {first}"
    if count == rows:
        raise TooManyRejected(f"no row of the log can be used: {numbers}; {remedy}", sample)
    raise TooManyRejected(
        f"{numbers}; {remedy}, or allow them with --max_rejected {enough(count, rows)} (now "
        f"{allowed:g})",
        sample,
    )


def enough(count: int, rows: int) -> str:
    """The least share, of three digits, that allows `count` of `rows`."""
    share = count / rows
    unit = 10.0 ** (math.floor(math.log10(share)) - 2)
    text = f"{share:.3g}"
    return text if count <= float(text) * rows else f"{float(text) + unit:.3g}"


def describe(row: RejectedRow, path: str, columns: dict[str, str], unit: str) -> str:
    """Where a rejected row is and what is wrong with it."""
    location = path if row.row is None else f"{path} row {row.row}"
    for name, empty in EMPTY.items():
        if row.reason == empty:
            return f"{location}: {columns[name]} is empty"
    reason = reason_text(row.reason, unit)
    if row.time is not None:
        return f"{location}: {columns['unix_time']} {_short(row.time)} {reason[len('time ') :]}"
    return f"{location}: {reason}: {_short(row.text)}"


def as_record(row: RejectedRow, unit: str) -> Record:
    """A rejected row as rejected.csv has it."""
    return {
        "file": PurePath(row.file).as_posix(),
        "row": row.row,
        "reason": reason_text(row.reason, unit),
        "text": row.text,
    }


def first_rejected(record: Record) -> str:
    """Where the first of the rejected rows is and what is wrong with it, for the console."""
    location = record["file"] if record["row"] is None else f"{record['file']} row {record['row']}"
    return f"the first is {location}, {record['reason']}: {_short(str(record['text']))}"


def _short(text: str, longest: int = 80) -> str:
    return repr(text if len(text) <= longest else text[:longest] + "…")
