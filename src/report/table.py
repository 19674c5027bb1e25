"""`report.py table`: runs side by side, one column per domain."""

import argparse
import math

import numpy as np

from src.config.names import COUNTED
from src.evaluation.targets import SPLITS
from src.io.errors import UserError
from src.report.finished_runs import Run, least_targets, read_runs
from src.report.formatting import number
from src.report.limits import METRIC, check_shown, read_limits, share
from src.report.seed_groups import check_distinct_names, check_same_data, group_seeds
from src.report.table_files import check_tables, markdown, write_tables
from src.report.training_ends import faults

COLUMNS = [
    "run", "model", "mode", "loss", "seed", "path", "split", "protocol", "domain", "metric",
    "value",
]  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Print the table; with --out, write it and every value of the runs. Raises UserError."""
    check_tables(arguments.out)
    runs = read_runs(arguments.runs)
    check_distinct_names(runs)
    check_same_data(runs)
    limits = None
    if arguments.limits:
        check_shown(arguments.split, arguments.protocol, arguments.metrics)
        limits = read_limits(arguments.limits, runs[0].domains)
    text = table(runs, arguments.split, arguments.protocol, arguments.metrics, limits)
    if arguments.out:
        write_tables(arguments.out, COLUMNS, tidy_rows(runs), text)
    print(text)


def tidy_rows(runs: list[Run]) -> list[tuple]:
    """One row per value, for all splits and protocols; baselines once, under their own names."""
    rows: list[tuple] = []
    seen = set()
    for run in runs:
        for split in SPLITS:
            for protocol, paths in run.results.get(split, {}).items():
                for path, domains in paths.items():
                    is_baseline = path in COUNTED
                    if is_baseline and (split, protocol, path) in seen:
                        continue
                    seen.add((split, protocol, path))
                    facts: tuple = (run.name, run.model, run.mode, run.loss, run.seed)
                    if is_baseline:
                        facts = (path, "", "", "", "")
                    rows += [
                        (*facts, path, split, protocol, domain, metric, value)
                        for domain, metrics in domains.items()
                        for metric, value in metrics.items()
                    ]
    return rows


def table(
    runs: list[Run],
    split: str,
    protocol: str,
    metrics: list[str],
    limits: dict[str, float] | None = None,
) -> str:
    """A Markdown table with one row per model and path, one column per domain.

    A cell holds the `metrics`, separated by slashes; of several seeds their mean and standard
    deviation; of the metric of `limits` {domain: limit} also the mean's share of the limit. Below
    it stand the models that were not trained to the end.
    """
    limits = limits or {}
    by_row: dict[tuple[str, str, str], list[dict[str, dict]]] = {}
    groups, least = group_seeds(runs), least_targets(runs)
    for group in groups:
        for run in group.runs:
            for path, scores in run.scores_of_size(split, protocol, least).items():
                if path in COUNTED:  # the same in every run
                    by_row[path, "", ""] = [scores]
                else:
                    by_row.setdefault((group.title, group.label, path), []).append(scores)
    order = sorted(by_row, key=lambda row: row[0] not in COUNTED)
    _check_metrics([scores for seeds in by_row.values() for scores in seeds], metrics)
    first = by_row[order[0]][0]
    rows = [
        [
            *row,
            *(
                _cell([scores[name] for scores in by_row[row]], metrics, limits.get(name, math.nan))
                for name in first
            ),
        ]
        for row in order
    ]
    domains = [f"{name} (n = {first[name]['n']})" for name in first]
    title = f"{split}, protocol `{protocol}`: {' / '.join(metric.upper() for metric in metrics)}"
    seeds = {row[1]: len(scores) for row, scores in by_row.items() if len(scores) > 1}
    counts = ", ".join(f"{label}: {count}" for label, count in seeds.items())
    legend = f"\n±: standard deviation over seeds ({counts}).\n" if seeds else ""
    if limits:
        legend += f"\n(%): share of the limit, the best {METRIC.upper()} that is possible.\n"
    untrained = [faults(group.ends, group.label).get("users") for group in groups]
    if any(untrained):
        legend += f"\nNot trained to the end: {'; '.join(filter(None, untrained))}.\n"
    return f"{title}\n\n{markdown(['model', 'run', 'path', *domains], rows, 3)}{legend}"


def _check_metrics(scores: list[dict[str, dict]], metrics: list[str]) -> None:
    """UserError for a metric that none of the runs has."""
    means = [mean for domains in scores for mean in domains.values()]
    known = dict.fromkeys(name for mean in means for name in mean if name != "n")
    for metric in metrics:
        if metric not in known:
            raise UserError(f"no run has the metric {metric}; choose from {', '.join(known)}")


def _cell(seeds: list[dict[str, float]], metrics: list[str], limit: float) -> str:
    """The metrics of a domain, that of `limit` with its share of it; a dash for a missing one."""
    if not seeds[0]["n"]:
        return "–"
    cells = []
    for metric in metrics:
        values = [mean[metric] for mean in seeds if metric in mean]
        cells.append(_short(np.mean(values)) if values else "–")
        if len(values) > 1:
            cells[-1] += f" ± {_short(np.std(values, ddof=1))}"
        if values and metric == METRIC:
            cells[-1] += share(float(np.mean(values)), limit)
    return " / ".join(cells)


def _short(value: float | np.floating) -> str:
    """.0443"""
    return number(float(value)).removeprefix("0")
