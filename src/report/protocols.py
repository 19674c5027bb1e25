"""`report.py protocols`: the same models under every candidate protocol."""

import argparse
import dataclasses
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from src.config.names import COUNTED
from src.evaluation.metrics import target_metrics
from src.evaluation.protocols import ties_of
from src.report.finished_runs import Run, domain_means, least_targets, read_runs
from src.report.formatting import number
from src.report.seed_groups import (
    SeedGroup,
    check_distinct_names,
    check_same_data,
    group_seeds,
    titles_line,
)
from src.report.table_files import check_tables, markdown, write_tables

CANDIDATES = {
    "full": "all items of the domain",
    "full_all": "all items of all domains",
    "sampled": "{n} stored random items of the domain",
    "sampled_all": "{n} stored random items of all domains",
    "popular": "{n} stored items of the domain (drawn by popularity)",
    "as_listed": "the items that recommend.py lists; a target that it leaves out counts 0",
    "released": "as in the released code: {n} random items of all domains, ties favour the target",
}
VARIANTS = {  # by suffix, the last one of a name first
    "-strict": "; context without events at the target's own time",
    "-unseen": " that the user has not had",
}
TIES = ("expected", "pessimistic")


@dataclass(frozen=True)
class MacroMean:
    """The macro mean of a metric under one protocol and tie policy, for one ranker.

    macro: mean over the seeds. seed_deviation: their standard deviation; None for one seed.
    """

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


def run(arguments: argparse.Namespace) -> None:
    """Print the tables; with --out, write them and their values under every tie policy.

    Raises UserError for runs that cannot be shown side by side.
    """
    check_tables(arguments.out)
    runs = read_runs(arguments.runs)
    check_distinct_names(runs)
    check_same_data(runs)
    metrics = list(dict.fromkeys(arguments.metrics))
    groups = group_seeds(runs)
    means = macro_means(groups, arguments.split, metrics)
    text = protocols_text(means, groups, arguments.split, metrics)
    if arguments.out:
        columns = [field.name for field in dataclasses.fields(MacroMean)]
        write_tables(arguments.out, columns, [dataclasses.astuple(one) for one in means], text)
    print(text)


def macro_means(groups: list[SeedGroup], split: str, metrics: list[str]) -> list[MacroMean]:
    """One entry per protocol, ranker, metric and tie policy.

    A baseline is the same in every run and appears once.
    """
    columns: dict[tuple[str, str, str], SeedGroup] = {}
    for group in groups:
        for protocol in group.runs[0].protocols(split):
            for path in group.runs[0].protocol_scores(split, protocol):
                label = path if path in COUNTED else group.label
                columns.setdefault((protocol, label, path), group)
    means = []
    least = least_targets([run for group in groups for run in group.runs])
    for (protocol, label, path), group in tqdm(columns.items(), disable=None, leave=False):
        runs = group.runs[:1] if path in COUNTED else group.runs
        seeds = [_macro(run, split, protocol, path, metrics, least) for run in runs]
        for metric, ties in seeds[0]:
            values = [seed[metric, ties] for seed in seeds]
            means.append(
                MacroMean(
                    split=split, protocol=protocol, candidates=candidates(protocol, runs[0]),
                    metric=metric, model=label, path=path, ties=ties, seeds=len(values),
                    macro=float(np.mean(values)),
                    seed_deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
                )
            )  # fmt: skip
    return means


def _macro(
    run: Run, split: str, protocol: str, path: str, metrics: list[str], least: int
) -> dict[tuple[str, str], float]:
    """{(metric, tie policy): macro mean} of a run; `released` has its own tie policy."""
    ranks = run.ranks(split, protocol, path)
    policies = {ties: ties for ties in TIES}
    if ties_of(protocol, "") == "optimistic":
        policies = {"optimistic": "expected"}  # `ranks` has no ties left: any policy agrees
    means = {}
    for name, ties in policies.items():
        by_target = target_metrics(ranks.better, ranks.tied, ties)
        for metric in metrics:
            values = ranks[["domain"]].assign(value=by_target[metric])
            means[metric, name] = domain_means(values, least)["macro"]
    return means


def candidates(protocol: str, run: Run) -> str:
    """The candidates of a protocol in words; empty for an unknown protocol."""
    variants = ""
    for suffix, phrase in VARIANTS.items():
        if protocol.endswith(suffix):
            protocol, variants = protocol.removesuffix(suffix), phrase + variants
    if protocol not in CANDIDATES:
        return ""
    return CANDIDATES[protocol].format(n=run.config["sampled_negatives"]) + variants


def protocols_text(
    means: list[MacroMean], groups: list[SeedGroup], split: str, metrics: list[str]
) -> str:
    """One table per metric: a row per protocol, a column per ranker, the baselines first."""
    names = dict.fromkeys((one.model, one.path) for one in means)
    columns = sorted(names, key=lambda name: name[0] not in COUNTED)
    heads = [path if path in COUNTED else f"{model}:{path}" for model, path in columns]
    protocols = {one.protocol: one.candidates for one in means}
    cells: dict[tuple, dict[str, MacroMean]] = {}
    for one in means:
        key = (one.protocol, one.metric, one.model, one.path)
        cells.setdefault(key, {})[one.ties] = one
    texts = []
    for metric in metrics:
        rows = [
            [f"`{protocol}`", phrase]
            + [_cell(cells.get((protocol, metric, *column), {})) for column in columns]
            for protocol, phrase in protocols.items()
        ]
        table = markdown(["protocol", "candidates", *heads], rows, 2)
        texts.append(f"{split}, {metric.upper()}, macro mean over domains\n\n{table}")
    return "\n".join([*texts, _legend(means, groups)])


def _cell(policies: dict[str, MacroMean]) -> str:
    """The value, and in brackets that of the pessimistic policy if its digits differ."""
    if not policies:
        return "–"
    first, *others = policies.values()
    value = number(first.macro)
    spread = "" if first.seed_deviation is None else f" ± {number(first.seed_deviation)}"
    other_values = [number(other.macro) for other in others]
    return value + spread + "".join(f" [{other}]" for other in other_values if other != value)


def _legend(means: list[MacroMean], groups: list[SeedGroup]) -> str:
    lines = [
        f"Models: {titles_line(groups)}.",
        "A tied target's metric is its expectation over the tied ranks; in brackets: the value if "
        "the target ranks last among its ties, where its digits differ.",
    ]
    seeds = {one.model: one.seeds for one in means if one.seeds > 1}
    if seeds:
        counts = ", ".join(f"{model}: {count}" for model, count in seeds.items())
        lines.append(f"±: standard deviation over seeds ({counts}).")
    return "\n".join(f"- {line}" for line in lines) + "\n"
