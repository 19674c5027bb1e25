"""Optimisers, learning-rate schedules and gradient clipping."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from src.config.settings import Settings, TrainingSettings


def _without_compiler(base: type) -> Any:
    """The same optimiser, whose methods don't load torch's compiler. They do so to keep it from
    tracing them, which nothing does here, and it takes as long to load as torch itself."""
    decorated = {name: getattr(base, name) for name in dir(base)}
    methods = {
        name: method.__wrapped__
        for name, method in decorated.items()
        if hasattr(method, "__wrapped__")
    }
    methods["step"] = torch.no_grad()(methods["step"])  # as its decorator has it
    return type(base.__name__, (base,), methods)


ADAMS = {
    "adam": _without_compiler(torch.optim.Adam),
    "adamw": _without_compiler(torch.optim.AdamW),
}
SparseAdam = _without_compiler(torch.optim.SparseAdam)


def make_optimizers(
    model: nn.Module, settings: Settings, item_table: nn.Parameter
) -> dict[str, torch.optim.Optimizer]:
    """{name in a checkpoint: optimiser}; with `sparse_items` the item table has a separate one."""
    dense = [p for p in model.parameters() if not (settings.sparse_items and p is item_table)]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "optimizer": ADAMS[settings.optimizer](
            dense, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
    }
    if settings.sparse_items:
        optimizers["item_optimizer"] = SparseAdam([item_table], lr=settings.lr)
    return optimizers


def make_schedulers(
    optimizers: dict[str, torch.optim.Optimizer], settings: Settings, steps_per_epoch: int
) -> dict[str, torch.optim.lr_scheduler.LRScheduler]:
    """{name in a checkpoint: schedule of --lr} for each optimiser."""
    return {
        name.replace("optimizer", "scheduler"): torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_share(step, settings, steps_per_epoch)
        )
        for name, optimizer in optimizers.items()
    }


def warmup_steps(settings: TrainingSettings, steps_per_epoch: int) -> int:
    """The steps of the warm-up, which --warmup_epochs scales to the steps of a model."""
    if settings.warmup_epochs:
        return round(settings.warmup_epochs * steps_per_epoch)
    return settings.warmup_steps


def lr_share(step: int, settings: Settings, steps_per_epoch: int) -> float:
    """The learning rate of step `step` (from 0) as a share of --lr."""
    warmup = min(1.0, (step + 1) / max(1, warmup_steps(settings, steps_per_epoch)))
    if settings.lr_schedule == "constant":
        return warmup
    return warmup * max(0.0, 1.0 - step / (settings.max_epochs * steps_per_epoch))


def gradient_values(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """All gradients, for norms and clipping; of a sparse one its values.

    A sparse gradient is coalesced in place, because a row drawn twice counts by its sum.
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
