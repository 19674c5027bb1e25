"""Optimisers, learning rate and the bound on gradients."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from src.config.settings import Settings


def make_optimizers(
    model: nn.Module, settings: Settings, item_table: nn.Parameter
) -> dict[str, torch.optim.Optimizer]:
    """The optimiser; with `sparse_items` another one for the rows of the item table.

    The keys are their names in a checkpoint.
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    dense = [p for p in model.parameters() if not (settings.sparse_items and p is item_table)]
    found = {
        "optimizer": kind(dense, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    }
    if settings.sparse_items:
        found["item_optimizer"] = torch.optim.SparseAdam([item_table], lr=settings.lr)
    return found


def make_schedulers(
    optimizers: dict[str, torch.optim.Optimizer], settings: Settings, steps_per_epoch: int
) -> dict[str, torch.optim.lr_scheduler.LRScheduler]:
    """The schedule of --lr for each optimiser, under the name of its own in a checkpoint."""
    return {
        name.replace("optimizer", "scheduler"): torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_share(step, settings, steps_per_epoch)
        )
        for name, optimizer in optimizers.items()
    }


def lr_share(step: int, settings: Settings, steps_per_epoch: int) -> float:
    """The share of --lr that step number `step` (from 0) is taken with."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.lr_schedule == "constant":
        return warm
    return warm * max(0.0, 1.0 - step / (settings.max_epochs * steps_per_epoch))


def gradient_values(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients that are there, the values of sparse ones: what norms and clipping look at.

    A sparse gradient is coalesced in place, for a row drawn twice counts by its sum.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    return values


def clip_gradients(values: list[Tensor], norm: Tensor, bound: float) -> None:
    """Scale all gradients in place so that their common norm is at most `bound`."""
    torch._foreach_mul_(values, (bound / (norm + 1e-6)).clamp(max=1.0))
