"""The start of a command: its first line, printed before it loads the libraries that take seconds.

A command imports this module first, which then prints the line and puts the garbage collector off:
loading libraries leaves nothing to free, and searching for it takes a sixth of that time. It reads
its flags next, and imports what does the work when they are right: help and mistakes are there at
once.
"""

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("make_dataset.py", "main.py", "recommend.py", "export.py", "report.py")


def is_command(script: str) -> bool:
    """Whether a script is one of the repository's commands."""
    path = Path(script).resolve()
    return path.parent == ROOT and path.name in COMMANDS


def starting_line(script: str, words: list[str]) -> str:
    """The line for a script that is started with these words; empty where it says nothing."""
    leads = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    if not is_command(script) or not leads or {"-h", "--help"} & set(words):
        return ""
    return f"{Path(script).resolve().name}: starting"


def set_libraries_aside() -> None:
    """Have the garbage collector of a command work again, but on what is made from now on: the
    objects of loaded libraries, some hundred thousand, last as long as the process."""
    if is_command(main_script):
        gc.freeze()
        gc.enable()


main_script = getattr(sys.modules["__main__"], "__file__", None) or ""
if is_command(main_script):
    gc.disable()
if line := starting_line(main_script, sys.argv[1:]):
    with suppress(OSError, ValueError):  # nobody reads the output; run_command says so
        print(line, flush=True)
