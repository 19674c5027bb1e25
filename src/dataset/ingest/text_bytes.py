"""The UTF-8 text of a raw file, whatever it is packed in or encoded as.

Recognised by the first bytes, not by the name: gzip, Zstandard, bzip2, a zip or tar archive with
one file inside, and UTF-16 with its byte order mark.
"""

import bz2
import codecs
import gzip
import io
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa

from src.io.errors import UserError

SUFFIXES = (".gz", ".zst", ".bz2", ".zip", ".tar", ".tgz")  # taken off the name of a table
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2")
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
NATIVE = {"": "", "gzip": ".gz", "zstd": ".zst"}  # what engines unpack, where the name says so
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
TAR_MAGIC = (257, b"ustar")  # offset, bytes
CHUNK_BYTES = 1 << 22


def table_name(name: str, path: str) -> str:
    """The name of the table in a local file: that of the file in an archive, without suffixes of
    compression."""
    if name.lower().endswith(ARCHIVES):
        with read_errors(path):
            if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
                name = _members(path)[0]
    return without_suffixes(PurePosixPath(name).name)


def without_suffixes(name: str) -> str:
    """A file name without the suffixes of compression."""
    while name.lower().endswith(SUFFIXES):
        name = name[: name.rindex(".")]
    return name


def packing(path: str) -> str:
    """How a local file is packed: gzip, zstd, bzip2, zip, tar, or "" for a plain file."""
    with read_errors(path):
        with Path(path).open("rb") as data:
            start = data.read(4)
        kind = next((name for magic, name in MAGIC.items() if start.startswith(magic)), "")
        may_be_tar = kind in ("", "gzip", "bzip2") and path.lower().endswith(ARCHIVES)
        return "tar" if may_be_tar and tarfile.is_tarfile(path) else kind


def is_readable(path: str) -> bool:
    """Whether engines can read a local file as it is: UTF-8, and packed as its name says."""
    kind = packing(path)
    if kind not in NATIVE or not path.endswith(NATIVE[kind]):
        return False
    if not kind and path.endswith((".gz", ".zst")):  # the engine would try to unpack it
        return False
    with open_text(path) as data:
        return not isinstance(data, codecs.StreamRecoder)


@contextmanager
def open_text(path: str, encoding: str = "") -> Iterator[BinaryIO]:
    """The unpacked bytes of a local file as UTF-8; reading errors become UserError.

    `encoding` names that of a file that is neither UTF-8 nor UTF-16.
    """
    with read_errors(path), _unpacked(path) as data:
        if not encoding and data.peek(2)[:2] in UTF16:
            encoding = "utf-16"
        if not encoding:
            yield cast(BinaryIO, data)
        else:
            yield cast(BinaryIO, codecs.EncodedFile(data, "utf-8", encoding))


def plain_copy(
    path: str,
    folder: Path,
    skip_lines: int = 0,
    encoding: str = "",
    convert: Callable[[bytes], bytes] | None = None,
) -> Path:
    """An unpacked UTF-8 copy of a text file, without its first lines.

    Engines cannot skip lines reliably: a quote in a comment can make them lose the table. `convert`
    rewrites each line.
    """
    copy = folder / without_suffixes(Path(path).name)
    with open_text(path, encoding) as source, copy.open("wb") as target:
        for _ in range(skip_lines):
            source.readline()
        if convert:
            target.writelines(map(convert, source))
        else:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
    return copy


def check_complete(path: str) -> None:
    """UserError when a packed file is truncated, which not every engine notices."""
    with open_text(path) as data:
        while data.read(CHUNK_BYTES):
            pass


@contextmanager
def read_errors(path: str) -> Iterator[None]:
    """Errors of reading the file become UserError."""
    unreadable = (
        OSError, EOFError, zlib.error, pa.ArrowException, tarfile.TarError, zipfile.BadZipFile,
        UnicodeError, NotImplementedError,
    )  # fmt: skip
    try:
        yield
    except unreadable as error:
        raise UserError(f"{path} cannot be read: {error}; is it truncated?") from None


@contextmanager
def _unpacked(path: str) -> Iterator[io.BufferedReader]:
    kind = packing(path)
    if kind == "zip":
        with zipfile.ZipFile(path) as zipped, zipped.open(_members(path)[0]) as member:
            yield io.BufferedReader(cast(io.RawIOBase, member))
    elif kind == "tar":
        with tarfile.open(path) as tar:
            yield cast(io.BufferedReader, tar.extractfile(_members(path)[0]))
    else:
        with _open_stream(path, kind) as data:
            yield data


def _open_stream(path: str, kind: str) -> io.BufferedReader:
    if kind == "gzip":
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")))
    if kind == "bzip2":
        return io.BufferedReader(cast(io.RawIOBase, bz2.open(path, "rb")))
    if kind == "zstd":
        return io.BufferedReader(pa.input_stream(path, compression="zstd"))
    return Path(path).open("rb")


def _members(path: str) -> list[str]:
    """The name of the file in an archive; UserError unless it is one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
        if any(info.flag_bits & 1 for info in files):
            raise UserError(f"{path} is encrypted; unpack it")
        names = [info.filename for info in files]
    else:
        with tarfile.open(path) as archive:
            names = [info.name for info in archive if info.isfile()]
    names = [
        name
        for name in names
        if not any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
    ]
    if len(names) == 1:
        return names
    raise UserError(
        f"{path} holds {len(names)} files ({', '.join(names[:3])}{', …' * (len(names) > 3)}); "
        "unpack it, and name the folder or the one table with --raw_dir"
    )
