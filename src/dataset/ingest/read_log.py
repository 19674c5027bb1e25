"""From a raw log to a clean table of its events: read every row, and accept or reject it."""

import shlex
from collections import Counter
from dataclasses import dataclass, replace

import ibis
from ibis import _
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings
from src.dataset.engine.base import Engine
from src.dataset.ingest import rejects, times
from src.dataset.ingest.detect_format import log_files, open_reader
from src.dataset.ingest.event_table import PARQUET
from src.dataset.ingest.formats import FORMATS
from src.dataset.ingest.raw_files import FileRecord, local_file_records
from src.dataset.ingest.raw_format import EVENT_COLUMNS, Columns, RawLog, Source
from src.dataset.ingest.rejects import RejectedRow
from src.dataset.ingest.side_file import side_file, with_domains
from src.dataset.ingest.table_reader import RejectedRows
from src.dataset.ingest.time_format import guess_format
from src.io.errors import UserError, plain

KEPT_COLUMNS = [*EVENT_COLUMNS, "file", "row", "index_in_row"]
REASON_COLUMNS = ("error", "form", "before_1970", "after_9999")


@dataclass(frozen=True)
class ParsedLog:
    """The usable events of a log, and what happened to its other rows.

    `events` has user_id, item_id, domain: string, unix_time: int64 (seconds), file: string, row,
    index_in_row: int64. It may be a view of the raw files.
    """

    events: Table
    rows: int  # of the raw log
    rejected: dict[str, int]  # rows by reason, most frequent first
    # rows that --events or --min_rating left out, by their names in the card
    filtered: dict[str, int]
    sample: list[rejects.Record]  # the first rejected rows
    times: str  # the form of the log's times


def read_log(engine: Engine, location: str, raw_format: str, settings: DatasetSettings) -> RawLog:
    """The raw log as written, no row rejected yet. UserError for missing columns."""
    reader = open_reader(engine)
    files = log_files(location, raw_format, engine, settings.domain_from, settings.exclude)
    source = Source(
        reader,
        location,
        files,
        Columns(
            settings.user_col, settings.item_col, settings.domain_col, settings.time_col,
            settings.event_col, settings.rating_col,
        ),
        filters=("event",) * bool(settings.events)
        + ("rating",) * (settings.min_rating is not None),
        delimiter=settings.delimiter,
        header=tuple(name.strip() for name in settings.columns.split(",") if settings.columns),
        domain_from_side_file=bool(settings.domain_from),
    )  # fmt: skip
    raw = FORMATS[raw_format].read(source)
    if settings.domain_from:
        raw = replace(raw, events=with_domains(source, raw.events, settings.domain_from))
    has_text = any(not file.table.endswith(PARQUET) for file in files)
    if settings.tie_order == "as_logged" and has_text and not reader.knows_rows:
        raise UserError(
            f"--tie_order as_logged needs the order of rows, which {engine.name} does not know for "
            "text files; write them as Parquet, or use --tie_order hashed"
        )
    return raw


def parse(engine: Engine, raw: RawLog, settings: DatasetSettings) -> ParsedLog:
    """The usable events, with times in whole seconds.

    TooManyRejected when more rows than `max_rejected` allows are rejected, or all; UserError when a
    file is truncated, or when there is no row.
    """
    time_unit, time_format = _form_of_times(raw, settings)
    year = int(settings.strd_ym[:4])
    timed = times.with_times(raw.events, time_unit, time_format, year)
    checked = _check_rows(raw, timed, time_unit, settings)
    sample: list[RejectedRow] = []
    try:
        if not raw.cheap_to_rescan:
            checked = raw.reader.load(checked)
        unparsed = raw.reader.rejected_rows()
        unit, counts = _count_reasons(checked, unparsed, time_unit)
        total = sum(counts.values())
        accepted = counts.pop(rejects.ACCEPTED, 0)
        filtered = {key: counts.pop(reason, 0) for reason, key in rejects.FILTERED.items()}
        if not total:
            raise UserError(f"{raw.files[0].path} is empty; it has no events")
        most_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        rejected = {rejects.reason_text(reason, unit): count for reason, count in most_first}
        if rejected:
            sample = _sample(raw, checked, unparsed, unit, time_unit)
            _check_rejected_share(raw, rejected, total, sample, unit, settings)
        if accepted < total:
            checked = checked.filter(rejects.is_accepted(checked, unit, time_unit))
    finally:
        raw.reader.close()
    if not accepted:
        raise UserError(
            f"{raw.files[0].path}: no row of the log can be used"
            + _no_such_event(raw, filtered, settings)
        )
    return ParsedLog(
        checked.select(KEPT_COLUMNS).mutate(unix_time=times.in_seconds(_.unix_time, unit)),
        total,
        rejected,
        {key: count for key, count in filtered.items() if count},
        [rejects.as_record(row, unit) for row in sample],
        f"{_time_form(raw, unit, time_format)} in column {raw.columns.unix_time}",
    )


def file_records(
    engine: Engine | None,
    location: str,
    raw_format: str,
    domain_from: str = "",
    exclude: tuple[str, ...] = (),
) -> list[FileRecord]:
    """What the data card keeps of the raw files, --domain_from's included: name, bytes, sha256."""
    files = log_files(location, raw_format, engine, domain_from, exclude)
    if domain_from:
        files.append(side_file(location, domain_from).file)
    if engine and files[0].remote:
        return open_reader(engine).file_records(files)
    return local_file_records(files)


def _form_of_times(raw: RawLog, settings: DatasetSettings) -> tuple[str, str]:
    """(unit, format) of the log's times: as the flags say, or else as its format does."""
    if settings.time_format:
        return times.FORMATTED, settings.time_format
    if settings.time_unit != "auto" or not raw.time_format:
        return settings.time_unit if settings.time_unit != "auto" else raw.time_unit, ""
    return times.FORMATTED, raw.time_format


def _check_rows(raw: RawLog, events: Table, time_unit: str, settings: DatasetSettings) -> Table:
    """Each row with what decides whether it is used; `unix_time` is a number in its own unit."""
    ids = {name: events[name] for name in EVENT_COLUMNS[:3]}
    unreadable = events.read_error.notnull()
    unwanted = []
    if settings.events:
        is_wanted = events.event.strip().isin(settings.events).fill_null(False)
        unwanted.append((~is_wanted, rejects.OTHER_EVENT))
    if settings.min_rating is not None:
        rating = events.rating.try_cast("float64")
        finite = rating - rating == 0  # engines take NaN, as a text too, for the largest number
        is_enough = ((rating >= settings.min_rating) & finite).fill_null(False)
        unwanted.append((~is_enough, rejects.LOW_RATING))
    error = ibis.cases(
        (unreadable & (events.read_error != rejects.NESTED), events.read_error),
        *unwanted,
        (unreadable, rejects.NESTED),  # as other faults of ids: only in rows that are wanted
        else_=rejects.id_error(ids, raw.integer_ids),
    )
    latest = times.largest_time("nanoseconds" if time_unit == "auto" else time_unit)
    no_number = events.form.isin((times.MISSING, times.OTHER))
    return events.select(
        *(name for name in KEPT_COLUMNS if name != "unix_time"),
        unix_time=events.number,
        error=error.cast("int8"),
        form=unreadable.ifelse(times.MISSING, events.form).cast("int8"),
        before_1970=(events.number < 0).fill_null(False),
        after_9999=(events.number > latest).fill_null(False),
        text=events.text,
        time_text=no_number.ifelse(events.unix_time.cast("string"), None),
    )


def _count_reasons(
    checked: Table, unparsed: RejectedRows, time_unit: str
) -> tuple[str, dict[int, int]]:
    """The unit of the log's times, and the number of rows by reason, ACCEPTED included."""
    groups = checked.group_by(REASON_COLUMNS).agg(rows=_.count()).to_pyarrow().to_pylist()
    forms: Counter[int] = Counter()
    for group in groups:
        forms[group["form"]] += group["rows"]
    unit = times.majority_unit(forms, time_unit)
    counts = Counter(unparsed.counts)
    for group in groups:
        counts[rejects.rejection_reason(group, unit, time_unit)] += group["rows"]
    return unit, dict(counts)


def _sample(
    raw: RawLog, checked: Table, unparsed: RejectedRows, unit: str, time_unit: str
) -> list[RejectedRow]:
    """The first rejected rows, by file and row."""
    is_rejected = ~rejects.is_accepted(checked, unit, time_unit)
    rejected = checked.filter(is_rejected & ~checked.error.isin(tuple(rejects.FILTERED)))
    order = ["file", "row", "index_in_row", *EVENT_COLUMNS[:3]]
    sample = list(unparsed.sample)
    first = rejected.order_by(order).limit(rejects.SAMPLE_SIZE).to_pyarrow().to_pylist()
    for row in first:
        reason = rejects.rejection_reason(row, unit, time_unit)
        number = "" if row["unix_time"] is None else str(row["unix_time"])
        time = row["time_text"] or number
        text = row["text"]
        if text is None:
            text = "\t".join([*(row[name] or "" for name in EVENT_COLUMNS[:3]), time])
        sample.append(
            RejectedRow(
                row["file"],
                row["row"],
                reason,
                text,
                time if reason in rejects.TIME_REASONS else None,
                row["index_in_row"],
            )
        )
    numbered = raw.reader.with_line_numbers(sample)
    numbered.sort(key=lambda row: (row.file, row.row or 0, row.index_in_row, row.text))
    return numbered[: rejects.SAMPLE_SIZE]


def _check_rejected_share(
    raw: RawLog, rejected: dict[str, int], rows: int, sample: list[RejectedRow], unit: str,
    settings: DatasetSettings,
) -> None:  # fmt: skip
    first = sample[0]
    path = next(file.path for file in raw.files if file.name == first.file)
    description = rejects.describe(first, path, vars(raw.columns), unit)
    records = [rejects.as_record(row, unit) for row in sample]
    remedy = "fix them"
    if first.reason == rejects.NOT_A_TIME and unit != times.FORMATTED:
        guess = guess_format(first.time or "")
        example = f"--time_format {shlex.quote(guess)}" if guess else "--time_format (docs/data.md)"
        remedy = f"if these are dates, describe them with {example}; or fix them"
    elif first.reason == rejects.NO_DOMAIN and settings.domain_from:
        remedy = "the table of --domain_from has no domain for this item: add it"
    allowed = settings.max_rejected
    rejects.check_rejected_share(rejected, rows, allowed, description, records, remedy)


def _no_such_event(raw: RawLog, filtered: dict[str, int], settings: DatasetSettings) -> str:
    """The values of the column of events, where none of them is asked for."""
    if not filtered.get("other_events"):
        return ""
    counts = raw.events.select(event=raw.events.event.strip()).event.value_counts(name="events")
    names = counts.order_by([ibis.desc("events"), "event"]).limit(8).to_pyarrow()
    present = ", ".join(plain(str(name)) for name in names["event"].to_pylist())
    return f" with --events {' '.join(settings.events)} (the log has {present})"


def _time_form(raw: RawLog, unit: str, time_format: str) -> str:
    if unit == times.FORMATTED:
        return f"dates {time_format}"
    if unit in times.DAY_NUMBERS:
        return f"whole numbers {unit.upper()}"
    dtype = raw.events.unix_time.type()
    if dtype.is_timestamp() or dtype.is_date():
        return "timestamps"
    return "ISO dates" if unit == "iso" else f"{unit} since 1970"
