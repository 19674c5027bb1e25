"""The figures of training: γ and φ over the epochs, and the validation curves."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.report.transfer import figure_style as style
from src.report.transfer.data_sets import DataSet
from src.report.transfer.figures import MARKS


def trajectory_figure(data: DataSet, rows: pd.DataFrame, column: str, text: str) -> Figure:
    """`column` of the trajectories by epoch: one line per domain; thin lines are single seeds."""
    domains = [name for name in data.domains if (rows.domain == name).any()]
    figure, axes = style.new_figure(2.3 + 0.135 * -(-len(domains) // 2))
    axes = axes[0, 0]
    axes.axhline(1 if column == "share" else 0, color=style.BLACK, linewidth=0.8)
    texts = style.distinct(domains, style.short)
    for number, name in enumerate(domains):
        domain, look = rows[rows.domain == name], style.line_style(number)
        for _, seed in domain.groupby("seed"):
            if rows.seed.nunique() > 1:
                axes.plot(seed.epoch, seed[column], color=look["color"], linewidth=0.5, alpha=0.6)
        mean = _mean_over_seeds(domain, column)
        axes.plot(mean.index, mean, **look, linewidth=1.5, label=texts[name])
    axes.set(xlabel="epoch", ylabel=text)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend(figure, axes)
    return figure


def _mean_over_seeds(rows: pd.DataFrame, column: str) -> pd.Series:
    """The mean by epoch, up to the last epoch that every seed has, so that it does not jump."""
    common = rows.groupby("seed").epoch.max().min()
    return rows[rows.epoch <= common].groupby("epoch")[column].mean()


def curves_figure(data: DataSet, curves: pd.DataFrame, *, wide: bool = False) -> Figure:
    """The validation metric by epoch: one panel per domain, one line per ranker.

    wide: for a desk, with three panels in a row; else for a phone, with one. A dot is the epoch of
    the tested checkpoint, the mean over seeds.
    """
    domains = [name for name in data.domains if (curves.domain == name).any()]
    columns = min(len(domains), 3) if wide else 1
    lines = -(-len(domains) // columns)
    height = 2.2 * lines + 0.55 if wide else 1.6 * lines + 1.0
    figure, axes = style.new_figure(
        height, lines, columns, width=style.WIDE if wide else style.WIDTH, sharex=True
    )
    keys = [key for key in data.rankers if (curves.ranker == key).any()]
    flat, texts = axes.ravel(), style.distinct(domains, style.short)
    for axis, name in zip(flat, domains, strict=False):
        _panel(axis, data, curves[curves.domain == name], keys)
        axis.set_title(texts[name], loc="left")
    for axis in flat[len(domains) :]:
        axis.set_visible(False)
    for axis in flat[max(len(domains) - axes.shape[1], 0) : len(domains)]:
        axis.set_xlabel("epoch")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"validation {curves.metric.iloc[0].upper()}")
    style.legend(figure, flat[0], columns=len(keys) if wide else 2)
    return figure


def _panel(axis: Axes, data: DataSet, rows: pd.DataFrame, keys: list[str]) -> None:
    for number, key in enumerate(keys):
        curve, (colour, marker) = rows[rows.ranker == key], MARKS[key]
        if curve.seed.nunique() > 1:
            for _, seed in curve.groupby("seed"):
                axis.plot(seed.epoch, seed.value, color=colour, linewidth=0.4, alpha=0.5)
        mean = _mean_over_seeds(curve, "value")
        look: dict[str, Any] = {
            "color": colour,
            "linestyle": style.DASHES[number % len(style.DASHES)],
        }
        axis.plot(mean.index, mean, **look, linewidth=1.4, label=data.label(key))
        tested = _tested_epochs(data, key, str(rows.domain.iloc[0]))
        if tested and (epoch := round(sum(tested) / len(tested))) in mean.index:
            axis.plot([epoch], [mean[epoch]], color=colour, marker=marker, markersize=5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def _tested_epochs(data: DataSet, key: str, domain: str) -> list[int]:
    """The best epoch of each seed's model that ranks in a domain."""
    ends = data.rankers[key].group.ends
    return [one.end.best_epoch for one in ends if one.end.domain in ("", domain)]
