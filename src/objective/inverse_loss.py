"""Inverse-loss weighting: w_d ∝ 1 / L_d, with L_d a running mean of the domain's loss.

The closed form of uncertainty weighting (Kendall, Gal and Cipolla, CVPR 2018): the objective
Σ_d L_d / σ_d² + log σ_d² is least where σ_d² = L_d.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.config.cli import setting
from src.io.errors import UserError
from src.objective.weighting import Uniform, weighted_losses


@dataclass(frozen=True)
class InverseLossSettings:
    """The weighting's own settings."""

    inverse_loss_decay: float = setting(
        0.9, "share of the running mean that a step keeps", group="inverse loss"
    )
    inverse_loss_power: float = setting(1.0, "w ∝ 1 / L to this power", group="inverse loss")

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        if not 0 <= settings.inverse_loss_decay < 1:
            raise UserError(
                f"--inverse_loss_decay must lie in [0, 1), not {settings.inverse_loss_decay}"
            )
        if not 0 <= settings.inverse_loss_power <= 10:
            raise UserError(
                f"--inverse_loss_power must lie in [0, 10], not {settings.inverse_loss_power}"
            )


class InverseLoss(Uniform):
    """Domains with a larger loss weigh less; weights are uniform before the first step."""

    Settings = InverseLossSettings
    needs_losses = True

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self.mean = torch.ones_like(gap.state)  # L_d [D]
        self.measured = torch.zeros_like(gap.state)  # 1 once L_d has been measured [D]

    def weights(self) -> Tensor:
        known = (self.measured > 0) & (self.mean > 0)  # a domain of one item has no loss
        # the mean of the known L_d stands in for the others; 1 if none is known
        typical = torch.where(known.any(), (self.mean * known).sum() / known.sum(), 1.0)
        inverse = torch.where(known, self.mean, typical).pow(-self.settings.inverse_loss_power)
        return inverse / inverse.mean()

    def update(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        loss = weighted_losses(losses)
        decay = self.settings.inverse_loss_decay * self.measured  # 0 for the first loss
        self.mean = torch.where(counts > 0, decay * self.mean + (1 - decay) * loss, self.mean)
        self.measured = torch.where(counts > 0, 1.0, self.measured)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "measured": self.measured}
