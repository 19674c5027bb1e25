"""The count models that a spec asks for beside those of every run: ranked once per log."""

import dataclasses

import torch

from experiments.runner.grid import Grid
from src.config.names import OPTIONAL_COUNT_MODELS, load
from src.dataset.store.folder import Dataset, open_dataset
from src.evaluation.path_scores import score_count_models, summarise_paths
from src.evaluation.ranking import Plan
from src.evaluation.targets import SPLITS, split_targets
from src.report.recorded_runs import RecordedRun, recorded_run
from src.report.run_records import PROTOCOL, Records, read_records, write_count_model
from src.training.processes import Process


def missing_count_models(grid: Grid, records: Records) -> list[tuple[str, str]]:
    """(log, count model) of those that the spec asks for and no record has."""
    return [
        (log, name)
        for log in dict.fromkeys(log for log, *_ in grid.spec.runs)
        for name in grid.spec.count_models
        if (grid.data.get(log), name) not in records.count_models
    ]


def record_count_models(grid: Grid) -> None:
    """Rank and record what is missing, on each log that has a recorded run: its settings say how
    ties count."""
    records = read_records(grid.places.records)
    for log, name in missing_count_models(grid, records):
        jobs = (job for job in grid.spec.jobs() if job.log.name == log)
        recorded = (grid.record(job, records) for job in jobs)
        if record := next(filter(None, recorded), None):
            print(f"{log}: ranking by {name}", flush=True)
            run = recorded_run(record, name, record.settings, records)
            dataset = open_dataset(grid.spec.logs[log].folder(grid.places.datasets))
            torch.set_num_threads(grid.pool.threads)
            write_count_model(grid.places.records, counted_run(run, dataset, name), name)


def counted_run(run: RecordedRun, dataset: Dataset, name: str) -> RecordedRun:
    """A recorded run on a dataset, with the results and ranks of a count model in place of its
    own."""
    settings, process = run.trained_settings, Process(torch.device("cpu"))
    models = {name: load(OPTIONAL_COUNT_MODELS[name]).fit(dataset)}
    results, ranks = {}, {}
    for split in SPLITS:
        targets = split_targets(dataset, split)
        plan = Plan(dataset, targets, (PROTOCOL,), {}, process.device)
        scores = score_count_models(plan, process, models, lists=split == "test")
        results[split] = summarise_paths(
            scores, dataset, targets, settings.ties, settings.min_domain_targets
        )
        ranks[split, name] = scores[name].ranks[PROTOCOL]
    return dataclasses.replace(run, results=results, ranks_of=ranks)
