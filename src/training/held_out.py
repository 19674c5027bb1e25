"""Losses on held-out events, for the loss weightings that ask for them."""

import numpy as np
import torch
from torch import Tensor

from src.dataset.batching.packing import build_batch
from src.dataset.batching.windows import context_windows
from src.dataset.store.folder import Dataset
from src.objective.step_losses import domain_sums
from src.training.trainer import TrainerProtocol


@torch.no_grad()
def held_out_losses(
    trainer: TrainerProtocol, dataset: Dataset, users: np.ndarray, events: np.ndarray
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The mean step loss of each domain's held-out targets on every path {path: [D]} in nats, NaN
    for a domain without one; the standard error [D] of the mean of l_single − l_cross, infinite
    for fewer than two targets, 0 with one path; and the number of targets [D].

    The targets are events of a dataset [n] and their users [n]. Each is the last event of a window
    that ends with it; each process takes its share.
    """
    settings, process = trainer.settings, trainer.process
    trainer.model.eval()
    domains = len(dataset.domain_names)
    counts = torch.zeros(domains, device=process.device, dtype=trainer.dtype)
    sums = {path: torch.zeros_like(counts) for path in trainer.paths}
    gaps = torch.zeros(2, domains, device=process.device, dtype=trainer.dtype)  # Σ φ, Σ φ²
    users, ends = (values[process.rank :: process.processes] for values in (users, events + 1))
    for start in range(0, len(users), settings.batch_size):
        part = slice(start, start + settings.batch_size)
        windows = context_windows(
            dataset, users[part], ends[part], settings.max_len, settings.sdsr_context
        )
        # negatives as in the first epoch, so that the losses of two epochs can be compared
        batch = build_batch(dataset, windows, settings.seed, 0, times=settings.reads_time)
        batch = batch.to(process.device)
        last_counts = torch.tensor(batch.last_counts, device=process.device)
        counts += last_counts
        losses = {
            path: values[batch.last_targets]
            for path, values in trainer.model(batch).by_path.items()
        }
        for path, values in losses.items():
            sums[path] += domain_sums(values, last_counts)
        if len(losses) == 2:
            cross, single = (losses[path] for path in trainer.paths)
            for power in (1, 2):
                gaps[power - 1] += domain_sums((single - cross) ** power, last_counts)
    counts, gaps = process.sum(counts), process.sum(gaps)
    variance = (gaps[1] - gaps[0] ** 2 / counts).clamp(min=0) / (counts - 1)
    error = torch.where(counts > 1, (variance / counts).sqrt(), torch.inf)
    return {path: process.sum(total) / counts for path, total in sums.items()}, error, counts
