"""How the report's figures look: size, fonts, colours that colour-blind eyes tell apart, bytes."""

import io
import re
import warnings
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 390 / 96  # inches: 390 css pixels, the width of a phone
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#6b6b6b"  # Okabe and Ito's, and grey
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Points of 1/72 inch: 7.2 are 9.6 css pixels.
RC = {
    "font.family": "DejaVu Sans", "font.size": 7.2, "axes.labelsize": 7.2, "axes.titlesize": 7.2,
    "xtick.labelsize": 7.2, "ytick.labelsize": 7.2, "legend.fontsize": 7.2,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.edgecolor": GREY, "xtick.color": "#333333", "ytick.color": "#333333",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e3e3e3", "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.handlelength": 2.6, "legend.columnspacing": 1.2,
    "axes.unicode_minus": True, "text.parse_math": False, "figure.facecolor": "white",
    "svg.fonttype": "path", "svg.hashsalt": "report", "path.simplify": False,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.06,
}  # fmt: skip


def styled():
    """The context in which every figure is made and written."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **RC})


def new_figure(height: float, rows: int = 1, columns: int = 1, **options):
    """(figure, axes [rows, columns]) of the report's width and `height` inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def written(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as SVG and as PNG at twice the size; the same figure gives the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # A name may be in a script that the font lacks; the tables have every name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.draw_without_rendering()  # which lays it out, once for both
        figure.set_layout_engine("none")
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=2 * 96, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """The legend below the figure, outside the axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def line_style(number: int) -> dict:
    """Colour and dashes of line `number`; 28 differ."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],  # 7 and 4 share no factor: 28 pairs
    }


def point_style(number: int) -> dict:
    """Colour and marker of point kind `number`; 49 differ."""
    count = len(MARKERS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // count) % count],
    }


def short(name: str, width: int = 21) -> str:
    """A name of at most `width` letters: the middle gives way, so that like names stay apart."""
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
    """{name: its short form}; names that come out alike carry their place in front."""
    texts = [shorten(name) for name in names]
    return {
        name: text if texts.count(text) == 1 else f"{place}: {text}"
        for place, (name, text) in enumerate(zip(names, texts, strict=True), 1)
    }


def ink(colour: tuple[float, float, float]) -> str:
    """Black or white, whichever stands out more against a colour (relative luminance, WCAG)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.18 else "black"


def spread(count: int, room: float = 0.7) -> np.ndarray:
    """[count] offsets of marks that share a row, the first on top of an inverted axis."""
    return np.linspace(-room / 2, room / 2, count) if count > 1 else np.zeros(1)
