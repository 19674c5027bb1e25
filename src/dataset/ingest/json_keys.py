"""Objects as a line each: JSON, or dictionaries as Python writes them."""

import ast
import json
from typing import Any

from src.io.errors import UserError, plain

JSON = (".json", ".jsonl", ".ndjson")
TEXT = (".csv", ".tsv")
NOT_VALUES = (ValueError, SyntaxError, RecursionError, MemoryError)


def parse_object(line: str) -> dict[str, Any] | None:
    """The object on a line, in JSON or as a Python literal; None for anything else."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(line)
        except NOT_VALUES:
            continue
        return value if isinstance(value, dict) else None
    return None


def holds_json_lines(table: str, lines: list[str]) -> bool:
    """Whether a table is JSON lines: by its name, or, under a name that says nothing, by its first
    line."""
    return table.endswith(JSON) or (
        not table.endswith(TEXT) and bool(lines) and is_json_object(lines[0])
    )


def is_json_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    return _json_object(line) is not None


def _json_object(line: str) -> dict[str, Any] | None:
    """The JSON object on a line; None for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def first_keys(lines: list[str]) -> set[str]:
    """The keys of the object on the first line; empty for a line that holds none."""
    return set(parse_object(lines[0]) or ()) if lines else set()


def keys_of_lines(lines: list[str], path: str) -> tuple[str, ...]:
    """The keys of the JSON objects on the lines; UserError when the first is none."""
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise UserError(f"{path} is empty; expected one JSON object per line")
    keys: dict[str, None] = {}
    for number, line in enumerate(filled):
        value = _json_object(line)
        if value is not None:
            keys |= dict.fromkeys(value)
        elif number == 0:
            raise UserError(
                f"{path}: the first line is no JSON object ({plain(line[:60])}); expected JSON "
                "lines, one object per event"
            )
    return tuple(keys)


def as_json_line(line: bytes) -> bytes:
    """A line that holds a dictionary as Python writes it, as JSON; another line as it is."""
    value = parse_object(line.decode("utf-8", errors="replace"))
    if value is None:
        return line
    return json.dumps(value, default=str).encode() + b"\n"
