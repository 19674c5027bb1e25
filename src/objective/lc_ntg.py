"""LC-NTG: loss correction with the negative-transfer gap.

Each step measures the gap φ_d of each domain: how much lower its loss is in the cross view than in
the single view. A running state s_d of the gap determines the weights of the domains in the
cross-domain loss:

    s_d ← α·s_d + β·φ_d          γ = softmax(s / τ)          w_d = f + (1 − f)·D·γ_d
"""

import torch
from torch import Tensor

from src.objective.weighting import Uniform


def lc_ntg_update(state: Tensor, gap: Tensor, counts: Tensor, alpha: float, beta: float) -> Tensor:
    """s_d ← α·s_d + β·φ_d, each [D]. A domain without a target in the step keeps its state."""
    return torch.where(counts > 0, alpha * state + beta * gap, state)


def lc_ntg_gamma(state: Tensor, temperature: float) -> Tensor:
    """γ = softmax(s / τ) [D]."""
    return (state / temperature).softmax(0)


def lc_ntg_weights(gamma: Tensor, floor: float) -> Tensor:
    """w_d = f + (1 − f)·D·γ_d [D]; uniform γ gives w = 1."""
    return floor + (1.0 - floor) * len(gamma) * gamma


class NegativeTransferGap:
    """s and γ of a run, measured in every run with two views, whatever its loss weighting.

    `settings` supply α, β, τ and the floor. The state [D] starts at 1 / D.
    """

    def __init__(self, settings, domains: int, device: torch.device, dtype: torch.dtype):
        self.alpha, self.temperature = settings.lc_ntg_alpha, settings.lc_ntg_tau
        self.beta = settings.lc_ntg_beta
        if self.beta is None:
            self.beta = 1.0 - self.alpha
        self.floor = settings.lc_ntg_floor
        self.state = torch.full((domains,), 1.0 / domains).to(device, dtype)

    @property
    def gamma(self) -> Tensor:
        """γ [D] of the state."""
        return lc_ntg_gamma(self.state, self.temperature)

    def update(self, gap: Tensor, counts: Tensor) -> None:
        """Update s with a step's φ [D], the mean of l_single − l_cross, and its targets [D]."""
        self.state = lc_ntg_update(self.state, gap, counts, self.alpha, self.beta)


class LCNTG(Uniform):
    """The paper's weighting: the larger a domain's negative transfer, the smaller its w_d."""

    needs_both_views = True

    def weights(self) -> Tensor:
        return lc_ntg_weights(self.gap.gamma, self.gap.floor)
