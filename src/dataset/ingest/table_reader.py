"""How a raw format asks for rows: the few ways of reading that every engine offers.

`duckdb_reader.py` and `spark_reader.py` implement them. Everything is read as a string, so that an
id keeps its leading zeros, except from Parquet files, which are typed.
"""

from dataclasses import dataclass, field
from typing import Protocol

from ibis.expr.schema import Schema
from ibis.expr.types import Table

from src.dataset.ingest.raw_files import FileRecord, RawFile
from src.dataset.ingest.rejects import RejectedRow

# What `TableReader.parquet` adds, under names that no column of a file has
FILE, ROW = "file of the log", "row of the log"


@dataclass(frozen=True)
class TextLayout:
    """How the rows of a text file are written."""

    columns: tuple[str, ...]
    delimiter: str
    quoted: bool = True  # fields may be in "", and then hold delimiters and line ends
    header: bool = True  # the first line after the comments names the columns
    comments: int = 0  # leading lines to skip
    encoding: str = ""  # if neither UTF-8 nor UTF-16


@dataclass(frozen=True)
class RejectedRows:
    """Rows that the reader itself could not parse."""

    counts: dict[int, int] = field(default_factory=dict)  # by reason
    sample: list[RejectedRow] = field(default_factory=list)  # the first of them


class TableReader(Protocol):
    """Reads the files of one raw log.

    Each table has `file` (a name) and `row`, which orders the rows of a file (null where the engine
    does not know it), and, from text files, `read_error`: null, or why the row cannot be read (a
    reason of rejects.py); only then `text`, the row as it is written.
    """

    knows_rows: bool  # whether `row` of a text file is known

    def files(self, location: str) -> list[RawFile]:
        """The files in a folder and below, or of a glob, without hidden ones."""

    def first_lines(self, file: RawFile) -> list[str]:
        """The first lines of a text file."""

    def file_records(self, files: list[RawFile]) -> list[FileRecord]:
        """What the data card records of each file: name, bytes, sha256."""

    def parquet_schema(self, file: RawFile) -> Schema:
        """Names and types of the columns of a Parquet file."""

    def delimited(self, files: list[RawFile], layout: TextLayout, wanted: dict[str, str]) -> Table:
        """The wanted columns {new name: name in the layout}."""

    def json_lines(
        self,
        files: list[RawFile],
        wanted: dict[str, str],
        lists: dict[str, tuple[str, str]] | None = None,
        python: bool = False,
    ) -> Table:
        """The wanted values {new name: key} of one JSON object per line, as strings.

        `lists`: {new name: (key of a list of objects, key in each)}, as arrays of strings.
        `python`: the lines are dictionaries as Python writes them.
        """

    def parquet(self, files: list[RawFile]) -> Table:
        """All columns as they are typed, and FILE and ROW in place of `file` and `row`."""

    def load(self, table: Table) -> Table:
        """Run a table made by this reader and store its rows; UserError for a truncated file."""

    def rejected_rows(self) -> RejectedRows:
        """The rows that `load` left out because they could not be parsed."""

    def forget_rejected_rows(self) -> None:
        """Leave the rows that `load` has left out so far out of `rejected_rows`."""

    def with_line_numbers(self, rows: list[RejectedRow]) -> list[RejectedRow]:
        """The rows with line numbers as an editor counts them, and their lines as they stand in the
        file, where the engine knows them."""

    def close(self) -> None:
        """Release what reading needed."""
