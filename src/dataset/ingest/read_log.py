"""From a raw log to a clean table of its events: read every row, and accept or reject it."""

from collections import Counter
from dataclasses import dataclass

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
from src.dataset.ingest.table_reader import RejectedRows
from src.io.errors import UserError

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
    sample: list[rejects.Record]  # the first rejected rows
    times: str  # the form of the log's times


def read_log(engine: Engine, location: str, raw_format: str, settings: DatasetSettings) -> RawLog:
    """The raw log as written, no row rejected yet. UserError for missing columns."""
    reader = open_reader(engine)
    columns = Columns(settings.user_col, settings.item_col, settings.domain_col, settings.time_col)
    files = log_files(location, raw_format, engine)
    raw = FORMATS[raw_format].read(Source(reader, location, files, columns))
    has_text = any(not file.name.endswith(PARQUET) for file in files)
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
    time_unit = settings.time_unit
    checked = _check_rows(raw, time_unit)
    sample: list[RejectedRow] = []
    try:
        if not raw.cheap_to_rescan:
            checked = raw.reader.load(checked)
        unparsed = raw.reader.rejected_rows()
        unit, counts = _count_reasons(checked, unparsed, time_unit)
        total = sum(counts.values())
        counts.pop(rejects.ACCEPTED, 0)
        if not total:
            raise UserError(f"{raw.files[0].path} is empty; it has no events")
        most_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        rejected = {rejects.reason_text(reason, unit): count for reason, count in most_first}
        if rejected:
            sample = _sample(raw, checked, unparsed, unit, time_unit)
            _check_rejected_share(raw, rejected, total, sample, unit, settings.max_rejected)
            checked = checked.filter(rejects.is_accepted(checked, unit, time_unit))
    finally:
        raw.reader.close()
    return ParsedLog(
        checked.select(KEPT_COLUMNS).mutate(unix_time=times.in_seconds(_.unix_time, unit)),
        total,
        rejected,
        [rejects.as_record(row, unit) for row in sample],
        f"{_time_form(raw, unit)} in column {raw.columns.unix_time}",
    )


def file_records(engine: Engine | None, location: str, raw_format: str) -> list[FileRecord]:
    """What the data card keeps of the raw files: name, bytes, sha256."""
    files = log_files(location, raw_format, engine)
    if engine and files[0].remote:
        return open_reader(engine).file_records(files)
    return local_file_records(files)


def _check_rows(raw: RawLog, time_unit: str) -> Table:
    """Each row with what decides whether it is used; `unix_time` is a number in its own unit."""
    events = times.with_times(raw.events)
    ids = {name: events[name] for name in EVENT_COLUMNS[:3]}
    unreadable = events.read_error.notnull()
    error = ibis.cases(
        (unreadable, events.read_error), else_=rejects.id_error(ids, raw.integer_ids)
    )
    latest = times.largest_time("nanoseconds" if time_unit == "auto" else time_unit)
    no_number = events.form.isin((times.MISSING, times.OTHER, times.FRACTION))
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
    rejected = checked.filter(~rejects.is_accepted(checked, unit, time_unit))
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
    allowed: float,
) -> None:  # fmt: skip
    first = sample[0]
    path = next(file.path for file in raw.files if file.name == first.file)
    description = rejects.describe(first, path, vars(raw.columns), unit)
    records = [rejects.as_record(row, unit) for row in sample]
    rejects.check_rejected_share(rejected, rows, allowed, description, records)


def _time_form(raw: RawLog, unit: str) -> str:
    dtype = raw.events.unix_time.type()
    if dtype.is_timestamp() or dtype.is_date():
        return "timestamps"
    return "ISO dates" if unit == "iso" else f"{unit} since 1970"
