"""The look of the report's figures: size, fonts, colour-blind-safe colours, reproducible bytes."""

import io
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 390 / 96  # inches: 390 CSS pixels, the width of a phone
WIDE = 1200 / 96  # inches: a whole row of the page on a desk
# Okabe and Ito's palette, and grey
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = (
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#6b6b6b",
)
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FONT = 8.4  # points of 1/72 inch, for all text: 11.2 CSS pixels
RC = {
    "font.family": "DejaVu Sans", "font.size": FONT, "axes.labelsize": FONT,
    "axes.titlesize": FONT, "xtick.labelsize": FONT, "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.edgecolor": GREY, "xtick.color": "#333333", "ytick.color": "#333333",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e3e3e3", "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.handlelength": 2.6, "legend.columnspacing": 1.2,
    "axes.unicode_minus": True, "text.parse_math": False, "figure.facecolor": "white",
    "svg.fonttype": "path", "svg.hashsalt": "report", "path.simplify": False,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.06,
}  # fmt: skip


def styled() -> AbstractContextManager:
    """The context in which every figure is drawn and written."""
    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, "backend": "agg", **RC}
    return matplotlib.rc_context(settings)


def new_figure(
    height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH, **options
) -> tuple[Figure, Any]:
    """(figure, axes [rows, columns]) of `height` inches and the report's width, or another one."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def written(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as SVG and as PNG at twice the size; the same figure gives the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # A name may be in a script that the font lacks; the tables show it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.draw_without_rendering()  # computes the layout, once for both files
        figure.set_layout_engine("none")
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=2 * 96, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Place the legend below the figure, outside the axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of line `number`; 28 are distinct."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],  # 7 and 4 share no factor: 28 pairs
    }


def point_style(number: int) -> dict[str, Any]:
    """Colour and marker of series `number`; 49 are distinct."""
    count = len(MARKERS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // count) % count],
    }


def short(name: str, width: int = 21) -> str:
    """A name cut to `width` letters in the middle, so that similar names stay distinct."""
    if len(name) <= width:
        return name
    front = (width - 1) // 2
    return f"{name[:front]}…{name[-(width - 1 - front) :]}"


def label(name: str, width: int = 16, lines: int = 2) -> str:
    """A name for an axis: at most `lines` rows of `width`, broken after spaces, "_" and "-"."""
    rows = [""]
    for word in re.findall(r"[^\s_-]+[\s_-]*|[\s_-]+", name):
        if rows[-1] and len(rows) < lines and len((rows[-1] + word).rstrip()) > width:
            rows.append("")
        rows[-1] += word
    return "\n".join(short(row.strip(), width) for row in rows)


def distinct(names: list[str], shorten: Callable[[str], str]) -> dict[str, str]:
    """{name: its short form}; equal short forms are prefixed with their position."""
    texts = [shorten(name) for name in names]
    return {
        name: text if texts.count(text) == 1 else f"{position}: {text}"
        for position, (name, text) in enumerate(zip(names, texts, strict=True), 1)
    }


def ink(colour: Iterable[float]) -> str:
    """Black or white, whichever has more contrast with a colour (relative luminance, WCAG)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.18 else "black"


def spread(count: int, room: float = 0.7) -> np.ndarray:
    """[count] offsets of marks that share a row, the first on top (the axis is inverted)."""
    return np.linspace(-room / 2, room / 2, count) if count > 1 else np.zeros(1)
