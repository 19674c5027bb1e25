"""JSON files read back: whole, and of the shape that was written, or refused in one line.

A shape says what a value must be:

    str, bool, int, dict    of that very type
    float                   a finite number
    None                    null
    {"key": shape}          an object with these keys; what else it has is not looked at
    Each(shape)             an object of any keys, each value of the shape; with `least` that many
    [shape]                 a list of such values
    (shape, shape)          one of these
    Maybe(shape)            in an object: the key may be missing
    Names(shape)            `Each`, whose keys are names that tables and figures show
    Count(least, most)      a whole number within these
    a function              "" for a value that is right, else what it must be
"""

import json
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.io.errors import UserError

MOST_COUNT = 2**53  # what every reader of JSON holds exactly
LONGEST_NAME = 1000
LONGEST_SHOWN = 60  # letters of a wrong value that a message shows
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
NOT_IN_NAMES = {"Cc", "Cs", "Zl", "Zp"}  # control, half of a pair, ends of lines and paragraphs


@dataclass(frozen=True)
class Each:
    """An object of any keys whose values have a shape."""

    shape: Any
    least: int = 0


@dataclass(frozen=True)
class Names(Each):
    """`Each`, the keys being names."""


@dataclass(frozen=True)
class Maybe:
    """An entry that an object may lack."""

    shape: Any


@dataclass(frozen=True)
class Count:
    """A whole number."""

    least: int = 0
    most: int = MOST_COUNT


def read_json(path: Path, what: str, shape: Any = None, remedy: str = "") -> Any:
    """A JSON file, of a shape where one is given; UserError names the file and the place in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{what} {path}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:  # also no text, or a number without end
        raise UserError(f"{what} {path} cannot be read: {error}") from None
    except RecursionError:
        raise UserError(f"{what} {path} is nested too deeply") from None
    fault = "" if shape is None else misfit(content, shape)
    if fault:
        raise UserError(f"{what} {path}: {fault}{f'; {remedy}' if remedy else ''}")
    return content


def misfit(value: Any, shape: Any, place: str = "") -> str:
    """Where and how a value is not of a shape; empty where it is."""
    if isinstance(shape, dict | Each):
        return _object_misfit(value, shape, place)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(place, "a list", value)
        faults = (misfit(one, shape[0], _below(place, n)) for n, one in enumerate(value, 1))
        return next(filter(None, faults), "")
    if isinstance(shape, tuple):
        faults = [misfit(value, one, place) for one in shape]
        return faults[0] if all(faults) else ""
    if isinstance(shape, Count):
        fits = type(value) is int and shape.least <= value <= shape.most
        most = f" to {shape.most}" if shape.most != MOST_COUNT else ""
        return "" if fits else _wrong(place, f"a whole number from {shape.least}{most}", value)
    if shape in KINDS:
        fits, kind = KINDS[shape]
        return "" if fits(value) else _wrong(place, kind, value)
    kind = shape(value)
    return _wrong(place, kind, value) if kind else ""


def _object_misfit(value: Any, shape: dict | Each, place: str) -> str:
    if not isinstance(value, dict):
        return _wrong(place, "an object", value)
    if isinstance(shape, Each):
        if len(value) < shape.least:
            return f"{place or 'the whole'} must have {shape.least} entries at least"
        if isinstance(shape, Names):
            for name in value:
                if fault := name_fault(name):
                    return f"{place or 'the whole'}: the name {shown(name)} {fault}"
        entries = [(name, shape.shape) for name in value]
    else:
        for name, own in shape.items():
            if name not in value and not isinstance(own, Maybe):
                return f"{_below(place, name)} is missing"
        entries = [(name, own) for name, own in shape.items() if name in value]
    for name, own in entries:
        own = own.shape if isinstance(own, Maybe) else own
        if fault := misfit(value[name], own, _below(place, name)):
            return fault
    return ""


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


KINDS: dict[Any, tuple[Any, str]] = {
    str: (lambda value: type(value) is str, "text"),
    bool: (lambda value: type(value) is bool, "true or false"),
    int: (lambda value: type(value) is int, "a whole number"),
    float: (_finite, "a finite number"),
    dict: (lambda value: type(value) is dict, "an object"),
    None: (lambda value: value is None, "null"),
}


def _below(place: str, name: str | int) -> str:
    own = str(name) if isinstance(name, int) else shown(name)
    return f"{place} → {own}" if place else own


def _wrong(place: str, kind: str, value: Any) -> str:
    return f"{place or 'the whole'} must be {kind}, not {shown(value)}"


def shown(value: Any) -> str:
    """A value as a message shows it, however long or deep it is."""
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**LONGEST_SHOWN:
        return "a number of many digits"
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def name_fault(name: str) -> str:
    """Why a name cannot stand in tables, figures and on terminals; empty where it can."""
    if not name.strip():
        return "is blank"
    if len(name) > LONGEST_NAME:
        return f"has {len(name)} letters"
    for letter in name:
        if unicodedata.category(letter) in NOT_IN_NAMES:
            return f"has the control character {letter!a}"
        if unicodedata.bidirectional(letter) in DIRECTIONS:
            return f"turns the direction of text with {letter!a}"
    return ""
