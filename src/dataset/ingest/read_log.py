"""From a raw log to a clean table of its events: choose the format, read, and judge every row."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import ibis
from ibis import _
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings
from src.dataset.engine.base import Engine
from src.dataset.ingest import rejects, times
from src.dataset.ingest.completejourney import package_files
from src.dataset.ingest.event_table import PARQUET
from src.dataset.ingest.formats import FORMATS, files_of
from src.dataset.ingest.raw_files import RawFile, digests, first_lines, is_remote, local_files
from src.dataset.ingest.raw_log import EVENT, Columns, RawLog, Source
from src.dataset.ingest.rejects import Rejected
from src.dataset.ingest.table_reader import PutAside, Scan
from src.io.errors import UserError

LOOKED_INTO = 200  # files whose first lines are compared with the formats
SMALL = [*EVENT, "file", "row", "place"]
JUDGED = ("fault", "form", "before", "beyond")


@dataclass(frozen=True)
class Parsed:
    """The events of a log, and what became of its other rows.

    `events` has user_id, item_id, domain: string, unix_time: int64 (seconds), file: string, row,
    place: int64. It may be a view of the raw files.
    """

    events: Table
    rows: int  # of the raw log
    rejected: dict[str, int]  # reason: rows, most first
    sample: list[dict]  # the first rejected rows: file, row, reason, text
    times: str  # which form the times of the log have


def choose_format(place: str, asked: str, engine: Engine | None = None) -> tuple[str, str]:
    """The raw format and why; UserError when the place is missing, holds no log or two kinds.

    A place on another file system than this machine's needs the engine.
    """
    if asked == "completejourney":
        return asked, "as --format says"
    if asked == "auto" and _is_package(place):
        package_files()
        return "completejourney", f"{place} does not exist; the package of this name has the log"
    found = _files(place, engine)
    if asked != "auto":
        files_of(found, asked, place)
        return asked, "as --format says"
    kinds: dict[str, tuple[RawFile, str]] = {}
    for file in found[:LOOKED_INTO]:
        name, why = _recognised(file, engine)
        if name:
            kinds.setdefault(name, (file, why))
    if "syncrec" in kinds:
        return "syncrec", f"{place} holds {kinds['syncrec'][0].name}"
    if len(kinds) > 1:
        (one, (first, _why)), (two, (second, _why)) = list(kinds.items())[:2]
        raise UserError(
            f"{place} holds logs of two kinds: {first.name} looks like {one}, {second.name} like "
            f"{two}; keep one kind in a folder, or name the format with --format"
        )
    for name, (file, why) in kinds.items():
        return name, f"{file.name} shows {why}"
    raise UserError(
        f"{place} holds no raw log; the formats are "
        + "; ".join(f"{name}: {kind.said}" for name, kind in FORMATS.items())
    )


def read_log(engine: Engine, place: str, log_format: str, settings: DatasetSettings) -> RawLog:
    """The raw log as it was written; nothing is judged yet. UserError for missing columns."""
    scan = scan_of(engine)
    named = Columns(settings.user_col, settings.item_col, settings.domain_col, settings.time_col)
    files = _log_files(place, log_format, engine)
    raw = FORMATS[log_format].read(Source(scan, place, files, named))
    texts = [file for file in files if not file.name.endswith(PARQUET)]
    if settings.tie_order == "as_logged" and texts and not scan.rows_known:
        raise UserError(
            f"--tie_order as_logged needs the order of rows, which {engine.name} does not know of "
            "text files; write them as Parquet, or take --tie_order hashed"
        )
    return raw


def parse(engine: Engine, raw: RawLog, settings: DatasetSettings) -> Parsed:
    """The usable events, with times in whole seconds.

    UserError when more rows than `max_rejected` allows are not usable, with the first of them, when
    a file is torn, or when there is no event.
    """
    asked = settings.time_unit
    judged = _judged(raw, asked)
    sample: list[Rejected] = []
    try:
        if not raw.again:
            judged = raw.scan.keep(judged)
        aside = raw.scan.put_aside()
        unit, counts = _tally(judged, aside, asked)
        total = sum(counts.values())
        usable = counts.pop(rejects.FINE, 0)
        if not total:
            raise UserError(f"{raw.files[0].path} is empty; it has no events")
        most_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        rejected = {rejects.wording(reason, unit): count for reason, count in most_first}
        if rejected:
            sample = _sample(raw, judged, aside, unit, asked)
            _check_share(raw, rejected, total, sample[0], unit, settings.max_rejected)
            judged = judged.filter(rejects.usable(judged, unit, asked))
    finally:
        raw.scan.close()
    if not usable:
        raise UserError(f"{raw.files[0].path}: no row of the log can be used")
    return Parsed(
        judged.select(SMALL).mutate(unix_time=times.in_seconds(_.unix_time, unit)),
        total,
        rejected,
        [rejects.as_record(row, unit) for row in sample],
        f"{_times_said(raw, unit)} in column {raw.columns.unix_time}",
    )


def file_records(
    engine: Engine | None, place: str, log_format: str
) -> list[dict[str, str | int | None]]:
    """What the data card keeps of the raw files: name, bytes, sha256."""
    files = _log_files(place, log_format, engine)
    if files[0].remote:
        return scan_of(engine).digests(files)
    return digests(files)


def _judged(raw: RawLog, asked: str) -> Table:
    """Each row with what there is to judge it by; `unix_time` is a number in its own unit."""
    events = times.with_times(raw.events)
    ids = {name: events[name] for name in EVENT[:3]}
    broken = events.broken.notnull()
    fault = ibis.cases((broken, events.broken), else_=rejects.id_fault(ids, raw.numbers))
    last = times.last_number("nanoseconds" if asked == "auto" else asked)
    unread = events.form.isin((times.NONE, times.OTHER, times.FRACTION))
    return events.select(
        *(name for name in SMALL if name != "unix_time"),
        unix_time=events.number,
        fault=fault.cast("int8"),
        form=broken.ifelse(times.NONE, events.form).cast("int8"),
        before=(events.number < 0).fill_null(False),
        beyond=(events.number > last).fill_null(False),
        text=events.text,
        written=unread.ifelse(events.unix_time.cast("string"), None),
    )


def _tally(judged: Table, aside: PutAside, asked: str) -> tuple[str, dict[int, int]]:
    """The unit of the log's times, and how many rows there are of each reason, FINE included."""
    groups = judged.group_by(JUDGED).agg(rows=_.count()).to_pyarrow().to_pylist()
    forms: Counter[int] = Counter()
    for group in groups:
        forms[group["form"]] += group["rows"]
    unit = times.unit_of(forms, asked)
    counts = Counter(aside.rows)
    for group in groups:
        counts[rejects.reason_of(group, unit, asked)] += group["rows"]
    return unit, dict(counts)


def _sample(raw: RawLog, judged: Table, aside: PutAside, unit: str, asked: str) -> list[Rejected]:
    """The first rows that are not usable, by file and row."""
    wrong = judged.filter(~rejects.usable(judged, unit, asked))
    first = wrong.order_by(["file", "row", "place", *EVENT[:3]]).limit(rejects.SAMPLED)
    found = list(aside.sample)
    for row in first.to_pyarrow().to_pylist():
        reason = rejects.reason_of(row, unit, asked)
        value = row["written"] if row["unix_time"] is None else str(row["unix_time"])
        value = row["written"] or value or ""
        known = "\t".join([*(row[name] or "" for name in EVENT[:3]), value])
        text = known if row["text"] is None else row["text"]
        timely = reason in (rejects.NOT_A_TIME, rejects.OTHER_UNIT, rejects.BEFORE_1970)
        timely |= reason == rejects.BEYOND_9999
        found.append(
            Rejected(row["file"], row["row"], reason, text, value if timely else None, row["place"])
        )
    placed = raw.scan.located(found)
    placed.sort(key=lambda row: (row.file, row.row or 0, row.place, row.text))
    return placed[: rejects.SAMPLED]


def _check_share(
    raw: RawLog, rejected: dict[str, int], rows: int, first: Rejected, unit: str, allowed: float
) -> None:
    path = next(file.path for file in raw.files if file.name == first.file)
    told = rejects.tell(first, path, vars(raw.columns), unit)
    rejects.check_share(rejected, rows, allowed, told)


def _times_said(raw: RawLog, unit: str) -> str:
    kind = raw.events.unix_time.type()
    if kind.is_timestamp() or kind.is_date():
        return "timestamps"
    return "ISO dates" if unit == "iso" else f"{unit} since 1970"


def _recognised(file: RawFile, engine: Engine | None) -> tuple[str, str]:
    """The format that a file shows, and by what; empty where it shows none."""
    base = file.name.rpartition("/")[2]
    fitting = [name for name, kind in FORMATS.items() if kind.names.fullmatch(base)]
    if fitting in ([], ["table"]) and not base.endswith((".csv", ".tsv")):
        return (fitting[0], "an event table") if fitting else ("", "")
    lines = first_lines(file) if not file.remote else scan_of(engine).first_lines(file)
    for name in fitting:
        why = FORMATS[name].shows(lines)
        if why:
            return name, why
    return "", ""


def _files(place: str, engine: Engine | None) -> list[RawFile]:
    if not is_remote(place):
        return local_files(place)
    if engine is None or engine.name != "spark":
        raise UserError(f"{place} is no local folder; --engine spark reads other file systems")
    return scan_of(engine).files(place)


def _log_files(place: str, log_format: str, engine: Engine | None) -> list[RawFile]:
    if log_format == "completejourney":
        return package_files()
    return files_of(_files(place, engine), log_format, place)


def _is_package(place: str) -> bool:
    return (
        not is_remote(place) and Path(place).name == "completejourney" and not Path(place).exists()
    )


def scan_of(engine: Engine) -> Scan:
    """How this engine reads raw files."""
    if engine.name == "spark":
        from src.dataset.ingest.spark_reader import SparkScan  # only then are its packages needed

        return SparkScan(engine)
    from src.dataset.ingest.duckdb_reader import DuckScan

    return DuckScan(engine)
