"""Good files read as the commands read them, in one process, for the tests that spoil them."""

import argparse
import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import torch
from src.report.compared_paths import data_sets, measure
from src.report.gamma_claim import claim_points

import main
import recommend
from src.config.settings import Settings
from src.dataset.batching.loader import Loader
from src.dataset.store.folder import Dataset, open_dataset, open_named
from src.evaluation.queries import Ensemble
from src.evaluation.targets import SPLITS, split_targets, target_facts
from src.report import analysis, compare, protocols, tables, transfer_tables
from src.report.finished_runs import read_runs
from src.runs.evaluate import evaluate_run
from src.runs.warm_start import check_former, former_state, init_record, open_former
from src.training.processes import Process
from tests.support.tiny_world import TINY, World
from trainers import Trainer

CPU = torch.device("cpu")
ONE = Process(CPU)


@cache
def tiny_settings(world: World) -> Settings:
    return main.parse_command([*TINY, f"--data_dir={world.data}"]).settings


@cache
def good_dataset(world: World) -> Dataset:
    return open_dataset(world.data)


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


def new_trainer(world: World) -> Trainer:
    """A trainer that saves elsewhere than in the good run."""
    folder = world.root / "trained"
    folder.mkdir(exist_ok=True)
    return Trainer(tiny_settings(world), good_dataset(world), folder, ONE)


def save_within(trainer: Trainer, path: Path) -> None:
    trainer.train_step(next(trainer.loader.steps(0)), trainer.sums)
    trainer.save(path)


def start_from(world: World) -> None:
    former = open_former(world.run, open_named)
    dataset = good_dataset(world)
    check_former(former, tiny_settings(world), dataset, world.root / "other")
    former_state(former, dataset)
    init_record(former, dataset)
    main.initial_state(former, dataset, new_trainer(world).model.state_dict())


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
    tables.run(arguments)


def as_comparison(world: World) -> None:
    sides = compare.read_sides([str(path) for path in world.runs.values()][:2])
    pairs = [compare.compared(*sides, "test", "full", ["ndcg@10"])]
    _ = [compare.pair_text(rows) for rows in pairs], compare.legend(pairs, sides, 1)


def as_protocols(world: World) -> None:
    runs = read_runs([world.run])
    cells = protocols.macro_means(protocols.group_by_seed(runs), "test", ["ndcg@10"])
    protocols.protocols_text(cells, "test", ["ndcg@10"])


def as_analysis(world: World) -> None:
    (data,) = data_sets(read_runs(list(world.runs.values())))
    measured = measure(data, "ndcg@10")
    analysis.levels(data, measured)
    analysis.differences(data, measured)
    transfer_tables.trajectory_table(analysis.trajectories(data))
    transfer_tables.curves_table(data, analysis.curves(data))
    analysis.group_levels(data, measured)
    analysis.protocol_table(data, "ndcg@10")
    analysis.beyond_accuracy(data)
    claim_points(data, measured)
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
