"""The first line of a command, printed before it loads the libraries that take seconds.

Importing this module prints it, if one of the commands is being run: a command imports it first.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("make_dataset.py", "main.py", "recommend.py", "report.py")


def starting_line(script: str, words: list[str]) -> str:
    """The line for a script that is started with these words; empty where it says nothing."""
    path = Path(script).resolve()
    is_command = path.parent == ROOT and path.name in COMMANDS
    leads = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    if not is_command or not leads or {"-h", "--help"} & set(words):
        return ""
    return f"{path.name}: starting"


if line := starting_line(getattr(sys.modules["__main__"], "__file__", None) or "", sys.argv[1:]):
    with suppress(OSError, ValueError):  # nobody reads the output; run_command says so
        print(line, flush=True)
