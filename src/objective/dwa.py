"""Dynamic weight average: domains whose loss falls more slowly weigh more.

Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019. With L_d(e) the
mean loss of a domain in epoch e, the weights in epoch e are

    r_d = L_d(e − 1) / L_d(e − 2)          w_d = D · softmax(r / T)

and 1 in the first two epochs. One departure: L_d is the mean over the targets of the domain, not
over the steps, so that a step with few of them counts for little.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.config.cli import setting
from src.io.errors import UserError
from src.objective.weighting import Uniform, weighted_losses


@dataclass(frozen=True)
class DWASettings:
    """The weighting's own settings."""

    dwa_temperature: float = setting(
        2.0, "T of the softmax: the larger, the more equal the weights", group="dynamic average"
    )

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        if not 0.001 <= settings.dwa_temperature <= 1000:
            raise UserError(
                f"--dwa_temperature must lie in [0.001, 1000], not {settings.dwa_temperature}"
            )


class DynamicWeightAverage(Uniform):
    """Weights by the ratio of the last two epochs' losses, constant within an epoch.

    A domain without a target in an epoch keeps its ratio; one that has no ratio yet counts as one
    whose loss stays the same.
    """

    Settings = DWASettings
    needs_losses = True

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self.sums = torch.zeros_like(gap.state)  # Σ of the losses in this epoch [D]
        self.counts = torch.zeros_like(gap.state)  # and their number [D]
        self.last = torch.zeros_like(gap.state)  # L_d(e − 1) [D]; 0 until it is measured
        self.before = torch.zeros_like(gap.state)  # L_d(e − 2) [D]

    def weights(self) -> Tensor:
        ratio = torch.where(self.before > 0, self.last / self.before, 1.0)
        return len(ratio) * (ratio / self.settings.dwa_temperature).softmax(0)

    def update(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        self.sums = self.sums + torch.where(counts > 0, weighted_losses(losses) * counts, 0.0)
        self.counts = self.counts + counts

    def end_epoch(self) -> None:
        measured = self.counts > 0
        self.before = torch.where(measured, self.last, self.before)
        self.last = torch.where(measured, self.sums / self.counts, self.last)
        self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("sums", "counts", "last", "before")}
