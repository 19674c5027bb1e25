"""Spark as the data engine: the same transforms on one machine or on a cluster."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.dataset
from ibis.backends.pyspark.datatypes import PySparkType
from ibis.expr.types import Table
from ibis.util import gen_name
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from src.io.errors import UserError


class SparkEngine:
    """Tables are Parquet folders in `spill`, which every worker must reach."""

    name = "spark"

    def __init__(self, session: SparkSession, spill: Path):
        self.session = session
        self.backend = ibis.pyspark.connect(session)
        self.spill = spill
        self.folders: dict[str, Path] = {}

    def materialise(self, table: Table) -> Table:
        folder = self.spill / gen_name("step")
        frame = self.session.sql(self.backend.compile(table))
        # Spark's types can be narrower than those that Ibis expects: ROW_NUMBER is an int
        typed = [
            frame[name].cast(PySparkType.from_ibis(dtype)) for name, dtype in table.schema().items()
        ]
        frame.select(typed).write.parquet(folder.as_uri())
        stored = self.backend.read_parquet(folder.as_uri())
        self.folders[stored.op().name] = folder
        return stored

    def release(self, table: Table) -> None:
        shutil.rmtree(self.folders.pop(table.op().name))

    def batches(self, table: Table) -> Iterator[pa.RecordBatch]:
        # through Parquet: Ibis would collect the whole table in the driver first
        stored = self.materialise(table)
        folder = self.folders[stored.op().name]
        yield from pyarrow.dataset.dataset(folder).to_batches(batch_readahead=1)
        self.release(stored)


@contextmanager
def open_spark(master: str, threads: int, memory_limit: str, spill: Path) -> Iterator[SparkEngine]:
    """A Spark session: on this machine unless `master` names a cluster.

    Threads and memory limit apply to a session on this machine. UserError when Java is missing and
    when Spark fails.
    """
    if not java_version():
        raise UserError("--engine spark needs Java 17 or newer, and java is missing; install it")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("make_dataset").master(
        master or f"local[{threads or '*'}]"
    )
    options = {
        **_local_options(master, memory_limit),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.local.dir": str(spill),
        "spark.sql.warehouse.dir": str(spill / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
    }
    for key, value in options.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
        try:
            yield SparkEngine(session, spill)
        finally:
            session.stop()
    except (PySparkException, Py4JError) as error:
        raise UserError(f"Spark stopped: {root_cause(error)}") from None


def _local_options(master: str, memory_limit: str) -> dict[str, str]:
    """Options that a cluster configures itself."""
    if master:
        return {}
    options = {"spark.sql.shuffle.partitions": "8", "spark.driver.host": "127.0.0.1"}
    if memory_limit:  # 4GB or 4GiB; the JVM writes 4G
        options["spark.driver.memory"] = re.sub(r"i?b$", "", memory_limit, flags=re.IGNORECASE)
    return options


def java_version() -> str:
    """The first line of `java -version`; empty without Java."""
    try:
        version = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return version.stderr.splitlines()[0]


def root_cause(error: Exception) -> str:
    """The innermost cause of a Spark error, as one line."""
    lines = [line for line in str(error).splitlines() if line.startswith("Caused by: ")]
    return (lines[-1].removeprefix("Caused by: ") if lines else str(error).splitlines()[0])[:300]
