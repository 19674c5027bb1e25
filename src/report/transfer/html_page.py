"""The negative-transfer report as files: a self-contained HTML page, figures and tables."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from tqdm import tqdm

from src.report.transfer import figure_style as style
from src.report.transfer.gamma_correlation import ENOUGH
from src.report.transfer.report_folder import MARK, PAGE
from src.report.transfer.tables import Table
from src.report.transfer.target_groups import FEW


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its title, a description of the drawing, and what it shows."""

    name: str
    title: str
    figure: Figure
    description: str
    caption: str


@dataclass(frozen=True)
class Part:
    """Figures and tables under one heading; the figures grouped by cell of the page's grid."""

    title: str
    figures: list[list[CaptionedFigure]]
    tables: list[Table]


@dataclass(frozen=True)
class Section:
    """A data set: its summary and its parts."""

    name: str
    generated: str  # the note of a generated log; empty for any other
    planted: str
    summary: list[tuple[str, str]]
    notes: list[str]
    parts: list[Part]


def write_page(folder: Path, sections: list[Section], correlation: Part, metric: str) -> None:
    """Write report.html, figures/ and tables/ into an empty folder. Same input, same bytes."""
    (folder / "figures").mkdir()
    (folder / "tables").mkdir()
    work = tqdm(sections, desc="writing", disable=None, leave=False)
    stems = _stems([section.name for section in sections])
    contexts = [_section(folder, section, stem) for section, stem in zip(work, stems, strict=True)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html").render(
        names=", ".join(section.name for section in sections),
        mark=MARK,
        metric=metric.upper(),
        sections=contexts,
        correlation={
            "figure": _figure(folder, correlation.figures[0][0], ""),
            "tables": [_table(folder, table, "") for table in correlation.tables],
        },
        enough=ENOUGH,
        few=FEW,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")


def _stems(names: list[str]) -> list[str]:
    """File names for the names of data sets: plain letters, all distinct."""
    stems: list[str] = []
    for name in names:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"
        while stem in stems:
            stem += "-2"
        stems.append(stem)
    return stems


def _section(folder: Path, section: Section, stem: str) -> dict[str, Any]:
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


def _figure(folder: Path, one: CaptionedFigure, prefix: str) -> dict[str, Any]:
    """Write the figure's PNG and return its template context, the SVG inline."""
    svg, png = style.written(one.figure)
    (folder / "figures" / f"{prefix}{one.name}.png").write_bytes(png)
    width, height = (round(96 * inches) for inches in one.figure.get_size_inches())
    return {
        "id": f"figure-{prefix}{one.name}",
        "title": one.title,
        "alt": f"{one.description}. {one.caption}",
        "caption": one.caption,
        "image": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
        "width": width,
        "height": height,
    }


def _table(folder: Path, table: Table, prefix: str) -> dict[str, Any]:
    """Write the table's CSV and Markdown and return its template context."""
    stem = folder / "tables" / f"{prefix}{table.name}"
    stem.with_name(f"{stem.name}.csv").write_text(table.values.to_csv(index=False), "utf-8")
    stem.with_name(f"{stem.name}.md").write_text(table.markdown(), "utf-8")
    return {
        "id": f"table-{prefix}{table.name}",
        "title": table.title,
        "columns": list(table.shown.columns),
        "rows": [[str(cell) for cell in row] for row in table.shown.itertuples(index=False)],
    }
