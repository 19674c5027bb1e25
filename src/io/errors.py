"""Errors of the user, reported in one line, and how a command ends."""

import atexit
import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells; for SIGTERM too
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
EXIT_OTHER_ENDED = 1

# Errors that the user can fix, wherever they occur: permissions, disk space, names, links
USER_ERRNOS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG,
    errno.ELOOP, errno.EIO, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip
RANK_WAIT_S = 2.0  # how long other processes wait for the first one to report the same error


class UserError(Exception):
    """A mistake that the user can fix: one line that says what is wrong, where and what to do."""

    agreed = False  # whether all processes raise it together, so that only the first reports it


class NotFinite(UserError):
    """A loss, a gradient or a score is NaN or infinite."""

    agreed = True


class OtherEnded(Exception):
    """Another process of the run has ended, and this one cannot continue without it."""


def run_command(command: Callable[[], None]) -> None:
    """Run a command's `main`; a `UserError` becomes one line on stderr and exit status 2.

    SIGTERM raises KeyboardInterrupt, as SIGINT does, so that temporary files are removed on the way
    out; both end with one line, printed by the first process, and status 130. OtherEnded ends with
    one line and status 1.
    """
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _run_and_leave(command)
    _run(command)


def _run_and_leave(command: Callable[[], None]) -> NoReturn:
    """Run a command as one of several processes, and end the process with its status without
    finalising the interpreter. That would stop each thread that asks for the GIL, such as one of
    gloo's that is still releasing a tensor, and C++ would then abort the process."""
    status = 1
    try:
        _run(command)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _run(command: Callable[[], None]) -> None:
    """What `run_command` does, up to the end of the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder name may have any bytes
    try:
        command()
        sys.stdout.flush()  # while what it meets can still be said
    except UserError as error:
        silent = error.agreed and _rank()
        _end(EXIT_USER_ERROR, "" if silent else f"error: {error}", wait=RANK_WAIT_S)
    except OtherEnded as error:
        _end(EXIT_OTHER_ENDED, f"error: {error}")
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        what = f"{error.filename}: " if error.filename else ""
        _end(EXIT_USER_ERROR, f"error: {what}{error.strerror}", wait=RANK_WAIT_S)
    except KeyboardInterrupt as stop:
        if _rank():
            _end(EXIT_INTERRUPTED)
        cause = str(stop)
        if not cause and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            cause = "by a signal, which torchrun also sends when another process has ended"
        _end(EXIT_INTERRUPTED, f"interrupted{f': {cause}' if cause else ''}")


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _end(status: int, line: str = "", wait: float = 0.0) -> NoReturn:
    """End the process with a line, if there is one; torchrun's signals then end it silently.

    An error that every process meets is reported by the first one; it ends, and torchrun ends the
    others while they `wait`. A process that is still there reports an error of its own.
    """
    rank = _rank()
    if "RANK" in os.environ:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    if rank:
        time.sleep(wait)
        line = line and f"process {rank}: {line}"
    if line:
        sys.stderr.write(f"{plain(line)}\n")  # in one write, so that processes do not mix
        sys.stderr.flush()
    sys.exit(status)


def plain(text: str) -> str:
    """A text on one line, with unprintable characters, which could control a terminal, escaped."""
    return "".join(
        character if character.isprintable() else f"{character!a}"[1:-1]
        for character in " ".join(text.split())
    )
