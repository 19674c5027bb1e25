"""The data engine: what the data step asks of one, and which there are.

The steps themselves (`events.py`) are Ibis expressions, the same for every engine. An engine runs
them, keeps what must not be computed twice, and hands out the result in pieces.
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
    """What runs the steps."""

    name: str  # as --engine calls it
    backend: BaseBackend  # Ibis's

    def materialise(self, table: Table) -> Table:
        """Run `table` now and keep its rows, so that nothing is computed twice."""

    def release(self, table: Table) -> None:
        """Forget the rows of a table that `materialise` made."""

    def batches(self, table: Table) -> Iterator[pa.RecordBatch]:
        """The rows of `table`, in no order, a piece at a time."""


def connected(settings: DatasetSettings, spill: Path) -> AbstractContextManager[Engine]:
    """The engine that the settings name; everything that it keeps on disk lies in `spill`.

    UserError when it is not installed, or cannot start.
    """
    if settings.engine == "spark":
        try:
            from src.dataset.engine.spark_engine import connected_spark
        except ImportError:
            raise UserError(
                "--engine spark needs PySpark: pip install -r requirements-spark.txt"
            ) from None
        return connected_spark(
            settings.spark_master, settings.threads, settings.memory_limit, spill
        )
    from src.dataset.engine.duckdb_engine import connected_duck

    return connected_duck(settings.threads, settings.memory_limit, spill)


def rows(table: Table) -> int:
    """How many rows a table has."""
    return table.count().to_pyarrow().as_py()
