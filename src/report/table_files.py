"""Tables as Markdown for people, and as CSV and Markdown files."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.io.errors import UserError, plain
from src.io.files import check_output, write_atomically


def markdown(head: list[str], rows: list[list[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    lines = [markdown_row(cells) for cells in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def markdown_row(cells: Iterable[Any]) -> str:
    """A row of a Markdown table; pipes and control characters in the cells are escaped."""
    texts = (plain(str(cell)).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"


def check_tables(out: Path | None) -> None:
    """UserError, before any work, where `write_tables` could not write OUT's files."""
    if out:
        for path in _table_paths(out):
            check_output(path, "--out")


def _table_paths(out: Path) -> list[Path]:
    """OUT.csv and OUT.md; a suffix .csv or .md of OUT is dropped."""
    stem = out.name.removesuffix(".csv").removesuffix(".md")
    return [out.with_name(stem + suffix) for suffix in (".csv", ".md")]


def write_tables(out: Path, columns: list[str], rows: list[tuple[Any, ...]], text: str) -> None:
    """Write OUT.csv with every row and OUT.md with the text, each atomically.

    A suffix .csv or .md of OUT is dropped. UserError if the files cannot be written.
    """
    csv_path, text_path = _table_paths(out)
    write_csv(csv_path, columns, rows)
    _write_text(text_path, text)


def write_csv(path: Path, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Write a CSV file atomically, its folder too. UserError if it cannot be written."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write --out {path}: {error.strerror}") from None
    _write_text(path, table.getvalue())


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
