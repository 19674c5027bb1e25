"""Raw files read by DuckDB: text and Parquet, with the place of each row and what is malformed."""

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
from src.dataset.ingest.raw_files import (
    RawFile,
    check_whole,
    first_lines,
    local_files,
    record_starts,
    without_comments,
)
from src.dataset.ingest.rejects import Rejected
from src.dataset.ingest.table_reader import FILE, ROW, Layout, PutAside
from src.io.errors import UserError

NOWHERE = "\x01"  # a delimiter that makes a line one column; JSON cannot hold it
LINES = Layout(columns=("line",), delimiter=NOWHERE, quoted=False, header=False)
REASONS = {
    "MISSING COLUMNS": rejects.TOO_FEW,
    "TOO MANY COLUMNS": rejects.TOO_MANY,
    "UNQUOTED VALUE": rejects.OPEN_QUOTE,
    "INVALID ENCODING": rejects.NOT_UTF8,
}
REJECT_TABLES = ("reject_errors", "reject_scans")
PUT_ASIDE = """
    SELECT file_path, line_byte_position AS byte, any_value(error_type) AS type,
           ltrim(any_value(csv_line), chr(10)) AS line
    FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
    GROUP BY file_path, line_byte_position
"""


@ibis.udf.scalar.builtin
def json_valid(text: str) -> bool:
    """DuckDB's own."""


@ibis.udf.scalar.builtin
def json_extract_string(text: str, paths: list[str]) -> list[str]:
    """DuckDB's own: the values at the paths, in one pass over the text."""


class DuckScan:
    """Local files."""

    rows_known = True

    def __init__(self, engine: Engine):
        self.engine = engine
        self.backend = engine.backend
        self.texts: dict[str, tuple[RawFile, Layout]] = {}  # by the path that DuckDB is given
        self.copies: tempfile.TemporaryDirectory | None = None
        self._drop_rejects()

    def files(self, place: str) -> list[RawFile]:
        return local_files(place)

    def first_lines(self, file: RawFile) -> list[str]:
        return first_lines(file)

    def parquet_schema(self, file: RawFile) -> Schema:
        with _told([file.path]):
            return self.backend.read_parquet(_literal(file.path)).schema()

    def delimited(self, files: list[RawFile], layout: Layout, wanted: dict[str, str]) -> Table:
        picked = {new: f"column_{layout.columns.index(old)}" for new, old in wanted.items()}
        nothing = {
            "broken": ibis.literal(None, "int8"),
            "text": ibis.literal(None, "string"),
        }
        return ibis.union(
            *[self._text(file, layout).select("file", "row", **picked, **nothing) for file in files]
        )

    def json_lines(self, files: list[RawFile], wanted: dict[str, str]) -> Table:
        return ibis.union(*[self._json_lines(file, wanted) for file in files])

    def parquet(self, files: list[RawFile]) -> Table:
        paths = [file.path for file in files]
        with _told(paths):
            table = self.backend.read_parquet(
                list(map(_literal, paths)), union_by_name=True, filename=FILE, file_row_number=True
            )
        root = paths[0].removesuffix(files[0].name)
        row = (table.file_row_number + 1).cast("int64")
        return table.mutate(**{FILE: table[FILE].substr(len(root)), ROW: row})

    def keep(self, table: Table) -> Table:
        # `row` of a text is counted as rows come by: they must come in their order
        self.backend.raw_sql("SET preserve_insertion_order = true")
        try:
            with _told(list(self.texts)):
                return self.engine.materialise(table)
        finally:
            self.backend.raw_sql("SET preserve_insertion_order = false")

    def put_aside(self) -> PutAside:
        if not self._has_rejects():
            return PutAside()
        counts: dict[int, int] = defaultdict(int)
        # a quote that does not close has swallowed lines: each counts
        rows = "sum(1 + length(line) - length(replace(line, chr(10), '')))"
        for kind, count in self._fetch(f"SELECT type, {rows} FROM ({PUT_ASIDE}) GROUP BY type"):
            counts[REASONS.get(kind, rejects.MALFORMED)] += int(count)
        order = f"ORDER BY file_path, byte LIMIT {rejects.SAMPLED}"
        sample = []
        for path, byte, kind, line in self._fetch(f"{PUT_ASIDE} {order}"):
            file = self.texts[path][0]
            reason = REASONS.get(kind, rejects.MALFORMED)
            sample.append(Rejected(file.name, -byte, reason, line))  # a place until `located`
        return PutAside(dict(counts), sample)

    def located(self, rows: list[Rejected]) -> list[Rejected]:
        lines: dict[str, dict[int, int]] = {}
        for path, (file, layout) in self.texts.items():
            wanted = {row.row for row in rows if row.file == file.name}
            if wanted:
                lines[file.name] = self._lines(path, layout, wanted)
        return [
            replace(row, row=lines[row.file].get(row.row, row.row)) if row.file in lines else row
            for row in rows
        ]

    def close(self) -> None:
        self._drop_rejects()
        if self.copies:
            self.copies.cleanup()

    def _text(self, file: RawFile, layout: Layout) -> Table:
        path = file.path
        if path.endswith(".zst"):
            check_whole(path)  # DuckDB takes one that is torn for whole
        if layout.comments:
            path = str(without_comments(path, layout.comments, self._copies(file)))
        self.texts[path] = file, layout
        quote = '"' if layout.quoted else ""
        names = [f"column_{place}" for place in range(len(layout.columns))]
        with _told([path]):
            table = self.backend.read_csv(
                _literal(path),
                columns=dict.fromkeys(names, "VARCHAR"),
                delim=layout.delimiter,
                quote=quote,
                escape=quote,
                header=layout.header,
                store_rejects=True,
                # a single column cannot be malformed, and its lines may end in either way
                strict_mode=len(names) > 1,
            )
        row = (ibis.row_number() + 1).cast("int64")
        return table.mutate(file=ibis.literal(file.name), row=row)

    def _json_lines(self, file: RawFile, wanted: dict[str, str]) -> Table:
        lines = self._text(file, LINES).filter(_.column_0.notnull())
        line: StringValue = lines.column_0
        whole = line.re_search(r"^\s*\{") & json_valid(line)  # to strip a long line takes longer
        paths = ibis.array([f'$."{key}"' for key in wanted.values()])
        # `view`: else Ibis would write the extraction out once for each value
        found = lines.mutate(found=whole.ifelse(json_extract_string(line, paths), None)).view()
        broken = found.found.isnull()
        return (
            found.filter(found.column_0.re_search(r"\S"))
            .select(
                "file",
                "row",
                **{name: found.found[place] for place, name in enumerate(wanted)},
                broken=broken.ifelse(rejects.BROKEN_JSON, None).cast("int8"),
                text=broken.ifelse(found.column_0, None),
            )
            .view()
        )

    def _lines(self, path: str, layout: Layout, wanted: set[int]) -> dict[int, int]:
        """{what `row` holds: line}: of a row that was read its number, of one put aside -byte."""
        sql = f"SELECT byte FROM ({PUT_ASIDE}) WHERE file_path = $path ORDER BY byte"
        aside = [byte for (byte,) in self._fetch(sql, {"path": path})]
        found: dict[int, int] = {}
        read = passed = 0
        records = record_starts(path, layout.delimiter, layout.quoted)
        try:
            for place, (line, byte, blank) in enumerate(records):
                if (layout.header and place == 0) or (blank and layout != LINES):
                    continue
                # DuckDB counts bytes from 1, and from within the end of the line before
                is_aside = passed < len(aside) and aside[passed] <= byte + 1 and not blank
                passed += is_aside
                read += not is_aside
                key = -aside[passed - 1] if is_aside else read
                if key in wanted:
                    found[key] = line + layout.comments
                if len(found) == len(wanted):
                    break
        except csv.Error:  # what is left keeps the numbers that it had
            pass
        return found

    def _copies(self, file: RawFile) -> Path:
        """A folder of its own for a copy, where the engine spills."""
        if not self.copies:
            spill = Path(self._fetch("SELECT current_setting('temp_directory')")[0][0]).parent
            self.copies = tempfile.TemporaryDirectory(dir=spill)
        folder = Path(self.copies.name) / str(len(self.texts))
        folder.mkdir()
        return folder

    def _fetch(self, sql: str, values: dict | None = None) -> list[tuple]:
        if "reject_" in sql and not self._has_rejects():
            return []
        return self.backend.con.execute(sql, values or {}).fetchall()

    def _has_rejects(self) -> bool:
        found = self.backend.con.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'"
        )
        return found.fetchall()[0][0] > 0

    def _drop_rejects(self) -> None:
        for name in REJECT_TABLES:
            self.backend.raw_sql(f"DROP TABLE IF EXISTS {name}")


def _literal(path: str) -> str:
    """The path as DuckDB takes it for itself, and not for a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", path)


@contextmanager
def _told(paths: list[str]) -> Iterator[None]:
    """An error of DuckDB about a raw file as one line; errors of the engine itself pass."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        text = str(error)
        path = next((path for path in paths if path in text), None)
        if "invalid state" in text:
            fault = "its lines end in different ways; write them all with \\n"
        else:
            fault = text.splitlines()[0]
        if path is None and isinstance(error, duckdb.IOException):
            raise
        raise UserError(f"{path or paths[0]} cannot be read: {fault}") from None
