"""The metric of each ranker, and the paired differences between rankers, by domain.

The results are tidy tables, which captions, figures and tables read. A `ranker` column holds keys
of `DataSet.columns`; `macro` and `users` among the domains are the means over domains and targets.
"""

import numpy as np
import pandas as pd

from src.report.finished_runs import MEANS, domain_means
from src.report.formatting import ALPHA
from src.report.transfer.data_sets import DataSet, TargetMetrics
from src.statistics.bootstrap import Estimate, estimates
from src.statistics.comparison import compare
from src.statistics.holm import holm

GAINED, HURT, UNSURE, WITHHELD = "gained", "hurt", "no significant difference", "withheld"
OUTCOMES = (GAINED, HURT, UNSURE, WITHHELD)


def levels(data: DataSet, measured: TargetMetrics) -> pd.DataFrame:
    """The metric of each ranker and count model by domain.

    Columns: ranker, domain, value, low and high of its 95 % interval, error, n, seeds and the
    standard deviation over them.
    """
    rows = []
    for key, ranker in data.columns.items():
        means = estimates(
            measured.values[key], measured.users, measured.domains, measured.names,
            least=measured.least,
        )  # fmt: skip
        seeds = list(measured.by_seed[key].values())
        seeds = seeds[:1] if ranker.counted else seeds
        for domain, estimate in means.items():
            by_seed = [mean_of(values, measured, domain) for values in seeds]
            deviation = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else np.nan
            row = (key, domain, *value_and_spread(estimate), estimate.n, len(by_seed), deviation)
            rows.append(row)
    names = ["ranker", "domain", "value", "low", "high", "error", "n", "seeds", "seed_deviation"]
    return pd.DataFrame(rows, columns=names)


def value_and_spread(estimate: Estimate) -> tuple[float, float, float, float]:
    """value, low, high, error"""
    return estimate.value, estimate.low, estimate.high, estimate.error


def mean_of(values: np.ndarray, measured: TargetMetrics, domain: str) -> float:
    """The mean of values [n] over a domain's targets, over the domains (macro) or all (users)."""
    if domain == "users":
        return float(values.mean())
    if domain == "macro":
        domains, counts = np.unique(measured.domains, return_counts=True)
        present = domains[counts >= measured.least]
        return float(np.mean([values[measured.domains == number].mean() for number in present]))
    return float(values[measured.domains == measured.names.index(domain)].mean())


def differences(data: DataSet, measured: TargetMetrics) -> pd.DataFrame:
    """The paired differences by domain.

    Columns: first, second (keys of rankers), domain, difference, low, high, p, p_holm (over the
    domains of one comparison; for macro and users the plain p), detectable, n, users, first_value
    and second_value (the metric of both), relative (the difference as a share of second_value),
    withheld (why no verdict is drawn; empty: it is), untrained (because of which rankers), seeds
    that both have, and same_sign: in how many of them the difference has the sign of the mean.
    """
    parts = []
    for first, second in [*data.comparisons, *data.count_comparisons]:
        groups = (measured.domains, measured.names)
        rows = compare_groups(measured, first, second, *groups, least=measured.least)
        reasons = data.withheld(first, second)
        rows["withheld"] = [reasons.get(name, "") for name in rows.domain]
        rows["untrained"] = [data.untrained(name, first, second) for name in rows.domain]
        seeds = measured.seeds(first, second)
        gaps = [measured.by_seed[first][seed] - measured.by_seed[second][seed] for seed in seeds]
        rows["seeds"] = len(seeds)
        rows["same_sign"] = [
            sum(
                np.sign(mean_of(gap, measured, row.domain)) == np.sign(row.difference)
                for gap in gaps
            )
            for row in rows.itertuples()
        ]
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def compare_groups(
    measured: TargetMetrics,
    first: str,
    second: str,
    groups: np.ndarray,
    names: list[str],
    least: int = 0,
) -> pd.DataFrame:
    """`compare` of two rankers over groups [n] of targets, as a table with Holm's p."""
    values = measured.values[first], measured.values[second]
    pairs = compare(*values, measured.users, groups, names, least=least)
    rows = pd.DataFrame(
        [
            (first, second, name, one.difference, one.low, one.high, one.p, one.detectable,
             one.targets, one.users)
            for name, one in pairs.items()
        ],
        columns=["first", "second", "domain", "difference", "low", "high", "p", "detectable", "n",
                 "users"],
    )  # fmt: skip
    for column, one in zip(("first_value", "second_value"), values, strict=True):
        by_target = pd.DataFrame({"domain": np.array(names)[groups], "value": one})
        rows[column] = rows.domain.map(domain_means(by_target, least))
    rows["relative"] = rows.difference / rows.second_value.where(rows.second_value != 0)
    is_group = ~rows.domain.isin(MEANS)
    rows["p_holm"] = rows.p
    rows.loc[is_group, "p_holm"] = holm(rows.p[is_group].to_numpy())
    return rows


def of_pair(differences: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """The rows of one comparison."""
    return differences[(differences["first"] == first) & (differences["second"] == second)]


def without_means(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of domains, without macro and users."""
    return rows[~rows.domain.isin(MEANS)]


def macro_row(rows: pd.DataFrame):
    """The macro row of one comparison, as a named tuple."""
    return next(rows[rows.domain == "macro"].itertuples())


def significant(rows: pd.DataFrame) -> pd.Series:
    """Whether each difference is significant after Holm's correction, and not withheld."""
    return (rows.p_holm < ALPHA) & (rows.withheld == "")


def outcome(row) -> str:
    """The outcome of a row of `differences`: GAINED, HURT, UNSURE or WITHHELD."""
    if row.withheld:
        return WITHHELD
    if row.p_holm >= ALPHA:
        return UNSURE
    return GAINED if row.difference > 0 else HURT


def by_outcome(rows: pd.DataFrame) -> dict[str, list]:
    """The domains' rows of one comparison by outcome."""
    outcomes: dict[str, list] = {name: [] for name in OUTCOMES}
    for row in without_means(rows).itertuples():
        outcomes[outcome(row)].append(row)
    return outcomes
