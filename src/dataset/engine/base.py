"""The data engine: its interface, and how to open one.

The transforms (`build/transforms.py`) are Ibis expressions, the same for every engine. An engine
runs them, stores what must not be computed twice, and returns results in batches.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from ibis.backends import BaseBackend
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings
from src.io.errors import UserError


class Engine(Protocol):
    """What runs the transforms."""

    name: str  # the value of --engine
    backend: BaseBackend  # of Ibis

    def materialise(self, table: Table) -> Table:
        """Run `table` now and store its rows, so that nothing is computed twice."""

    def release(self, table: Table) -> None:
        """Delete the rows of a table that `materialise` made."""

    def batches(self, table: Table) -> Iterator[pa.RecordBatch]:
        """The rows of `table` in batches, in no particular order."""


def open_engine(settings: DatasetSettings, spill: Path) -> AbstractContextManager[Engine]:
    """The engine of the settings; everything that it stores on disk is in `spill`.

    UserError when it is not installed or cannot start.
    """
    if settings.engine == "spark":
        try:
            from src.dataset.engine.spark_engine import open_spark
        except ImportError:
            raise UserError(
                "--engine spark needs PySpark: pip install -r requirements-spark.txt"
            ) from None
        return open_spark(settings.spark_master, settings.threads, settings.memory_limit, spill)
    from src.dataset.engine.duckdb_engine import open_duckdb

    return open_duckdb(settings.threads, settings.memory_limit, spill)


def count_rows(table: Table) -> int:
    """The number of rows of a table."""
    return table.count().to_pyarrow().as_py()
