"""`report.py compare`: paired differences between models on the same targets, with uncertainty."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from src.io.errors import UserError
from src.report.finished_runs import MEANS, domain_means, least_targets, read_runs
from src.report.formatting import ALPHA, count_of, interval, join_and, number, p_cell, signed
from src.report.seed_groups import (
    Ranker,
    budgets_line,
    check_distinct_names,
    check_same_data,
    check_same_targets,
    group_seeds,
    titles_line,
    withheld,
)
from src.report.table_files import check_tables, markdown, write_tables
from src.report.training_ends import withheld_lines
from src.statistics import comparison
from src.statistics.holm import holm


@dataclass(frozen=True)
class Row:
    """A metric of one domain, of the macro mean or of all targets (`users`), for two rankers.

    p_holm is adjusted over the metrics and domains of the pair; for macro and users over the
    metrics. seed_deviation is the standard deviation of the difference over the `seeds` seeds that
    both rankers have; None for fewer than two.
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
    withheld: str

    @property
    def sure(self) -> bool:
        """Whether the difference is significant and may be called so."""
        return self.p_holm < ALPHA and not self.withheld


def run(arguments: argparse.Namespace) -> None:
    """Print one table per pair; with --out, write them and every value. Raises UserError."""
    check_tables(arguments.out)
    first, *others = read_rankers(arguments.runs)
    if not others:
        raise UserError(
            f"compare needs at least two models, got only {first.name}; add another run, or "
            "another path of this one as RUN:PATH"
        )
    metrics = list(dict.fromkeys(arguments.metric))
    work = tqdm(others, unit="pair", disable=None, leave=False)
    pairs = [
        compare_pair(first, second, arguments.split, arguments.protocol, metrics) for second in work
    ]
    texts = [
        pair_text(rows, budgets_line({one.name: one for one in (first, second)}))
        for rows, second in zip(pairs, others, strict=True)
    ]
    text = "\n".join([*texts, legend(pairs, [first, *others], len(metrics))])
    if arguments.out:
        columns = [field.name for field in dataclasses.fields(Row)]
        rows = [dataclasses.astuple(row) for rows in pairs for row in rows]
        write_tables(arguments.out, columns, rows, text)
    print(text)


def read_rankers(words: list[str]) -> list[Ranker]:
    """The rankers of RUN[:PATH] …, in the order of their first runs.

    Raises UserError for runs that cannot be compared.
    """
    requests = [_split(word) for word in words]
    runs = read_runs([folder for folder, _ in requests])
    check_distinct_names(runs)
    check_same_data(runs)
    by_folder = {run.folder.resolve(): run for run in runs}
    entries: list[tuple[str, str]] = []
    for folder, path in requests:
        run = by_folder[folder.resolve()]
        entries.append((run.name, path or run.default_path))
        if entries.count(entries[-1]) > 1:
            raise UserError(f"{':'.join(entries[-1])} is given twice; give it once")
    by_name = {run.name: run for run in runs}
    rankers = [
        Ranker(group, path)
        for path in dict.fromkeys(path for _, path in entries)
        for group in group_seeds([by_name[name] for name, other in entries if other == path])
    ]
    return sorted(rankers, key=lambda one: entries.index((one.group.runs[0].name, one.path)))


def _split(word: str) -> tuple[Path, str]:
    """RUN:PATH -> (folder, path); the path is empty if none is given."""
    folder, colon, path = word.rpartition(":")
    if not colon or "/" in path or Path(word).is_dir():
        return Path(word), ""
    return Path(folder), path


def compare_pair(
    first: Ranker, second: Ranker, split: str, protocol: str, metrics: list[str]
) -> list[Row]:
    """The rows of a pair: for each metric the domains that have targets, macro, users.

    Raises UserError for runs that lack the split, protocol, path or targets of the other.
    """
    rows = [
        row for metric in metrics for row in _metric_rows(first, second, split, protocol, metric)
    ]
    families = [[row for row in rows if row.domain not in MEANS]]
    families += [[row for row in rows if row.domain == mean] for mean in MEANS]
    adjusted = {
        (row.metric, row.domain): float(p)
        for family in families
        for row, p in zip(family, holm([row.p for row in family]), strict=True)
    }
    return [dataclasses.replace(row, p_holm=adjusted[row.metric, row.domain]) for row in rows]


def _metric_rows(
    first: Ranker, second: Ranker, split: str, protocol: str, metric: str
) -> list[Row]:
    """The rows of one metric, p not adjusted yet."""
    what = (split, protocol)
    values = [one.group.values(*what, one.path, metric) for one in (first, second)]
    check_same_targets(values[0], values[1], first.name, second.name)
    names = first.group.runs[0].domains
    least = least_targets([*first.group.runs, *second.group.runs])
    pairs = comparison.compare(
        values[0].value.to_numpy(),
        values[1].value.to_numpy(),
        pd.factorize(values[0].user_id)[0],
        values[0].domain.map(names.index).to_numpy(),
        names,
        least=least,
    )
    means = [domain_means(frame, least) for frame in values]
    by_seed = _seed_differences(first, second, *what, metric)
    reasons = withheld({one.name: one for one in (first, second)})
    return [
        Row(
            first=first.name, second=second.name, split=split, protocol=protocol, metric=metric,
            domain=name, first_value=means[0][name], second_value=means[1][name],
            difference=pair.difference, low=pair.low, high=pair.high, error=pair.error, p=pair.p,
            p_holm=pair.p, detectable=pair.detectable, targets=pair.targets, users=pair.users,
            seeds=len(by_seed), seed_deviation=_deviation([part[name] for part in by_seed]),
            withheld=reasons.get(name, ""),
        )
        for name, pair in pairs.items()
    ]  # fmt: skip


def _seed_differences(
    first: Ranker, second: Ranker, split: str, protocol: str, metric: str
) -> list[dict[str, float]]:
    """{domain, macro or users: difference} for each seed that both rankers have."""
    least = least_targets([*first.group.runs, *second.group.runs])

    def by_seed(ranker: Ranker, other: Ranker) -> dict[int, dict[str, float]]:
        runs = ranker.by_seed
        if ranker.counted:  # the same for every seed
            runs = dict.fromkeys(other.by_seed, ranker.group.runs[0])
        return {
            seed: domain_means(run.values(split, protocol, ranker.path, metric), least)
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


def pair_text(rows: list[Row], budgets: str) -> str:
    """Heading and table of a pair; below it what forbids a verdict, and unequal budgets."""
    cells = [_cells(row) for row in rows]
    one = rows[0]
    title = f"{one.first} − {one.second}: {one.split}, protocol `{one.protocol}`"
    table = markdown(list(cells[0]), [list(line.values()) for line in cells], 2)
    reasons = {row.domain: row.withheld for row in rows}
    notes = withheld_lines(reasons, [name for name in reasons if name not in MEANS])
    notes += [budgets] if budgets else []
    below = "".join(f"\n- {note[0].upper()}{note[1:]}" for note in notes)
    return f"{title}\n\n{table}{below}{chr(10) if below else ''}"


def _cells(row: Row) -> dict[str, str]:
    """{column: cell} of a row; the deviation over seeds only if there are several seeds."""
    difference = f"**{signed(row.difference)}**" if row.sure else signed(row.difference)
    limits = "–" if np.isnan(row.error) else interval(row.low, row.high)
    mark = "*" if row.users < comparison.FEW_USERS else ""
    users = "" if row.users == row.targets else f" ({count_of(row.users, 'user')})"
    seeds = {}
    if row.seed_deviation is not None:
        seeds = {f"± over {row.seeds} seeds": number(row.seed_deviation)}
    return {
        "metric": row.metric.upper(),
        "domain": row.domain,
        row.first: number(row.first_value),
        row.second: number(row.second_value),
        "difference": difference,
        **seeds,
        "95 % interval": limits + mark,
        "p": p_cell(row.p),
        "p (Holm)": p_cell(row.p_holm),
        "detectable": number(row.detectable),
        "n": f"{row.targets}{users}",
    }


def legend(pairs: list[list[Row]], rankers: list[Ranker], metrics: int) -> str:
    """What the columns and marks mean."""
    rows = [row for pair in pairs for row in pair]
    family = "domains" if metrics == 1 else "domains and metrics"
    means = "" if metrics == 1 else " (for macro and users: over the metrics)"
    groups = {one.group.label: one.group for one in rankers if not one.counted}
    lines = [f"Models: {titles_line(list(groups.values()))}."] if groups else []
    lines += [
        f"**Bold**: p (Holm) < {ALPHA}, corrected over the {family} of a pair{means}, and both "
        "models trained to the end. p: two-sided permutation test that flips the signs of users' "
        "differences. Intervals: bootstrap over users.",
        "detectable: the true difference that a test at 5 % detects in 80 % of such data sets. "
        "macro: mean over domains. users: mean over all targets. n: targets.",
    ]
    seeds = [
        f"{one.name}: seeds {join_and([str(run.seed) for run in one.group.runs])}"
        for one in rankers
        if len(one.group.runs) > 1 and not one.counted
    ]
    if seeds:
        lines.append(
            f"Each target's value is its mean over the seeds ({'; '.join(seeds)}): intervals and "
            "p-values cover the choice of users, not of seeds."
        )
    if any(row.seeds > 1 for row in rows):
        lines.append("±: standard deviation of the difference over the seeds that both have.")
    if any(row.users < comparison.FEW_USERS for row in rows):
        lines.append(
            f"*: fewer than {comparison.FEW_USERS} users; the interval is only approximate."
        )
    unknown = [one.name for one in rankers if not one.counted and not one.group.ends]
    if unknown:
        lines.append(
            f"Without metrics.csv it is not known whether {join_and(unknown)} "
            f"{'was' if len(unknown) == 1 else 'were'} trained to the end."
        )
    if any(np.isnan(row.error) for row in rows):
        lines.append("–: no interval, because only one user has targets (macro: in some domain).")
    return "\n".join(f"- {line}" for line in lines) + "\n"
