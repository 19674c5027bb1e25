"""The summary of a data set: who gained and who was hurt, SyNCRec, and whether γ predicted it.

All sentences are generated from the report's tables.
"""

import json
import math

import pandas as pd
from scipy.stats import spearmanr

from src.config.modes import DEFAULT_MODEL, JOINT_MODE, PATHS, SERVED
from src.report.formatting import (
    ALPHA,
    count_of,
    interval,
    join_and,
    join_some,
    number,
    p_value,
    signed,
)
from src.report.transfer.data_sets import CROSS_KEY, DataSet
from src.report.transfer.differences import (
    GAINED,
    HURT,
    UNSURE,
    by_outcome,
    macro_row,
    of_pair,
    without_means,
)
from src.report.transfer.gamma_correlation import ENOUGH, NEGATIVE, POSITIVE, Correlation
from src.report.transfer.training_history import last_epochs

FULL = 8  # with at most so many domains, the summary shows the interval of each


def summary_lines(
    data: DataSet,
    differences: pd.DataFrame,
    points: pd.DataFrame,
    within: Correlation,
    metric: str,
) -> list[tuple[str, str]]:
    """[(topic, sentences)] of a data set; `points` and `within` are its own alone."""
    rows = of_pair(differences, *data.transfer_pair)
    outcomes = by_outcome(rows)
    unsure = outcomes[UNSURE]
    lines = [
        (f"{data.label(*data.transfer_pair)}, {metric.upper()}, test", _macro_sentence(rows)),
        ("Gained from cross-domain training", _members(outcomes[GAINED])),
        ("Hurt by it", _members(outcomes[HURT])),
        ("No significant difference", _members(unsure) + detectable_sentence(unsure)),
        ("SyNCRec against both", against_both(data, differences)),
        ("SyNCRec as served", served_sentences(data, differences)),
        ("Did φ and γ predict it?", prediction_sentences(outcomes, points, within)),
        ("Seeds", _seeds_sentence(data)),
    ]
    if data.others:
        names = [f"{group.label} ({group.title})" for group in data.others]
        lines.append(
            (
                "Not in this report",
                f"{join_and(names)}: it compares the modes of {DEFAULT_MODEL}. Use `report.py "
                "compare` for other models.",
            )
        )
    return lines


def _macro_sentence(rows: pd.DataFrame) -> str:
    row = macro_row(rows)
    return (
        f"Mean over domains {signed(row.difference)} ({interval(row.low, row.high)}, "
        f"{p_value(row.p)}), from {count_of(row.n, 'target')} of {count_of(row.users, 'user')}. "
        "Intervals (95 %) are over users; the p-values of domains are Holm-corrected."
    )


def _members(rows: list) -> str:
    """Each domain with its difference, and with its interval if there are few."""
    if not rows:
        return "No domain."
    if len(rows) > FULL:
        return "; ".join(f"{row.domain} {signed(row.difference)}" for row in rows) + "."
    return "; ".join(
        f"{row.domain} {signed(row.difference)} ({interval(row.low, row.high)}, "
        f"{p_value(row.p_holm)})"
        for row in rows
    ) + "."  # fmt: skip


def detectable_sentence(rows: list) -> str:
    """How large a difference would have been detected in these domains; starts with a space."""
    sizes = [row.detectable for row in rows if math.isfinite(row.detectable)]
    if not sizes:
        return ""
    least, most = number(min(sizes)), number(max(sizes))
    size = least if least == most else f"{least} to {most}"
    return f" A true difference of about {size} would be detected in 80 % of such data sets."


def significance_phrase(difference: float, p: float, other: str) -> str:
    """What a difference with this p-value shows: worse than, better than or not different."""
    if p >= ALPHA:
        return f"not significantly different from {other}"
    return f"significantly {'better' if difference > 0 else 'worse'} than {other}"


def against_both(data: DataSet, differences: pd.DataFrame) -> str:
    """Whether SyNCRec's cross path beats SDSR and CDSR: macro mean, and in which domains."""
    phrases, beats, gained = [], [], []
    for second in (data.baseline, JOINT_MODE):
        rows = of_pair(differences, CROSS_KEY, second)
        row = macro_row(rows)
        phrases.append(
            f"{significance_phrase(row.difference, row.p, data.label(second))} "
            f"({signed(row.difference)}, {interval(row.low, row.high)}, {p_value(row.p)})"
        )
        beats.append(row.p < ALPHA and row.difference > 0)
        gained.append({row.domain for row in by_outcome(rows)[GAINED]})
    better = [name for name in data.domains if name in gained[0] & gained[1]]
    verdict = "better than both" if all(beats) else "not shown to be better than both"
    where = "In no domain is it significantly better than both."
    if better:
        where = f"It is significantly better than both in {join_some(better)}."
    return (
        f"In the mean over domains, its {CROSS_KEY} path is {join_and(phrases)}, so it is "
        f"{verdict}. {where}"
    )


def served_sentences(data: DataSet, differences: pd.DataFrame) -> str:
    """What the path that validation chose in each domain gains or loses against SDSR."""
    rows = of_pair(differences, SERVED, data.baseline)
    row, outcomes = macro_row(rows), by_outcome(rows)
    gained, hurt = (
        join_some([row.domain for row in outcomes[name]]) or "none" for name in (GAINED, HURT)
    )
    seeds: dict[str, list[str]] = {}
    for run in data.two_view.runs:
        serving = run.serving or {}
        single = [name for name, one in serving.items() if PATHS[one["path"]].single_domain]
        seeds.setdefault(join_some(single) or "none", []).append(str(run.seed))
    chosen = [
        f"{names} (seed{'s' if len(numbers) > 1 else ''} {join_and(numbers)})"
        for names, numbers in seeds.items()
    ]
    return (
        f"Compared with {data.label(data.baseline)}, the mean over domains changes by "
        f"{signed(row.difference)} ({interval(row.low, row.high)}, {p_value(row.p)}). "
        f"Significant gains: {gained}. Significant losses: {hurt}. Domains served by the single "
        f"path: {'; '.join(chosen)}."
    )


def prediction_sentences(
    outcomes: dict[str, list], points: pd.DataFrame, within: Correlation
) -> str:
    """Whether φ had the sign of the significant differences, and γ their order."""
    sure = [*outcomes[GAINED], *outcomes[HURT]]
    if points.empty:
        return "Inconclusive: the models share no seed."
    if sure:
        phi = points.groupby("domain").phi.mean()
        right = [row.domain for row in sure if phi[row.domain] * row.difference > 0]
        sign = (
            f"φ has the sign of the difference in {len(right)} of {count_of(len(sure), 'domain')} "
            f"with a significant difference{f' ({join_some(right)})' if right else ''}."
        )
    else:
        sign = "No domain has a significant difference whose sign φ could predict."
    return f"{sign} {correlation_sentence(within)}"


def correlation_sentence(result: Correlation) -> str:
    """ρ with its interval and the verdict, or why there is none."""
    domains = f"{count_of(result.clusters, 'domain')} ({count_of(result.points, 'point')})"
    if not math.isfinite(result.rho):
        return f"Inconclusive: D·γ and Δ have no rank correlation over {domains}."
    text = (
        f"Rank correlation of D·γ with Δ: ρ = {signed(result.rho, 2)} "
        f"({interval(result.low, result.high, 2)}) over {domains}"
    )
    if result.verdict == POSITIVE:
        return f"{text}: γ predicts the order."
    if result.verdict == NEGATIVE:
        return f"{text}: γ predicts the opposite order."
    few = result.clusters < ENOUGH
    why = f"fewer than {ENOUGH} domains" if few else "the interval contains 0"
    return f"{text}: inconclusive ({why})."


def _seeds_sentence(data: DataSet) -> str:
    counts = {len(group.runs) for group in data.groups.values()}
    if counts == {1}:
        return (
            "One seed per model: intervals and p-values are over users; another seed may give a "
            "different result."
        )
    each = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}"
    return (
        f"{each} seeds per model, averaged for each target before anything else: intervals and "
        "p-values are over users, not seeds; the tables show the spread over seeds."
    )


def planted_line(data: DataSet, differences: pd.DataFrame, trajectories: pd.DataFrame) -> str:
    """What the generator of a log planted beside what was measured; empty for other logs."""
    planted = _planted(data.card["notes"].get("planted_relatedness", ""))
    rows = without_means(of_pair(differences, *data.transfer_pair)).set_index("domain").difference
    shares = last_epochs(trajectories).groupby("domain").share.mean()
    names = sorted((name for name in rows.index if name in planted), key=lambda d: -planted[d])
    truth = [planted[name] for name in names]
    if len(set(truth)) < 2:
        return ""
    measured, known = (spearmanr(truth, series[names]).statistic for series in (rows, shares))
    return (
        "Planted by the generator, and used nowhere else in this report: relatedness "
        + join_and([f"{name} {planted[name]:g}" for name in names])
        + f". Its rank correlation over {len(names)} domains is {signed(measured, 2)} with the "
        f"measured Δ and {signed(known, 2)} with D·γ at the last epoch."
    )


def _planted(note: str) -> dict[str, float]:
    """{domain: relatedness} from a note of the log; empty if the note holds something else."""
    try:
        planted = json.loads(note)
        return {name: float(value) for name, value in planted.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
