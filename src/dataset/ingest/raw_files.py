"""The files of a raw log: listing them, their first lines, line numbers and digests."""

import csv
import glob
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from src.dataset.ingest.text_bytes import (
    CHUNK_BYTES,
    open_text,
    read_errors,
    table_name,
    without_suffixes,
)
from src.io.errors import UserError

HEAD_BYTES = 1 << 20
MAX_RECORD_LINES = 100  # of a record that a message or a sample shows
REMOTE = re.compile(r"^(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)

FileRecord = dict[str, str | int | None]  # what the data card keeps of a file


@dataclass(frozen=True)
class RawFile:
    """A file of a raw log."""

    name: str  # relative to the folder, with / between parts
    path: str  # a local path, or a URI that Spark reads

    @property
    def remote(self) -> bool:
        return is_remote(self.path)

    @cached_property
    def table(self) -> str:
        """The name of the table in the file: without folders and suffixes of compression, and
        that of the file inside an archive."""
        if self.remote:
            return without_suffixes(PurePosixPath(self.name).name)
        return table_name(self.name, self.path)


def is_remote(location: str) -> bool:
    """Whether a location is a URI of a file system that only Spark reads."""
    return bool(REMOTE.match(location))


def strip_file_scheme(location: str) -> str:
    """A location without a leading `file:`."""
    return re.sub(r"^file:(//)?(?=/)", "", location)


def local_files(location: str) -> list[RawFile]:
    """The files in a folder and below, or those that match a glob, without hidden ones; or the one
    file that the location names.

    UserError for a location that does not exist.
    """
    path = Path(strip_file_scheme(location))
    paths: Iterable[Path]
    if path.is_dir():
        root, paths = path, path.rglob("*")
    elif path.exists():
        return [RawFile(path.name, str(path))]
    elif not glob.has_magic(str(path)):
        raise UserError(
            f"the raw folder {path} does not exist; name an existing one with --raw_dir"
        )
    else:
        first = next(n for n, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:first])
        matches = root.glob("/".join(path.parts[first:]))
        # a file may match twice, on its own and below a folder
        paths = {
            file for match in matches for file in (match.rglob("*") if match.is_dir() else [match])
        }
    named = [(file.relative_to(root).as_posix(), file) for file in paths if file.is_file()]
    return sorted(
        (RawFile(name, str(file)) for name, file in named if not is_hidden(name)),
        key=lambda file: file.name,
    )


def is_hidden(name: str) -> bool:
    """Whether engines ignore a file: a part of its name begins with '.' or '_'."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def first_lines(file: RawFile, count: int = 200) -> list[str]:
    """The first lines of a local text file, decompressed, without line ends and byte order mark.

    Bytes that are not UTF-8 are replaced. UserError when the file cannot be read.
    """
    with open_text(file.path) as data:
        head = data.read(HEAD_BYTES)
    return text_lines(head.decode("utf-8", errors="replace"))[:count]


def text_lines(text: str) -> list[str]:
    """The lines of a text as an editor counts them, without byte order mark."""
    lines = re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))
    return lines[:-1] if lines[-1] == "" else lines


def parse_notes(comments: list[str]) -> dict[str, str]:
    """The comments of the form `key: value`."""
    pairs = [re.fullmatch(r"([\w-]+):\s*(.*)", comment) for comment in comments]
    return {pair[1]: pair[2] for pair in pairs if pair}


def record_starts(path: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, int, bool]]:
    """(line, byte, is blank) of the start of each record of a text file, from line 1 and byte 0.

    A quoted field may hold line ends; without quotes, each line is a record. Reads the whole file,
    so it is for error messages only.
    """
    with open_text(path) as data:
        if not quoted:
            position = 0
            for number, line in enumerate(data, start=1):
                yield number, position, not line.strip(b"\r\n")
                position += len(line)
            return
        position = 0

        def lines() -> Iterator[str]:
            nonlocal position
            for line in data:
                position += len(line)
                # one character per byte: text that is not UTF-8 must not stop the count
                yield line.decode("latin-1").replace("\0", " ")

        csv.field_size_limit(1 << 31)
        reader = csv.reader(lines(), delimiter=delimiter)
        number, byte = 1, 0
        for record in reader:
            yield number, byte, not record
            number, byte = reader.line_num + 1, position


def record_texts(path: str, lines: set[int], delimiter: str, quoted: bool) -> dict[int, str]:
    """{line: text} of the records of a text file that start at these lines, from 1.

    The text is as it stands in the file, bytes that are not UTF-8 as \\xNN. A record with a quoted
    line end has several lines; one whose quote does not close in time, only the first.
    """
    records: dict[int, list[bytes]] = {}  # by the line of their start
    record: list[bytes] = []  # the last one, while its quote is open
    with open_text(path) as data:
        for number, line in enumerate(data, start=1):
            if number in lines or len(record) == MAX_RECORD_LINES:
                del record[1:]
                record = []
            if number in lines:
                record = records[number] = [line]
            elif record:
                record.append(line)
            if record and not (quoted and _is_open(record, delimiter)):
                record = []
            if len(records) == len(lines) and not record:
                break
    del record[1:]
    return {
        number: b"".join(record).decode("utf-8", errors="backslashreplace").rstrip("\r\n")
        for number, record in records.items()
    }


def _is_open(record: list[bytes], delimiter: str) -> bool:
    """Whether the record's last quoted field goes on in the next line."""
    lines = [line.decode("latin-1").replace("\0", " ") for line in record]
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def local_file_records(files: list[RawFile]) -> list[FileRecord]:
    """What the data card keeps of local raw files: name, bytes, sha256."""
    total = sum(Path(file.path).stat().st_size for file in files)
    records: list[FileRecord] = []
    with tqdm(
        total=total, desc="raw files", unit="B", unit_scale=True, disable=None, leave=False, delay=2
    ) as progress:
        for file in files:
            digest = hashlib.sha256()
            size = 0
            with read_errors(file.path), Path(file.path).open("rb") as data:
                while chunk := data.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    progress.update(len(chunk))
            records.append({"name": file.name, "bytes": size, "sha256": digest.hexdigest()})
    return records
