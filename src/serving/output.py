"""Write lists as they come: Parquet, CSV or JSON lines, whole or not at all."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from src.io.errors import UserError
from src.io.files import check_output, write_atomically

ROW_GROUP = 2**17  # rows of a Parquet file that are written together: some MB


def output_path(out: str, run: str, name: str = "recommendations.parquet") -> Path:
    """The output file, by default `name` in the run folder; UserError, before any work, where it
    cannot be written."""
    path = Path(out) if out else Path(run) / name
    if path.suffix not in WRITERS:
        *others, last = WRITERS
        raise UserError(f"--out {path}: the name must end in {', '.join(others)} or {last}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: the folder {path.parent} does not exist")
    check_output(path, "--out")
    return path


def write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema to a file of the format that its suffix names."""
    write = WRITERS[path.suffix]
    write_atomically(path, lambda temporary: write(temporary, schema, tables))


def _write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for table in _gathered(tables):
            writer.write_table(table)


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write_csv(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with pyarrow.csv.CSVWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _write_json_lines(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            for row in table.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


WRITERS: dict[str, Callable[[Path, pa.Schema, Iterable[pa.Table]], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
}
