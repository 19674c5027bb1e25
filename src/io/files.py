"""Writing files whole: readers and interruptions never see half of one."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from src.io.errors import UserError

TEMPORARY = ".*.tmp"  # matches the names of unfinished files


def write_atomically(
    path: Path, write: Callable[[Path], object], former: Path | None = None
) -> None:
    """Write a file under a temporary name beside it, then rename it: whole or not at all.

    With `former`, an existing file at `path` gets that name once the new one is complete. UserError
    where the file cannot be written; an existing one is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        sync(temporary)  # a power loss after the rename must not empty it
        if former and path.exists():
            path.replace(former)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path, flag: str, *, folder: bool = False) -> None:
    """Refuse, before any work, an output file or `folder` that could not be written (UserError).

    `flag` names it in the message. Nothing is created.
    """
    if path.exists() and path.is_dir() != folder:
        wrong, right = ("a file", "a folder") if folder else ("a folder", "a file")
        raise UserError(f"cannot write {flag} {path}: it is {wrong}; give the name of {right}")
    parents = path.resolve().parents
    nearest = next(parent for parent in parents if os.path.lexists(parent))
    if not nearest.is_dir():
        raise UserError(f"cannot write {flag} {path}: {nearest} is not a folder")
    written = path if path.exists() and folder else nearest
    try:  # permissions of a user who may do everything, and a read-only disk, show in no mode
        with tempfile.TemporaryFile(dir=written):
            pass
    except OSError as error:
        raise UserError(f"cannot write {flag} {path}: {error.strerror} in {written}") from None


def write_json(path: Path, content: Any, levels: int | None = None) -> None:
    """Write an indented JSON file; ValueError where `content` holds NaN or an infinity.

    With `levels`, what lies below so many objects is in one line each, which also is faster.
    """
    if levels is None:
        text = json.dumps(content, indent=2, allow_nan=False)
    else:
        text = json_lines(content, levels)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def json_lines(content: Any, levels: int, indent: str = "") -> str:
    """JSON with an indented line for each entry of the outer `levels` of objects, whose names are
    strings."""
    if levels == 0 or not isinstance(content, dict) or not content:
        return json.dumps(content, allow_nan=False)
    inner = indent + "  "
    entries = (
        f"{inner}{json.dumps(name)}: {json_lines(value, levels - 1, inner)}"
        for name, value in content.items()
    )
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk, so that it survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(file: BinaryIO, size: int) -> None:
    """Extend a file by `size` zero bytes that the disk has room for; OSError where it has not."""
    file.flush()
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), file.tell(), size)
        return
    zeros = bytes(min(size, 1 << 20))  # macOS has no such call: write them
    for start in range(0, size, len(zeros)):
        file.write(zeros[: size - start])
    file.flush()
