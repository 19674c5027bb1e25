"""The losses of a step's batches after the step, for the loss weightings that ask for them."""

import torch
from torch import Tensor
from torch.func import functional_call

from src.dataset.batching.batch import Batch
from src.training.epoch_statistics import loss_sums
from src.training.random_state import random_state, restore_state
from src.training.trainer import TrainerProtocol


def sums_after_step(
    trainer: TrainerProtocol, step_batches: list[Batch], random: dict[str, Tensor]
) -> list[dict[str, Tensor]]:
    """The `loss_sums` of each batch under the weights after the step, with the dropout masks of the
    step, which began in the random states `random`."""
    settings, process = trainer.settings, trainer.process
    # Nothing learns, but no torch.no_grad(): it would leave out slots, and move the dropout masks.
    values = {name: value.detach() for name, value in trainer.model.named_parameters()}
    current = random_state(process.device)
    restore_state(random, process.device)
    sums = []
    for batch in step_batches:
        with torch.autocast(
            process.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
        ):
            losses = functional_call(trainer.model, values, (batch,))
        sums.append(loss_sums(losses, batch))
    restore_state(current, process.device)
    return sums
