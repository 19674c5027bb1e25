"""`report.py table`: runs side by side, a column a domain."""

import argparse
from pathlib import Path

import numpy as np

from src.baselines import BASELINES
from src.io.errors import UserError
from src.report.finished_runs import Run, distinct_names, group_by_seed, read_runs, same_data
from src.report.output import markdown, write_tables
from src.report.wording import number

COLUMNS = ["run", "mode", "loss", "seed", "path", "split", "protocol", "domain", "metric", "value"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--split", default="test", choices=("valid", "test"), help="(test)")
    parser.add_argument("--protocol", default="full", help="candidates: full, sampled, … (full)")
    parser.add_argument(
        "--metrics", nargs="+", default=["ndcg@10", "hr@10"], metavar="METRIC",
        help="in the cells (ndcg@10 hr@10)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="also write OUT.csv (every value) and OUT.md")


def run(arguments: argparse.Namespace) -> None:
    """Print the table; with --out, write it and every value of the runs."""
    runs = read_runs(arguments.runs)
    distinct_names(runs)
    same_data(runs)
    text = table(runs, arguments.split, arguments.protocol, arguments.metrics)
    if arguments.out:
        write_tables(arguments.out, COLUMNS, tidy_rows(runs), text)
    print(text)


def tidy_rows(runs: list[Run]) -> list[tuple]:
    """One row a value, all splits and protocols; the baselines once, under their own names."""
    rows, seen = [], set()
    for run in runs:
        for split, protocols in run.results.items():
            for protocol, paths in protocols.items():
                for path, domains in paths.items():
                    baseline = path in BASELINES
                    if baseline and (split, protocol, path) in seen:
                        continue
                    seen.add((split, protocol, path))
                    facts = ("", "", "") if baseline else (run.mode, run.loss, run.seed)
                    label = path if baseline else run.name
                    fixed = (label, *facts, path, split, protocol)
                    rows += [
                        (*fixed, domain, metric, value)
                        for domain, metrics in domains.items()
                        for metric, value in metrics.items()
                    ]
    return rows


def table(runs: list[Run], split: str, protocol: str, metrics: list[str]) -> str:
    """A row a model and path, a column a domain; the cells hold `metrics` with slashes between, of
    several seeds their mean and standard deviation."""
    models: dict[tuple[str, str], list[dict[str, dict]]] = {}
    for model in group_by_seed(runs):
        for run in model.runs:
            for path, scores in run.protocol_scores(split, protocol).items():
                if path in BASELINES:  # the same beside every run
                    models[path, ""] = [scores]
                else:
                    models.setdefault((model.label, path), []).append(scores)
    order = sorted(models, key=lambda model: model[0] not in BASELINES)
    _check_metrics([scores for seeds in models.values() for scores in seeds], metrics)
    first = models[order[0]][0]
    rows = [
        [*model, *(_cell([scores[name] for scores in models[model]], metrics) for name in first)]
        for model in order
    ]
    head = ["model", "path", *(f"{name} (n = {first[name]['n']})" for name in first)]
    title = f"{split}, protocol `{protocol}`: {' / '.join(metric.upper() for metric in metrics)}"
    seeds = {model[0]: len(scores) for model, scores in models.items() if len(scores) > 1}
    counts = ", ".join(f"{label}: {count}" for label, count in seeds.items())
    legend = f"\n±: standard deviation over seeds ({counts}).\n" if seeds else ""
    return f"{title}\n\n{markdown(head, rows, 2)}{legend}"


def _check_metrics(scores: list[dict[str, dict]], metrics: list[str]) -> None:
    """UserError for a metric that nothing here has."""
    means = [mean for domains in scores for mean in domains.values()]
    there = dict.fromkeys(name for mean in means for name in mean if name != "n")
    for metric in metrics:
        if metric not in there:
            raise UserError(f"no run has metric {metric} here; there are {', '.join(there)}")


def _cell(seeds: list[dict[str, float]], metrics: list[str]) -> str:
    """The metrics of a domain; a dash for those that it does not have."""
    if not seeds[0]["n"]:
        return "–"
    cells = []
    for metric in metrics:
        values = [mean[metric] for mean in seeds if metric in mean]
        cells.append(_short(np.mean(values)) if values else "–")
        if len(values) > 1:
            cells[-1] += f" ± {_short(np.std(values, ddof=1))}"
    return " / ".join(cells)


def _short(value: float) -> str:
    """.0443"""
    return number(float(value)).removeprefix("0")
