"""Raw logs read on their own, for the tests of the readers."""

from contextlib import contextmanager
from dataclasses import replace

from src.config.dataset_settings import DatasetSettings
from src.dataset.engine.base import open_engine
from src.dataset.ingest.detect_format import choose_format
from src.dataset.ingest.read_log import parse, read_log
from tests.support.data_logs import HEADER

SETTINGS = DatasetSettings(data_name="t", strd_ym="201401", threads=1)


@contextmanager
def duck(folder):
    """DuckDB, with its files in a folder of their own."""
    spill = folder.parent / f"{folder.name}.spill"
    spill.mkdir(exist_ok=True)
    with open_engine(SETTINGS, spill) as engine:
        yield engine


def events_of(parsed):
    """The events as (user, item, domain, time), sorted."""
    rows = parsed.events.select(*HEADER).to_pyarrow().to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def read_with(engine, place, **settings):
    """(format, raw log, what was parsed, events) of a place."""
    chosen = replace(SETTINGS, **settings)
    name, _ = choose_format(str(place), chosen.format)
    raw = read_log(engine, str(place), name, chosen)
    parsed = parse(engine, raw, chosen)
    return name, raw, parsed, events_of(parsed)


def read(folder, **settings):
    """The same with DuckDB."""
    with duck(folder) as engine:
        return read_with(engine, folder, **settings)
