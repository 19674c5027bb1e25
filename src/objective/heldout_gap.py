"""LC-NTG with a gap on held-out events: a rule that can't run away (`--gap heldout|validation`).

A gap on targets that are being fitted rewards the domain that is fitted more closely, and the
reward makes it be fitted more closely still. Here the gap is measured on events that are not
training targets: over an epoch's steps on events that serve as inputs only, or after each epoch on
the validation targets whose items have training events, among all items of their domain and
without dropout. Only negative transfer beyond its standard error e_d counts, relative to the
domain's own loss, and only where the cross view has stopped improving: one that still learns may
yet overtake the single view. All domains that gain weigh the same, however much they gain, and no
weight is more than `BOUND` times another:

    g_d = min(φ_d + e_d, 0) / l_single,d, or 0 where l_cross,d fell by more than e_d since
                                              the epoch before
    s_d ← ½ (s_d + g_d)          w_d ∝ exp(max(s_d / τ, −log BOUND)), of mean 1
"""

import math

import torch
from torch import Tensor

from src.config.modes import CROSS, SINGLE
from src.objective.weighting import Uniform

BOUND = 4.0  # the largest weight, over the smallest
TEMPERATURE = 0.1  # τ, of a gap in shares of the loss


def certain_loss(single: Tensor, cross: Tensor, error: Tensor) -> Tensor:
    """g_d [D] from the mean losses of both views and the standard error of their difference; 0 for
    a domain that has no target, or whose cross view may be as good."""
    gap = (single - cross + error).clamp(max=0) / single
    return torch.where(gap.isfinite(), gap, 0.0)


def bounded_weights(state: Tensor) -> Tensor:
    """w_d [D] from the states: mean 1, and at most `BOUND` times another."""
    weights = (state / TEMPERATURE).clamp(min=-math.log(BOUND)).exp()
    return weights / weights.mean()


class HeldOutGap(Uniform):
    """The larger a domain's negative transfer on held-out events, the smaller its weight."""

    needs_both_views = True
    held_out = 0.05

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self.relative = torch.zeros_like(gap.state)  # s_d [D]
        self.last = torch.full_like(gap.state, torch.inf)  # l_cross,d of the epoch before [D]

    def weights(self) -> Tensor:
        return bounded_weights(self.relative)

    def update_held_out(self, losses: dict[str, Tensor], error: Tensor, counts: Tensor) -> None:
        cross = losses[CROSS]
        gap = certain_loss(losses[SINGLE], cross, error)
        gap = torch.where(self.last - cross > error, 0.0, gap)  # still improving
        self.relative = torch.where(counts > 0, 0.5 * (self.relative + gap), self.relative)
        self.last = torch.where(counts > 0, cross, self.last)

    def state_dict(self) -> dict[str, Tensor]:
        return {"relative_gap": self.relative, "cross_loss": self.last}


class ValidationGap(HeldOutGap):
    """The same on the validation targets: every training event is a target."""

    held_out = 0.0
    on_validation = True

    def state_dict(self) -> dict[str, Tensor]:  # other names, because they are other measures
        return {f"validation_{name}": values for name, values in super().state_dict().items()}
