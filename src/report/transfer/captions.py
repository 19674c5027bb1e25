"""One sentence under each figure, made from the tables that the figure shows.

A difference is called significant only if its p-value is below ALPHA after Holm's correction. If
none is, the sentence says how large a difference the data could have detected. None is called so
where a compared model was not trained to the end. The seeds are spoken of once, in the box.
"""

import pandas as pd

from src.config.modes import JOINT_MODE
from src.report.finished_runs import MEANS
from src.report.formatting import (
    count_of,
    join_and,
    join_some,
    level,
    number,
    percent,
    relative_change,
    signed,
)
from src.report.transfer.data_sets import DataSet
from src.report.transfer.differences import (
    GAINED,
    HURT,
    UNSURE,
    WITHHELD,
    by_outcome,
    of_pair,
    significant,
    without_means,
)
from src.report.transfer.gamma_correlation import Correlation
from src.report.transfer.summary import correlation_sentence, detectable_sentence
from src.report.transfer.target_groups import FEW
from src.report.transfer.training_history import last_epochs
from src.report.transfer.verdicts import MACRO

MANY = 9  # entries of a caption's list of domains


def levels_caption(data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame) -> str:
    """The best of each domain, count models included, and joined against on its own."""
    best = []
    for domain in [name for name in levels.domain.unique() if name not in MEANS] + ["macro"]:
        rows = levels[levels.domain == domain]
        row = rows.loc[rows.value.idxmax()]
        where = MACRO if domain == "macro" else domain
        best.append(f"{where} {data.label(row.ranker)} {level(row.value)}")
    if len(best) > MANY:
        best = [*best[: MANY - 1], best[-1]]
    first, second = data.transfer_pair
    rows = without_means(of_pair(differences, first, second))
    above, sure = rows.difference > 0, significant(rows)
    withheld = (rows.withheld != "").sum()
    unclear = f"; no verdict in {withheld}, because not trained to the end" if withheld else ""
    above_words = f"{_sentence_case(data.phrase(first))} is above {data.phrase(second)}"
    return (
        f"Highest: {'; '.join(best)}. {above_words} in {above.sum()} of "
        f"{count_of(len(rows), 'domain')}; the difference is significantly positive in "
        f"{(sure & above).sum()} and significantly negative in {(sure & ~above).sum()}{unclear}."
    )


def _sentence_case(words: str) -> str:
    return words[:1].upper() + words[1:]


def forest_caption(data: DataSet, differences: pd.DataFrame) -> str:
    """In which domains joined gains or loses against on its own, with levels."""
    pair = data.transfer_pair
    first, second = map(data.phrase, pair)
    outcomes = by_outcome(of_pair(differences, *pair))
    unsure, withheld = outcomes[UNSURE], outcomes[WITHHELD]
    verbs = {GAINED: "gains in", HURT: "loses in"}
    parts = []
    for kind, verb in verbs.items():
        domains = [
            f"{row.domain} ({level(row.second_value)} to {level(row.first_value)}, "
            f"{relative_change(row.relative)})"
            for row in outcomes[kind]
        ]
        if domains:
            parts.append(f"{verb} {join_some(domains)}")
    names = join_some([row.domain for row in unsure])
    clauses = []
    if parts:
        clauses.append(f"Compared with {second}, {first} {' and '.join(parts)}")
        if unsure:
            clauses.append(f"no significant difference in {names}")
    elif unsure:
        where = f"in any of {count_of(len(unsure), 'domain')}" if not withheld else f"in {names}"
        clauses.append(
            f"{_sentence_case(first)} does not differ significantly from {second} {where}"
        )
    if withheld:
        where = join_some([row.domain for row in withheld])
        verb = "no verdict" if clauses else "No verdict"
        clauses.append(f"{verb} in {where}, because not trained to the end")
    return "; ".join(clauses) + "." + ("" if parts else detectable_sentence(unsure))


def gamma_caption(trajectories: pd.DataFrame) -> str:
    last = last_epochs(trajectories)
    ends = last.groupby("domain").share.agg(["mean", "min", "max"])
    high, low = ends["mean"].idxmax(), ends["mean"].idxmin()
    if (ends["mean"] - 1).abs().max() < 0.05:
        text = "At the last epoch γ is within 5 % of uniform in every domain."
    else:
        text = (
            f"At the last epoch D·γ is highest in {_share_of(ends, high)} and lowest in "
            f"{_share_of(ends, low)}."
        )
        by_seed = last.pivot(index="seed", columns="domain", values="share")
        if by_seed.idxmax(axis=1).nunique() > 1 or by_seed.idxmin(axis=1).nunique() > 1:
            text += " The seeds disagree on which domains these are."
    return f"{text} γ weighs the losses with --gap training alone; it is measured in every run."


def _share_of(ends: pd.DataFrame, domain: str) -> str:
    mean, low, high = ends.loc[domain]
    spread = "" if low == high else f", seeds {number(low, 2)} to {number(high, 2)}"
    return f"{domain} ({number(mean, 2)}{spread})"


def phi_caption(data: DataSet, trajectories: pd.DataFrame) -> str:
    ends = last_epochs(trajectories).groupby("domain").phi.agg(["min", "max"])
    above = [name for name in data.domains if name in ends.index and ends["min"][name] > 0]
    below = [name for name in data.domains if name in ends.index and ends["max"][name] < 0]
    mixed = [name for name in ends.index if name not in {*above, *below}]  # or 0, or no target
    parts = []
    if above:
        parts.append(f"positive in {join_some(above)} (the cross task has the lower training loss)")
    if below:
        parts.append(f"negative in {join_some(below)}")
    clauses = [f"φ is {join_and(parts)}"] if parts else []
    if mixed:
        clauses.append(f"{'it' if parts else 'φ'} has no clear sign in {join_some(mixed)}")
    return f"At the last epoch {'; '.join(clauses)}."


def curves_caption(data: DataSet, curves: pd.DataFrame) -> str:
    """The epoch of each model's best validation, and which models were not trained to the end."""
    parts, broken = [], []
    for key in [key for key in data.rankers if (curves.ranker == key).any()]:
        ranker = data.rankers[key]
        if ranker.path != ranker.group.runs[0].default_path:
            continue  # another path of the same models
        ends = ranker.group.ends
        best = sorted({one.end.best_epoch for one in ends})
        last = sorted({one.end.epochs for one in ends})
        if ends:
            parts.append(f"{data.label(key)} {_span(best)} of {_span(last)}")
        if any(one.fault for one in ends):
            broken.append(data.label(key))
    verdict = (
        f"Not trained to the end: {join_and(broken)}." if broken else "All are flat at the end."
    )
    metric = curves.metric.iloc[0].upper()
    return f"Best epoch by validation {metric}: {join_and(parts)}. {verdict}"


def _span(numbers: list[int]) -> str:
    """7, or 3 to 9"""
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def overlap_caption(card: dict) -> str:
    """Which two domains share the largest and the smallest part of the smaller one's users."""
    overlap, names = card["overlap"], list(card["overlap"])
    pairs = {
        (first, second): overlap[first][second]
        / max(min(overlap[first][first], overlap[second][second]), 1)
        for number, first in enumerate(names)
        for second in names[number + 1 :]
    }
    if not pairs:
        return "There is only one domain, so no overlap."
    most, least = max(pairs, key=lambda pair: pairs[pair]), min(pairs, key=lambda pair: pairs[pair])
    if percent(pairs[most]) == percent(pairs[least]):
        share = percent(pairs[most])
        return f"Every two domains share {share} of the users of the smaller one."
    return (
        f"{most[0]} and {most[1]} share the largest part of the smaller domain's users "
        f"({percent(pairs[most])}), {least[0]} and {least[1]} the smallest "
        f"({percent(pairs[least])})."
    )


def groups_caption(data: DataSet, differences: pd.DataFrame) -> str:
    """Joined − on its own in the groups of one grouping; `differences`: of group_differences."""
    rows = differences[differences["first"] == JOINT_MODE]
    enough = rows[rows.n >= FEW]
    parts = [
        f"{row.group} {signed(row.difference)} ({relative_change(row.relative)})"
        for row in enough.itertuples()
    ]
    sure = enough[significant(enough)].group.tolist()
    verdict = f"significant for {join_and(sure)}" if sure else "no difference is significant"
    if (rows.withheld != "").any():
        verdict = "no verdict, because a model was not trained to the end"
    text = f"{_sentence_case(data.label(*data.transfer_pair))}: {join_and(parts)}; {verdict}."
    few = [f"{row.group} (n = {row.n})" for row in rows[rows.n < FEW].itertuples()]
    if not parts:
        text = "No group has enough targets to judge."
    if few:
        text += f" Too few targets to judge: {join_and(few)}."
    return text


def beyond_caption(data: DataSet, beyond: pd.DataFrame) -> str:
    macro = beyond[beyond.domain == "macro"].set_index(["metric", "ranker"]).value
    coverage, popularity = macro["coverage@10"], macro["popularity@10"]
    most, least = coverage.idxmax(), coverage.idxmin()
    if most == least:
        covers = f"The top 10s of every model cover {percent(coverage[most])} of a domain's items"
    else:
        covers = (
            f"The top 10s of all users cover {percent(coverage[most])} of a domain's items with "
            f"{data.phrase(most)} and {percent(coverage[least])} with {data.phrase(least)}"
        )
    common = popularity.idxmax()
    return (
        f"{covers} (mean over domains). The most popular items are those of {data.phrase(common)}: "
        f"{number(popularity[common], 1)} times as popular as the item of a mean event of the log. "
        "Not tested for significance."
    )


def protocols_caption(data: DataSet, protocols: pd.DataFrame) -> str:
    first, second = data.transfer_pair
    macro = protocols[(protocols.domain == "macro") & protocols.ranker.isin(data.columns)]
    table = macro.pivot_table(index="protocol", columns="ranker", values="value", sort=False)
    table = table.dropna(subset=[first, second])
    positive = (table[first] - table[second]) > 0
    if positive.nunique() == 1:
        where = f"under {'every' if positive.iloc[0] else 'no'} protocol"
    else:
        where = f"only under {join_some(list(positive[positive].index))}"
    best = table.idxmax(axis=1)
    leaders = [
        f"{data.label(key)} ({join_some(list(best[best == key].index))})"
        if best.nunique() > 1
        else f"{data.label(key)} (all protocols)"
        for key in best.unique()
    ]
    difference = _sentence_case(data.label(first, second))
    return (
        f"{difference} is above 0 {where}. Highest mean over domains: {join_and(leaders)}. Not "
        "tested for significance."
    )


def correlation_caption(points: pd.DataFrame, result: Correlation) -> str:
    if points.empty:
        return "Inconclusive: joined, on its own and SyNCRec share no seed on any data set."
    text = correlation_sentence(result)
    unused = result.resamples - result.used
    if unused and result.used:
        text += (
            f" {unused} of {result.resamples} resamples have no rank correlation and are left out."
        )
    return text
