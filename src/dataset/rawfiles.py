"""The files of a raw log as text: comments, header, rows as an editor counts them, digests."""

import csv
import gzip
import hashlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from src.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass(frozen=True)
class TextHead:
    """What stands above the first row of a text file."""

    comments: list[str]  # leading lines that begin with '#', without it
    columns: list[str]
    delimiter: str


def read_head(path: Path) -> TextHead:
    """The comments and the header of a text file; UserError when it is empty or unreadable."""
    delimiter = DELIMITERS[Path(path.name.removesuffix(".gz")).suffix]
    comments: list[str] = []
    with _opened(path) as lines:
        for line in lines:
            if not line.startswith("#"):
                columns = next(csv.reader([line], delimiter=delimiter), [])
                return TextHead(comments, columns, delimiter)
            comments.append(line[1:].strip())
    raise UserError(f"{path} is empty; a header and events are needed")


def notes_of(comments: list[str]) -> dict[str, str]:
    """The comments of the form `key: value`."""
    pairs = [re.fullmatch(r"([\w-]+):\s*(.*)", comment) for comment in comments]
    return {pair[1]: pair[2] for pair in pairs if pair}


def editor_row(path: Path, record: int) -> int:
    """The line on which the `record`-th row (from 1) of a file begins, as an editor counts lines.

    A Parquet file has no lines: there it is the row itself. Reads the file up to that row, so it
    is for error messages only.
    """
    if path.suffix == ".parquet":
        return record
    head = read_head(path)
    with _opened(path) as lines:
        for _ in head.comments:
            next(lines)
        reader = csv.reader(lines, delimiter=head.delimiter)
        next(reader)
        start = reader.line_num + 1
        for row in reader:
            record -= bool(row)  # a blank line is no row
            if record == 0:
                return len(head.comments) + start
            start = reader.line_num + 1
    raise ValueError(f"{path} has no such row")


@contextmanager
def without_comments(path: Path, head: TextHead) -> Iterator[Path]:
    """The file itself, or for as long as it is needed a copy that begins with the header.

    Engines cannot be told to skip such lines: a quote in a comment can make them lose the table.
    """
    if not head.comments:
        yield path
        return
    opener = gzip.open if path.suffix == ".gz" else open
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name.removesuffix(".gz")
        with opener(path, "rb") as packed, copy.open("wb") as plain:
            for _ in head.comments:
                packed.readline()
            shutil.copyfileobj(packed, plain)
        yield copy


def file_record(path: Path) -> dict[str, str | int]:
    """What the data card keeps of a raw file: name, bytes, sha256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The lines of a text file, unpacked where it is packed; its faults as UserError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
            yield lines
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}; is it torn or not UTF-8?") from None
