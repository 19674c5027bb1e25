"""The files of a raw log: which there are, their first lines, their records and digests."""

import csv
import glob
import gzip
import hashlib
import io
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
from tqdm import tqdm

from src.io.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t"}
PACKED = (".gz", ".zst")
HEAD_BYTES = 1 << 20
REMOTE = re.compile(r"^(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class RawFile:
    """A file of a raw log."""

    name: str  # below the folder, with / between parts
    path: str  # where it is: a local path, or a URI that Spark reads

    @property
    def remote(self) -> bool:
        return is_remote(self.path)


@dataclass(frozen=True)
class TextHead:
    """What stands above the first row of a text file."""

    comments: list[str]  # leading lines that begin with '#', without it
    columns: list[str]
    delimiter: str


def is_remote(place: str) -> bool:
    """Whether a place is a URI of a file system that only Spark reads."""
    return bool(REMOTE.match(place))


def local_place(place: str) -> str:
    """A place without the `file:` that may stand before it."""
    return re.sub(r"^file:(//)?(?=/)", "", place)


def local_files(place: str) -> list[RawFile]:
    """The files in a folder and below, or those that a glob names; hidden ones left out.

    UserError when there is no such place.
    """
    path = Path(local_place(place))
    if path.is_dir():
        root, found = path, path.rglob("*")
    elif path.exists():
        raise UserError(f"{path} is a file; name its folder with --raw_dir")
    elif not glob.has_magic(str(path)):
        raise UserError(f"the raw folder {path} does not exist; name one with --raw_dir")
    else:
        first = next(place for place, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:first])
        hits = root.glob("/".join(path.parts[first:]))
        # a file may be hit twice, on its own and below a folder
        found = {file for hit in hits for file in (hit.rglob("*") if hit.is_dir() else [hit])}
    below = [(file.relative_to(root).as_posix(), file) for file in found if file.is_file()]
    return sorted(
        (RawFile(name, str(file)) for name, file in below if not is_hidden(name)),
        key=lambda file: file.name,
    )


def is_hidden(name: str) -> bool:
    """Whether engines pass over a file: a part of its name begins with '.' or '_'."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def unpacked_name(name: str) -> str:
    """A file name without the suffix of its packing."""
    return name[: -len(Path(name).suffix)] if name.endswith(PACKED) else name


def first_lines(file: RawFile, count: int = 200) -> list[str]:
    """The first lines of a local text file, unpacked, without line ends and byte order mark.

    Bytes that are not UTF-8 are replaced. UserError when the file cannot be read.
    """
    with opened(file.path) as data:
        whole = data.read(HEAD_BYTES)
    return text_lines(whole.decode("utf-8", errors="replace"))[:count]


def text_lines(text: str) -> list[str]:
    """The lines of a text as an editor counts them, without byte order mark."""
    lines = re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))
    return lines[:-1] if lines[-1] == "" else lines


def parse_head(path: str, lines: list[str]) -> TextHead:
    """The comments and the header among the first lines; UserError when there is no header."""
    suffix = Path(unpacked_name(path)).suffix
    delimiter = DELIMITERS.get(suffix, ",")
    comments: list[str] = []
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


def without_comments(path: str, comments: int, folder: Path) -> Path:
    """A copy of a text file, unpacked, that begins after its first `comments` lines.

    Engines cannot be told to skip such lines: a quote in a comment can make them lose the table.
    """
    copy = folder / unpacked_name(Path(path).name)
    with opened(path) as packed, copy.open("wb") as plain:
        for _ in range(comments):
            packed.readline()
        shutil.copyfileobj(packed, plain)
    return copy


def record_starts(path: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, int, bool]]:
    """(line, byte, blank) where each record of a text file begins, from line 1 and byte 0.

    A quoted field may hold line ends; without quotes, each line is a record. Reads the file, so it
    is for error messages only.
    """
    with opened(path) as data:
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
                # one character a byte: what is not UTF-8 must not stop the count
                yield line.decode("latin-1").replace("\0", " ")

        csv.field_size_limit(1 << 31)
        reader = csv.reader(lines(), delimiter=delimiter)
        number, byte = 1, 0
        for record in reader:
            yield number, byte, not record
            number, byte = reader.line_num + 1, position


def check_whole(path: str) -> None:
    """UserError when a packed file ends early, which not every engine notices."""
    with opened(path) as data:
        while data.read(1 << 22):
            pass


def digests(files: list[RawFile]) -> list[dict[str, str | int]]:
    """What the data card keeps of local raw files: name, bytes, sha256."""
    total = sum(Path(file.path).stat().st_size for file in files)
    records = []
    with tqdm(
        total=total, desc="raw files", unit="B", unit_scale=True, disable=None, leave=False, delay=2
    ) as progress:
        for file in files:
            digest = hashlib.sha256()
            size = 0
            with _told(file.path), Path(file.path).open("rb") as data:
                while piece := data.read(1 << 22):
                    digest.update(piece)
                    size += len(piece)
                    progress.update(len(piece))
            records.append({"name": file.name, "bytes": size, "sha256": digest.hexdigest()})
    return records


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The bytes of a local file, unpacked where it is packed; its faults as UserError."""
    with _told(path), _unpacked(path) as data:
        yield data


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}; is it torn?") from None


def _unpacked(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        return gzip.open(path, "rb")
    if path.endswith(".zst"):
        return io.BufferedReader(pa.input_stream(path, compression="zstd"))
    return Path(path).open("rb")
