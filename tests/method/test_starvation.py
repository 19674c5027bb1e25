"""The hazard of the loss weighting: an unrelated domain must not lose its weight and starve."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.config.settings import Settings
from src.dataset.generator.planted import SyntheticConfig, generate
from src.dataset.store.folder import TEST, TRAIN, VALID, Dataset
from src.evaluation.targets import split_targets
from src.training.random_state import seed_everything
from trainers import Trainer
from utils import start_process

RESULTS = Path(__file__).resolve().parents[2] / "results" / "planted.csv"
RELATEDNESS = (1.0, 0.5, 0.0)


def planted_dataset() -> Dataset:
    """A small planted log as training reads it; domain 2 is unrelated to the others."""
    config = SyntheticConfig(
        users=150, events=24, clusters=3, cluster_items=6, domains=("a", "b", "c"),
        relatedness=RELATEDNESS,
    )  # fmt: skip
    log = generate(config)
    order = np.lexsort((log.times, log.users))
    users, domains = log.users[order], log.domains[order]
    size = config.clusters * config.cluster_items
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users))])
    split = np.full(len(users), TRAIN, dtype=np.int8)
    split[offsets[1:] - 1], split[offsets[1:] - 2] = TEST, VALID
    return Dataset(
        folder=Path("memory"),
        card={"data_name": "memory", "sha256": "memory"},
        domain_names=list(config.domains),
        item_starts=1 + size * np.arange(len(config.domains) + 1),
        offsets=offsets,
        items=(1 + domains * size + log.items[order]).astype(np.int32),
        domains=domains.astype(np.int16),
        times=log.times[order],
        split=split,
    )


def cross_losses(dataset: Dataset, folder: Path, **weighting) -> np.ndarray:
    """[D] the cross path's training loss after the same short training."""
    settings = Settings(
        hidden=16, layers=1, dropout=0.0, lr=0.01, warmup_steps=1, max_epochs=30, batch_size=32,
        patience_steps=10**6, **weighting,
    )  # fmt: skip
    seed_everything(settings.seed)
    trainer = Trainer(settings, dataset, folder, start_process("cpu"))
    targets = split_targets(dataset, "valid")
    for _ in range(settings.max_epochs):
        trainer.train_steps()
        trainer.validate_epoch(targets)
        epoch = trainer.end_epoch()
    return (epoch.losses["cross"] / epoch.counts).numpy()


@pytest.mark.nightly
def test_only_the_paper_s_rule_without_a_floor_starves_a_domain(tmp_path):
    dataset = planted_dataset()
    uniform = cross_losses(dataset, tmp_path, lc_ntg=False)
    validation = cross_losses(dataset, tmp_path)
    held_out = cross_losses(dataset, tmp_path, gap="heldout")
    paper = cross_losses(dataset, tmp_path, gap="training")
    sharp = cross_losses(dataset, tmp_path, gap="training", lc_ntg_tau=0.03, lc_ntg_floor=0.0)
    for certain in (validation, held_out):
        assert (certain < 1.1 * uniform).all() and (certain != uniform).any()
    assert (paper < 1.1 * uniform).all()
    assert (sharp > 1.1 * uniform).any()


def test_the_published_runs_find_the_planted_order_and_starve_no_domain():
    values = pd.read_csv(RESULTS).set_index(["quantity", "seed", "domain"])
    values = values.value.sort_index()
    planted = values["relatedness", 1]
    for seed in (1, 2, 3):
        cross = values["SyNCRec cross", seed]
        assert (cross > values["item Markov", seed]).all()
        assert (cross > values["popularity", seed]).all()
        assert (cross >= 0.9 * values["cross, uniform weights", seed]).all()
    gamma = sum(values["γ", seed] for seed in (1, 2, 3))
    assert gamma.idxmin() == planted.idxmin()
    assert gamma.corr(planted, method="spearman") == pytest.approx(1, abs=0.2)
