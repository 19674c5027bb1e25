"""The negative-transfer report as files: one page that needs nothing else, figures, tables."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from tqdm import tqdm

from src.report import style
from src.report.analysis import FEW
from src.report.folder import MARK, PAGE
from src.report.gamma_claim import ENOUGH
from src.report.transfer_tables import Table


@dataclass(frozen=True)
class Shown:
    """A figure with its title, what it shows in words, and what can be read off it."""

    name: str
    title: str
    figure: Figure
    kind: str
    reading: str


@dataclass(frozen=True)
class Part:
    """Figures and tables under one heading; the figures by the cell of the page they stand in."""

    title: str
    figures: list[list[Shown]]
    tables: list[Table]


@dataclass(frozen=True)
class Section:
    """A data set: its summary, and the parts below it."""

    name: str
    generated: str  # the note of a generated log; empty for any other
    planted: str
    summary: list[tuple[str, str]]
    notes: list[str]
    parts: list[Part]


def write_page(folder: Path, sections: list[Section], claim: Part, metric: str) -> None:
    """Write report.html, figures/ and tables/ into an empty folder. Same input, same bytes."""
    (folder / "figures").mkdir()
    (folder / "tables").mkdir()
    work = tqdm(sections, desc="writing", disable=None, leave=False)
    stems = _stems([section.name for section in sections])
    shown = [_section(folder, section, stem) for section, stem in zip(work, stems, strict=True)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("transfer.html").render(
        names=", ".join(section.name for section in sections),
        mark=MARK,
        metric=metric.upper(),
        sections=shown,
        claim={
            "figure": _figure(folder, claim.figures[0][0], ""),
            "tables": [_table(folder, table, "") for table in claim.tables],
        },
        enough=ENOUGH,
        few=FEW,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")


def _stems(names: list[str]) -> list[str]:
    """Names of files for names of data sets: plain letters, all different."""
    stems: list[str] = []
    for name in names:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"
        while stem in stems:
            stem += "-2"
        stems.append(stem)
    return stems


def _section(folder: Path, section: Section, stem: str) -> dict:
    return {
        "id": stem,
        "name": section.name,
        "generated": section.generated,
        "planted": section.planted,
        "summary": section.summary,
        "notes": section.notes,
        "parts": [
            {
                "title": part.title,
                "cells": [
                    [_figure(folder, one, f"{stem}-") for one in cell] for cell in part.figures
                ],
                "tables": [_table(folder, one, f"{stem}-") for one in part.tables],
            }
            for part in section.parts
        ],
    }


def _figure(folder: Path, one: Shown, prefix: str) -> dict:
    """Write the figure's PNG; what the page needs of it, the SVG inline."""
    svg, png = style.written(one.figure)
    (folder / "figures" / f"{prefix}{one.name}.png").write_bytes(png)
    width, height = (round(96 * inches) for inches in one.figure.get_size_inches())
    return {
        "id": f"figure-{prefix}{one.name}",
        "title": one.title,
        "alt": f"{one.kind}. {one.reading}",
        "reading": one.reading,
        "source": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
        "width": width,
        "height": height,
    }


def _table(folder: Path, table: Table, prefix: str) -> dict:
    """Write the table's CSV and Markdown; what the page needs of it."""
    stem = folder / "tables" / f"{prefix}{table.name}"
    stem.with_name(f"{stem.name}.csv").write_text(table.values.to_csv(index=False), "utf-8")
    stem.with_name(f"{stem.name}.md").write_text(table.markdown(), "utf-8")
    return {
        "id": f"table-{prefix}{table.name}",
        "title": table.title,
        "columns": list(table.shown.columns),
        "rows": [[str(cell) for cell in row] for row in table.shown.itertuples(index=False)],
    }
