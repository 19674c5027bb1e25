"""LC-NTG with a gap on held-out events: a rule that can't run away (`--gap heldout`).

A gap on targets that are being fitted rewards the domain that is fitted more closely, and the
reward makes it be fitted more closely still. Here the gap is measured once per epoch on events that
are inputs, but no targets of the training; within its standard error it counts as none; it is
relative to the domain's own loss; and no weight is more than `BOUND` times another:

    g_d = sign(φ_d) · max(|φ_d| − e_d, 0) / l_single,d       s_d ← ½ (s_d + g_d)
    w_d ∝ exp(clip(s_d / τ, ± ½ log BOUND)), of mean 1
"""

import math

import torch
from torch import Tensor

from src.config.modes import CROSS, SINGLE
from src.objective.weighting import Uniform

BOUND = 4.0  # the largest weight, over the smallest
TEMPERATURE = 0.1  # of a gap in shares of the loss


def relative_gap(single: Tensor, cross: Tensor, error: Tensor) -> Tensor:
    """g_d [D] from the mean losses of both views and the standard error of their difference; 0 for
    a domain without a target."""
    gap = single - cross
    certain = torch.sign(gap) * (gap.abs() - error).clamp(min=0) / single
    return torch.where(certain.isfinite(), certain, 0.0)


def bounded_weights(state: Tensor) -> Tensor:
    """w_d [D] from the states: mean 1, and at most `BOUND` times another."""
    most = math.log(BOUND) / 2
    weights = (state / TEMPERATURE).clamp(-most, most).exp()
    return weights / weights.mean()


class HeldOutGap(Uniform):
    """The larger a domain's negative transfer on held-out events, the smaller its weight."""

    needs_both_views = True
    needs_held_out = True
    held_out = 0.05

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self.relative = torch.zeros_like(gap.state)  # s_d [D]

    def weights(self) -> Tensor:
        return bounded_weights(self.relative)

    def update_held_out(self, losses: dict[str, Tensor], error: Tensor, counts: Tensor) -> None:
        gap = relative_gap(losses[SINGLE], losses[CROSS], error)
        self.relative = torch.where(counts > 0, 0.5 * (self.relative + gap), self.relative)

    def state_dict(self) -> dict[str, Tensor]:
        return {"relative_gap": self.relative}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.relative.copy_(state["relative_gap"])
