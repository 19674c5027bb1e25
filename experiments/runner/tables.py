"""The tables of a spec, from records alone: levels, paired differences, cost."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.runner.gaps import gap_points, gaps_text, model_name
from experiments.runner.grid import Grid
from experiments.runner.search import Study, read_studies, search_text, with_best_trials
from experiments.runner.spec import Job
from src.config.names import COUNT_MODELS, COUNTED
from src.io.errors import UserError
from src.report import table
from src.report.compare import Row, compare_pair
from src.report.finished_runs import Run
from src.report.formatting import ALPHA, interval, number, p_cell, signed
from src.report.recorded_runs import RecordedRun, recorded_run
from src.report.run_records import STORED, Records, read_records
from src.report.seed_groups import Ranker, SeedGroup, group_seeds
from src.report.table_files import check_tables, markdown, write_csv, write_tables
from src.runs.records import MEANS

METRICS = ["ndcg@10", "hr@10"]
METRIC = METRICS[0]  # of the differences
METRIC_COLUMN = table.COLUMNS.index("metric")


def write_spec_tables(grid: Grid, results: Path) -> None:
    """Write NAME.md and .csv (the metrics STORED; the records' ranks give the others),
    NAME_differences.csv where the spec compares models, NAME_gaps.csv where it names the measured
    transfer and runs recorded gaps."""
    records, name = read_records(grid.places.records), grid.spec.name
    check_tables(results / name)
    grid.find_data(records, needed=set())
    studies = read_studies(grid, results)
    grid.spec = with_best_trials(grid.spec, studies)
    jobs = grid.spec.jobs()
    by_log: dict[str, list[RecordedRun]] = {}
    for job in jobs:
        if run := _run(job, grid, records):
            by_log.setdefault(job.log.name, []).append(run)
    missing = len(jobs) - sum(map(len, by_log.values()))
    if not by_log and not any(study.finished for study in studies):
        raise UserError(f"no run of spec {name} is recorded in {grid.places.records}; run it first")
    texts, levels, differences, points = [], [], [], []
    pair = grid.spec.transfer
    for log, runs in by_log.items():
        pairs = rankers(grid.spec.pairs, runs)
        rows = pair_rows(pairs)
        if pair:
            points.append(gap_points(log, runs, pair_rows(rankers([pair], runs))))
        texts.append(log_text(log, runs, rows, [on_validation(*one) for one in pairs]))
        values = table.tidy_rows(list[Run](runs))
        levels += [(log, *row) for row in values if row[METRIC_COLUMN] in STORED]
        differences += [(log, *dataclasses.astuple(row)) for row in rows]
    if pair and points and len(known := pd.concat(points)):
        texts.append(gaps_text(known, pair))
        write_csv(results / f"{name}_gaps.csv", list(known), known.itertuples(index=False))
    texts += [search_text(study) for study in studies if study.finished]
    if missing:
        texts.append(f"{missing} of {len(jobs)} runs of the spec are not recorded yet.\n")
    text = "\n".join(texts)
    write_tables(results / name, ["log", *table.COLUMNS], levels, text)
    if differences:
        columns = ["log", *(field.name for field in dataclasses.fields(Row))]
        write_csv(results / f"{name}_differences.csv", columns, differences)
    print(text)
    print(f"recorded: {len(jobs) - missing} of {len(jobs)} runs, {core_hours(by_log, studies)}")


def _run(job: Job, grid: Grid, records: Records) -> RecordedRun | None:
    record = grid.record(job, records)
    counted = (*COUNT_MODELS, *grid.spec.count_models)
    return recorded_run(record, job.label, job.settings, records, counted) if record else None


def log_text(log: str, runs: list[RecordedRun], rows: list[Row], valid: list[str]) -> str:
    """The tables of one log: levels on test and validation, differences (`valid` has those on
    validation, one per pair), cost."""
    every = list[Run](runs)
    parts = [f"## {log}", table.table(every, "test", "full", METRICS)]
    if rows:
        parts.append(differences_text(rows, valid))
    parts.append(table.table(every, "valid", "full", [METRIC]))
    parts.append(cost_text(runs))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


# ------------------------------------------------------------------------ differences


def rankers(pairs: list[tuple[str, str]], runs: list[RecordedRun]) -> list[tuple[Ranker, Ranker]]:
    """Those pairs whose models both have runs."""
    groups = {model_name(group.runs[0]): group for group in group_seeds(list[Run](runs))}
    found = [(ranker(first, groups), ranker(second, groups)) for first, second in pairs]
    return [(first, second) for first, second in found if first and second]


def pair_rows(pairs: list[tuple[Ranker, Ranker]]) -> list[Row]:
    """The rows of these pairs, on test."""
    return [row for pair in pairs for row in compare_pair(*pair, "test", "full", [METRIC])]


def on_validation(first: Ranker, second: Ranker) -> str:
    """The difference of their macro means on validation, where each chose its checkpoint."""

    def level(one: Ranker) -> float:
        scores = [run.scores("valid", "full", one.path) for run in one.group.runs]
        return float(np.mean([score["macro"][METRIC] for score in scores]))

    try:
        return signed(level(first) - level(second))
    except UserError:  # a record without it
        return "–"


def ranker(word: str, groups: dict[str, SeedGroup]) -> Ranker | None:
    """MODEL[:PATH], or a count model, which is the same in every run; None where the log lacks
    it."""
    name, _, path = word.partition(":")
    if name in COUNTED and not path and groups:
        return Ranker(next(iter(groups.values())), name)
    if name not in groups:
        return None
    return Ranker(groups[name], path or groups[name].runs[0].default_path)


def differences_text(rows: list[Row], valid: list[str]) -> str:
    """One row per pair: the macro mean, and the number of domains in which each one is better."""
    domains: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.domain not in MEANS:
            domains.setdefault((row.first, row.second), []).append(row)
    head = ["first", "second", "first − second", "± over seeds", "95 % interval", "p", "detectable"]
    cells = []
    means = [row for row in rows if row.domain == "macro"]
    for row, before in zip(means, valid, strict=True):
        pair = domains[row.first, row.second]
        significant = [one.difference > 0 for one in pair if one.p_holm < ALPHA]
        better = sum(significant)
        cells.append(
            [
                row.first, row.second, signed(row.difference),
                "–" if row.seed_deviation is None else number(row.seed_deviation),
                interval(row.low, row.high), p_cell(row.p), number(row.detectable), before,
                f"{better} / {len(significant) - better} / {len(pair) - len(significant)}",
                row.withheld or "–",
            ]
        )  # fmt: skip
    head += ["on validation", "domains: better / worse / cannot tell", "not trained to the end"]
    return (
        f"paired differences, test, protocol `full`, macro {METRIC.upper()}\n\n"
        + markdown(head, cells, 2)
        + f"\nDomains count where p < {ALPHA} after Holm's correction over the domains of a pair.\n"
    )


# ------------------------------------------------------------------------ cost


def cost_text(runs: list[RecordedRun]) -> str:
    """What the models took: means over their seeds, epochs as least to most."""
    cells = []
    for group in group_seeds(list[Run](runs)):
        recorded_runs = [run for run in group.runs if isinstance(run, RecordedRun)]
        costs = [run.record.content["cost"] for run in recorded_runs]
        ends = [end for run in recorded_runs for end, *_ in run.recorded_ends]
        cells.append(
            [
                group.label, str(len(recorded_runs)),
                f"{np.mean([cost['seconds'] for cost in costs]):.0f}",
                f"{max(cost['peak_memory_mib'] for cost in costs):.0f}",
                _span([end.epochs for end in ends]), _span([end.best_epoch for end in ends]),
            ]
        )  # fmt: skip
    return "cost\n\n" + markdown(
        ["run", "runs", "seconds", "peak memory (MiB)", "epochs", "best epoch"], cells, 1
    )


def core_hours(by_log: dict[str, list[RecordedRun]], studies: list[Study]) -> str:
    """What the recorded runs and the trials of searches took together; a trial has one thread."""
    contents = [run.record.content for runs in by_log.values() for run in runs]
    seconds = sum(
        one["cost"]["seconds"] * (one.get("machine", {}).get("threads") or 1) for one in contents
    )
    trials = [trial for study in studies for trial in study.finished]
    hours = (seconds + sum(trial.seconds for trial in trials)) / 3600
    return f"{hours:.1f} core-hours" + (f" with {len(trials)} trials" if trials else "")


def _span(values: list[int]) -> str:
    if not values:
        return "–"
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"
