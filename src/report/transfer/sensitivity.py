"""Whether the result depends on how it is measured: protocols, tie policies, other metrics."""

import numpy as np
import pandas as pd

from src.config.names import COUNTED
from src.evaluation.metrics import TIES, target_metrics
from src.report.finished_runs import least_targets
from src.report.transfer.data_sets import PROTOCOL, DataSet, TargetMetrics
from src.report.transfer.differences import mean_of

# {metric of the top 10: its axis label}
BEYOND_ACCURACY = {
    "coverage@10": "share of the domain's items in any top 10",
    "popularity@10": "popularity of the top 10 (1: that of an event's item)",
}


def protocol_table(data: DataSet, metric: str) -> pd.DataFrame:
    """The metric under every protocol of the test split that all runs were scored under.

    Columns: protocol, ranker (or baseline), domain, value (mean over seeds), n.
    """
    shared = set.intersection(*(set(run.protocols("test")) for run in data.runs))
    columns = {key: (ranker.group.runs, ranker.path) for key, ranker in data.rankers.items()}
    columns |= {name: (data.runs[:1], name) for name in COUNTED}
    rows, least = [], least_targets(data.runs)
    for protocol in data.runs[0].protocols("test"):
        for key, (runs, path) in columns.items() if protocol in shared else ():
            if any(path not in run.results["test"][protocol] for run in runs):
                continue
            scores = [run.scores_of_size("test", protocol, least)[path] for run in runs]
            for domain, first in scores[0].items():
                if metric in first:
                    value = float(np.mean([score[domain][metric] for score in scores]))
                    rows.append((protocol, key, domain, value, first["n"]))
    return pd.DataFrame(rows, columns=["protocol", "ranker", "domain", "value", "n"])


def tie_table(data: DataSet, measured: TargetMetrics, metric: str) -> pd.DataFrame:
    """The macro metric of each ranker under each tie policy: ranker, ties, value."""
    rows = []
    for key, ranker in data.rankers.items():
        ranks = [run.ranks("test", PROTOCOL, ranker.path) for run in ranker.group.runs]
        for ties in TIES:
            values = [target_metrics(one.better, one.tied, ties)[metric] for one in ranks]
            rows.append((key, ties, mean_of(np.mean(values, axis=0), measured, "macro")))
    return pd.DataFrame(rows, columns=["ranker", "ties", "value"])


def beyond_accuracy(data: DataSet) -> pd.DataFrame:
    """coverage@10 and popularity@10 of each ranker by domain, means over seeds.

    Columns: ranker, domain, metric, value. Empty if the runs do not have these metrics.
    """
    rows, least = [], least_targets(data.runs)
    for key, ranker in data.rankers.items():
        scores = [
            run.scores_of_size("test", PROTOCOL, least)[ranker.path] for run in ranker.group.runs
        ]
        for domain in [*data.domains, "macro"]:
            for metric in BEYOND_ACCURACY:
                if all(metric in score.get(domain, {}) for score in scores):
                    value = np.mean([score[domain][metric] for score in scores])
                    rows.append((key, domain, metric, float(value)))
    return pd.DataFrame(rows, columns=["ranker", "domain", "metric", "value"])
