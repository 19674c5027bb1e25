"""Names that become the names of folders."""

import re
from typing import Any

MAX_FOLDER_NAME = 200  # of 255 bytes that file systems allow; temporary files have longer names


def folder_name_error(name: Any) -> str:
    """What a name must be to name a folder; empty for a valid one."""
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return "" if len(name) <= MAX_FOLDER_NAME else f"at most {MAX_FOLDER_NAME} letters"
    return "letters, digits, '.', '_' and '-'"
