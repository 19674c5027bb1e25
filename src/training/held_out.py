"""Losses on held-out events, for the loss weightings that ask for them."""

import torch
from torch import Tensor

from src.dataset.batching.packing import build_batch
from src.dataset.batching.windows import context_windows
from src.evaluation.targets import Targets
from src.objective.step_losses import domain_sums
from src.training.trainer import TrainerProtocol


@torch.no_grad()
def held_out_losses(trainer: TrainerProtocol, targets: Targets) -> tuple[dict[str, Tensor], Tensor]:
    """The mean step loss of each domain's held-out targets on every path {path: [D]} in nats, NaN
    for a domain without one, and the number of targets [D].

    Each target is the last event of a window that ends with it; each process takes its share.
    """
    settings, dataset, process = trainer.settings, trainer.dataset, trainer.process
    trainer.model.eval()
    domains = len(dataset.domain_names)
    counts = torch.zeros(domains, device=process.device, dtype=trainer.dtype)
    sums = {path: torch.zeros_like(counts) for path in trainer.paths}
    users = targets.users[process.rank :: process.processes]
    ends = targets.events[process.rank :: process.processes] + 1
    for start in range(0, len(users), settings.batch_size):
        part = slice(start, start + settings.batch_size)
        windows = context_windows(
            dataset, users[part], ends[part], settings.max_len, settings.sdsr_context
        )
        # negatives as in the first epoch, so that the losses of two epochs can be compared
        batch = build_batch(dataset, windows, settings.seed, 0).to(process.device)
        last_counts = torch.tensor(batch.last_counts, device=process.device)
        counts += last_counts
        for path, losses in trainer.model(batch).by_path.items():
            sums[path] += domain_sums(losses[batch.last_targets], last_counts)
    counts = process.sum(counts)
    return {path: process.sum(total) / counts for path, total in sums.items()}, counts
