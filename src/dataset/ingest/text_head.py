"""The head of a text file: its comments, its header, and the separator of its columns."""

import csv
import re
from dataclasses import dataclass
from pathlib import PurePath

from src.dataset.ingest.raw_files import RawFile
from src.io.errors import UserError, plain

DELIMITERS = {".tsv": "\t", ".txt": "\t", ".inter": "\t"}  # by suffix; others: a comma
CANDIDATES = (",", ";", "\t", "|")
SPELLED = {"\\t": "\t", "tab": "\t"}  # how a shell user writes a tab
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class TextHead:
    """The start of a text file."""

    comments: list[str]  # leading lines that begin with '#', without the '#'
    columns: tuple[str, ...]
    delimiter: str
    remark: str  # what was detected and is not usual, or ""


def parse_head(
    file: RawFile, lines: list[str], delimiter: str, names: tuple[str, ...], wanted: set[str]
) -> TextHead:
    """The head of a text file from its first lines.

    `names` are those of the columns of a file without a header. Without a `delimiter`, it is the
    first of the usual ones that splits the line into the wanted columns (those in `names`), or else
    into the most. UserError for an empty file and for a line with another number of columns.
    """
    comments = []
    for line in lines:
        if not line.startswith("#"):
            break
        comments.append(line[1:].strip())
    else:
        raise UserError(f"{file.path} is empty; expected a header and events")
    usual = DELIMITERS.get(PurePath(file.table).suffix, ",")
    candidates = [SPELLED.get(delimiter, delimiter)] if delimiter else [usual, *CANDIDATES]
    splits = {candidate: split_line(line, candidate) for candidate in candidates}
    best = max(splits, key=lambda d: (_fits(splits[d], names, wanted), len(splits[d])))
    fields = splits[best]
    if names and len(fields) != len(names):
        raise UserError(
            f"{file.path}: the first line has {len(fields)} columns ({_listed(fields)}), but "
            f"--columns names {len(names)}; name each, one that is not needed as '-'"
        )
    is_detected = not delimiter and best != usual
    remark = f"columns separated by a {NAMES[best]}" if is_detected else ""
    return TextHead(comments, names or tuple(fields), best, remark)


def split_line(line: str, delimiter: str) -> list[str]:
    """The fields of a line, without blanks around them."""
    if len(delimiter) == 1:
        fields = next(csv.reader([line], delimiter=delimiter), [])
    else:
        fields = line.split(delimiter)
    return [field.strip() for field in fields]


def missing_columns(path: str, header: tuple[str, ...], columns: list[str]) -> str:
    """Why wanted columns cannot be taken from a file with this header, without the remedy."""
    names = ", ".join(map(repr, columns))
    twice = next((column for column in columns if column in header), None)
    if twice is not None:
        return f"{path} has more than one column {twice!r} (its columns: {_listed(header)})"
    if has_no_header(header):
        return (
            f"{path} has no column {names}, and its first line looks like data, not like a header "
            f"({_listed(header)})"
        )
    return f"{path} has no column {names} (its columns: {_listed(header)})"


def has_no_header(header: tuple[str, ...]) -> bool:
    """Whether a first line looks like data: a number names no column."""
    return any(map(NUMBER.fullmatch, header))


def _fits(fields: list[str], names: tuple[str, ...], wanted: set[str]) -> bool:
    return len(fields) == len(names) if names else wanted <= set(fields)


def _listed(fields: list[str] | tuple[str, ...]) -> str:
    listed = plain(", ".join(fields))
    return listed if len(listed) <= 200 else listed[:200] + "…"
