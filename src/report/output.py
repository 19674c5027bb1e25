"""Tables as Markdown for the console and files, and as CSV for what reads them next."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.io.errors import UserError, plain
from src.io.files import write_atomically


def markdown(head: list[str], rows: list[list[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are words, the others numbers."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    lines = [markdown_row(cells) for cells in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def markdown_row(cells: Iterable[Any]) -> str:
    """A row of a Markdown table, whatever stands in its cells."""
    texts = (plain(str(cell)).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"


def write_tables(out: Path, columns: list[str], rows: list[tuple[Any, ...]], text: str) -> None:
    """OUT.csv with every row in full, OUT.md with the text; both or, for a wrong OUT, neither."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    stem = out.name.removesuffix(".csv").removesuffix(".md")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in ((".csv", table.getvalue()), (".md", text)):
            write_atomically(
                out.with_name(stem + suffix),
                lambda path, content=content: path.write_text(content, encoding="utf-8"),
            )
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
