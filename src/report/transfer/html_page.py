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
from src.report.transfer.summary import Summary
from src.report.transfer.tables import Table
from src.report.transfer.target_groups import FEW
from src.report.transfer.verdicts import explained_metric


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its title, a description of the drawing, and what it shows.

    wide: the same for a desk, where it fills a row of the page.
    """

    name: str
    title: str
    figure: Figure
    description: str
    caption: str
    wide: Figure | None = None


@dataclass(frozen=True)
class Part:
    """Figures and tables under one heading, perhaps with a text; `folded`: closed at first."""

    title: str
    figures: list[CaptionedFigure]
    tables: list[Table]
    text: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A data set: its box and its parts."""

    name: str
    generated: str  # the note of a generated log; empty for any other
    planted: str
    summary: Summary
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
        explained=explained_metric(metric),
        sections=contexts,
        domains=sum(len(section.summary.verdicts) - 1 for section in sections),
        correlation=_part(folder, correlation, ""),
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
        "parts": [_part(folder, part, f"{stem}-") for part in section.parts],
    }


def _part(folder: Path, part: Part, prefix: str) -> dict[str, Any]:
    """Write the part's files and return its template context."""
    return {
        "title": part.title,
        "text": part.text,
        "folded": part.folded,
        "figures": [_figure(folder, one, prefix) for one in part.figures],
        "tables": [_table(folder, one, prefix) for one in part.tables],
    }


def _figure(folder: Path, one: CaptionedFigure, prefix: str) -> dict[str, Any]:
    """Write the figure's PNG, the wide one if there is, and return its template context."""
    images = []
    for figure in filter(None, (one.figure, one.wide)):
        svg, png = style.written(figure)
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        source = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
        images.append({"source": source, "width": width, "height": height})
    name = f"figures/{prefix}{one.name}.png"
    (folder / name).write_bytes(png)
    return {
        "id": f"figure-{prefix}{one.name}",
        "title": one.title,
        "alt": f"{one.description}. {one.caption}",
        "caption": one.caption,
        "image": images[0],
        "wide": images[1] if one.wide else None,
        "text": f"{style.FONT * 96 / 72:.1f}",
        "file": name,
    }


def _table(folder: Path, table: Table, prefix: str) -> dict[str, Any]:
    """Write the table's CSV and Markdown and return its template context."""
    stem = folder / "tables" / f"{prefix}{table.name}"
    stem.with_name(f"{stem.name}.csv").write_text(table.values.to_csv(index=False), "utf-8")
    stem.with_name(f"{stem.name}.md").write_text(table.markdown(), "utf-8")
    return {
        "id": f"table-{prefix}{table.name}",
        "title": table.title,
        "file": f"tables/{prefix}{table.name}.csv",
        "columns": list(table.shown.columns),
        "rows": [[str(cell) for cell in row] for row in table.shown.itertuples(index=False)],
    }
