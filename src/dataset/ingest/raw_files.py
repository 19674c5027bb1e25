"""The files of a raw log: listing them, their first lines, line numbers and digests."""

import csv
import glob
import gzip
import hashlib
import io
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa
from tqdm import tqdm

from src.io.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t"}
COMPRESSED = (".gz", ".zst")
HEAD_BYTES = 1 << 20
CHUNK_BYTES = 1 << 22
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


@dataclass(frozen=True)
class TextHead:
    """The comments and the header of a text file."""

    comments: list[str]  # leading lines that begin with '#', without the '#'
    columns: list[str]
    delimiter: str


def is_remote(location: str) -> bool:
    """Whether a location is a URI of a file system that only Spark reads."""
    return bool(REMOTE.match(location))


def strip_file_scheme(location: str) -> str:
    """A location without a leading `file:`."""
    return re.sub(r"^file:(//)?(?=/)", "", location)


def local_files(location: str) -> list[RawFile]:
    """The files in a folder and below, or those that match a glob, without hidden ones.

    UserError for a location that does not exist.
    """
    path = Path(strip_file_scheme(location))
    paths: Iterable[Path]
    if path.is_dir():
        root, paths = path, path.rglob("*")
    elif path.exists():
        raise UserError(f"{path} is a file; name its folder with --raw_dir")
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


def decompressed_name(name: str) -> str:
    """A file name without the suffix of its compression."""
    return name[: -len(Path(name).suffix)] if name.endswith(COMPRESSED) else name


def first_lines(file: RawFile, count: int = 200) -> list[str]:
    """The first lines of a local text file, decompressed, without line ends and byte order mark.

    Bytes that are not UTF-8 are replaced. UserError when the file cannot be read.
    """
    with open_decompressed(file.path) as data:
        head = data.read(HEAD_BYTES)
    return text_lines(head.decode("utf-8", errors="replace"))[:count]


def text_lines(text: str) -> list[str]:
    """The lines of a text as an editor counts them, without byte order mark."""
    lines = re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))
    return lines[:-1] if lines[-1] == "" else lines


def parse_head(path: str, lines: list[str]) -> TextHead:
    """The comments and the header among the first lines; UserError when there is no header."""
    suffix = Path(decompressed_name(path)).suffix
    delimiter = DELIMITERS.get(suffix, ",")
    comments: list[str] = []
    for line in lines:
        if not line.startswith("#"):
            columns = next(csv.reader([line], delimiter=delimiter), [])
            return TextHead(comments, columns, delimiter)
        comments.append(line[1:].strip())
    raise UserError(f"{path} is empty; expected a header and events")


def parse_notes(comments: list[str]) -> dict[str, str]:
    """The comments of the form `key: value`."""
    pairs = [re.fullmatch(r"([\w-]+):\s*(.*)", comment) for comment in comments]
    return {pair[1]: pair[2] for pair in pairs if pair}


def copy_without_comments(path: str, comments: int, folder: Path) -> Path:
    """A decompressed copy of a text file without its first `comments` lines.

    Engines cannot skip such lines reliably: a quote in a comment can make them lose the table.
    """
    copy = folder / decompressed_name(Path(path).name)
    with open_decompressed(path) as source, copy.open("wb") as target:
        for _ in range(comments):
            source.readline()
        shutil.copyfileobj(source, target)
    return copy


def record_starts(path: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, int, bool]]:
    """(line, byte, is blank) of the start of each record of a text file, from line 1 and byte 0.

    A quoted field may hold line ends; without quotes, each line is a record. Reads the whole file,
    so it is for error messages only.
    """
    with open_decompressed(path) as data:
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
    with open_decompressed(path) as data:
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


def check_complete(path: str) -> None:
    """UserError when a compressed file is truncated, which not every engine notices."""
    with open_decompressed(path) as data:
        while data.read(CHUNK_BYTES):
            pass


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
            with _as_user_error(file.path), Path(file.path).open("rb") as data:
                while chunk := data.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    progress.update(len(chunk))
            records.append({"name": file.name, "bytes": size, "sha256": digest.hexdigest()})
    return records


@contextmanager
def open_decompressed(path: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of a local file; reading errors become UserError."""
    with _as_user_error(path), _open_bytes(path) as data:
        yield data


@contextmanager
def _as_user_error(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}; is it truncated?") from None


def _open_bytes(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.endswith(".zst"):
        return io.BufferedReader(pa.input_stream(path, compression="zstd"))
    return Path(path).open("rb")
