"""The summary of a data set: who gained and who was hurt, SyNCRec, and what γ knew.

All sentences are made from the report's tables, none is written by hand.
"""

import json
import math

import pandas as pd
from scipy.stats import spearmanr

from src.report.compared_paths import DataSet
from src.report.gamma_claim import ENOUGH, Correlation
from src.report.outcomes import gained_and_hurt, last_epochs, of_pair, own_domains
from src.report.wording import ALPHA, counted, interval, listed, named, number, p_value, signed

FULL = 8  # domains up to which each has its interval in the summary


def summary_lines(
    data: DataSet,
    differences: pd.DataFrame,
    points: pd.DataFrame,
    within: Correlation,
    metric: str,
) -> list[tuple[str, str]]:
    """(what, sentence): who gained and who was hurt, SyNCRec against both, what the model knew."""
    rows = of_pair(differences, "cdsr", data.baseline)
    found = gained_and_hurt(rows)
    return [
        (
            f"{data.label('cdsr', data.baseline)}, {metric.upper()}, test",
            _macro(rows) + " 95 % intervals over users; p after Holm over the domains.",
        ),
        ("Gained from cross-domain training", _members(found["gained"])),
        ("Hurt by it", _members(found["hurt"])),
        ("Cannot tell", _members(found["cannot tell"]) + missed(found["cannot tell"])),
        ("SyNCRec against both", against_both(data, differences)),
        ("SyNCRec as served", served_words(data, differences)),
        ("Did the model know?", what_gamma_knew(found, points, within)),
        ("Seeds", _seeds(data)),
    ]


def _macro(rows: pd.DataFrame) -> str:
    row = next(rows[rows.domain == "macro"].itertuples())
    return (
        f"Mean of the domains {signed(row.difference)} ({interval(row.low, row.high)}, "
        f"{p_value(row.p)}); {counted(row.n, 'target')} of {counted(row.users, 'user')}."
    )


def _members(rows: list) -> str:
    """Each domain with its difference; the intervals too, unless there are many."""
    if not rows:
        return "No domain."
    if len(rows) > FULL:
        return "; ".join(f"{row.domain} {signed(row.difference)}" for row in rows) + "."
    return "; ".join(
        f"{row.domain} {signed(row.difference)} ({interval(row.low, row.high)}, "
        f"{p_value(row.p_holm)})"
        for row in rows
    ) + "."  # fmt: skip


def missed(rows: list) -> str:
    """How large a difference would have been found in the domains of which none was shown."""
    rows = [row for row in rows if math.isfinite(row.detectable)]
    if not rows:
        return ""
    sizes = [row.detectable for row in rows]
    least, most = number(min(sizes)), number(max(sizes))
    size = least if least == most else f"{least} to {most}"
    return f" A true difference must be about {size} for such data to show it 4 times in 5."


def against_both(data: DataSet, differences: pd.DataFrame) -> str:
    """Whether the cross path beats SDSR and CDSR: macro mean, and the domains in which it does."""
    verdicts, words = [], []
    for second in (data.baseline, "cdsr"):
        rows = of_pair(differences, "cross", second)
        row = next(rows[rows.domain == "macro"].itertuples())
        if row.p >= ALPHA:
            verdicts.append("cannot be told from")
        else:
            verdicts.append("better than" if row.difference > 0 else "worse than")
        words.append(
            f"{verdicts[-1]} {data.label(second)} ({signed(row.difference)}, "
            f"{interval(row.low, row.high)}, {p_value(row.p)})"
        )
    both = [
        {row.domain for row in gained_and_hurt(of_pair(differences, "cross", second))["gained"]}
        for second in (data.baseline, "cdsr")
    ]
    better = [name for name in data.domains if name in both[0] & both[1]]
    sure = verdicts == ["better than"] * 2
    return (
        f"By the mean of the domains its cross path is {listed(words)}: "
        f"{'better than both' if sure else 'not shown to be better than both'}. "
        f"Better than both in: {named(better) or 'no domain'}."
    )


def served_words(data: DataSet, differences: pd.DataFrame) -> str:
    """What the path that validation chose by domain gains or costs against SDSR."""
    rows = of_pair(differences, "served", data.baseline)
    row, found = next(rows[rows.domain == "macro"].itertuples()), gained_and_hurt(rows)
    gained, hurt = (named([row.domain for row in found[kind]]) for kind in ("gained", "hurt"))
    seeds: dict[str, list[str]] = {}
    for run in data.models["syncrec"].runs:
        single = [name for name, one in run.serving.items() if one["path"] == "single"]
        seeds.setdefault(named(single) or "no domain", []).append(str(run.seed))
    chosen = [
        f"{names} (seed{'s' if len(numbers) > 1 else ''} {listed(numbers)})"
        for names, numbers in seeds.items()
    ]
    return (
        f"Against {data.label(data.baseline)} {signed(row.difference)} "
        f"({interval(row.low, row.high)}, {p_value(row.p)}) by the mean of the domains; gained: "
        f"{gained or 'no domain'}; hurt: {hurt or 'no domain'}. By its single path it serves "
        f"{'; '.join(chosen)}."
    )


def what_gamma_knew(found: dict[str, list], points: pd.DataFrame, within: Correlation) -> str:
    """Whether φ had the sign of the differences that are sure, and γ their order."""
    sure = [*found["gained"], *found["hurt"]]
    if points.empty:
        return "Cannot tell: the models share no seed."
    if sure:
        phi = points.groupby("domain").phi.mean()
        right = [row.domain for row in sure if phi[row.domain] * row.difference > 0]
        sign = (
            f"Of the {counted(len(sure), 'domain')} with a sure difference, the gap φ of training "
            f"had its sign in {len(right)}{f' ({named(right)})' if right else ''}."
        )
    else:
        sign = "No domain has a sure difference whose sign the gap φ could have had."
    return f"{sign} Order: {correlation_words(within)}"


def correlation_words(found: Correlation) -> str:
    """ρ with its interval and the verdict, or why there is none."""
    domains = f"{counted(found.clusters, 'domain')} ({counted(found.points, 'point')})"
    if not math.isfinite(found.rho):
        return f"cannot tell: no rank correlation of D·γ with Δ over {domains}."
    text = (
        f"rank correlation of D·γ with Δ: ρ = {signed(found.rho, 2)} "
        f"({interval(found.low, found.high, 2)}) over {domains}"
    )
    if found.verdict == "positive":
        return f"{text}: γ foretells the order."
    if found.verdict == "negative":
        return f"{text}: γ foretells the opposite order."
    few = f"fewer than {ENOUGH} domains" if found.clusters < ENOUGH else "the interval holds 0"
    return f"{text}: cannot tell ({few})."


def _seeds(data: DataSet) -> str:
    counts = {len(model.runs) for model in data.models.values()}
    if counts == {1}:
        return "One seed a model: intervals and p are over users; another seed may differ."
    each = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}"
    return (
        f"{each} seeds a model, averaged by target before anything else: intervals and p are "
        "over users, not over seeds; the tables show the spread of the seeds."
    )


def planted_line(data: DataSet, differences: pd.DataFrame, trajectories: pd.DataFrame) -> str:
    """What a generated log says was planted beside what was measured; empty for other logs."""
    planted = _planted(data.card["notes"].get("planted_relatedness", ""))
    rows = own_domains(of_pair(differences, "cdsr", data.baseline)).set_index("domain").difference
    shares = last_epochs(trajectories).groupby("domain").share.mean()
    names = sorted((name for name in rows.index if name in planted), key=lambda d: -planted[d])
    truth = [planted[name] for name in names]
    if len(set(truth)) < 2:
        return ""
    measured, known = (spearmanr(truth, series[names]).statistic for series in (rows, shares))
    return (
        "What the generator planted, used nowhere else in this report: relatedness "
        + listed([f"{name} {planted[name]:g}" for name in names])
        + f". Rank correlation with the measured Δ {signed(measured, 2)}, with D·γ at the last "
        f"epoch {signed(known, 2)}, over {len(names)} domains."
    )


def _planted(note: str) -> dict[str, float]:
    """{domain: relatedness} of a note of the log; empty where it is none."""
    try:
        planted = json.loads(note)
        return {name: float(value) for name, value in planted.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
