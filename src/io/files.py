"""Writing files whole: a reader, or an interruption, never meets half of one."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.io.errors import UserError

TEMPORARY = ".*.tmp"  # what the names of unfinished files look like


def write_atomically(
    path: Path, write: Callable[[Path], object], former: Path | None = None
) -> None:
    """Write a file under a temporary name beside it, then rename: whole or not there.

    With `former`, a file that stands at `path` gets that name, once the new one is whole. UserError
    where it cannot be written; what stood there before still does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        sync(temporary)  # a loss of power after the renaming must not empty it
        if former and path.exists():
            path.replace(former)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file; ValueError where `content` holds NaN or an infinity."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def lock(path: Path, file: bool = False) -> int | None:
    """Lock a folder, or a `file`, made if need be: a descriptor that holds the lock until it is
    closed or the process ends, however that ends. None where another process has the lock.

    The path may lead elsewhere by then: see `is_open_as`. OSError where the system has no locks.
    """
    kind = os.O_CREAT if file else os.O_DIRECTORY
    descriptor = os.open(path, os.O_RDONLY | kind)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def is_open_as(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to what was opened as the descriptor."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, so that a loss of power keeps it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
