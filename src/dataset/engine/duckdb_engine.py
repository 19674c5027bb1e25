"""DuckDB as the data engine: one process, spilling to disk when memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pyarrow as pa
from ibis.backends import BaseBackend
from ibis.expr.operations import DatabaseTable
from ibis.expr.types import Table
from ibis.util import gen_name

from src.io.errors import UserError

BATCH_ROWS = 250_000


class DuckDBEngine:
    """Tables are in a database file, so that they need not fit into memory."""

    name = "duckdb"

    def __init__(self, backend: BaseBackend):
        self.backend = backend

    def materialise(self, table: Table) -> Table:
        # not Ibis's create_table: it takes seven statements, of milliseconds each
        name, schema = gen_name("step"), table.schema()
        type_name = self.backend.compiler.type_mapper.to_string
        columns = ", ".join(f'"{c}"::{type_name(dtype)} AS "{c}"' for c, dtype in schema.items())
        rows = self.backend.compile(table)
        self.backend.raw_sql(f'CREATE TABLE "{name}" AS SELECT {columns} FROM ({rows})').fetchall()
        return DatabaseTable(name, schema, self.backend).to_expr()

    def release(self, table: Table) -> None:
        # not Ibis's drop_table: with sqlglot 30 it writes a DROP TABLE without the name
        self.backend.raw_sql(f'DROP TABLE "{table.op().name}"')

    def batches(self, table: Table) -> Iterator[pa.RecordBatch]:
        # not Ibis's to_pyarrow_batches: it calls a method that DuckDB 2.0 has removed
        query = self.backend.con.sql(self.backend.compile(table))
        yield from query.to_arrow_reader(BATCH_ROWS)


@contextmanager
def open_duckdb(threads: int, memory_limit: str, spill: Path) -> Iterator[DuckDBEngine]:
    """DuckDB on a new database file in `spill`; 0 threads: all; no limit: DuckDB's default.

    UserError for an invalid memory limit, for one that is too small, and for a full disk.
    """
    if "?" in str(spill):
        raise UserError(
            f"{spill}: DuckDB accepts no path with a question mark; choose another --temp_dir"
        )
    options: dict[str, Any] = {
        "temp_directory": str(spill / "overflow"),
        "preserve_insertion_order": False,
        "fsync_mode": "none",  # nobody opens the file again
    }
    if threads:
        options["threads"] = threads
    if memory_limit:
        options["memory_limit"] = memory_limit
    try:
        backend = ibis.duckdb.connect(spill / "work.duckdb", **options)
        backend.raw_sql("PRAGMA disable_checkpoint_on_shutdown")
    except duckdb.Error as error:
        raise UserError(f"the data engine cannot start: {_first_line(error)}") from None
    try:
        yield DuckDBEngine(backend)
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"the data engine ran out of memory or disk space ({_first_line(error)}); raise "
            "--memory_limit, lower --threads, or choose a larger disk with --temp_dir"
        ) from None
    except duckdb.IOException as error:
        raise UserError(
            f"the data engine cannot read or write ({_first_line(error)}); is the disk of "
            "--temp_dir full?"
        ) from None
    except duckdb.Error as error:
        raise UserError(
            f"the data engine failed ({_first_line(error)}); is a raw file damaged?"
        ) from None
    except RuntimeError as error:
        if "interrupted" in str(error):  # how DuckDB passes on a Ctrl-C
            raise KeyboardInterrupt from None
        raise
    finally:
        backend.disconnect()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
