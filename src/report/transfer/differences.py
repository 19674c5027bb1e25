"""The numbers of the negative-transfer report, as tidy tables; sentences and figures read these."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from src.baselines import BASELINES
from src.evaluation.metrics import TIES, target_metrics
from src.io.errors import UserError
from src.report.compared_paths import PROTOCOL, DataSet, Measured
from src.report.finished_runs import MEANS
from src.statistics.significance import Estimate, compare, estimates, holm

BEYOND = ("coverage@10", "popularity@10")
# Groups of targets, each from one column of targets.parquet: (column, {name: (least, most)}).
HISTORY = {"≤ 2 events": (0, 2), "3–9 events": (3, 9), "≥ 10 events": (10, np.inf)}
CONTEXT = {"≤ 1 domain": (0, 1), "≥ 2 domains": (2, np.inf)}
THIRDS = ("tail", "middle", "head")
UNTRAINED = "no training event"
FEW = 20  # targets: a smaller group is shown, and said to be too small


def levels(data: DataSet, measured: Measured) -> pd.DataFrame:
    """The metric of each source by domain: source, domain (macro and users among them), value,
    low and high of its 95 % interval, error, n, and the standard deviation over seeds."""
    rows = []
    for key in data.sources:
        found = estimates(measured.values[key], measured.users, measured.domains, measured.names)
        for domain, estimate in found.items():
            means = [
                _mean(by_target, measured, domain) for by_target in measured.by_seed[key].values()
            ]
            deviation = float(np.std(means, ddof=1)) if len(means) > 1 else np.nan
            rows.append((key, domain, *_interval(estimate), estimate.n, len(means), deviation))
    names = ["source", "domain", "value", "low", "high", "error", "n", "seeds", "seed_deviation"]
    return pd.DataFrame(rows, columns=names)


def _interval(estimate: Estimate) -> tuple[float, float, float, float]:
    return estimate.value, estimate.low, estimate.high, estimate.error


def _mean(values: np.ndarray, measured: Measured, domain: str) -> float:
    """The mean of a domain's targets, of the domains' means (macro), or of all targets (users)."""
    if domain == "users":
        return float(values.mean())
    if domain == "macro":
        present = np.unique(measured.domains)
        return float(np.mean([values[measured.domains == number].mean() for number in present]))
    return float(values[measured.domains == measured.names.index(domain)].mean())


def differences(data: DataSet, measured: Measured) -> pd.DataFrame:
    """The paired differences by domain.

    Columns: first, second (sources), domain, difference, low, high, p, p_holm (over the domains of
    one comparison; of macro and users the plain p), detectable, n, users, and in how many of the
    seeds that both have the difference has the mean's sign.
    """
    parts = []
    for first, second in data.comparisons:
        rows = _compared(measured, first, second, measured.domains, measured.names)
        seeds = measured.seeds(first, second)
        gaps = [measured.by_seed[first][seed] - measured.by_seed[second][seed] for seed in seeds]
        rows["seeds"] = len(seeds)
        rows["same_sign"] = [
            sum(
                np.sign(_mean(gap, measured, row.domain)) == np.sign(row.difference) for gap in gaps
            )
            for row in rows.itertuples()
        ]
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def _compared(
    measured: Measured, first: str, second: str, groups: np.ndarray, names: list[str]
) -> pd.DataFrame:
    """`compare` of two sources over groups [n] of targets, as a table with Holm's p."""
    found = compare(measured.values[first], measured.values[second], measured.users, groups, names)
    rows = pd.DataFrame(
        [
            (first, second, name, one.difference, one.low, one.high, one.p, one.detectable,
             one.targets, one.users)
            for name, one in found.items()
        ],
        columns=["first", "second", "domain", "difference", "low", "high", "p", "detectable", "n",
                 "users"],
    )  # fmt: skip
    own = ~rows.domain.isin(MEANS)
    rows["p_holm"] = rows.p
    rows.loc[own, "p_holm"] = holm(rows.p[own].to_numpy())
    return rows


def trajectories(data: DataSet) -> pd.DataFrame:
    """transfer.csv of SyNCRec's runs with their seed, and `share` = D·γ (1: uniform)."""
    parts = [run.transfer().assign(seed=run.seed) for run in data.models["syncrec"].runs]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(share=rows.gamma * len(data.domains))


def curves(data: DataSet) -> pd.DataFrame:
    """The validation metric that selects SyNCRec's checkpoint, by epoch: source, seed, epoch,
    domain, metric, value."""
    metric, parts = data.models["syncrec"].runs[0].config["select_metric"], []
    for key, source in data.sources.items():
        for run in source.model.runs if source.path != "served" else []:
            rows = run.metrics()
            chosen = rows[
                (rows.split == "valid") & (rows.path == source.path) & (rows.metric == metric)
            ]
            parts.append(
                chosen[["epoch", "domain", "metric", "value"]].assign(source=key, seed=run.seed)
            )
    return pd.concat(parts, ignore_index=True)


def tested_epoch(run) -> int:
    """The epoch of the checkpoint that was tested: the best validation of the first path."""
    rows = run.metrics()
    first = "single" if run.mode.startswith("sdsr") else "cross"
    rows = rows[
        (rows.split == "valid")
        & (rows.path == first)
        & (rows.domain == run.config["select_average"])
        & (rows.metric == run.config["select_metric"])
    ].sort_values("epoch")
    if rows.value.notna().sum() == 0:
        raise UserError(
            f"{run.folder / 'metrics.csv'} has no validation of the {first} path; train again"
        )
    return int(rows.epoch.iloc[rows.value.argmax()])


def beyond_accuracy(data: DataSet) -> pd.DataFrame:
    """coverage@10 and popularity@10 of each source by domain, means over seeds; empty where the
    runs do not have them."""
    rows = []
    for key, source in data.sources.items():
        scores = [run.scores("test", PROTOCOL, source.path) for run in source.model.runs]
        for domain in [*data.domains, "macro"]:
            for metric in BEYOND:
                if all(metric in score.get(domain, {}) for score in scores):
                    value = np.mean([score[domain][metric] for score in scores])
                    rows.append((key, domain, metric, float(value)))
    return pd.DataFrame(rows, columns=["source", "domain", "metric", "value"])


def protocol_table(data: DataSet, metric: str) -> pd.DataFrame:
    """The metric under every protocol of the test split that all runs were scored under: protocol,
    source (or baseline), domain, value (mean over seeds), n."""
    shared = set.intersection(*(set(run.protocols("test")) for run in data.runs))
    models = {key: (source.model.runs, source.path) for key, source in data.sources.items()}
    models |= {name: (data.runs[:1], name) for name in BASELINES}
    rows = []
    for protocol in data.runs[0].protocols("test"):
        for key, (runs, path) in models.items() if protocol in shared else ():
            if any(path not in run.results["test"][protocol] for run in runs):
                continue
            scores = [run.scores("test", protocol, path) for run in runs]
            for domain, first in scores[0].items():
                if metric in first:
                    value = float(np.mean([score[domain][metric] for score in scores]))
                    rows.append((protocol, key, domain, value, first["n"]))
    return pd.DataFrame(rows, columns=["protocol", "source", "domain", "value", "n"])


def tie_table(data: DataSet, measured: Measured, metric: str) -> pd.DataFrame:
    """The macro metric of each source under each policy for ties: source, ties, value."""
    rows = []
    for key, source in data.sources.items():
        ranks = [run.ranks("test", PROTOCOL, source.path) for run in source.model.runs]
        for ties in TIES:
            values = [target_metrics(one.better, one.tied, ties)[metric] for one in ranks]
            rows.append((key, ties, _mean(np.mean(values, axis=0), measured, "macro")))
    return pd.DataFrame(rows, columns=["source", "ties", "value"])


def groupings(targets: pd.DataFrame) -> dict[str, pd.Series]:
    """{what the targets are grouped by: the group of each}, from targets.parquet."""
    return {
        "history": _binned(targets.domain_history, HISTORY),
        "context": _binned(targets.domains, CONTEXT),
        "popularity": _popularity(targets),
    }


def group_names(grouping: str) -> list[str]:
    """The groups in their order."""
    return {
        "history": list(HISTORY), "context": list(CONTEXT), "popularity": [UNTRAINED, *THIRDS]
    }[grouping]  # fmt: skip


def _binned(values: pd.Series, bins: dict[str, tuple[float, float]]) -> pd.Series:
    chosen = [values.between(*limits) for limits in bins.values()]
    return pd.Series(np.select(chosen, list(bins), default=""), index=values.index)


def _popularity(targets: pd.DataFrame) -> pd.Series:
    """The third of each target's item, by domain, each third holding as many training events of
    the targets' items; items of equal counts are in one third."""
    parts = []
    for _, own in targets.groupby("domain", sort=False):
        items = own.drop_duplicates(["item_id", "item_count"]).item_count
        held = (items.groupby(items).sum()).sort_index()  # events by count of the item
        middle = (held.cumsum() - held / 2) / max(held.sum(), 1)
        third = pd.cut(middle, [-1, 1 / 3, 2 / 3, 2], labels=THIRDS).astype(str)
        parts.append(own.item_count.map(third).where(own.item_count > 0, UNTRAINED))
    return pd.concat(parts).reindex(targets.index)


def group_levels(data: DataSet, measured: Measured) -> pd.DataFrame:
    """As `levels`, of the groups of targets over all domains: grouping, group, source, …"""
    rows = []
    for grouping, codes, names in _coded(measured):
        for key in data.sources:
            found = estimates(measured.values[key], measured.users, codes, names)
            for name in names:
                if name in found:
                    one = found[name]
                    rows.append((grouping, name, key, *_interval(one), one.n))
    names = ["grouping", "group", "source", "value", "low", "high", "error", "n"]
    return pd.DataFrame(rows, columns=names)


def group_differences(data: DataSet, measured: Measured) -> pd.DataFrame:
    """As `differences`, of CDSR − SDSR and SyNCRec cross − SDSR by group; Holm over the groups."""
    parts = []
    for grouping, codes, names in _coded(measured):
        for first in ("cdsr", "cross"):
            rows = _compared(measured, first, data.baseline, codes, names)
            rows = rows[~rows.domain.isin(MEANS)].rename(columns={"domain": "group"})
            parts.append(rows.assign(grouping=grouping))
    return pd.concat(parts, ignore_index=True)


def group_domains(data: DataSet, measured: Measured) -> pd.DataFrame:
    """The metric of each source by group and domain: grouping, group, domain, source, value, n."""
    rows = []
    for grouping, codes, names in _coded(measured):
        for number, name in enumerate(names):
            for place, domain in enumerate(measured.names):
                chosen = (codes == number) & (measured.domains == place)
                if chosen.any():
                    rows += [
                        (grouping, name, domain, key, float(values[chosen].mean()), chosen.sum())
                        for key, values in measured.values.items()
                    ]
    return pd.DataFrame(rows, columns=["grouping", "group", "domain", "source", "value", "n"])


def _coded(measured: Measured) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """(grouping, the group of each target as a place in the names [n], names)."""
    for grouping, groups in groupings(measured.targets).items():
        names = group_names(grouping)
        yield grouping, groups.map(names.index).to_numpy(np.int64), names
