"""One sentence under each figure, made from the tables that the figure shows.

A difference is called significant only if its p-value is below ALPHA after Holm's correction. If
none is, the sentence says how large a difference the data could have detected.
"""

import pandas as pd

from src.config.modes import JOINT_MODE
from src.report.formatting import count_of, join_and, join_some, number, percent, signed
from src.report.transfer.data_sets import DataSet
from src.report.transfer.differences import (
    GAINED,
    HURT,
    UNSURE,
    by_outcome,
    of_pair,
    significant,
    without_means,
)
from src.report.transfer.gamma_correlation import Correlation
from src.report.transfer.summary import correlation_sentence, detectable_sentence
from src.report.transfer.target_groups import FEW
from src.report.transfer.training_history import last_epochs

ONE_SEED = "Based on one seed; another seed may give a different result."


def with_seed_warning(text: str, seeds: int) -> str:
    """The text, with a warning if it is based on one seed."""
    return text if seeds > 1 else f"{text} {ONE_SEED}"


def fewest_seeds(data: DataSet) -> int:
    """The fewest seeds that a model of the data set has."""
    return min(len(group.runs) for group in data.groups.values())


def levels_caption(data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame) -> str:
    macro = levels[levels.domain == "macro"].sort_values("value", ascending=False, kind="stable")
    order = [f"{data.label(row.ranker)} {number(row.value)}" for row in macro.itertuples()]
    first, second = data.transfer_pair
    rows = without_means(of_pair(differences, first, second))
    above, sure = rows.difference > 0, significant(rows)
    text = (
        f"Mean over domains: {join_and(order)}. {data.label(first)} is above {data.label(second)} "
        f"in {above.sum()} of {count_of(len(rows), 'domain')}; the difference is significantly "
        f"positive in {(sure & above).sum()} and significantly negative in {(sure & ~above).sum()}."
    )
    return with_seed_warning(text, fewest_seeds(data))


def forest_caption(data: DataSet, differences: pd.DataFrame) -> str:
    pair = data.transfer_pair
    first, second = map(data.label, pair)
    outcomes = by_outcome(of_pair(differences, *pair))
    unsure = outcomes[UNSURE]
    verbs = {GAINED: "gains in", HURT: "loses in"}
    parts = []
    for outcome, verb in verbs.items():
        domains = [f"{row.domain} ({signed(row.difference)})" for row in outcomes[outcome]]
        if domains:
            parts.append(f"{verb} {join_some(domains)}")
    if not parts:
        count = count_of(len(unsure), "domain")
        text = f"{first} does not differ significantly from {second} in any of {count}."
        text += detectable_sentence(unsure)
    else:
        text = f"Compared with {second}, {first} {' and '.join(parts)}"
        if unsure:
            text += f"; no significant difference in {join_some([row.domain for row in unsure])}"
        text += "."
    return with_seed_warning(text, fewest_seeds(data))


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
    return with_seed_warning(text, trajectories.seed.nunique())


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
    text = f"At the last epoch {'; '.join(clauses)}."
    return with_seed_warning(text, trajectories.seed.nunique())


def curves_caption(data: DataSet, curves: pd.DataFrame) -> str:
    average = data.two_view.runs[0].config["select_average"]
    rows = curves[curves.domain == average]
    parts, late = [], []
    for key in rows.ranker.unique():
        curve = rows[rows.ranker == key]
        best = curve.loc[curve.groupby("seed").value.idxmax()].set_index("seed")
        last = curve.groupby("seed").epoch.max()
        epochs = sorted({int(best.epoch.min()), int(best.epoch.max())})
        epoch = f"epoch{'s' if len(epochs) > 1 else ''} {' to '.join(map(str, epochs))}"
        parts.append(f"{data.label(key)} {number(best.value.mean())} ({epoch})")
        if (best.epoch == last).any():
            late.append(data.label(key))
    metric = rows.metric.iloc[0].upper()
    text = f"Best validation {metric} ({average} mean): {join_and(parts)}."
    if late:
        text += f" Best at the last epoch, so possibly undertrained: {join_and(late)}."
    return with_seed_warning(text, fewest_seeds(data))


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


def transfer_map_caption(data: DataSet, differences: pd.DataFrame) -> str:
    rows = without_means(differences)
    sure = rows[significant(rows)]
    if sure.empty:
        text = f"None of the {len(rows)} differences by domain is significant."
    else:
        row = sure.loc[sure.difference.abs().idxmax()]
        text = (
            f"{len(sure)} of {len(rows)} differences by domain "
            f"{'is' if len(sure) == 1 else 'are'} significant; the largest is "
            f"{data.label(row['first'], row['second'])} in {row.domain} ({signed(row.difference)})."
        )
    return with_seed_warning(text, fewest_seeds(data))


def groups_caption(data: DataSet, differences: pd.DataFrame) -> str:
    """CDSR − SDSR in the groups of one grouping; `differences`: rows of group_differences."""
    rows = differences[differences["first"] == JOINT_MODE]
    enough = rows[rows.n >= FEW]
    parts = [f"{row.group} {signed(row.difference)}" for row in enough.itertuples()]
    sure = enough[significant(enough)].group.tolist()
    verdict = f"significant for {join_and(sure)}" if sure else "no difference is significant"
    text = f"{data.label(*data.transfer_pair)}: {join_and(parts)}; {verdict}."
    few = [f"{row.group} (n = {row.n})" for row in rows[rows.n < FEW].itertuples()]
    if not parts:
        text = "No group has enough targets to judge."
    if few:
        text += f" Too few targets to judge: {join_and(few)}."
    return with_seed_warning(text, fewest_seeds(data))


def beyond_caption(data: DataSet, beyond: pd.DataFrame) -> str:
    macro = beyond[beyond.domain == "macro"].set_index(["metric", "ranker"]).value
    coverage, popularity = macro["coverage@10"], macro["popularity@10"]
    most, least = coverage.idxmax(), coverage.idxmin()
    if most == least:
        covers = f"The top 10s of every model cover {percent(coverage[most])} of a domain's items"
    else:
        covers = (
            f"The top 10s of all users cover {percent(coverage[most])} of a domain's items with "
            f"{data.label(most)} and {percent(coverage[least])} with {data.label(least)}"
        )
    common = popularity.idxmax()
    text = (
        f"{covers} (mean over domains). {data.label(common)} recommends the most popular items, "
        f"{number(popularity[common], 1)} times as popular as the log's mean item. Not tested for "
        "significance."
    )
    return with_seed_warning(text, fewest_seeds(data))


def protocols_caption(data: DataSet, protocols: pd.DataFrame) -> str:
    first, second = data.transfer_pair
    macro = protocols[(protocols.domain == "macro") & protocols.ranker.isin(data.rankers)]
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
    return with_seed_warning(
        f"{data.label(first, second)} is above 0 {where}. Highest mean over domains: "
        f"{join_and(leaders)}. Not tested for significance.",
        fewest_seeds(data),
    )


def correlation_caption(points: pd.DataFrame, result: Correlation) -> str:
    if points.empty:
        return "Inconclusive: SDSR, CDSR and SyNCRec share no seed on any data set."
    text = correlation_sentence(result)
    unused = result.resamples - result.used
    if unused and result.used:
        text += (
            f" {unused} of {result.resamples} resamples have no rank correlation and are left out."
        )
    return text
