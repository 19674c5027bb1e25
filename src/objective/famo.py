"""FAMO: weights under which the logarithms of all losses fall equally fast.

Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023. The logits ξ
of the domains get one update per step, from the fall δ of the logarithms of the step's losses:

    z = softmax(ξ)          w_d ∝ z_d / L_d, of mean 1
    δ_d = log l_d − log l'_d          ξ ← ξ − Adam((∂z/∂ξ)ᵀ δ + γ·ξ)

l is the loss of a step's targets before the step and l' the loss of the same targets after it: a
second forward pass, as in the authors' code. Departures:

- L_d is a running mean of l_d over the steps before, where the paper has l_d itself: here the
  weights of a step are known before its losses.
- Both passes have the same dropout masks, so that δ contains no dropout noise.
- A domain without a target in a step keeps its logit, and z is a softmax over the others.

Adam's rate 0.025 and γ = 0.001 are the paper's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.config.cli import setting
from src.io.errors import UserError
from src.objective.weighting import Uniform, weighted_losses

DECAY = 0.9  # share of the running mean that a step keeps, as in inverse-loss weighting
MOMENTS = 0.9, 0.999  # Adam's usual decays
EPSILON = 1e-8  # added to losses and to Adam's denominator, as in the paper's code


@dataclass(frozen=True)
class FAMOSettings:
    """The weighting's own settings."""

    famo_lr: float = setting(0.025, "Adam's learning rate of the logits", group="FAMO")
    famo_decay: float = setting(0.001, "γ, which draws the logits to 0", group="FAMO")

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        for name in ("famo_lr", "famo_decay"):
            value = getattr(settings, name)
            if not 0 <= value <= 1:
                raise UserError(f"--{name} must lie in [0, 1], not {value}")


class FAMO(Uniform):
    """Domains whose loss falls more slowly weigh more, relative to 1 / loss."""

    Settings = FAMOSettings
    needs_losses = True
    needs_losses_after = True

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self.logits = torch.zeros_like(gap.state)  # ξ [D]
        self.first = torch.zeros_like(gap.state)  # Adam's moments [D]
        self.second = torch.zeros_like(gap.state)
        self.steps = torch.zeros_like(gap.state)  # steps in which the domain had a target [D]
        self.mean = torch.zeros_like(gap.state)  # L_d [D]; 0 until it is measured
        self.losses = torch.zeros_like(gap.state)  # l_d of the current step [D]

    def weights(self) -> Tensor:
        measured = self.mean > 0
        typical = torch.where(measured.any(), self.mean.sum() / measured.sum(), 1.0)
        weights = self.logits.softmax(0) / torch.where(measured, self.mean, typical)
        return weights / weights.mean()

    def update(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        self.losses = weighted_losses(losses)
        decay = DECAY * (self.mean > 0)  # 0 for the first loss
        mean = decay * self.mean + (1 - decay) * self.losses
        self.mean = torch.where(counts > 0, mean, self.mean)

    def update_after(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        trained = counts > 0
        fall = (self.losses + EPSILON).log() - (weighted_losses(losses) + EPSILON).log()
        fall = torch.where(trained, fall, 0.0)  # δ [D]
        share = torch.where(trained, self.logits, -torch.inf).softmax(0)  # z [D]
        gradient = share * (fall - share @ fall) + self.settings.famo_decay * self.logits
        steps = self.steps + 1
        first = MOMENTS[0] * self.first + (1 - MOMENTS[0]) * gradient
        second = MOMENTS[1] * self.second + (1 - MOMENTS[1]) * gradient.square()
        scale = (second / (1 - MOMENTS[1] ** steps)).sqrt() + EPSILON
        step = self.settings.famo_lr * first / (1 - MOMENTS[0] ** steps) / scale
        self.logits = torch.where(trained, self.logits - step, self.logits)
        self.first = torch.where(trained, first, self.first)
        self.second = torch.where(trained, second, self.second)
        self.steps = torch.where(trained, steps, self.steps)

    def state_dict(self) -> dict[str, Tensor]:
        names = ("logits", "first", "second", "steps", "mean")
        return {name: getattr(self, name) for name in names}
