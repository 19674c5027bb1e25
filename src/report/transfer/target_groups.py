"""Who gains: the metric and the differences in groups of targets.

The targets are grouped by the length of their history, the domains in their context, and the
popularity of their item. A new grouping is one entry of GROUPINGS and one of `groupings`.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from src.config.modes import JOINT_MODE
from src.report.transfer.data_sets import CROSS_KEY, DataSet, TargetMetrics
from src.report.transfer.differences import compare_groups, value_and_spread, without_means
from src.statistics.bootstrap import estimates

# Groups by one column of targets.parquet: {name: (lowest, highest)}
Bins = dict[str, tuple[float, float]]
HISTORY: Bins = {"≤ 2 events": (0, 2), "3–9 events": (3, 9), "≥ 10 events": (10, np.inf)}
CONTEXT: Bins = {"≤ 1 domain": (0, 1), "≥ 2 domains": (2, np.inf)}
THIRDS = ("tail", "middle", "head")
UNTRAINED = "no training event"
# {grouping: (title, its groups in order)}
GROUPINGS = {
    "history": ("User's earlier events in the domain", list(HISTORY)),
    "context": ("Domains in the target's context", list(CONTEXT)),
    "popularity": ("Popularity of the target's item", [UNTRAINED, *THIRDS]),
}
FEW = 20  # a group with fewer targets is shown but not judged


def groupings(targets: pd.DataFrame) -> dict[str, pd.Series]:
    """{grouping: the group of each target}, from the rows of targets.parquet."""
    return {
        "history": _binned(targets.domain_history, HISTORY),
        "context": _binned(targets.domains, CONTEXT),
        "popularity": _popularity(targets),
    }


def _binned(values: pd.Series, bins: Bins) -> pd.Series:
    chosen = [values.between(*limits) for limits in bins.values()]
    return pd.Series(np.select(chosen, list(bins), default=""), index=values.index)


def _popularity(targets: pd.DataFrame) -> pd.Series:
    """The third of each target's item within its domain.

    Each third holds as many training events of the targets' items; items of equal counts are in
    the same third.
    """
    parts = []
    for _, rows in targets.groupby("domain", sort=False):
        counts = rows.drop_duplicates(["item_id", "item_count"]).item_count
        events = counts.groupby(counts).sum().sort_index()  # events of the items of each count
        middle = (events.cumsum() - events / 2) / max(events.sum(), 1)
        third = pd.cut(middle, [-1, 1 / 3, 2 / 3, 2], labels=THIRDS).astype(str)
        parts.append(rows.item_count.map(third).where(rows.item_count > 0, UNTRAINED))
    return pd.concat(parts).reindex(targets.index)


def group_levels(data: DataSet, measured: TargetMetrics) -> pd.DataFrame:
    """The metric of each ranker in each group, over all domains.

    Columns: grouping, group, ranker, value, low, high, error, n.
    """
    rows = []
    for grouping, codes, names in _group_codes(measured):
        for key in data.rankers:
            means = estimates(measured.values[key], measured.users, codes, names)
            for name in names:
                if name in means:
                    one = means[name]
                    rows.append((grouping, name, key, *value_and_spread(one), one.n))
    names = ["grouping", "group", "ranker", "value", "low", "high", "error", "n"]
    return pd.DataFrame(rows, columns=names)


def group_differences(data: DataSet, measured: TargetMetrics) -> pd.DataFrame:
    """joined and SyNCRec cross − on its own in each group; Holm's correction over the groups.

    Columns as in `differences.compare_groups`, with `group` for `domain`, grouping, and withheld: a
    group has targets of all domains, so every model that was not trained to the end forbids a
    verdict.
    """
    parts = []
    for grouping, codes, names in _group_codes(measured):
        for first in (JOINT_MODE, CROSS_KEY):
            rows = compare_groups(measured, first, data.baseline, codes, names)
            rows = without_means(rows).rename(columns={"domain": "group"})
            reason = data.withheld(first, data.baseline).get("users", "")
            parts.append(rows.assign(grouping=grouping, withheld=reason))
    return pd.concat(parts, ignore_index=True)


def group_domains(data: DataSet, measured: TargetMetrics) -> pd.DataFrame:
    """The metric of each ranker by group and domain.

    Columns: grouping, group, domain, ranker, value, n.
    """
    rows = []
    for grouping, codes, names in _group_codes(measured):
        for group, name in enumerate(names):
            for number, domain in enumerate(measured.names):
                chosen = (codes == group) & (measured.domains == number)
                if chosen.any():
                    rows += [
                        (
                            grouping,
                            name,
                            domain,
                            key,
                            measured.values[key][chosen].mean(),
                            chosen.sum(),
                        )
                        for key in data.rankers
                    ]
    return pd.DataFrame(rows, columns=["grouping", "group", "domain", "ranker", "value", "n"])


def _group_codes(measured: TargetMetrics) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """(grouping, the group of each target as a position in the names [n], names)."""
    for grouping, groups in groupings(measured.targets).items():
        names = GROUPINGS[grouping][1]
        yield grouping, groups.map(names.index).to_numpy(np.int64), names
