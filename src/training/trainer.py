"""What checkpoints, diagnosis and gradients per domain use of the trainer (trainers.py)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.config.settings import Settings
from src.dataset.batching.batch import Batch
from src.dataset.batching.loader import Loader
from src.dataset.store.folder import Dataset
from src.evaluation.path_scores import Results
from src.evaluation.targets import Targets
from src.interfaces import LossWeighting, StepLosses
from src.objective.lc_ntg import NegativeTransferGap
from src.training.epoch_statistics import EpochStatistics
from src.training.processes import Process
from src.training.progress import Progress


class TrainerProtocol(Protocol):
    """The Trainer; src/ does not import root modules."""

    settings: Settings
    dataset: Dataset
    folder: Path
    process: Process
    paths: tuple[str, ...]
    loader: Loader
    dtype: torch.dtype
    model: Any  # a Recommender and an nn.Module
    gap: NegativeTransferGap
    weighting: LossWeighting
    optimizers: dict[str, Optimizer]
    schedulers: dict[str, LRScheduler]
    progress: Progress
    statistics: EpochStatistics

    def count_targets(self, step_batches: list[Batch]) -> Tensor: ...

    def coefficients(self, counts: Tensor, weights: Tensor) -> dict[str, Tensor]: ...

    def gradients(
        self, step_batches: list[Batch], coefficients: dict[str, Tensor]
    ) -> list[StepLosses]: ...

    def backward(
        self, step_batches: list[Batch], coefficients: dict[str, Tensor], auxiliary: bool = True
    ) -> list[StepLosses]: ...

    def steps(self) -> Iterator[list[Batch]]: ...

    def new_statistics(self) -> EpochStatistics: ...

    def validate(self, targets: Targets) -> Results: ...
