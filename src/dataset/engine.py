"""The data engine: DuckDB behind Ibis, told how many threads it has and where it may spill."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ibis
from ibis.backends import BaseBackend
from ibis.expr.types import Table
from ibis.util import gen_name


@contextmanager
def connected(threads: int, spill_dir: Path) -> Iterator[BaseBackend]:
    """An engine of its own in memory; what does not fit goes to `spill_dir`. 0 threads: all."""
    options = {"temp_directory": str(spill_dir)}
    if threads:
        options["threads"] = threads
    engine = ibis.duckdb.connect(**options)
    try:
        yield engine
    except RuntimeError as error:
        if "interrupted" in str(error):  # how DuckDB hands on a Ctrl-C
            raise KeyboardInterrupt from None
        raise
    finally:
        engine.disconnect()


def materialise(engine: BaseBackend, table: Table) -> Table:
    """Run `table` now and keep its rows in the engine, so that nothing is computed twice."""
    return engine.create_table(gen_name("step"), table, temp=True)


def release(engine: BaseBackend, table: Table) -> None:
    """Forget the rows of a table that `materialise` made."""
    # not Ibis's drop_table: with sqlglot 30 it writes a DROP TABLE without the name
    engine.raw_sql(f'DROP TABLE "{table.op().name}"')


def rows(table: Table) -> int:
    """How many rows a table has."""
    return table.count().to_pyarrow().as_py()
