"""One gradient per domain, for the loss weightings that combine them (PCGrad and others)."""

import torch
from torch import Tensor, nn

from src.config.modes import PATHS
from src.dataset.batching.batch import Batch
from src.interfaces import StepLosses
from src.training.random_state import random_state, restore_state
from src.training.trainer import TrainerProtocol


def combined_gradients(
    trainer: TrainerProtocol, step_batches: list[Batch], coefficients: dict[str, Tensor]
) -> list[StepLosses]:
    """Set the gradients to the weighting's combination of the domains' gradients, plus the gradient
    of all terms that are not weighted; returns the losses of each batch.

    One pass per domain over its share of the weighted losses, one over everything else. All passes
    use the same dropout masks.
    """
    random, device = random_state(trainer.process.device), trainer.process.device
    parameters, by_domain = list(trainer.model.parameters()), []
    for domain in range(len(trainer.dataset.domain_names)):
        restore_state(random, device)
        part = {
            path: values * (torch.arange(len(values), device=device) == domain)
            for path, values in _of_paths(coefficients, weighted=True).items()
        }
        trainer.backward(step_batches, part, auxiliary=False)
        by_domain.append(torch.cat([_gradient(parameter).flatten() for parameter in parameters]))
    combined = trainer.weighting.combine(torch.stack(by_domain))  # [D, P] -> [P]
    restore_state(random, device)
    losses = trainer.backward(step_batches, _of_paths(coefficients, weighted=False))
    parts = combined.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = _gradient(parameter) + part.view_as(parameter)
    return losses


def _of_paths(coefficients: dict[str, Tensor], weighted: bool) -> dict[str, Tensor]:
    """The coefficients of the weighted paths, or of the others; 0 for the rest."""
    return {
        path: values if PATHS[path].weighted == weighted else torch.zeros_like(values)
        for path, values in coefficients.items()
    }


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
