"""Uniform loss weighting, the base class of the others."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from src.config.modes import PATHS
from src.config.names import GAPS, WEIGHTINGS, load


class Uniform:
    """Every domain has weight 1: the plain mean over targets (`--weighting uniform`).

    settings: of the run. gap: its NegativeTransferGap (src/objective/lc_ntg.py), whose state [D]
    has the device and dtype of the run.
    """

    needs_both_views: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    needs_losses_after: ClassVar[bool] = False
    held_out: ClassVar[float] = 0.0
    on_validation: ClassVar[bool] = False
    coalition_targets: ClassVar[int] = 0
    per_domain_gradients: ClassVar[bool] = False

    def __init__(self, settings, gap):
        self.settings, self.gap = settings, gap

    def weights(self) -> Tensor:
        return torch.ones_like(self.gap.state)

    def update(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        """Does nothing: the weights are constant."""

    def update_after(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        """Does nothing."""

    def end_epoch(self) -> None:
        """Does nothing."""

    def update_held_out(self, losses: dict[str, Tensor], error: Tensor, counts: Tensor) -> None:
        """Does nothing."""

    def update_coalitions(self, losses: Tensor) -> None:
        """Does nothing."""

    def combine(self, gradients: Tensor) -> Tensor:
        """The sum of the domains' gradients: [D, P] -> [P]."""
        return gradients.sum(0)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own = self.state_dict()
        if strangers := state.keys() - own.keys():
            raise ValueError(f"weighting has no {', '.join(sorted(strangers))}")
        for name, values in own.items():
            values.copy_(state[name])


def weighting_class(settings) -> Any:
    """The class of a run's LossWeighting; uniform if it needs two views and the run has one, or if
    no path of the run is weighted."""
    weighting = load(WEIGHTINGS[settings.weighting])
    if settings.weighting == "lc_ntg":
        weighting = load(GAPS[settings.gap])
    weighted = any(PATHS[path].weighted for path in settings.paths)
    if not weighted or (weighting.needs_both_views and len(settings.paths) < 2):
        return Uniform
    return weighting


def weighted_losses(losses: dict[str, Tensor]) -> Tensor:
    """Of the losses of each path, {path: [D]}, those that the weights apply to."""
    return next(values for path, values in losses.items() if PATHS[path].weighted)
