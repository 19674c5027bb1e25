"""`report.py protocols`: what the protocol alone does to a model's numbers."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.baselines import BASELINES
from src.evaluation.metrics import METRICS, target_metrics
from src.evaluation.protocols import ties_of
from src.report.finished_runs import (
    Model,
    Run,
    distinct_names,
    domain_means,
    group_by_seed,
    read_runs,
    same_data,
)
from src.report.output import markdown, write_tables
from src.report.wording import number

CANDIDATES = {
    "full": "all items of the domain",
    "full_all": "all items of all domains",
    "sampled": "{n} stored random items of the domain",
    "sampled_all": "{n} stored random items of all domains",
    "popular": "{n} stored items of the domain (drawn by popularity)",
    "released": "the released code's: {n} random items of all domains, ties count for the model",
}
VARIANTS = {  # by suffix, the last one of a name first
    "-strict": "; context without events of the target's own time",
    "-unseen": " that the user has not had",
}
TIES = ("expected", "pessimistic")


@dataclass(frozen=True)
class Cell:
    """A macro mean under a protocol, a metric and a tie policy: its mean over the model's seeds,
    and their standard deviation (None for one seed)."""

    split: str
    protocol: str
    candidates: str
    metric: str
    model: str
    path: str
    ties: str
    seeds: int
    macro: float
    seed_deviation: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="run folders; runs that differ in the seed alone are one model",
    )  # fmt: skip
    parser.add_argument(
        "--metrics", nargs="+", default=["ndcg@10", "hr@10"], choices=METRICS, metavar="METRIC",
        help=f"a table for each: {', '.join(METRICS)} (ndcg@10 hr@10)",
    )  # fmt: skip
    parser.add_argument("--split", default="test", choices=("valid", "test"), help="(test)")
    parser.add_argument("--out", type=Path, help="also write OUT.csv and OUT.md")


def run(arguments: argparse.Namespace) -> None:
    """Print the table; with --out, write it and its values under every tie policy."""
    runs = read_runs(arguments.runs)
    distinct_names(runs)
    same_data(runs)
    metrics = list(dict.fromkeys(arguments.metrics))
    cells = macro_means(group_by_seed(runs), arguments.split, metrics)
    text = protocols_text(cells, arguments.split, metrics)
    if arguments.out:
        columns = [field.name for field in dataclasses.fields(Cell)]
        write_tables(arguments.out, columns, [dataclasses.astuple(cell) for cell in cells], text)
    print(text)


def macro_means(models: list[Model], split: str, metrics: list[str]) -> list[Cell]:
    """A cell a protocol, metric, model, path and tie policy; a baseline, the same beside every
    model, once."""
    places: dict[tuple[str, str, str], Model] = {}
    for model in models:
        for protocol in model.runs[0].protocols(split):
            for path in model.runs[0].protocol_scores(split, protocol):
                label = path if path in BASELINES else model.label
                places.setdefault((protocol, label, path), model)
    cells = []
    for (protocol, label, path), model in tqdm(places.items(), disable=None, leave=False):
        runs = model.runs[:1] if path in BASELINES else model.runs
        seeds = [_macro(run, split, protocol, path, metrics) for run in runs]
        for metric, ties in seeds[0]:
            values = [seed[metric, ties] for seed in seeds]
            cells.append(
                Cell(
                    split=split, protocol=protocol, candidates=candidates(protocol, runs[0]),
                    metric=metric, model=label, path=path, ties=ties, seeds=len(values),
                    macro=float(np.mean(values)),
                    seed_deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
                )
            )  # fmt: skip
    return cells


def _macro(
    run: Run, split: str, protocol: str, path: str, metrics: list[str]
) -> dict[tuple[str, str], float]:
    """{(metric, tie policy): macro mean} of a run; `released` has a tie policy of its own."""
    ranks = run.ranks(split, protocol, path)
    policies = {ties: ties for ties in TIES}
    if ties_of(protocol, "") == "optimistic":
        policies = {"optimistic": "expected"}  # nothing is tied any more: any policy counts it so
    found = {}
    for name, ties in policies.items():
        by_target = target_metrics(ranks.better, ranks.tied, ties)
        for metric in metrics:
            values = ranks[["domain"]].assign(value=by_target[metric])
            found[metric, name] = domain_means(values)["macro"]
    return found


def candidates(protocol: str, run: Run) -> str:
    """What a target is ranked among, in a phrase; empty for a protocol that is not known here."""
    variants = ""
    for suffix, phrase in VARIANTS.items():
        if protocol.endswith(suffix):
            protocol, variants = protocol.removesuffix(suffix), phrase + variants
    if protocol not in CANDIDATES:
        return ""
    return CANDIDATES[protocol].format(n=run.config["sampled_negatives"]) + variants


def protocols_text(cells: list[Cell], split: str, metrics: list[str]) -> str:
    """A table a metric: a row a protocol, a column a model and path, the baselines first."""
    names = dict.fromkeys((cell.model, cell.path) for cell in cells)
    columns = sorted(names, key=lambda name: name[0] not in BASELINES)
    heads = [path if path in BASELINES else f"{model}:{path}" for model, path in columns]
    protocols = {cell.protocol: cell.candidates for cell in cells}
    found: dict[tuple, dict[str, Cell]] = {}
    for cell in cells:
        key = (cell.protocol, cell.metric, cell.model, cell.path)
        found.setdefault(key, {})[cell.ties] = cell
    texts = []
    for metric in metrics:
        rows = [
            [f"`{protocol}`", phrase]
            + [_cell(found.get((protocol, metric, *column), {})) for column in columns]
            for protocol, phrase in protocols.items()
        ]
        table = markdown(["protocol", "ranked among", *heads], rows, 2)
        texts.append(f"{split}, {metric.upper()}, macro mean over domains\n\n{table}")
    return "\n".join([*texts, _legend(cells)])


def _cell(policies: dict[str, Cell]) -> str:
    """The value, and that under the pessimistic policy in brackets where the digits differ."""
    if not policies:
        return "–"
    first, *others = policies.values()
    value = number(first.macro)
    spread = "" if first.seed_deviation is None else f" ± {number(first.seed_deviation)}"
    counted = [number(other.macro) for other in others]
    return value + spread + "".join(f" [{other}]" for other in counted if other != value)


def _legend(cells: list[Cell]) -> str:
    lines = [
        "Tied items share their ranks; [ ]: the value when they all count against the model, where "
        "its digits differ."
    ]
    seeds = {cell.model: cell.seeds for cell in cells if cell.seeds > 1}
    if seeds:
        counts = ", ".join(f"{model}: {count}" for model, count in seeds.items())
        lines.append(f"±: standard deviation over seeds ({counts}).")
    return "\n".join(f"- {line}" for line in lines) + "\n"
