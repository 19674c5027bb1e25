"""Losses of targets whose contexts keep the events of some domains alone, for Shapley values."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from src.config.modes import PATHS
from src.dataset.batching.batch import Batch
from src.dataset.batching.loader import Loader
from src.dataset.batching.negatives import event_draws
from src.dataset.batching.windows import Windows, newest_events
from src.objective.step_losses import domain_sums, target_losses
from src.training.trainer import TrainerProtocol

MOST_DOMAINS = 5  # the passes double with each domain


def coalition_losses(trainer: TrainerProtocol, per_domain: int) -> Tensor:
    """The mean losses in nats [2^D, D] of a sample of each domain's training targets, on the path
    that is weighted: in row s the contexts have only the events of the domains d with bit d of s.
    NaN for a domain without a target.

    Up to `per_domain` targets of each domain, drawn by a hash of seed, epoch and event, and shared
    by the processes. No dropout, no gradient, no draw from torch's generators.
    """
    loader, process, settings = trainer.loader, trainer.process, trainer.settings
    domains, epoch = len(trainer.dataset.domain_names), trainer.progress.epoch
    path = next(path for path in trainer.paths if PATHS[path].weighted)
    targets = _sample(loader, domains, epoch, per_domain)[process.rank :: process.processes]
    sums = torch.zeros(2**domains, 2, domains, dtype=torch.float64, device=process.device)
    trainer.model.eval()
    for start in range(0, len(targets), settings.batch_size):
        part = targets[start : start + settings.batch_size]
        users = np.searchsorted(loader.training.offsets, part, side="right") - 1
        windows = newest_events(loader.training, users, part + 1, loader.max_len)
        domain = loader.training.domains[windows.events].astype(np.int64)
        for coalition in range(2**domains):
            kept = (coalition >> domain) % 2 > 0
            kept |= windows.events == part[windows.rows]  # the target, after its context
            batch = loader.pack(Windows(users, windows.events[kept], windows.rows[kept]), epoch)
            bf16 = settings.precision == "bf16"
            with torch.no_grad(), torch.autocast(process.device.type, torch.bfloat16, bf16):
                losses, counts = _last_losses(trainer, batch, path)
            sums[coalition] += torch.stack([domain_sums(losses, counts), counts])
    total, count = process.sum(sums).unbind(1)
    return (total / count).to(trainer.dtype)


def _last_losses(trainer: TrainerProtocol, batch: Batch, path: str) -> tuple[Tensor, Tensor]:
    """The step loss [B] of the last target of each user, who are in the order of the domains of
    these targets, and their number in each domain [D]."""
    model, last = trainer.model, batch.last_targets
    counts = torch.tensor(batch.last_counts, device=last.device)
    targets = dataclasses.replace(
        batch, targets=batch.targets[last], negatives=batch.negatives[last],
        counts=batch.last_counts, domain_counts=counts,
    )  # fmt: skip
    hidden = model.queries(batch, path)  # [B, H]
    table, starts = model.item_table, model.item_starts
    return target_losses(trainer.settings, targets, hidden, table, starts)[1].double(), counts


def _sample(loader: Loader, domains: int, epoch: int, per_domain: int) -> np.ndarray:
    """Of the targets of the epoch, up to `per_domain` of each domain, by domain."""
    ends = loader.ends[loader.users]
    events = newest_events(loader.training, loader.users, ends, loader.max_len).events
    events = events[np.argsort(event_draws(events, loader.seed, epoch))]
    domain = loader.training.domains[events]
    return np.concatenate([events[domain == number][:per_domain] for number in range(domains)])
