"""A file of new events, read as a raw log is: the same formats, times and rejected rows."""

import tempfile
from pathlib import Path

import pyarrow as pa

from src.config.dataset_settings import DatasetSettings
from src.dataset.engine.base import open_engine
from src.dataset.ingest.detect_format import choose_format
from src.dataset.ingest.read_log import KEPT_COLUMNS, parse, read_log
from src.io.errors import UserError

POSITION = ["file", "row", "index_in_row"]


def read_events(path: str, settings: DatasetSettings) -> tuple[pa.Table, list[str]]:
    """The usable events, in the order of the file, and lines about its other rows.

    Columns user_id, item_id, domain (text), unix_time (int64 seconds). UserError where the file is
    no log of events, or too many of its rows cannot be used.
    """
    if not Path(path).exists():
        raise UserError(f"--events {path} does not exist")
    try:
        with (
            tempfile.TemporaryDirectory() as spill,
            open_engine(settings, Path(spill)) as engine,
        ):
            aside = settings.domain_from, settings.exclude
            raw_format, reason = choose_format(path, settings.format, engine, *aside)
            parsed = parse(engine, read_log(engine, path, raw_format, settings), settings)
            columns = [name for name in KEPT_COLUMNS if name not in POSITION]
            events = parsed.events.order_by(POSITION).select(columns).to_pyarrow()
    except UserError as error:
        raise UserError(f"--events {path}: {error}") from None
    notes = [f"--events {path}: read as {raw_format} ({reason})"]
    for reason, count in (parsed.filtered | parsed.rejected).items():
        notes.append(f"--events {path}: {count:,} rows are left out ({reason})")
    return events, notes
