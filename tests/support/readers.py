"""Good files read as the commands read them, in one process, for the tests that spoil them."""

import argparse
import dataclasses
from functools import cache
from pathlib import Path

import torch

from src.config.settings import Settings
from src.dataset.batching.loader import Loader
from src.dataset.store.folder import Dataset, open_dataset
from src.evaluation.queries import Ensemble
from src.evaluation.targets import SPLITS, split_targets, target_facts
from src.report import compare, protocols, table
from src.report.finished_runs import read_runs
from src.report.seed_groups import group_seeds
from src.report.transfer import differences, sensitivity, target_groups, training_history
from src.report.transfer import tables as transfer_tables
from src.report.transfer.data_sets import data_sets, measure
from src.report.transfer.gamma_correlation import correlation_points
from src.runs import lifecycle, training_state
from src.runs.command import parse_command
from src.runs.evaluate import evaluate_run, missing_results, results_table
from src.runs.records import read_results
from src.runs.warm_start import (
    check_former,
    former_state,
    init_record,
    initial_state,
    open_former,
)
from src.serving import api
from src.serving.choices import chosen_users
from src.serving.contexts import History
from src.training.processes import Process
from tests.support.tiny_world import TINY, World
from trainers import Trainer

CPU = torch.device("cpu")
ONE = Process(CPU)


@cache
def tiny_settings(world: World) -> Settings:
    return parse_command([*TINY, f"--data_dir={world.data}"]).settings


@cache
def good_dataset(world: World) -> Dataset:
    return open_dataset(world.data)


def use_dataset(world: World, dataset: Dataset) -> None:
    """What a run asks of its dataset before the first step, and of every id."""
    settings = tiny_settings(world)
    lifecycle.check_trainable(settings, dataset, ONE)
    lifecycle.run_folder(settings, dataset)
    loader = Loader(
        dataset, CPU, batch_size=settings.batch_size, max_len=settings.max_len, seed=settings.seed
    )
    for batches in loader.steps(0):
        _ = [batch.targets.sum() for batch in batches]
    for split in SPLITS:
        target_facts(dataset, split_targets(dataset, split))
    for domain in range(len(dataset.domain_names)):
        dataset.only_domain(domain)
    chosen_users(History(dataset), ("u01",))
    dataset.item_ids.take(list(range(dataset.item_rows - 1)))


def new_trainer(world: World) -> Trainer:
    """A trainer that saves elsewhere than in the good run."""
    folder = world.root / "trained"
    folder.mkdir(exist_ok=True)
    return Trainer(tiny_settings(world), good_dataset(world), folder, ONE)


def save_within(trainer: Trainer, path: Path) -> None:
    trainer.train_step(next(trainer.loader.steps(0)))
    training_state.save(trainer, path)


def start_from(world: World) -> None:
    former = open_former(world.run)
    dataset = good_dataset(world)
    check_former(former, tiny_settings(world), dataset, world.root / "other")
    former_state(former, dataset)
    init_record(former, dataset)
    trainer = new_trainer(world)
    initial_state(former, dataset, training_state.fresh_states(trainer), trainer.model)


def as_main(world: World) -> None:
    command = parse_command([f"--evaluate={world.run}"])
    dataset = good_dataset(world)
    settings = dataclasses.replace(command.settings, resume=True)
    lifecycle.find_run(settings, world.run, dataset.card["sha256"])
    missing_results(settings, dataset, world.run)
    results_table(read_results(world.run))


def as_recommend(world: World) -> None:
    run = api.open_run(world.run)
    api.recommend(run, k=2, users=run.dataset.user_ids[:2].to_pylist())


def as_table(world: World) -> None:
    arguments = argparse.Namespace(
        runs=list(world.runs.values()), split="test", protocol="full",
        metrics=["ndcg@10", "hr@10"], out=world.root / "table",
    )  # fmt: skip
    table.run(arguments)


def as_comparison(world: World) -> None:
    rankers = compare.read_rankers([str(path) for path in world.runs.values()][:2])
    pairs = [compare.compare_pair(*rankers, "test", "full", ["ndcg@10"])]
    budgets = compare.budgets_line({one.name: one for one in rankers[:2]})
    _ = [compare.pair_text(rows, budgets) for rows in pairs], compare.legend(pairs, rankers, 1)


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


def score_candidates(world: World) -> None:
    """Rank a run again by the candidates that are stored."""
    settings = dataclasses.replace(
        tiny_settings(world), protocol=("sampled", "popular", "released")
    )
    model = new_trainer(world).model.eval()
    folder = world.run.parent / "scored"
    folder.mkdir(exist_ok=True)
    evaluate_run(Ensemble([model]), settings, good_dataset(world), folder, ONE)
