"""The figures of the measurements: levels, differences, groups, protocols, maps, correlation.

Every function takes tidy tables and returns a matplotlib figure, as wide as a phone and as high as
its rows need. Colour is never the only cue: rankers also differ in their markers, significant
differences are filled, and maps print their numbers.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.config.names import COUNTED
from src.report.transfer import figure_style as style
from src.report.transfer.data_sets import RANKER_KEYS, DataSet
from src.report.transfer.differences import significant
from src.report.transfer.sensitivity import BEYOND_ACCURACY
from src.report.transfer.target_groups import FEW

RANKER_MARKS = (
    (style.BLUE, "o"), (style.SKY, "D"), (style.VERMILION, "s"), (style.GREEN, "^"),
    (style.PURPLE, "v"), (style.BLACK, "P"), (style.ORANGE, "X"),
)  # fmt: skip
# {ranker or baseline: (colour, marker)}
MARKS = dict(zip(RANKER_KEYS, itertools.cycle(RANKER_MARKS), strict=False)) | {
    name: (style.GREY, marker)
    for name, marker in zip(COUNTED, itertools.cycle("x+1234|_"), strict=False)
}
MEAN_LABELS = {"macro": "mean over domains", "users": "mean over targets"}
ROW = 0.092  # inches of a mark's line
ONE_LINE = 0.5  # lines of marks that a row of single dots takes
LEGEND_LINE = 0.15  # inches
GAP = 0.16  # inches between two rows of marks
FRAME = 0.85  # inches for the axis and the legend
NAMED = 12  # domains up to which each has its own colour and name in the correlation figure
FILLINGS = ("full", "none", "left", "top")
PRINTED = 8  # domains up to which a cell of a D × D map has room for a number


def dot_plot(
    rows: pd.DataFrame,
    by: str,
    order: Sequence[str],
    marks: Mapping[Any, tuple[str, tuple[str, str]]],
    axis_label: str,
    *,
    hollow: pd.Series | None = None,
    zero: bool = False,
    one_line: bool = False,
    legend_columns: int = 2,
) -> Figure:
    """Dots with intervals: one row per entry of `order`, with one dot per entry of `marks`.

    Parameters
    ----------
    rows: columns `by` (the row), `mark`, `value`, `low`, `high`, `n`.
    marks: {value of the column `mark`: (its label, (colour, marker))}.
    hollow: whether each of `rows` is drawn hollow.
    zero: whether to draw a line at 0.
    one_line: whether a row is one line, without n, for dots without intervals.
    """
    order = [name for name in order if (rows[by] == name).any()]
    lines = ONE_LINE if one_line else len(marks)
    height = (
        len(order) * (ROW * lines + GAP) + FRAME + LEGEND_LINE * -(-len(marks) // legend_columns)
    )
    figure, axes = style.new_figure(height)
    axes = axes[0, 0]
    if zero:
        axes.axvline(0, color=style.BLACK, linewidth=0.8)
    hollow = pd.Series(False, rows.index) if hollow is None else hollow
    offsets = style.spread(len(marks), 0.0 if one_line else ROW * lines / (ROW * lines + GAP))
    for offset, (mark, (text, (colour, shape))) in zip(offsets, marks.items(), strict=True):
        dots = rows[rows.mark == mark]
        y = dots[by].map(order.index).to_numpy() + offset
        empty = hollow[dots.index].to_numpy(bool)
        axes.hlines(y, dots.low, dots.high, color=colour, linewidth=1.1)
        line = {"color": colour, "marker": shape, "linestyle": "none", "markersize": 4}
        axes.plot(dots.value[~empty], y[~empty], **line, label=text)
        axes.plot(dots.value[empty], y[empty], **line, markerfacecolor="white")
    for number in range(1, len(order)):
        axes.axhline(number - 0.5, color="#bbbbbb", linewidth=0.5)
    counts = rows.groupby(by).n.first()
    texts = style.distinct(order, style.short if one_line else _label)
    labels = [
        texts[name] if one_line else f"{texts[name]}\n{_count(counts[name])}" for name in order
    ]
    axes.set_yticks(range(len(order)), labels)
    axes.set(xlabel=axis_label, ylim=(len(order) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    style.legend(figure, axes, legend_columns)
    return figure


def _label(name: str) -> str:
    return style.label(MEAN_LABELS.get(name, name))


def _count(count: int) -> str:
    return f"n = {count:,}" + (", few" if count < FEW else "")


def ranker_marks(data: DataSet, *baselines: str) -> dict[str, tuple[str, tuple[str, str]]]:
    """{ranker or baseline: (its label, (colour, marker))}"""
    marks = {key: (data.label(key), MARKS[key]) for key in data.rankers}
    return marks | {name: (name, MARKS[name]) for name in baselines}


def levels_figure(data: DataSet, levels: pd.DataFrame, metric: str) -> Figure:
    """The metric of each ranker and count model by domain."""
    rows = levels[levels.domain != "users"].assign(mark=levels.ranker)
    return dot_plot(
        rows, "domain", [*data.domains, "macro"], ranker_marks(data, *data.count_models),
        f"{metric.upper()}, 95 % interval",
    )  # fmt: skip


def forest_figure(data: DataSet, differences: pd.DataFrame, metric: str) -> Figure:
    """The paired differences by domain; hollow: not significant, or withheld."""
    pairs = data.comparisons
    colours = (style.VERMILION, style.GREEN, style.PURPLE, style.BLACK, style.SKY)
    shapes = ("s", "^", "D", "P", "o")
    marks = {
        pair: (data.label(*pair), mark)
        for pair, mark in zip(pairs, zip(colours, shapes, strict=True), strict=False)
    }
    rows = differences[differences.domain != "users"].rename(columns={"difference": "value"})
    rows = rows.assign(mark=list(zip(rows["first"], rows["second"], strict=True)))
    rows = rows[rows.mark.isin(pairs)]
    return dot_plot(
        rows, "domain", [*data.domains, "macro"], marks,
        f"difference in {metric.upper()}, 95 % interval\n(filled: p < .05 after Holm's correction)",
        hollow=~significant(rows), zero=True, legend_columns=1,
    )  # fmt: skip


def groups_figure(data: DataSet, levels: pd.DataFrame, names: list[str], metric: str) -> Figure:
    """The metric of each ranker in the groups of one grouping; hollow: too few targets."""
    rows = levels.assign(mark=levels.ranker)
    return dot_plot(
        rows, "group", names, ranker_marks(data),
        f"{metric.upper()}, 95 % interval\n(hollow: fewer than {FEW} targets)",
        hollow=rows.n < FEW,
    )  # fmt: skip


def protocols_figure(data: DataSet, protocols: pd.DataFrame, metric: str) -> Figure:
    """The mean over domains under each protocol, with the baselines."""
    rows = protocols[protocols.domain == "macro"]
    rows = rows.assign(mark=rows.ranker, low=rows.value, high=rows.value)
    baselines = [name for name in COUNTED if (rows.ranker == name).any()]
    return dot_plot(
        rows, "protocol", list(rows.protocol.unique()), ranker_marks(data, *baselines),
        f"{metric.upper()}, mean over domains", one_line=True,
    )  # fmt: skip


def beyond_figure(data: DataSet, beyond: pd.DataFrame) -> Figure:
    """Coverage and popularity of the top 10 by domain, one panel for each."""
    domains = [name for name in [*data.domains, "macro"] if (beyond.domain == name).any()]
    height = 2 * (len(domains) * 0.22 + 0.5) + LEGEND_LINE * 3
    figure, axes = style.new_figure(height, rows=2)
    for axis, (metric, text) in zip(axes[:, 0], BEYOND_ACCURACY.items(), strict=True):
        by_metric = beyond[beyond.metric == metric]
        for key, (label, (colour, shape)) in ranker_marks(data).items():
            rows = by_metric[by_metric.ranker == key]
            axis.plot(
                rows.value, rows.domain.map(domains.index), color=colour, marker=shape,
                markersize=4.5, markerfacecolor="none", linestyle="none", label=label,
            )  # fmt: skip
        if metric == "popularity@10":
            axis.axvline(1, color=style.BLACK, linewidth=0.8)
        texts = style.distinct(
            ["mean" if name == "macro" else name for name in domains], style.short
        )
        axis.set_yticks(range(len(domains)), list(texts.values()))
        axis.set(xlabel=text, ylim=(len(domains) - 0.5, -0.5))
    style.legend(figure, axes[0, 0])
    return figure


# ---------------------------------------------------------------- maps


def heat_map(
    axes: Axes, values: np.ndarray, limits: tuple[float, float], colours: str, texts: np.ndarray
) -> None:
    """Draw values [rows, columns] as colours, with a text in each cell (may be empty)."""
    shown = np.ma.masked_invalid(values)
    palette = matplotlib.colormaps[colours]
    axes.imshow(shown, cmap=palette, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), text in np.ndenumerate(texts):
        if text:
            share = (values[row, column] - limits[0]) / (limits[1] - limits[0])
            axes.text(
                column, row, text, ha="center", va="center",
                color=style.ink(palette(share)[:3]),
            )  # fmt: skip
    axes.grid(visible=False)
    axes.tick_params(length=0)


def overlap_figure(card: dict) -> Figure:
    """The share of each row's users who are also active in the column's domain."""
    names = list(card["overlap"])
    shared = np.array([[card["overlap"][row][column] for column in names] for row in names], float)
    shares = shared / np.maximum(shared.diagonal()[:, None], 1)
    figure, axes = style.new_figure(len(names) * (0.6 if len(names) <= 4 else 0.3) + 0.8)
    texts = np.full(shares.shape, "", dtype=object)
    if len(names) <= PRINTED:
        texts = np.array([[f"{100 * share:.0f}" for share in row] for row in shares], object)
    heat_map(axes[0, 0], shares, (0.0, 1.0), "Blues", texts)
    labels = [f"{_label(name)} ({number})" for number, name in enumerate(names, 1)]
    axes[0, 0].set_yticks(range(len(names)), labels)
    step = 1 if len(names) <= 2 * PRINTED else 3
    axes[0, 0].set_xticks(range(0, len(names), step), range(1, len(names) + 1, step))
    axes[0, 0].set_xlabel("% of the row's users who are also active\nin the column's domain")
    return figure


# ---------------------------------------------------------------- γ against transfer


def correlation_figure(points: pd.DataFrame, metric: str) -> Figure:
    """D·γ against Δ: one point per domain and seed; the seeds of a domain are joined by a line.

    With at most NAMED domains each has its own colour and marker, and a data set its filling; with
    more, each data set has its own colour and marker.
    """
    pairs = points.drop_duplicates(["data", "domain"])
    few = len(pairs) <= NAMED
    figure, axes = style.new_figure(3.1 + 0.135 * (-(-len(pairs) // 2) if few else 1))
    axes = axes[0, 0]
    axes.axhline(0, color=style.BLACK, linewidth=0.8)
    axes.axvline(1, color=style.BLACK, linewidth=0.8, linestyle=(0, (4, 2)))
    for number, (name, rows) in enumerate(points.groupby("data", sort=False)):
        title, filling = style.short(str(name), 12), FILLINGS[number % len(FILLINGS)]
        for index, (domain, seeds) in enumerate(rows.groupby("domain", sort=False)):
            look = style.point_style(index) | {"fillstyle": filling}
            if not few:
                look = style.point_style(number)
            text = f"{title}: {style.short(str(domain), 15)}" if few else title
            axes.plot(
                seeds.share, seeds.transfer, **look, markersize=4.5, linewidth=0.6,
                label=text if few or not index else None,
            )  # fmt: skip
    axes.set(
        xlabel="D·γ at the tested epoch (1: uniform)",
        ylabel=f"Δ: joined − on its own, {metric.upper()}",
    )
    if len(points):
        style.legend(figure, axes)
    return figure
