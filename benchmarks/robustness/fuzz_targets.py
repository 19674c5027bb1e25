"""What the fuzzer feeds: every parser and loader of the repository, in one process.

Each target spoils one good file of the world, or makes up input, and uses it as the commands do.
Success, a UserError and argparse's exit status 2 are answers; anything else is a finding.
"""

import argparse
import dataclasses
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import main
import make_dataset
import recommend
from benchmarks.robustness.fuzz_mutations import NAMES, NUMBERS, VALUES, spoiled
from benchmarks.robustness.fuzz_world import TINY, World, data_flags
from src.config.cli import config_defaults, from_namespace
from src.config.dataset_settings import DatasetSettings
from src.config.settings import Settings, check_settings
from src.dataset.batching.loader import Loader
from src.dataset.store.folder import Dataset, open_dataset
from src.dataset.store.verify import verify_dataset
from src.evaluation.evaluator import evaluate_run
from src.evaluation.queries import Ensemble
from src.evaluation.targets import SPLITS, split_targets, target_facts
from src.io.errors import run_command
from src.report import compare, protocols, table
from src.report.finished_runs import read_runs
from src.report.seed_groups import group_seeds
from src.report.transfer import differences, sensitivity, target_groups, training_history
from src.report.transfer import tables as transfer_tables
from src.report.transfer.data_sets import data_sets, measure
from src.report.transfer.gamma_correlation import correlation_points
from src.runs.warm_start import check_former, former_state, init_record, open_former
from trainers import Trainer
from utils import METRICS_COLUMNS, Process, Table, open_data

CPU = torch.device("cpu")
ONE = Process(CPU)
PATHS = ("data_dir", "runs_dir", "init_from")


# ------------------------------------------------------------------------ settings


def config_file(world: World, rng: random.Random) -> None:
    """A settings file of random shape, or a good one spoiled."""
    path = world.run / "config.json"
    if rng.random() < 0.5:
        with spoiled(path, rng):
            check_settings(Settings(**config_defaults(Settings, path)))
        return
    names = [field.name for field in dataclasses.fields(Settings)]
    content = {rng.choice([*names, *NAMES]): _value(rng) for _ in range(rng.randrange(6))}
    made = world.root / "made.json"
    text = json.dumps(content).replace(f"{10**400}", "1" + "0" * 400)
    made.write_bytes(text.encode("utf-8", "surrogatepass"))
    main.parse_command([f"--config={made}"])


def _value(rng: random.Random, depth: int = 0) -> Any:
    """A random JSON value."""
    kind = rng.randrange(8)
    if kind == 0 and depth < 5:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 1 and depth < 5:
        return {rng.choice(NAMES): _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    if kind == 2:
        return rng.choice(dataclasses.astuple(Settings()))
    return rng.choice(VALUES)


def flags(world: World, rng: random.Random) -> None:
    """Flags of main.py with odd values; those that are accepted find data and run folder."""
    names = [field.name for field in dataclasses.fields(Settings)]
    words = [*TINY, f"--data_dir={world.data}", f"--runs_dir={world.root / 'elsewhere'}"]
    for _ in range(rng.choice((1, 1, 2))):
        name, value = rng.choice(names), rng.choice(NUMBERS + NAMES).replace("\0", "")
        words += rng.choice(
            ([f"--{name}={value}"], [f"--{name}", value], [f"--no-{name}"], [value])
        )
    run_command(lambda: _find(words))


def _find(words: list[str]) -> None:
    settings = main.parse_command(words).settings
    dataset = open_data(settings)
    folder = main.run_folder(settings, dataset)
    main.find_run(settings, folder, dataset.card["sha256"])


def data_command(world: World, rng: random.Random) -> None:
    """Flags of make_dataset.py with odd values."""
    names = [field.name for field in dataclasses.fields(DatasetSettings)]
    parser = make_dataset.build_parser(DatasetSettings, "data")
    words = data_flags(world.logs["csv"])
    for _ in range(rng.choice((1, 1, 2))):
        name, value = rng.choice(names), rng.choice(NUMBERS + NAMES).replace("\0", "")
        words += rng.choice(([f"--{name}={value}"], [f"--{name}", value], [f"--no-{name}"]))
    settings = from_namespace(DatasetSettings, parser.parse_args(words))
    if settings.engine == "duckdb":
        run_command(lambda: make_dataset.find_log(settings))


# ------------------------------------------------------------------------ datasets


def dataset_folder(world: World, rng: random.Random) -> None:
    """A file of a dataset folder spoiled; what opens is read, verified and made batches of."""
    files = [world.data / "data_card.json"] * 4 + list((world.data / "sequences").iterdir()) * 2
    files += [world.data / "users.parquet", world.data / "items.parquet"]
    with spoiled(rng.choice(files), rng):
        dataset = open_data(tiny_settings(world))
        try:
            verify_dataset(dataset)
        finally:
            main.check_events(dataset)  # training looks no further
            use_dataset(world, dataset)


def use_dataset(world: World, dataset: Dataset) -> None:
    """What a run asks of its dataset before the first step, and of every id."""
    settings = tiny_settings(world)
    main.check_targets(settings, dataset)
    main.run_folder(settings, dataset)
    loader = Loader(settings, dataset, CPU)
    for batches in loader.steps(0):
        _ = [batch.targets.sum() for batch in batches]
    for split in SPLITS:
        target_facts(dataset, split_targets(dataset, split))
    for domain in range(len(dataset.domain_names)):
        dataset.only_domain(domain)
    recommend.chosen_users(dataset, ("u01",))
    dataset.item_ids.take(list(range(dataset.item_rows - 1)))


def reused_dataset(world: World, rng: random.Random) -> None:
    """make_dataset.py on a folder that stands, its card spoiled."""
    with spoiled(world.data / "data_card.json", rng):
        make_dataset.main([*data_flags(world.logs["csv"]), f"--out_dir={world.data}"])


def raw_log(world: World, rng: random.Random) -> None:
    """A file of a raw log spoiled, in any format."""
    folder = world.logs[rng.choice(list(world.logs))]
    path = rng.choice(sorted(folder.iterdir()))
    more = rng.choice(([], [], ["--max_rejected=1"], ["--shared_items", "--max_rejected=.5"]))
    with spoiled(path, rng):
        make_dataset.main([*data_flags(folder), "--describe", *more])


# ------------------------------------------------------------------------ checkpoints


def checkpoint(world: World, rng: random.Random) -> None:
    """A checkpoint spoiled; what is taken up trains, ranks or is computed again."""
    within = rng.random() < 0.5
    trainer = new_trainer(world)
    path = world.run / ("within.pt" if within else "last.pt")
    if not path.is_file():
        save_within(trainer, path)
    with spoiled(path, rng):
        trainer.load(path)
        if trainer.progress.position < trainer.loader.steps_per_epoch:
            trainer.train_epoch()
            _ = list(trainer.replay())


def new_trainer(world: World) -> Trainer:
    settings, dataset = tiny_settings(world), good_dataset(world)
    return Trainer(settings, dataset, world.run, ONE)


def save_within(trainer: Trainer, path: Path) -> None:
    trainer.train_step(next(trainer.loader.steps(0)), trainer.sums)
    trainer.save(path)


def best_checkpoint(world: World, rng: random.Random) -> None:
    """best.pt spoiled, as recommend.py takes it, and as a run starts from it."""
    with spoiled(world.run / "best.pt", rng):
        if rng.random() < 0.5:
            run = recommend.open_trained(world.run, CPU)
            recommend.recommend(run, k=2, users=np.arange(2))
        else:
            start_from(world)


def start_from(world: World) -> None:
    former = open_former(world.run, open_data)
    dataset = good_dataset(world)
    check_former(former, tiny_settings(world), dataset, world.root / "other")
    former_state(former, dataset)
    init_record(former, dataset)
    main.initial_state(former, dataset, new_trainer(world).model.state_dict())


# ------------------------------------------------------------------------ run folders


def run_folder(world: World, rng: random.Random) -> None:
    """A file of a run folder spoiled, as main.py, recommend.py and report.py read it."""
    names = ("config.json", "environment.json", "results.json", "serving.json", "items.parquet")
    with spoiled(world.run / rng.choice(names), rng):
        rng.choice((as_main, as_recommend, start_from, as_table))(world)


def as_main(world: World) -> None:
    command = main.parse_command([f"--evaluate={world.run}"])
    dataset = good_dataset(world)
    settings = dataclasses.replace(command.settings, resume=True)
    main.find_run(settings, world.run, dataset.card["sha256"])
    main.lacks_scores(settings, dataset, world.run)
    main.print_results(dataset, world.run)


def as_recommend(world: World) -> None:
    run = recommend.open_trained(world.run, CPU)
    recommend.recommend(run, k=2, users=np.arange(2))


def as_table(world: World) -> None:
    arguments = argparse.Namespace(
        runs=list(world.runs.values()), split="test", protocol="full",
        metrics=["ndcg@10", "hr@10"], out=world.root / "table",
    )  # fmt: skip
    table.run(arguments)


def run_tables(world: World, rng: random.Random) -> None:
    """A table of a run folder spoiled, as report.py reads it, and as main.py goes on with it."""
    run = rng.choice(list(world.runs.values()))
    names = [name for name in ("metrics.csv", "transfer.csv") if (run / name).is_file()]
    with spoiled(run / rng.choice(names), rng):
        Table(run / "metrics.csv", METRICS_COLUMNS, 3)
        as_analysis(world)


def ranks(world: World, rng: random.Random) -> None:
    """ranks.parquet or targets.parquet spoiled."""
    run = rng.choice(list(world.runs.values()))
    with spoiled(run / rng.choice(("ranks.parquet", "ranks.parquet", "targets.parquet")), rng):
        rng.choice((as_comparison, as_protocols, as_analysis))(world)


def report_files(world: World, rng: random.Random) -> None:
    """A JSON file of a run, as the comparisons and the negative-transfer report read it."""
    run = rng.choice(list(world.runs.values()))
    names = ("config.json", "results.json", "environment.json", "data_card.json", "serving.json")
    there = [name for name in names if (run / name).is_file()]
    with spoiled(run / rng.choice(there), rng):
        rng.choice((as_comparison, as_protocols, as_analysis, as_table))(world)


def as_comparison(world: World) -> None:
    rankers = compare.read_rankers([str(path) for path in world.runs.values()][:2])
    pairs = [compare.compare_pair(*rankers, "test", "full", ["ndcg@10"])]
    _ = [compare.pair_text(rows) for rows in pairs], compare.legend(pairs, rankers, 1)


def as_protocols(world: World) -> None:
    runs = read_runs([world.run])
    groups = group_seeds(runs)
    means = protocols.macro_means(groups, "test", ["ndcg@10"])
    protocols.protocols_text(means, groups, "test", ["ndcg@10"])


def as_analysis(world: World) -> None:
    (data,) = data_sets(read_runs(list(world.runs.values())))
    measured = measure(data, "ndcg@10")
    differences.levels(data, measured)
    differences.differences(data, measured)
    transfer_tables.trajectory_table(training_history.trajectories(data))
    transfer_tables.curves_table(data, training_history.curves(data))
    target_groups.group_levels(data, measured)
    sensitivity.protocol_table(data, "ndcg@10")
    sensitivity.beyond_accuracy(data)
    correlation_points(data, measured)
    transfer_tables.card_tables(data.card)
    transfer_tables.runs_table(data)
    transfer_tables.settings_table(data)


def candidates(world: World, rng: random.Random) -> None:
    """A file of stored candidates spoiled, as a run that is scored again reads it."""
    stored = sorted((world.run.parent / "candidates").iterdir())
    with spoiled(rng.choice(stored), rng):
        settings = dataclasses.replace(
            tiny_settings(world), protocol=("sampled", "popular", "released")
        )
        model = new_trainer(world).model.eval()
        folder = world.run.parent / "scored"
        folder.mkdir(exist_ok=True)
        evaluate_run(Ensemble([model]), settings, good_dataset(world), folder, ONE)


# ------------------------------------------------------------------------ shared


@cache
def tiny_settings(world: World) -> Settings:
    return main.parse_command([*TINY, f"--data_dir={world.data}"]).settings


@cache
def good_dataset(world: World) -> Dataset:
    return open_dataset(world.data)


# target: how often it is fed, in parts; a raw log, ranks and reports take half a second each
TARGETS: dict[Callable[[World, random.Random], None], int] = {
    config_file: 30, flags: 24, data_command: 10, dataset_folder: 36, reused_dataset: 8, raw_log: 2,
    checkpoint: 8, best_checkpoint: 4, run_folder: 5, run_tables: 1, ranks: 1, report_files: 1,
    candidates: 1,
}  # fmt: skip
