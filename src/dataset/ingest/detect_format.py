"""The raw format of a log: named by --format, or recognised by file names and first lines."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

from src.dataset.engine.base import Engine
from src.dataset.ingest.completejourney import package_files
from src.dataset.ingest.formats import FORMATS, files_of_format, is_folder
from src.dataset.ingest.json_keys import JSON, is_json_object
from src.dataset.ingest.known_logs import is_beside
from src.dataset.ingest.raw_files import RawFile, first_lines, is_remote, local_files
from src.dataset.ingest.side_file import is_side_file
from src.dataset.ingest.table_reader import TableReader
from src.io.errors import UserError

MAX_INSPECTED = 200  # files whose first lines are compared with the formats


def choose_format(
    location: str,
    requested: str,
    engine: Engine | None = None,
    domain_from: str = "",
    exclude: tuple[str, ...] = (),
) -> tuple[str, str]:
    """The raw format and the reason for it.

    UserError for a location that does not exist, or holds no log or logs of two formats. A remote
    location needs the engine.
    """
    if requested == "completejourney":
        return requested, "given by --format"
    if requested == "auto" and _is_package(location):
        package_files()
        return "completejourney", f"{location} does not exist; the package of this name has the log"
    files = _list_files(location, engine, domain_from, exclude)
    if requested != "auto":
        files_of_format(files, requested, location)
        return requested, "given by --format"
    recognised: dict[str, tuple[RawFile, str]] = {}  # format: (first file, reason)
    tables: list[RawFile] = []  # files of no other format than an event table
    for file in files[:MAX_INSPECTED]:
        name, reason = _recognise(file, engine)
        if name == "table":
            tables.append(file)
        if name:
            recognised.setdefault(name, (file, reason))
    if "syncrec" in recognised:
        return "syncrec", f"{location} holds {recognised['syncrec'][0].name}"
    specific = [name for name in recognised if name != "table"]
    if specific:
        tables = [file for file in tables if not is_beside(specific[0], file.table)]
    if len(specific) == 1 and not tables:
        recognised.pop("table", None)
    elif specific and tables:
        recognised["table"] = (tables[0], recognised["table"][1])
    if len(recognised) > 1:
        (one, (first, _)), (two, (second, _)) = list(recognised.items())[:2]
        raise UserError(
            f"{location} holds logs of two formats: {first.name} looks like {one}, {second.name} "
            f"like {two}; keep one format per folder, or choose one with --format"
        )
    for name, (file, reason) in recognised.items():
        return name, f"{file.name} has {reason}"
    if files and not is_folder(location):
        return "table", f"{location} names the file"
    raise UserError(_no_log(location, files, engine))


def _no_log(location: str, files: list[RawFile], engine: Engine | None) -> str:
    """What a location holds instead of a raw log."""
    listed = ", ".join(file.name for file in files[:3]) + (", …" if len(files) > 3 else "")
    present = f"only {listed}" if files else "no file"
    for file in files:
        if file.table.endswith(JSON):
            lines = _lines(file, engine)
            present += f"; the first line of {file.name} is no JSON object" * bool(
                lines and not is_json_object(lines[0])
            )
            break
    return (
        f"{location} holds no raw log, {present}; it may be any table of events "
        f"({FORMATS['table'].files_said}) or a log of docs/data.md; name a file of another suffix "
        "itself: --raw_dir FILE"
    )


def log_files(
    location: str,
    raw_format: str,
    engine: Engine | None,
    domain_from: str = "",
    exclude: tuple[str, ...] = (),
) -> list[RawFile]:
    """The files of a log of this format; UserError where there is none."""
    if raw_format == "completejourney":
        return package_files()
    files = _list_files(location, engine, domain_from, exclude)
    return files_of_format(files, raw_format, location)


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
    candidates = [name for name, raw in FORMATS.items() if raw.file_names.fullmatch(file.table)]
    if not candidates or (candidates == ["table"] and not file.table.endswith(JSON)):
        return (candidates[0], "the suffix of a table") if candidates else ("", "")
    lines = _lines(file, engine)
    for name in candidates:
        reason = FORMATS[name].recognise(file.table, lines)
        if reason:
            return name, reason
    return "", ""


def _lines(file: RawFile, engine: Engine | None) -> list[str]:
    read_lines = open_reader(engine).first_lines if engine and file.remote else first_lines
    return read_lines(file)


def _list_files(
    location: str, engine: Engine | None, domain_from: str, exclude: tuple[str, ...]
) -> list[RawFile]:
    """The files of a location, without those that --exclude or --domain_from names."""
    if not is_remote(location):
        files = local_files(location)
    elif engine is None or engine.name != "spark":
        raise UserError(f"{location} is not a local folder; other file systems need --engine spark")
    else:
        files = open_reader(engine).files(location)
    return [
        file
        for file in files
        if not is_side_file(file, location, domain_from)
        and not any(fnmatchcase(file.name, pattern) for pattern in exclude)
    ]


def _is_package(location: str) -> bool:
    path = Path(location)
    return not is_remote(location) and path.name == "completejourney" and not path.exists()
