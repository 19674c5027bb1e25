"""What a user did wrong, said in one line."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells say it; for SIGTERM too


OTHERS_FIRST_S = 2.0  # so long another process waits for the first one to say the same


class UserError(Exception):
    """A mistake that the user can mend: one line that says what, where and what to do."""


class NotFinite(UserError):
    """A loss, a gradient or a score is NaN or infinite."""


def run_command(command: Callable[[], None]) -> None:
    """Run a command line's `main`; a `UserError` becomes one line on stderr and exit status 2.

    SIGINT, and SIGTERM where it raises KeyboardInterrupt, end it with one line and 130.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder may have any bytes as its name
    try:
        command()
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.filename is None:
            raise
        _say(f"error: {error.filename}: {error.strerror}")  # no rights, too long a name, …
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt as stop:
        _say(f"interrupted{f': {stop}' if str(stop) else ''}")
        sys.exit(EXIT_INTERRUPTED)


def _say(line: str) -> None:
    """Print a line once, not once a process.

    A mistake that every process finds is told by the first one, which ends, and torchrun then ends
    the others. One that is still there after a while has a mistake of its own to tell.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # torchrun's word ends the waiting, silently
        time.sleep(OTHERS_FIRST_S)
        line = f"process {rank}: {line}"
    print(plain(line), file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """A text on one line, without what would steer a terminal: such characters as Python writes
    them."""
    return "".join(
        letter if letter.isprintable() else f"{letter!a}"[1:-1] for letter in " ".join(text.split())
    )
