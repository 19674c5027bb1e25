"""What a user did wrong, said in one line."""

import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake that the user can mend: one line that says what, where and what to do."""


def run_command(command: Callable[[], None]) -> None:
    """Run a command line's `main`; a `UserError` becomes one line on stderr and exit status 2."""
    try:
        command()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # once, not once a process
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
