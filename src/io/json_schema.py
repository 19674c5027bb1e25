"""JSON files read back and validated against a schema, or refused in one line.

A schema says what a value must be:

    str, bool, int, dict    of exactly that type
    float                   a finite number
    None                    null
    {"key": schema}         an object with these keys; other keys are ignored
    MapOf(schema)           an object with any keys, each value of the schema; `min_entries` of them
    NamedMap(schema)        `MapOf` whose keys are names shown in tables and figures
    [schema]                a list of such values
    (schema, schema)        one of these
    OptionalKey(schema)     in an object: the key may be missing
    Count(minimum, maximum) a whole number in this range
    a function              "" for a valid value, else what it must be
"""

import json
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.io.errors import UserError

MAX_COUNT = 2**53  # what every JSON reader holds exactly
MAX_NAME_LENGTH = 1000
MAX_REPR_LENGTH = 60  # characters of a wrong value that a message shows
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
NOT_IN_NAMES = {"Cc", "Cs", "Zl", "Zp"}  # control, half of a pair, ends of lines and paragraphs


@dataclass(frozen=True)
class MapOf:
    """An object with any keys whose values have a schema."""

    schema: Any
    min_entries: int = 0


@dataclass(frozen=True)
class NamedMap(MapOf):
    """`MapOf` whose keys are names."""


@dataclass(frozen=True)
class OptionalKey:
    """An entry that an object may lack."""

    schema: Any


@dataclass(frozen=True)
class Count:
    """A whole number."""

    minimum: int = 0
    maximum: int = MAX_COUNT


def read_json(path: Path, what: str, schema: Any = None, remedy: str = "") -> Any:
    """A JSON file, validated if a schema is given; UserError names the file and the location."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{what} {path}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:  # also text that is not UTF-8, or an endless number
        raise UserError(f"{what} {path} cannot be read: {error}") from None
    except RecursionError:
        raise UserError(f"{what} {path} is nested too deeply") from None
    problem = "" if schema is None else schema_error(content, schema)
    if problem:
        raise UserError(f"{what} {path}: {problem}{f'; {remedy}' if remedy else ''}")
    return content


def schema_error(value: Any, schema: Any, location: str = "") -> str:
    """Where and how a value violates a schema; empty for a valid one."""
    if isinstance(schema, dict | MapOf):
        return _object_error(value, schema, location)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return _must_be(location, "a list", value)
        errors = (
            schema_error(member, schema[0], _below(location, number))
            for number, member in enumerate(value, 1)
        )
        return next(filter(None, errors), "")
    if isinstance(schema, tuple):
        alternatives = [schema_error(value, member, location) for member in schema]
        return alternatives[0] if all(alternatives) else ""
    if isinstance(schema, Count):
        valid = type(value) is int and schema.minimum <= value <= schema.maximum
        most = f" to {schema.maximum}" if schema.maximum != MAX_COUNT else ""
        expected = f"a whole number from {schema.minimum}{most}"
        return "" if valid else _must_be(location, expected, value)
    if schema in PRIMITIVES:
        is_valid, expected = PRIMITIVES[schema]
        return "" if is_valid(value) else _must_be(location, expected, value)
    expected = schema(value)
    return _must_be(location, expected, value) if expected else ""


def _object_error(value: Any, schema: dict | MapOf, location: str) -> str:
    if not isinstance(value, dict):
        return _must_be(location, "an object", value)
    if isinstance(schema, MapOf):
        if len(value) < schema.min_entries:
            entries = "entry" if schema.min_entries == 1 else "entries"
            return f"{location or TOP} must have at least {schema.min_entries} {entries}"
        if isinstance(schema, NamedMap):
            for name in value:
                if error := name_error(name):
                    return f"{location or TOP}: the name {repr_short(name)} {error}"
        members = [(name, schema.schema) for name in value]
    else:
        for name, member in schema.items():
            if name not in value and not isinstance(member, OptionalKey):
                return f"{_below(location, name)} is missing"
        members = [(name, member) for name, member in schema.items() if name in value]
    for name, member in members:
        member = member.schema if isinstance(member, OptionalKey) else member
        if member is float and _is_finite(value[name]):
            continue  # the most frequent case: naming its location would take most of the time
        if error := schema_error(value[name], member, _below(location, name)):
            return error
    return ""


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


TOP = "the top level"
PRIMITIVES: dict[Any, tuple[Any, str]] = {
    str: (lambda value: type(value) is str, "text"),
    bool: (lambda value: type(value) is bool, "true or false"),
    int: (lambda value: type(value) is int, "a whole number"),
    float: (_is_finite, "a finite number"),
    dict: (lambda value: type(value) is dict, "an object"),
    None: (lambda value: value is None, "null"),
}


def _below(location: str, name: str | int) -> str:
    step = str(name) if isinstance(name, int) else repr_short(name)
    return f"{location} → {step}" if location else step


def _must_be(location: str, expected: str, value: Any) -> str:
    return f"{location or TOP} must be {expected}, not {repr_short(value)}"


def repr_short(value: Any) -> str:
    """A value as a message shows it, however long or deep it is."""
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**MAX_REPR_LENGTH:
        return "a number of many digits"
    text = repr(value)
    return text if len(text) <= MAX_REPR_LENGTH else f"{text[:MAX_REPR_LENGTH]}…"


def name_error(name: str) -> str:
    """Why a name cannot be shown in tables, figures and terminals; empty where it can."""
    if not name.strip():
        return "is blank"
    if len(name) > MAX_NAME_LENGTH:
        return f"has {len(name)} characters"
    for character in name:
        if unicodedata.category(character) in NOT_IN_NAMES:
            return f"has the control character {character!a}"
        if unicodedata.bidirectional(character) in DIRECTIONS:
            return f"changes the text direction with {character!a}"
    return ""
