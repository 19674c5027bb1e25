"""DuckDB as the data engine: one process, and a disk where memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import ibis
import pyarrow as pa
from ibis.backends import BaseBackend
from ibis.expr.types import Table
from ibis.util import gen_name

from src.io.errors import UserError

BATCH_ROWS = 250_000


class DuckEngine:
    """Tables lie in a database file, so that they need not fit into memory."""

    name = "duckdb"

    def __init__(self, backend: BaseBackend):
        self.backend = backend

    def materialise(self, table: Table) -> Table:
        return self.backend.create_table(gen_name("step"), table)

    def release(self, table: Table) -> None:
        # not Ibis's drop_table: with sqlglot 30 it writes a DROP TABLE without the name
        self.backend.raw_sql(f'DROP TABLE "{table.op().name}"')

    def batches(self, table: Table) -> Iterator[pa.RecordBatch]:
        # not Ibis's to_pyarrow_batches: it calls what DuckDB 2.0 no longer has
        query = self.backend.con.sql(self.backend.compile(table))
        yield from query.to_arrow_reader(BATCH_ROWS)


@contextmanager
def connected_duck(threads: int, memory_limit: str, spill: Path) -> Iterator[DuckEngine]:
    """DuckDB on a new database file in `spill`; 0 threads: all, no limit: DuckDB's own.

    UserError for a limit that is none or is reached where nothing can be spilled, and for a disk
    that is full.
    """
    if "?" in str(spill):
        raise UserError(f"{spill}: DuckDB takes no path with a question mark; name another folder")
    options = {"temp_directory": str(spill / "overflow"), "preserve_insertion_order": False}
    if threads:
        options["threads"] = threads
    if memory_limit:
        options["memory_limit"] = memory_limit
    try:
        backend = ibis.duckdb.connect(spill / "work.duckdb", **options)
    except duckdb.Error as error:
        raise UserError(f"the data engine cannot start: {_first_line(error)}") from None
    try:
        yield DuckEngine(backend)
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"the data engine is out of memory or of disk ({_first_line(error)}); raise "
            "--memory_limit, lower --threads, or name a larger disk with --temp_dir"
        ) from None
    except duckdb.IOException as error:
        raise UserError(
            f"the data engine cannot read or write ({_first_line(error)}); is the disk of "
            "--temp_dir full?"
        ) from None
    except duckdb.Error as error:
        raise UserError(
            f"the data engine gave up ({_first_line(error)}); is a raw file damaged?"
        ) from None
    except RuntimeError as error:
        if "interrupted" in str(error):  # how DuckDB hands on a Ctrl-C
            raise KeyboardInterrupt from None
        raise
    finally:
        backend.disconnect()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
