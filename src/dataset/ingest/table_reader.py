"""How a raw format asks for rows: the few ways of reading that every engine offers.

`scan_duck.py` and `scan_spark.py` offer them. All that is read is a string, so that an id keeps its
leading zeros, except in Parquet files, which have types.
"""

from dataclasses import dataclass, field
from typing import Protocol

from ibis.expr.schema import Schema
from ibis.expr.types import Table

from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.rejects import Rejected

# What `Scan.parquet` adds, under names that no column of a file has
FILE, ROW = "file of the log", "row of the log"


@dataclass(frozen=True)
class Layout:
    """How the rows of a text file are written."""

    columns: tuple[str, ...]
    delimiter: str
    quoted: bool = True  # "" around a field, which may then hold delimiters and line ends
    header: bool = True  # the first line after the comments names the columns
    comments: int = 0  # leading lines to pass over


@dataclass(frozen=True)
class PutAside:
    """Rows that the reader itself could not make sense of."""

    rows: dict[int, int] = field(default_factory=dict)  # by reason
    sample: list[Rejected] = field(default_factory=list)  # the first of them


class Scan(Protocol):
    """Reads the files of one raw log.

    Each table has `file` (a name) and `row`, by which rows of a file keep their order (null where
    the engine cannot know), and, from texts, `broken`: null, or why the row cannot be read (a
    reason of rejects.py), and then `text`, the row as it is written.
    """

    rows_known: bool  # whether `row` of a text file is known

    def files(self, place: str) -> list[RawFile]:
        """The files in a folder and below, or of a glob, hidden ones left out."""

    def first_lines(self, file: RawFile) -> list[str]:
        """The first lines of a text file."""

    def parquet_schema(self, file: RawFile) -> Schema:
        """Names and types of the columns of a Parquet file."""

    def delimited(self, files: list[RawFile], layout: Layout, wanted: dict[str, str]) -> Table:
        """The wanted columns {new name: name in the layout}."""

    def json_lines(self, files: list[RawFile], wanted: dict[str, str]) -> Table:
        """The wanted values {new name: key} of a JSON object a line."""

    def parquet(self, files: list[RawFile]) -> Table:
        """All columns as they are typed, and FILE and ROW in place of `file` and `row`."""

    def keep(self, table: Table) -> Table:
        """Run a table that was made here and keep its rows; UserError for a file that is torn."""

    def put_aside(self) -> PutAside:
        """What `keep` left out because it could not be read."""

    def located(self, rows: list[Rejected]) -> list[Rejected]:
        """Rows as an editor counts lines in place of rows as the engine counts them."""

    def close(self) -> None:
        """Forget what was needed for reading."""
