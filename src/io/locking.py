"""Locks: one command at a time works on a folder."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from src.io.errors import UserError

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
WAIT_S = 0.2  # for a command that is just ending


def lock_file(folder: Path) -> Path:
    """The file beside a folder that its lock is on."""
    path = folder.resolve()
    return path.parent / f".{path.name}.lock"


@contextmanager
def hold_lock(folder: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of a folder, which need not exist, until the block or the process ends.

    The lock is on a file beside the folder, `.NAME.lock`, so that the folder can be emptied,
    renamed or removed meanwhile. A command that is killed leaves the file but not the lock. Missing
    parents of the folder are made, and removed at the end where they are still empty.

    UserError with the text `refusal` where another command holds the lock; OSError where the file
    cannot be made. A file system without locks gets a warning on stderr instead of a lock.
    """
    path = lock_file(folder)
    missing = [parent for parent in path.parents if not parent.exists()]
    lock = FileLock(path, timeout=WAIT_S, fallback_to_soft=False)
    try:
        _acquire(lock, path, folder, refusal)
        yield
    finally:
        if lock.is_locked:
            try:
                path.unlink(missing_ok=True)  # while it is locked: nobody else can hold this file
            finally:
                lock.release()
        for parent in missing:
            with suppress(OSError):  # not empty, or already removed by another command
                parent.rmdir()


def _acquire(lock: FileLock, path: Path, folder: Path, refusal: str) -> None:
    while not lock.is_locked:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise UserError(refusal) from None
        except FileExistsError:
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)
            ) from None
        except FileNotFoundError:  # another command has just removed the empty parent
            continue
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            path.unlink(missing_ok=True)
            print(
                f"warning: the file system of {folder} has no locks; start no second command there",
                file=sys.stderr,
                flush=True,
            )
            return
