"""The content of the negative-transfer report: its sections, parts, figures and tables, in order.

A new figure is one function of figures.py, one caption of captions.py, and one entry here.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from src.report.transfer import captions, figures, tables, training_figures
from src.report.transfer import figure_style as style
from src.report.transfer.data_sets import DataSet, TargetMetrics, measure
from src.report.transfer.differences import by_outcome, of_pair
from src.report.transfer.differences import differences as paired_differences
from src.report.transfer.differences import levels as metric_levels
from src.report.transfer.gamma_correlation import (
    ENOUGH,
    correlation,
    correlation_points,
    correlations,
)
from src.report.transfer.html_page import CaptionedFigure, Part, Section, write_page
from src.report.transfer.sensitivity import beyond_accuracy, protocol_table, tie_table
from src.report.transfer.summary import planted_line, prediction_sentences, summary
from src.report.transfer.target_groups import (
    GROUPINGS,
    group_differences,
    group_domains,
    group_levels,
)
from src.report.transfer.training_history import curves as validation_curves
from src.report.transfer.training_history import trajectories as gamma_trajectories


@dataclass(frozen=True)
class Document:
    """A report that is not written yet."""

    sections: list[Section]
    correlation: Part
    metric: str

    def write(self, folder: Path) -> None:
        """Fill an empty folder. The same runs give the same bytes."""
        with style.styled():
            write_page(folder, self.sections, self.correlation, self.metric)

    def text(self) -> str:
        """The summaries, for the console."""
        lines = []
        for section in self.sections:
            lines.append(section.name)
            if section.generated:
                lines.append(f"  Generated log, not real behaviour: {section.generated}")
            lines += [f"  {line}" for line in section.summary.text()]
        return "\n".join(lines)


def build(data_sets: list[DataSet], metric: str) -> Document:
    """The report on these data sets. Raises UserError if the runs lack a file."""
    with style.styled():
        work = tqdm(data_sets, desc="data sets", disable=None, leave=False)
        parts = [data_section(data, metric) for data in work]
        points = pd.concat([points for _, points in parts], ignore_index=True)
        sections = [section for section, _ in parts]
        return Document(sections, correlation_part(points, metric), metric)


def data_section(data: DataSet, metric: str) -> tuple[Section, pd.DataFrame]:
    """The section of a data set, and its points for the correlation."""
    measured = measure(data, metric)
    levels = metric_levels(data, measured)
    differences = paired_differences(data, measured)
    trajectories = gamma_trajectories(data)
    points = correlation_points(data, measured)
    section = Section(
        name=data.name,
        generated=data.card["notes"].get("generated", ""),
        planted=planted_line(data, differences, trajectories),
        summary=summary(data, levels, differences, points, correlation(points), metric),
        notes=notes(data),
        parts=[
            transfer_part(data, levels, differences, metric),
            training_part(data),
            groups_part(data, measured, metric),
            sensitivity_part(data, measured, metric),
            gamma_part(data, differences, trajectories, points),
            Part(
                "Data and runs",
                [],
                [
                    *tables.card_tables(data.card),
                    tables.runs_table(data),
                    tables.settings_table(data),
                ],
            ),
        ],
    )
    return section, points


def notes(data: DataSet) -> list[str]:
    """Warnings about a comparison of models that differ in more than their mode."""
    lines, names = [], tables.differing(data)
    if names:
        lines.append(
            f"Besides the mode, the models differ in {', '.join(names)} (see the table of "
            "settings); a difference between them may come from there."
        )
    if len({frozenset(run.seed for run in group.runs) for group in data.groups.values()}) > 1:
        lines.append("The models were not trained with the same seeds (see the table of runs).")
    return lines


def transfer_part(
    data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame, metric: str
) -> Part:
    """The metric and the differences by domain."""
    dots = CaptionedFigure(
        "levels",
        "Each model by domain",
        figures.levels_figure(data, levels, metric),
        f"Dot plot of {metric.upper()} by domain and model",
        captions.levels_caption(data, levels, differences),
    )
    forest = CaptionedFigure(
        "differences",
        "Differences on the same targets",
        figures.forest_figure(data, differences, metric),
        "Forest plot of paired differences by domain",
        captions.forest_caption(data, differences),
    )
    return Part(
        "Transfer by domain",
        [dots, forest],
        [tables.differences_table(data, differences), tables.levels_table(data, levels)],
    )


def training_part(data: DataSet) -> Part:
    """The validation metric by epoch, and how each training ended."""
    curves = validation_curves(data)
    validation = CaptionedFigure(
        "curves",
        "Validation by epoch: was each model trained to the end?",
        training_figures.curves_figure(data, curves),
        "Lines of the validation metric by epoch, one panel per domain",
        captions.curves_caption(data, curves),
        wide=training_figures.curves_figure(data, curves, wide=True),
    )
    return Part(
        "Training",
        [validation],
        [tables.endings_table(data), tables.curves_table(data, curves)],
    )


def gamma_part(
    data: DataSet, differences: pd.DataFrame, trajectories: pd.DataFrame, points: pd.DataFrame
) -> Part:
    """γ and φ by epoch, and whether they knew the transfer; folded where the domains are few."""
    gamma = CaptionedFigure(
        "gamma",
        "γ by epoch",
        training_figures.trajectory_figure(data, trajectories, "share", "D·γ (1: uniform)"),
        "Lines of D·γ by epoch, one per domain",
        captions.gamma_caption(trajectories),
    )
    phi_label = "φ: single − cross loss, nats"
    phi = CaptionedFigure(
        "phi",
        "The gap φ by epoch",
        training_figures.trajectory_figure(data, trajectories, "phi", phi_label),
        "Lines of φ by epoch, one per domain",
        captions.phi_caption(data, trajectories),
    )
    outcomes = by_outcome(of_pair(differences, *data.transfer_pair))
    return Part(
        "γ and φ of SyNCRec: did they know during training who gains?",
        [gamma, phi],
        [tables.trajectory_table(trajectories)],
        text=prediction_sentences(outcomes, points, correlation(points)),
        folded=len(data.domains) < ENOUGH,
    )


def groups_part(data: DataSet, measured: TargetMetrics, metric: str) -> Part:
    """The metric and the differences in each group of targets."""
    levels = group_levels(data, measured)
    differences = group_differences(data, measured)
    cells = []
    for grouping, (title, names) in GROUPINGS.items():
        rows = levels[levels.grouping == grouping]
        figure = CaptionedFigure(
            f"groups-{grouping}",
            title,
            figures.groups_figure(data, rows, names, metric),
            f"Dot plot of {metric.upper()} by group and model",
            captions.groups_caption(data, differences[differences.grouping == grouping]),
        )
        cells.append(figure)
    by_domain = group_domains(data, measured)
    return Part(
        "Who gains: groups of targets",
        cells,
        tables.group_tables(data, levels, differences, by_domain),
    )


def sensitivity_part(data: DataSet, measured: TargetMetrics, metric: str) -> Part:
    """Other protocols, tie policies, metrics beyond accuracy; which users the domains share."""
    protocols = protocol_table(data, metric)
    beyond = beyond_accuracy(data)
    cells = [
        CaptionedFigure(
            "protocols",
            "Candidate protocols",
            figures.protocols_figure(data, protocols, metric),
            f"Dot plot of {metric.upper()} by protocol and model",
            captions.protocols_caption(data, protocols),
        )
    ]
    part_tables = [
        tables.protocols_table(data, protocols),
        tables.ties_table(data, tie_table(data, measured, metric)),
    ]
    if not beyond.empty:  # runs of an earlier version lack it
        figure = CaptionedFigure(
            "beyond",
            "Beyond accuracy",
            figures.beyond_figure(data, beyond),
            "Dot plots of coverage and popularity by domain and model",
            captions.beyond_caption(data, beyond),
        )
        cells.append(figure)
        part_tables.append(tables.beyond_table(data, beyond))
    overlap = CaptionedFigure(
        "overlap",
        "Users that the domains share",
        figures.overlap_figure(data.card),
        "Heat map of shared users",
        captions.overlap_caption(data.card),
    )
    title = "Other protocols, ties and metrics; shared users"
    return Part(title, [*cells, overlap], part_tables)


def correlation_part(points: pd.DataFrame, metric: str) -> Part:
    """Whether γ predicts the transfer, over all data sets."""
    results = correlations(points)
    figure = CaptionedFigure(
        "claim",
        "D·γ against the measured transfer",
        figures.correlation_figure(points, metric),
        "Scatter plot of Δ against D·γ",
        captions.correlation_caption(points, next(iter(results.values()))),
    )
    first = next(iter(results.values()))
    return Part(
        "Does γ, known during training, predict the measured transfer? All data sets",
        [figure],
        tables.correlation_tables(points, results),
        folded=first.clusters < ENOUGH,
    )
