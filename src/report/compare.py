"""`report.py compare`: models on the same targets, their difference and how far to trust it."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from src.baselines import BASELINES
from src.evaluation.metrics import METRICS
from src.io.errors import UserError
from src.report.finished_runs import (
    MEANS,
    Model,
    Run,
    distinct_names,
    domain_means,
    group_by_seed,
    read_runs,
    same_data,
    same_targets,
)
from src.report.output import markdown, write_tables
from src.report.wording import ALPHA, counted, interval, listed, number, signed
from src.statistics import significance


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a model with the path that ranks."""

    model: Model
    path: str

    @property
    def label(self) -> str:
        return self.path if self.path in BASELINES else f"{self.model.label}:{self.path}"

    @property
    def by_seed(self) -> dict[int, Run]:
        return {run.seed: run for run in self.model.runs}


@dataclass(frozen=True)
class Row:
    """A metric of a domain, or of the macro mean or of all targets, on both sides.

    p_holm is adjusted for the metrics and domains of the pair; that of macro and of users for the
    metrics. seed_deviation is the standard deviation of the difference over the `seeds` seeds that
    both sides have; None for fewer than two.
    """

    first: str
    second: str
    split: str
    protocol: str
    metric: str
    domain: str
    first_value: float
    second_value: float
    difference: float
    low: float
    high: float
    error: float
    p: float
    p_holm: float
    detectable: float
    targets: int
    users: int
    seeds: int
    seed_deviation: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN[:PATH]",
        help="run folders, each with the path that ranks: cross (default, where the run has it), "
        "single, served, popularity or markov; runs that differ in the seed alone are one model; "
        "every later model is compared with the first",
    )  # fmt: skip
    parser.add_argument(
        "--metric", nargs="+", default=["ndcg@10"], choices=METRICS, metavar="METRIC",
        help=f"one or more of {', '.join(METRICS)} (ndcg@10)",
    )  # fmt: skip
    parser.add_argument("--split", default="test", choices=("valid", "test"), help="(test)")
    parser.add_argument("--protocol", default="full", help="candidates: full, sampled, … (full)")
    parser.add_argument("--out", type=Path, help="also write OUT.csv and OUT.md")


def run(arguments: argparse.Namespace) -> None:
    """Print a table a pair; with --out, write them and every value."""
    sides = read_sides(arguments.runs)
    first, *others = sides
    if not others:
        raise UserError(
            f"compare needs two models, not {first.label} alone; give another run, or another "
            "path of this one as RUN:PATH"
        )
    what = (arguments.split, arguments.protocol, list(dict.fromkeys(arguments.metric)))
    work = tqdm(others, unit="pair", disable=None, leave=False)
    pairs = [compared(first, second, *what) for second in work]
    texts = [pair_text(rows) for rows in pairs]
    text = "\n".join([*texts, legend(pairs, sides, len(what[-1]))])
    if arguments.out:
        columns = [field.name for field in dataclasses.fields(Row)]
        rows = [dataclasses.astuple(row) for rows in pairs for row in rows]
        write_tables(arguments.out, columns, rows, text)
    print(text)


def read_sides(words: list[str]) -> list[Side]:
    """The models of RUN[:PATH] …, in the order of their first runs; UserError for runs that do not
    go together."""
    asked = [_split(word) for word in words]
    runs = read_runs([folder for folder, _ in asked])
    distinct_names(runs)
    same_data(runs)
    by_folder = {run.folder.resolve(): run for run in runs}
    entries = []
    for folder, path in asked:
        found = by_folder[folder.resolve()]
        entries.append((found.name, path or found.default_path))
        if entries.count(entries[-1]) > 1:
            raise UserError(f"{':'.join(entries[-1])} is given twice; give it once")
    by_name = {run.name: run for run in runs}
    sides = [
        Side(model, path)
        for path in dict.fromkeys(path for _, path in entries)
        for model in group_by_seed([by_name[name] for name, other in entries if other == path])
    ]
    return sorted(sides, key=lambda side: entries.index((side.model.runs[0].name, side.path)))


def _split(word: str) -> tuple[Path, str]:
    """RUN:PATH -> (folder, path); the path is empty where none is named."""
    folder, colon, path = word.rpartition(":")
    if not colon or "/" in path or Path(word).is_dir():
        return Path(word), ""
    return Path(folder), path


def compared(
    first: Side, second: Side, split: str, protocol: str, metrics: list[str]
) -> list[Row]:  # fmt: skip
    """The rows of a pair: for each metric the domains that have targets, macro, users."""
    rows = [
        row for metric in metrics for row in _metric_rows(first, second, split, protocol, metric)
    ]
    families = [[row for row in rows if row.domain not in MEANS]]
    families += [[row for row in rows if row.domain == mean] for mean in MEANS]
    adjusted = {
        (row.metric, row.domain): float(p)
        for family in families
        for row, p in zip(family, significance.holm([row.p for row in family]), strict=True)
    }
    return [
        dataclasses.replace(row, p_holm=adjusted[row.metric, row.domain]) for row in rows
    ]  # fmt: skip


def _metric_rows(
    first: Side, second: Side, split: str, protocol: str, metric: str
) -> list[Row]:  # fmt: skip
    """The rows of one metric, p not adjusted yet."""
    what = (split, protocol)
    values = [side.model.values(*what, side.path, metric) for side in (first, second)]
    same_targets(*values, first.label, second.label)
    names = first.model.runs[0].domains
    found = significance.compare(
        values[0].value.to_numpy(),
        values[1].value.to_numpy(),
        pd.factorize(values[0].user_id)[0],
        values[0].domain.map(names.index).to_numpy(),
        names,
    )
    means = [domain_means(side) for side in values]
    by_seed = _seed_differences(first, second, *what, metric)
    return [
        Row(
            first=first.label, second=second.label, split=split, protocol=protocol, metric=metric,
            domain=name, first_value=means[0][name], second_value=means[1][name],
            difference=pair.difference, low=pair.low, high=pair.high, error=pair.error, p=pair.p,
            p_holm=pair.p, detectable=pair.detectable, targets=pair.targets, users=pair.users,
            seeds=len(by_seed), seed_deviation=_deviation([part[name] for part in by_seed]),
        )
        for name, pair in found.items()
    ]  # fmt: skip


def _seed_differences(
    first: Side, second: Side, split: str, protocol: str, metric: str
) -> list[dict[str, float]]:
    """{domain, macro or users: difference} for each seed that both sides have."""

    def by_seed(side: Side, other: Side) -> dict[int, dict[str, float]]:
        runs = side.by_seed
        if side.path in BASELINES:  # the same whatever the seed
            runs = dict.fromkeys(other.by_seed, side.model.runs[0])
        return {
            seed: domain_means(run.values(split, protocol, side.path, metric))
            for seed, run in runs.items()
        }

    firsts, seconds = by_seed(first, second), by_seed(second, first)
    return [
        {name: value - seconds[seed][name] for name, value in firsts[seed].items()}
        for seed in firsts
        if seed in seconds
    ]


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def pair_text(rows: list[Row]) -> str:
    """Heading and table of a pair."""
    cells = [_cells(row) for row in rows]
    one = rows[0]
    title = f"{one.first} − {one.second}: {one.split}, protocol `{one.protocol}`"
    table = markdown(list(cells[0]), [list(line.values()) for line in cells], 2)
    return f"{title}\n\n{table}"


def _cells(row: Row) -> dict[str, str]:
    """{column: cell} of a row; the deviation over seeds only where there are seeds."""
    difference = f"**{signed(row.difference)}**" if row.p_holm < ALPHA else signed(row.difference)
    shown = "–" if np.isnan(row.error) else interval(row.low, row.high)
    rough = "*" if row.users < significance.FEW_USERS else ""
    users = "" if row.users == row.targets else f" ({counted(row.users, 'user')})"
    seeds = {} if row.seeds < 2 else {f"± over {row.seeds} seeds": number(row.seed_deviation)}
    return {
        "metric": row.metric.upper(),
        "domain": row.domain,
        row.first: number(row.first_value),
        row.second: number(row.second_value),
        "difference": difference,
        **seeds,
        "95 % interval": shown + rough,
        "p": _p(row.p),
        "p (Holm)": _p(row.p_holm),
        "detectable": number(row.detectable),
        "n": f"{row.targets}{users}",
    }


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def legend(pairs: list[list[Row]], sides: list[Side], metrics: int) -> str:
    """What the columns and marks mean, in words."""
    rows = [row for pair in pairs for row in pair]
    family = "domains" if metrics == 1 else "domains and metrics"
    means = "" if metrics == 1 else "; macro and users: over the metrics"
    lines = [
        f"**Bold**: p (Holm) < {ALPHA}, adjusted over the {family} of a pair{means}. p: two-sided, "
        "from flipping the signs of users' differences. Interval: from a bootstrap over users.",
        "detectable: the true difference that a test at 5 % would find in 80 % of such data sets. "
        "macro: mean over domains. users: mean over all targets. n: targets.",
    ]
    seeds = [
        f"{side.label} of seeds {listed([str(run.seed) for run in side.model.runs])}"
        for side in sides
        if len(side.model.runs) > 1 and side.path not in BASELINES
    ]
    if seeds:
        lines.append(
            f"A target's value is its mean over the seeds ({'; '.join(seeds)}): intervals and p "
            "are over users and hold for these seeds."
        )
    if any(row.seeds > 1 for row in rows):
        lines.append("±: standard deviation of the difference over the seeds that both have.")
    if any(row.users < significance.FEW_USERS for row in rows):
        lines.append(f"*: fewer than {significance.FEW_USERS} users; the interval is rough.")
    if any(np.isnan(row.error) for row in rows):
        lines.append("–: no interval, for there is but one user (for macro: in some domain).")
    return "\n".join(f"- {line}" for line in lines) + "\n"
