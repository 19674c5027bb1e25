"""The summary of a data set: who gained and who was hurt, the simple baselines, SyNCRec, training.

All sentences are generated from the report's tables.
"""

import json
import math
from dataclasses import dataclass

import pandas as pd

from src.config.modes import BASELINE_MODES, BLEND, DEFAULT_MODEL, JOINT_MODE, PATHS, SERVED
from src.evaluation.metrics import macro_mean
from src.report.finished_runs import least_targets
from src.report.formatting import (
    ALPHA,
    count_of,
    interval,
    join_and,
    join_some,
    level,
    number,
    relative_change,
    signed,
)
from src.report.transfer.data_sets import CROSS_KEY, PROTOCOL, DataSet
from src.report.transfer.differences import (
    GAINED,
    HURT,
    WITHHELD,
    by_outcome,
    macro_row,
    of_pair,
    outcome,
    without_means,
)
from src.report.transfer.gamma_correlation import ENOUGH, NEGATIVE, POSITIVE, Correlation
from src.report.transfer.next_steps import Step, next_steps
from src.report.transfer.training_history import last_epochs
from src.report.transfer.verdicts import (
    Verdict,
    count_model_sentences,
    evidence,
    headline,
    paired_sentence,
    verdicts,
)

BASELINE_WORDS = {
    BASELINE_MODES[0]: "one model per domain on that domain's own data",
    BASELINE_MODES[1]: "one model that reads each domain's events by themselves",
}


@dataclass(frozen=True)
class Summary:
    """The box of a data set: the first answer, then sentences by topic, then what to do next."""

    question: str
    headline: str
    labels: tuple[str, str]  # of the models of the first answer: on its own, joined
    count_models: list[str]
    verdicts: list[Verdict]
    topics: list[tuple[str, str]]  # (topic, sentences)
    steps: list[Step]

    def text(self) -> list[str]:
        """The lines for the console."""
        lines = [f"{self.question} {self.headline}"]
        lines += [f"  {row.text(*self.labels)}" for row in self.verdicts]
        lines += [f"{topic}: {sentences}" for topic, sentences in self.topics]
        if self.steps:
            lines.append("What to do next:")
            lines += [f"  {what}{f' {command}' if command else ''}" for what, command in self.steps]
        return lines


def summary(
    data: DataSet,
    levels: pd.DataFrame,
    differences: pd.DataFrame,
    points: pd.DataFrame,
    within: Correlation,
    metric: str,
) -> Summary:
    """The box of a data set; `points` and `within` are its own alone."""
    topics = [
        ("Against the paired model", _paired(data, differences)),
        ("Simple baselines", count_model_sentences(data, levels, differences)),
        ("SyNCRec against both", against_both(data, differences)),
        ("SyNCRec as served", served_sentences(data, differences)),
        ("SyNCRec's blend", blend_sentences(data, metric)),
        ("Training", training_sentences(data)),
        ("Seeds", _seeds_sentence(data)),
    ]
    topics = [(topic, sentences) for topic, sentences in topics if sentences]
    if within.clusters >= ENOUGH:
        outcomes = by_outcome(of_pair(differences, *data.transfer_pair))
        words = prediction_sentences(outcomes, points, within)
        topics.append(("Did φ and γ predict it?", words))
    if data.others:
        names = [f"{group.label} ({group.title})" for group in data.others]
        words = f"{join_and(names)}: it compares the modes of {DEFAULT_MODEL}. Use `report.py "
        topics.append(("Not in this report", f"{words}compare` for other models."))
    rows = verdicts(data, levels, differences)
    joint, own = data.transfer_pair
    return Summary(
        question=(
            f"Does training on all domains together ({data.label(joint)}) help each of them, "
            f"against {BASELINE_WORDS[own]} ({data.label(own)})?"
        ),
        headline=headline(rows),
        labels=(data.label(own), data.label(joint)),
        count_models=list(data.count_models),
        verdicts=rows,
        topics=topics,
        steps=next_steps(data, differences),
    )


def _paired(data: DataSet, differences: pd.DataFrame) -> str:
    """The second answer, or why there is none."""
    if len(data.baselines) > 1:
        return paired_sentence(data, differences)
    missing = next(mode for mode in BASELINE_MODES if mode not in data.groups)
    if missing == BASELINE_MODES[0]:
        return (
            "The table above is this comparison. No run of one model per domain "
            f"(--mode {missing}) was given, which is what a team with separate services runs; "
            "the command stands below."
        )
    return f"No run of it (--mode {missing}) was given; the command stands below."


def training_sentences(data: DataSet) -> str:
    """Which models were not trained to the end, and what differs in the budgets."""
    keys = (*data.baselines, JOINT_MODE, CROSS_KEY)
    reasons = [data.withheld(key).get("users", "") for key in keys]
    broken = [reason for reason in reasons if reason]
    unknown = [data.label(key) for key in keys if not data.rankers[key].group.ends]
    text = "Every compared model was trained to the end."
    if broken:
        text = f"Not trained to the end, so no verdict is drawn: {'; '.join(broken)}."
    elif unknown:
        text = f"Not known for {join_and(unknown)}: metrics.csv has no validation."
    return " ".join(filter(None, [text, data.budgets]))


def detectable_sentence(rows: list) -> str:
    """How large a difference would have been detected in these domains; starts with a space."""
    sizes = [row.detectable for row in rows if math.isfinite(row.detectable)]
    if not sizes:
        return ""
    least, most = number(min(sizes)), number(max(sizes))
    size = least if least == most else f"{least} to {most}"
    return f" A true difference of about {size} would be detected in 80 % of such data sets."


def significance_phrase(difference: float, p: float, other: str, withheld: str = "") -> str:
    """What a difference with this p-value shows: worse than, better than or not different."""
    if withheld:
        return f"not comparable with {other} (not trained to the end)"
    if p >= ALPHA:
        return f"not significantly different from {other}"
    return f"significantly {'better' if difference > 0 else 'worse'} than {other}"


def against_both(data: DataSet, differences: pd.DataFrame) -> str:
    """Whether SyNCRec's cross path beats both: in the macro mean, and in which domains."""
    phrases, beats, gained = [], [], []
    for second in (data.baseline, JOINT_MODE):
        rows = of_pair(differences, CROSS_KEY, second)
        row = macro_row(rows)
        phrase = significance_phrase(row.difference, row.p, data.phrase(second), row.withheld)
        phrases.append(phrase if row.withheld else f"{phrase} ({_levels_and_evidence(row)})")
        beats.append(outcome(row) == GAINED)
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


def _levels_and_evidence(row) -> str:
    return (
        f"{level(row.first_value)} against {level(row.second_value)}, "
        f"{relative_change(row.relative)}: {evidence(row)}"
    )


def served_sentences(data: DataSet, differences: pd.DataFrame) -> str:
    """What the path that validation chose in each domain gains or loses against on its own."""
    rows = of_pair(differences, SERVED, data.baseline)
    row, outcomes = macro_row(rows), by_outcome(rows)
    gained, hurt = (
        join_some([row.domain for row in outcomes[name]]) or "none" for name in (GAINED, HURT)
    )
    withheld = [row.domain for row in outcomes[WITHHELD]]
    unclear = f" No verdict, because not trained to the end: {join_some(withheld)}."
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
        f"Compared with {data.phrase(data.baseline)}, the mean over domains changes by "
        f"{relative_change(row.relative)} ({level(row.second_value)} to {level(row.first_value)}, "
        f"{evidence(row)}). Significant gains: {gained}. Significant losses: {hurt}."
        f"{unclear if withheld else ''} Domains served by the single path: {'; '.join(chosen)}."
    )


def blend_sentences(data: DataSet, metric: str) -> str:
    """What the blend has without trend and habit; empty where a run was not scored so."""
    runs, least = data.two_view.runs, least_targets(data.runs)
    shared = set.intersection(*(set(run.blend_without) for run in runs))
    if BLEND not in data.rankers or not shared:
        return ""

    def mean(by_run: list[dict[str, dict]]) -> str:
        domains = [means[name] for means in by_run for name in data.domains]
        return level(macro_mean(domains, least).get(metric, math.nan))

    whole = mean([run.scores("test", PROTOCOL, BLEND) for run in runs])
    parts = [
        f"without {part} {mean([run.blend_without[part] for run in runs])}"
        for part in runs[0].blend_without
        if part in shared
    ]
    return (
        f"In the mean over domains it has {whole}; {', '.join(parts)}. Trend is recent counts and "
        "co-visitation, habit how often the user had an item; the other weights stay as fitted."
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
    limits = f" ({interval(result.low, result.high, 2)})" if math.isfinite(result.low) else ""
    text = f"Rank correlation of D·γ with Δ: ρ = {signed(result.rho, 2)}{limits} over {domains}"
    if result.verdict == POSITIVE:
        return f"{text}: γ predicts the order."
    if result.verdict == NEGATIVE:
        return f"{text}: γ predicts the opposite order."
    few = result.clusters < ENOUGH
    why = "the interval contains 0"
    if few:
        why = f"fewer than {ENOUGH} domains, so there is no interval either"
    return f"{text}: inconclusive ({why})."


def _seeds_sentence(data: DataSet) -> str:
    counts = {len(group.runs) for group in data.groups.values()}
    if counts == {1}:
        return (
            "One seed per model, here and in every figure: intervals and p-values are over users; "
            "another seed may give a different result. The p-values of domains are corrected for "
            "their number (Holm)."
        )
    each = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}"
    return (
        f"{each} seeds per model, averaged for each target before anything else: intervals and "
        "p-values are over users, not seeds; the tables show the spread over seeds. The p-values "
        "of domains are corrected for their number (Holm)."
    )


def planted_line(data: DataSet, differences: pd.DataFrame, trajectories: pd.DataFrame) -> str:
    """What the generator of a log planted beside what was measured; empty for other logs."""
    from scipy.stats import spearmanr  # loads for half a second; a table does without

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
