"""One sentence under each figure, made from the tables that the figure shows.

A difference is named only where Holm's p over the domains is below ALPHA; where none is, the
sentence says so, and how large a difference would have been found.
"""

import pandas as pd

from src.report.analysis import FEW
from src.report.compared_paths import DataSet
from src.report.gamma_claim import Correlation
from src.report.outcomes import (
    gained_and_hurt,
    last_epochs,
    of_pair,
    own_domains,
    significant,
)
from src.report.summary import correlation_words, missed
from src.report.wording import counted, listed, named, number, percent, signed


def with_seeds(sentence: str, seeds: int) -> str:
    """The sentence, with a warning where it rests on one seed."""
    return sentence if seeds > 1 else f"{sentence} One seed: another may differ."


def seeds_of(data: DataSet) -> int:
    """The fewest seeds that a model of the data set has."""
    return min(len(model.runs) for model in data.models.values())


def levels_reading(data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame) -> str:
    macro = levels[levels.domain == "macro"].sort_values("value", ascending=False, kind="stable")
    order = [f"{data.label(row.source)} {number(row.value)}" for row in macro.itertuples()]
    rows = own_domains(of_pair(differences, "cdsr", data.baseline))
    above, sure = rows.difference > 0, significant(rows)
    sentence = (
        f"Mean of the domains: {listed(order)}; CDSR is above {data.label(data.baseline)} in "
        f"{above.sum()} of {len(rows)} domains, significantly above in {(sure & above).sum()}, "
        f"significantly below in {(sure & ~above).sum()}."
    )
    return with_seeds(sentence, seeds_of(data))


def forest_reading(data: DataSet, differences: pd.DataFrame) -> str:
    rows = of_pair(differences, "cdsr", data.baseline)
    found, pair = gained_and_hurt(rows), data.label("cdsr", data.baseline)
    if not found["gained"] and not found["hurt"]:
        sentence = (
            f"No significant difference {pair} in any of "
            f"{counted(len(found['cannot tell']), 'domain')}." + missed(found["cannot tell"])
        )
    else:
        parts = [
            f"{kind}: {named([f'{row.domain} {signed(row.difference)}' for row in found[kind]])}"
            for kind in ("gained", "hurt")
            if found[kind]
        ]
        rest = named([row.domain for row in found["cannot tell"]]) or "no domain"
        sentence = f"{pair}: {'; '.join(parts)}; cannot tell: {rest}."
    return with_seeds(sentence, seeds_of(data))


def gamma_reading(trajectories: pd.DataFrame) -> str:
    last = last_epochs(trajectories)
    ends = last.groupby("domain").share.agg(["mean", "min", "max"])
    high, low = ends["mean"].idxmax(), ends["mean"].idxmin()
    if (ends["mean"] - 1).abs().max() < 0.05:
        sentence = "γ ends within 5 % of uniform in every domain: it weighs them alike."
    else:
        sentence = (
            f"At the last epoch D·γ is highest in {_end(ends, high)}, lowest in {_end(ends, low)}."
        )
        by_seed = last.pivot(index="seed", columns="domain", values="share")
        if by_seed.idxmax(axis=1).nunique() > 1 or by_seed.idxmin(axis=1).nunique() > 1:
            sentence += " The seeds do not agree on which."
    return with_seeds(sentence, trajectories.seed.nunique())


def _end(ends: pd.DataFrame, domain: str) -> str:
    mean, low, high = ends.loc[domain]
    spread = "" if low == high else f", seeds {number(low, 2)} to {number(high, 2)}"
    return f"{domain} ({number(mean, 2)}{spread})"


def phi_reading(data: DataSet, trajectories: pd.DataFrame) -> str:
    ends = last_epochs(trajectories).groupby("domain").phi.agg(["min", "max"])
    above = [name for name in data.domains if name in ends.index and ends["min"][name] > 0]
    below = [name for name in data.domains if name in ends.index and ends["max"][name] < 0]
    mixed = [name for name in ends.index if name not in {*above, *below}]  # or 0, or no target
    parts = []
    if above:
        parts.append(f"positive in {named(above)} (the cross task has the lower training loss)")
    if below:
        parts.append(f"negative in {named(below)}")
    if mixed:
        parts.append(f"of no one sign in {named(mixed)}")
    sentence = f"At the last epoch φ is {'; '.join(parts)}."
    return with_seeds(sentence, trajectories.seed.nunique())


def curves_reading(data: DataSet, curves: pd.DataFrame) -> str:
    average = data.models["syncrec"].runs[0].config["select_average"]
    rows = curves[curves.domain == average]
    parts, late = [], []
    for key in rows.source.unique():
        own = rows[rows.source == key]
        best = own.loc[own.groupby("seed").value.idxmax()].set_index("seed")
        last = own.groupby("seed").epoch.max()
        epochs = sorted({int(best.epoch.min()), int(best.epoch.max())})
        where = " to ".join(map(str, epochs))
        parts.append(f"{data.label(key)} {number(best.value.mean())} (epoch {where})")
        if (best.epoch == last).any():
            late.append(data.label(key))
    metric = rows.metric.iloc[0].upper()
    sentence = f"Best validation {metric}, {average} mean: {listed(parts)}."
    if late:
        sentence += f" Best at the last epoch, so perhaps not trained to the end: {listed(late)}."
    return with_seeds(sentence, seeds_of(data))


def overlap_reading(card: dict) -> str:
    """Which two domains share most users, and which fewest, of the smaller one's."""
    overlap, names = card["overlap"], list(card["overlap"])
    pairs = {
        (first, second): overlap[first][second]
        / max(min(overlap[first][first], overlap[second][second]), 1)
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    }
    if not pairs:
        return "There is one domain: nothing overlaps."
    most, least = max(pairs, key=pairs.get), min(pairs, key=pairs.get)
    if percent(pairs[most]) == percent(pairs[least]):
        return f"Every two domains share {percent(pairs[most])} of the smaller one's users."
    return (
        f"Of the smaller domain's users the other shares most in {most[0]} and {most[1]} "
        f"({percent(pairs[most])}), fewest in {least[0]} and {least[1]} ({percent(pairs[least])})."
    )


def transfer_map_reading(data: DataSet, differences: pd.DataFrame) -> str:
    rows = own_domains(differences)
    sure = rows[significant(rows)]
    if sure.empty:
        sentence = f"None of the {len(rows)} differences by domain is significant."
    else:
        row = sure.loc[sure.difference.abs().idxmax()]
        sentence = (
            f"{len(sure)} of {len(rows)} differences by domain are significant; the largest is "
            f"{data.label(row['first'], row['second'])} in {row.domain} ({signed(row.difference)})."
        )
    return with_seeds(sentence, seeds_of(data))


def groups_reading(data: DataSet, found: pd.DataFrame) -> str:
    """CDSR − SDSR of the groups of one grouping; `found`: rows of group_differences."""
    rows = found[found["first"] == "cdsr"]
    enough = rows[rows.n >= FEW]
    parts = [f"{row.group} {signed(row.difference)}" for row in enough.itertuples()]
    sure = enough[significant(enough)].group.tolist()
    verdict = f"significant in {listed(sure)}" if sure else "no significant difference in any group"
    sentence = f"{data.label('cdsr', data.baseline)}: {listed(parts)}; {verdict}."
    few = [f"{row.group} (n = {row.n})" for row in rows[rows.n < FEW].itertuples()]
    if not parts:
        sentence = "No group is large enough to tell."
    if few:
        sentence += f" Too few targets to tell: {listed(few)}."
    return with_seeds(sentence, seeds_of(data))


def beyond_reading(data: DataSet, beyond: pd.DataFrame) -> str:
    macro = beyond[beyond.domain == "macro"].set_index(["metric", "source"]).value
    coverage, popularity = macro["coverage@10"], macro["popularity@10"]
    most, least = coverage.idxmax(), coverage.idxmin()
    common = popularity.idxmax()
    sentence = (
        f"Somebody's top 10 holds {percent(coverage[most])} of a domain's items with "
        f"{data.label(most)} and {percent(coverage[least])} with {data.label(least)} (mean of the "
        f"domains); the most popular items come from {data.label(common)}, "
        f"{number(popularity[common], 1)} times as popular as the log's mean item. Not tested."
    )
    return with_seeds(sentence, seeds_of(data))


def protocols_reading(data: DataSet, protocols: pd.DataFrame) -> str:
    macro = protocols[(protocols.domain == "macro") & protocols.source.isin(data.sources)]
    table = macro.pivot_table(index="protocol", columns="source", values="value", sort=False)
    table = table.dropna(subset=["cdsr", data.baseline])
    sign = (table["cdsr"] - table[data.baseline]) > 0
    pair = data.label("cdsr", data.baseline)
    best = table.idxmax(axis=1)
    if sign.nunique() == 1:
        first = f"{pair} is above 0 under {'every' if sign.iloc[0] else 'no'} protocol"
    else:
        first = f"{pair} is above 0 under {named(list(sign[sign].index))} only"
    leaders = [
        f"{data.label(key)} ({named(list(best[best == key].index))})"
        if best.nunique() > 1
        else f"{data.label(key)} under all"
        for key in best.unique()
    ]
    return with_seeds(
        f"{first}; highest mean of the domains: {listed(leaders)}. Orders of means, not tested.",
        seeds_of(data),
    )


def claim_reading(points: pd.DataFrame, found: Correlation) -> str:
    if points.empty:
        return "Cannot tell: SDSR, CDSR and SyNCRec share no seed on any data set."
    text = correlation_words(found)
    left = found.resamples - found.used
    if left and found.used:
        text += f" {left} of {found.resamples} resamples had no rank correlation and are left out."
    return text[0].upper() + text[1:]
