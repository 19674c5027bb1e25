"""What the negative-transfer report holds, in which order: its parts, figures and tables."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from src.report import analysis, figures, figures_training, style
from src.report import captions as readings
from src.report import transfer_tables as tables
from src.report.compared_paths import DataSet, Measured, measure
from src.report.gamma_claim import claim_points, correlation, correlations
from src.report.page import Part, Section, Shown, write_page
from src.report.summary import planted_line, summary_lines

GROUPINGS = {
    "history": "Events of the target's domain before it",
    "context": "Domains in the target's context",
    "popularity": "Popularity of the target's item",
}


@dataclass(frozen=True)
class Document:
    """The report before it is written."""

    sections: list[Section]
    claim: Part
    metric: str

    def write(self, folder: Path) -> None:
        """Fill an empty folder. The same runs give the same bytes."""
        with style.styled():
            write_page(folder, self.sections, self.claim, self.metric)

    def text(self) -> str:
        """The summaries, for the console."""
        lines = []
        for section in self.sections:
            lines.append(section.name)
            if section.generated:
                lines.append(f"  Generated log, not real behaviour: {section.generated}")
            lines += [f"  {what}: {sentence}" for what, sentence in section.summary]
        return "\n".join(lines)


def build(found: list[DataSet], metric: str) -> Document:
    """The report on these data sets. Raises UserError where the runs lack a file."""
    with style.styled():
        work = tqdm(found, desc="data sets", disable=None, leave=False)
        parts = [data_section(data, metric) for data in work]
        points = pd.concat([points for _, points in parts], ignore_index=True)
        return Document([section for section, _ in parts], claim_part(points, metric), metric)


def data_section(data: DataSet, metric: str) -> tuple[Section, pd.DataFrame]:
    """The section of a data set, and its points of the claim."""
    measured = measure(data, metric)
    levels = analysis.levels(data, measured)
    differences = analysis.differences(data, measured)
    trajectories = analysis.trajectories(data)
    points = claim_points(data, measured)
    section = Section(
        name=data.name,
        generated=data.card["notes"].get("generated", ""),
        planted=planted_line(data, differences, trajectories),
        summary=summary_lines(data, differences, points, correlation(points), metric),
        notes=_notes(data),
        parts=[
            transfer_part(data, levels, differences, metric),
            training_part(data, trajectories),
            groups_part(data, measured, metric),
            other_views_part(data, measured, metric),
            Part("Data", [], tables.card_tables(data.card)),
            Part("Runs", [], [tables.runs_table(data), tables.settings_table(data)]),
        ],
    )
    return section, points


def _notes(data: DataSet) -> list[str]:
    notes, names = [], tables.differing(data)
    if names:
        notes.append(
            f"The models differ in more than their mode: {', '.join(names)} (the table of the "
            "settings has the values). A difference between them may come from there."
        )
    if len({frozenset(run.seed for run in model.runs) for model in data.models.values()}) > 1:
        notes.append("The models do not have the same seeds (the table of the runs has them).")
    return notes


def transfer_part(
    data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame, metric: str
) -> Part:
    by_itself = Shown(
        "levels",
        "Each model by itself",
        figures.levels_figure(data, levels, metric),
        f"Dot plot of {metric.upper()} by domain and model",
        readings.levels_reading(data, levels, differences),
    )
    forest = Shown(
        "differences",
        "Differences on the same targets",
        figures.forest_figure(data, differences, metric),
        "Forest plot of paired differences by domain",
        readings.forest_reading(data, differences),
    )
    heat_map = Shown(
        "transfer",
        "Differences as a map",
        figures.transfer_figure(data, differences, metric),
        "Heat map of the differences by domain",
        readings.transfer_map_reading(data, differences),
    )
    overlap = Shown(
        "overlap",
        "Users that the domains share",
        figures.overlap_figure(data.card),
        "Heat map of shared users",
        readings.overlap_reading(data.card),
    )
    return Part(
        "Transfer by domain",
        [[by_itself], [forest], [heat_map, overlap]],
        [tables.differences_table(data, differences), tables.levels_table(data, levels)],
    )


def training_part(data: DataSet, trajectories: pd.DataFrame) -> Part:
    curves = analysis.curves(data)
    gamma = Shown(
        "gamma",
        "γ over the epochs",
        figures_training.trajectory_figure(data, trajectories, "share", "D·γ (1: uniform)"),
        "Lines of D·γ by epoch, one a domain",
        readings.gamma_reading(trajectories),
    )
    phi = Shown(
        "phi",
        "The gap φ over the epochs",
        figures_training.trajectory_figure(
            data, trajectories, "phi", "φ: single − cross loss, nats"
        ),
        "Lines of φ by epoch, one a domain",
        readings.phi_reading(data, trajectories),
    )
    validation = Shown(
        "curves",
        "Validation over the epochs",
        figures_training.curves_figure(data, curves),
        "Lines of the validation metric by epoch, one panel a domain",
        readings.curves_reading(data, curves),
    )
    return Part(
        "Training",
        [[gamma], [phi], [validation]],
        [tables.trajectory_table(trajectories), tables.curves_table(data, curves)],
    )


def groups_part(data: DataSet, measured: Measured, metric: str) -> Part:
    levels = analysis.group_levels(data, measured)
    differences = analysis.group_differences(data, measured)
    cells = []
    for grouping, title in GROUPINGS.items():
        own, names = levels[levels.grouping == grouping], analysis.group_names(grouping)
        shown = Shown(
            f"groups-{grouping}",
            title,
            figures.groups_figure(data, own, names, metric),
            f"Dot plot of {metric.upper()} by group and model",
            readings.groups_reading(data, differences[differences.grouping == grouping]),
        )
        cells.append([shown])
    by_domain = analysis.group_domains(data, measured)
    return Part(
        "Who gains: groups of targets",
        cells,
        tables.group_tables(data, levels, differences, by_domain),
    )


def other_views_part(data: DataSet, measured: Measured, metric: str) -> Part:
    """Protocols, policies for ties, and what a top 10 holds beside the right item."""
    protocols = analysis.protocol_table(data, metric)
    beyond = analysis.beyond_accuracy(data)
    cells = [
        [
            Shown(
                "protocols",
                "Candidate protocols",
                figures.protocols_figure(data, protocols, metric),
                f"Dot plot of {metric.upper()} by protocol and model",
                readings.protocols_reading(data, protocols),
            )
        ]
    ]
    shown_tables = [
        tables.protocols_table(data, protocols),
        tables.ties_table(data, analysis.tie_table(data, measured, metric)),
    ]
    if not beyond.empty:  # runs of an earlier version lack it
        one = Shown(
            "beyond",
            "Beyond accuracy",
            figures.beyond_figure(data, beyond),
            "Dot plots of coverage and popularity by domain and model",
            readings.beyond_reading(data, beyond),
        )
        cells.append([one])
        shown_tables.append(tables.beyond_table(data, beyond))
    return Part("Other ways to look", cells, shown_tables)


def claim_part(points: pd.DataFrame, metric: str) -> Part:
    found = correlations(points)
    shown = Shown(
        "claim",
        "D·γ against the measured transfer",
        figures.claim_figure(points, metric),
        "Scatter plot of Δ against D·γ",
        readings.claim_reading(points, next(iter(found.values()))),
    )
    return Part("The claim", [[shown]], tables.claim_tables(points, found))
