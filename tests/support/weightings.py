"""Loss weightings outside a run, and trainers that use them, for tests."""

from pathlib import Path

import torch

from src.config.settings import Settings, settings_class
from src.config.validation import check_settings
from src.objective.lc_ntg import NegativeTransferGap
from src.training.processes import Process
from tests.support.builders import make_dataset, random_users
from trainers import Trainer

CPU = torch.device("cpu")
SIZES = (6, 5, 9, 4)


def settings_of(weighting: str, model: str = "syncrec", **changes) -> Settings:
    """Validated settings of a small model without dropout."""
    defaults = {"hidden": 8, "dropout": 0.0, "max_len": 16, "batch_size": 4}
    named = {"model": model, "weighting": weighting}
    settings = settings_class(model, weighting)(**(defaults | named | changes))
    check_settings(settings)
    return settings


def gap_of(settings: Settings, domains: int) -> NegativeTransferGap:
    """The gap that a weighting of `domains` domains is built from, in float64."""
    return NegativeTransferGap(settings, domains, CPU, torch.float64)


def make_trainer(folder: Path, weighting: str, **changes) -> Trainer:
    """A trainer on a log of twelve users with random items of four domains."""
    dataset = make_dataset(random_users(2, count=12, domain_sizes=SIZES), SIZES, held_out=2)
    settings = settings_of(weighting, **({"precision": "float64"} | changes))
    torch.manual_seed(0)
    return Trainer(settings, dataset, folder, Process(CPU))
