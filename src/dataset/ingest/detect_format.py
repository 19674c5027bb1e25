"""The raw format of a log: named by --format, or recognised by file names and first lines."""

from pathlib import Path
from typing import cast

from src.dataset.engine.base import Engine
from src.dataset.ingest.completejourney import package_files
from src.dataset.ingest.formats import FORMATS, files_of_format
from src.dataset.ingest.raw_files import RawFile, first_lines, is_remote, local_files
from src.dataset.ingest.table_reader import TableReader
from src.io.errors import UserError

MAX_INSPECTED = 200  # files whose first lines are compared with the formats


def choose_format(location: str, requested: str, engine: Engine | None = None) -> tuple[str, str]:
    """The raw format and the reason for it.

    UserError for a location that does not exist, or holds no log or logs of two formats. A remote
    location needs the engine.
    """
    if requested == "completejourney":
        return requested, "given by --format"
    if requested == "auto" and _is_package(location):
        package_files()
        return "completejourney", f"{location} does not exist; the package of this name has the log"
    files = _list_files(location, engine)
    if requested != "auto":
        files_of_format(files, requested, location)
        return requested, "given by --format"
    recognised: dict[str, tuple[RawFile, str]] = {}  # format: (first file, reason)
    for file in files[:MAX_INSPECTED]:
        name, reason = _recognise(file, engine)
        if name:
            recognised.setdefault(name, (file, reason))
    if "syncrec" in recognised:
        return "syncrec", f"{location} holds {recognised['syncrec'][0].name}"
    if len(recognised) > 1:
        (one, (first, _)), (two, (second, _)) = list(recognised.items())[:2]
        raise UserError(
            f"{location} holds logs of two formats: {first.name} looks like {one}, {second.name} "
            f"like {two}; keep one format per folder, or choose one with --format"
        )
    for name, (file, reason) in recognised.items():
        return name, f"{file.name} has {reason}"
    raise UserError(
        f"{location} holds no raw log; the formats are "
        + "; ".join(f"{name}: {raw_format.files_said}" for name, raw_format in FORMATS.items())
    )


def log_files(location: str, raw_format: str, engine: Engine | None) -> list[RawFile]:
    """The files of a log of this format; UserError where there is none."""
    if raw_format == "completejourney":
        return package_files()
    return files_of_format(_list_files(location, engine), raw_format, location)


def open_reader(engine: Engine) -> TableReader:
    """The reader of raw files that belongs to the engine."""
    if engine.name == "spark":
        from src.dataset.engine.spark_engine import SparkEngine  # imports PySpark
        from src.dataset.ingest.spark_reader import SparkReader

        return SparkReader(cast(SparkEngine, engine))
    from src.dataset.ingest.duckdb_reader import DuckDBReader

    return DuckDBReader(engine)


def _recognise(file: RawFile, engine: Engine | None) -> tuple[str, str]:
    """The format of a file and what shows it; empty for a file of no format."""
    base = file.name.rpartition("/")[2]
    candidates = [name for name, raw in FORMATS.items() if raw.file_names.fullmatch(base)]
    if candidates in ([], ["table"]) and not base.endswith((".csv", ".tsv")):
        return (candidates[0], "the suffix of a table") if candidates else ("", "")
    read_lines = open_reader(engine).first_lines if engine and file.remote else first_lines
    lines = read_lines(file)
    for name in candidates:
        reason = FORMATS[name].recognise(lines)
        if reason:
            return name, reason
    return "", ""


def _list_files(location: str, engine: Engine | None) -> list[RawFile]:
    if not is_remote(location):
        return local_files(location)
    if engine is None or engine.name != "spark":
        raise UserError(f"{location} is not a local folder; other file systems need --engine spark")
    return open_reader(engine).files(location)


def _is_package(location: str) -> bool:
    path = Path(location)
    return not is_remote(location) and path.name == "completejourney" and not path.exists()
