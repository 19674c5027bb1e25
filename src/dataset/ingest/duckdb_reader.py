"""Raw files read by DuckDB: text and Parquet, with row numbers and rejected rows."""

import csv
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import ibis
from ibis import _
from ibis.expr.schema import Schema
from ibis.expr.types import StringValue, Table

from src.dataset.engine.base import Engine
from src.dataset.ingest import rejects
from src.dataset.ingest.json_keys import as_json_line
from src.dataset.ingest.raw_files import (
    FileRecord,
    RawFile,
    first_lines,
    local_file_records,
    local_files,
    record_starts,
    record_texts,
)
from src.dataset.ingest.rejects import RejectedRow
from src.dataset.ingest.table_reader import FILE, ROW, RejectedRows, TextLayout
from src.dataset.ingest.text_bytes import check_complete, is_readable, plain_copy
from src.io.errors import UserError

NO_DELIMITER = "\x01"  # makes a line one column; JSON cannot hold this character
LINES = TextLayout(columns=("line",), delimiter=NO_DELIMITER, quoted=False, header=False)
REASONS = {
    "MISSING COLUMNS": rejects.TOO_FEW,
    "TOO MANY COLUMNS": rejects.TOO_MANY,
    "UNQUOTED VALUE": rejects.OPEN_QUOTE,
    "INVALID ENCODING": rejects.NOT_UTF8,
}
REJECT_TABLES = ("reject_errors", "reject_scans")
REJECTED_SQL = """
    SELECT file_path, line_byte_position AS byte, any_value(error_type) AS type,
           ltrim(any_value(csv_line), chr(10)) AS line
    FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
    GROUP BY file_path, line_byte_position
"""


@ibis.udf.scalar.builtin
def json_valid(text: str) -> bool:  # type: ignore[empty-body]
    """DuckDB's function."""


@ibis.udf.scalar.builtin
def json_extract_string(text: str, paths: list[str]) -> list[str]:  # type: ignore[empty-body]
    """DuckDB's function: the values at the paths, in one pass over the text."""


@ibis.udf.scalar.builtin(name="json_extract_string")
def json_extract_strings(text: str, path: str) -> list[str]:  # type: ignore[empty-body]
    """DuckDB's function: all values at a path with a wildcard."""


@ibis.udf.scalar.builtin
def json_type(text: str, path: str) -> str:  # type: ignore[empty-body]
    """DuckDB's function: the type of the value at the path."""


class DuckDBReader:
    """Local files."""

    knows_rows = True

    def __init__(self, engine: Engine):
        self.engine = engine
        self.backend = engine.backend
        self.texts: dict[str, tuple[RawFile, TextLayout]] = {}  # by the path that DuckDB reads
        self.copies: tempfile.TemporaryDirectory[str] | None = None
        self.forget_rejected_rows()

    def files(self, location: str) -> list[RawFile]:
        return local_files(location)

    def first_lines(self, file: RawFile) -> list[str]:
        return first_lines(file)

    def file_records(self, files: list[RawFile]) -> list[FileRecord]:
        return local_file_records(files)

    def parquet_schema(self, file: RawFile) -> Schema:
        with _as_user_error([file.path]):
            return self.backend.read_parquet(_literal(file.path)).schema()

    def delimited(self, files: list[RawFile], layout: TextLayout, wanted: dict[str, str]) -> Table:
        picked = {new: f"column_{layout.columns.index(old)}" for new, old in wanted.items()}
        no_error = {
            "read_error": ibis.literal(None, "int8"),
            "text": ibis.literal(None, "string"),
        }
        return ibis.union(
            *[
                self._text(file, layout).select("file", "row", **picked, **no_error)
                for file in files
            ]
        )

    def json_lines(
        self,
        files: list[RawFile],
        wanted: dict[str, str],
        lists: dict[str, tuple[str, str]] | None = None,
        python: bool = False,
    ) -> Table:
        tables = [self._json_lines(file, wanted, lists or {}, python) for file in files]
        return ibis.union(*tables)

    def parquet(self, files: list[RawFile]) -> Table:
        paths = [str(Path(file.path).absolute()) for file in files]
        with _as_user_error(paths):
            table = self.backend.read_parquet(
                list(map(_literal, paths)), union_by_name=True, filename=FILE, file_row_number=True
            )
        root = paths[0].removesuffix(files[0].name)
        row = (table.file_row_number + 1).cast("int64")
        return table.mutate(**{FILE: table[FILE].substr(len(root)), ROW: row})

    def load(self, table: Table) -> Table:
        # `row` of a text file is counted as rows arrive: they must arrive in order
        self.backend.raw_sql("SET preserve_insertion_order = true")
        try:
            with _as_user_error(list(self.texts)):
                return self.engine.materialise(table)
        finally:
            self.backend.raw_sql("SET preserve_insertion_order = false")

    def rejected_rows(self) -> RejectedRows:
        if not self._has_rejects():
            return RejectedRows()
        counts: dict[int, int] = defaultdict(int)
        # an unclosed quote has swallowed lines: each counts
        lines = "sum(1 + length(line) - length(replace(line, chr(10), '')))"
        for error, count in self._fetch(
            f"SELECT type, {lines} FROM ({REJECTED_SQL}) GROUP BY type"
        ):
            counts[REASONS.get(error, rejects.MALFORMED)] += int(count)
        order = f"ORDER BY file_path, byte LIMIT {rejects.SAMPLE_SIZE}"
        sample = []
        for path, byte, error, line in self._fetch(f"{REJECTED_SQL} {order}"):
            file = self.texts[path][0]
            reason = REASONS.get(error, rejects.MALFORMED)
            # -byte until `with_line_numbers`
            sample.append(RejectedRow(file.name, -byte, reason, line))
        return RejectedRows(dict(counts), sample)

    def with_line_numbers(self, rows: list[RejectedRow]) -> list[RejectedRow]:
        for path, (file, layout) in self.texts.items():
            wanted = {row.row for row in rows if row.file == file.name and row.row is not None}
            lines = self._lines(path, layout, wanted) if wanted else {}
            starts = {line - layout.comments for line in lines.values()}
            texts = record_texts(path, starts, layout.delimiter, layout.quoted) if starts else {}
            rows = [
                replace(row, row=line, text=texts.get(line - layout.comments, row.text))
                if row.file == file.name and row.row is not None and (line := lines.get(row.row))
                else row
                for row in rows
            ]
        return rows

    def close(self) -> None:
        self.forget_rejected_rows()
        if self.copies:
            self.copies.cleanup()

    def _text(self, file: RawFile, layout: TextLayout, python: bool = False) -> Table:
        path = str(Path(file.path).resolve())  # as DuckDB has it in its tables of rejected rows
        if layout.comments or layout.encoding or python or not is_readable(path):
            convert = as_json_line if python else None
            copy = plain_copy(path, self._copies(), layout.comments, layout.encoding, convert)
            path = str(copy)
        elif path.endswith(".zst"):
            check_complete(path)  # DuckDB does not notice a truncated one
        self.texts[path] = file, layout
        quote = '"' if layout.quoted else ""
        names = [f"column_{n}" for n in range(len(layout.columns))]
        with _as_user_error([path]):
            table = self.backend.read_csv(
                _literal(path),
                columns=dict.fromkeys(names, "VARCHAR"),
                delim=layout.delimiter,
                quote=quote,
                escape=quote,
                header=layout.header,
                store_rejects=True,
                # a single column cannot be malformed, and its line ends may be mixed
                strict_mode=len(names) > 1,
            )
        row = (ibis.row_number() + 1).cast("int64")
        return table.mutate(file=ibis.literal(file.name), row=row)

    def _json_lines(
        self, file: RawFile, wanted: dict[str, str], lists: dict[str, tuple[str, str]], python: bool
    ) -> Table:
        lines = self._text(file, LINES, python).filter(_.column_0.notnull())
        line: StringValue = lines.column_0
        is_object = line.re_search(r"^\s*\{") & json_valid(line)  # stripping a long line is slower
        json_paths = [f'$."{key}"' for key in wanted.values()]
        # `view`: without it Ibis would write the extraction out once per value
        parsed = lines.mutate(
            values=is_object.ifelse(json_extract_string(line, ibis.array(json_paths)), None)
        ).view()
        not_json = parsed["values"].isnull()
        # a text may begin like an object: only then its type is looked up
        nested = [
            parsed["values"][n]
            .re_search(r"^[{\[]")
            .ifelse(json_type(parsed.column_0, ibis.literal(path)).isin(("OBJECT", "ARRAY")), False)
            for n, (name, path) in enumerate(zip(wanted, json_paths, strict=True))
            if name in rejects.EMPTY
        ]
        read_error = ibis.cases(
            (not_json, rejects.NOT_JSON), (ibis.or_(*nested), rejects.NESTED), else_=None
        ).cast("int8")
        arrays = {
            name: json_extract_strings(
                not_json.ifelse("{}", parsed.column_0), ibis.literal(f'$."{key}"[*]."{inner}"')
            )
            for name, (key, inner) in lists.items()
        }
        return (
            parsed.filter(parsed.column_0.re_search(r"\S"))
            .select(
                "file",
                "row",
                **{name: parsed["values"][n] for n, name in enumerate(wanted)},
                **arrays,
                read_error=read_error,
                text=read_error.notnull().ifelse(parsed.column_0, None),
            )
            .view()
        )

    def _lines(self, path: str, layout: TextLayout, wanted: set[int]) -> dict[int, int]:
        """{`row`: line number}, where `row` is a row's number, or -byte for a rejected one."""
        sql = f"SELECT byte FROM ({REJECTED_SQL}) WHERE file_path = $path ORDER BY byte"
        rejected = [byte for (byte,) in self._fetch(sql, {"path": path})]
        numbers: dict[int, int] = {}
        rows_read = rows_rejected = 0
        records = record_starts(path, layout.delimiter, layout.quoted)
        try:
            for number, (line, byte, blank) in enumerate(records):
                if (layout.header and number == 0) or (blank and layout != LINES):
                    continue
                # DuckDB counts bytes from 1, and from within the end of the line before
                is_rejected = (
                    rows_rejected < len(rejected)
                    and rejected[rows_rejected] <= byte + 1
                    and not blank
                )
                rows_rejected += is_rejected
                rows_read += not is_rejected
                key = -rejected[rows_rejected - 1] if is_rejected else rows_read
                if key in wanted:
                    numbers[key] = line + layout.comments
                if len(numbers) == len(wanted):
                    break
        except csv.Error:  # the remaining rows keep the numbers that they have
            pass
        return numbers

    def _copies(self) -> Path:
        """A new folder for a copy, where the engine spills."""
        if not self.copies:
            spill = Path(self._fetch("SELECT current_setting('temp_directory')")[0][0]).parent
            self.copies = tempfile.TemporaryDirectory(dir=spill)
        folder = Path(self.copies.name) / str(len(self.texts))
        folder.mkdir(exist_ok=True)
        return folder

    def _fetch(self, sql: str, values: dict | None = None) -> list[tuple]:
        if "reject_" in sql and not self._has_rejects():
            return []
        return self.backend.con.execute(sql, values or {}).fetchall()

    def _has_rejects(self) -> bool:
        tables = self.backend.con.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'"
        )
        return tables.fetchall()[0][0] > 0

    def forget_rejected_rows(self) -> None:
        for name in REJECT_TABLES:
            self.backend.raw_sql(f"DROP TABLE IF EXISTS {name}")


def _literal(path: str) -> str:
    """The path with glob characters escaped, so that DuckDB reads that very file."""
    return re.sub(r"([*?\[])", r"[\1]", path)


@contextmanager
def _as_user_error(paths: list[str]) -> Iterator[None]:
    """Turn DuckDB's errors about a raw file into UserError; errors of the engine itself pass."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        text = str(error)
        path = next((path for path in paths if path in text), None)
        if "invalid state" in text:
            problem = "its lines end with both \\n and \\r\\n; write them all with \\n"
        else:
            problem = text.splitlines()[0]
        if path is None and isinstance(error, duckdb.IOException):
            raise
        raise UserError(f"{path or paths[0]} cannot be read: {problem}") from None
