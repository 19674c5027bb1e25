"""Shapley weights (CGRec): domains whose own events help to predict their targets weigh more.

Park et al., "Cracking the Code of Negative Transfer: A Cooperative Game Theoretic Approach for
Cross-Domain Sequential Recommendation", CIKM 2023. The domains are the players. With l_d(S) the
mean loss of domain d's targets whose contexts keep only the events of the domains in S, the value
of S in the game of d is −l_d(S), and d's own contribution is its Shapley value in that game:

    c_d = Σ_S |S|! (D − |S| − 1)! / D! · (l_d(S) − l_d(S ∪ {d})), over the S without d
    w_d = D · softmax(c_d / l_d(∅) / τ)

and 1 in the first epoch. Departures:

- c_d is a share of l_d(∅), the loss without any context: the paper's τ of .05 was chosen for the
  binary cross-entropy of one negative, and a softmax over all items has losses many times that.
- The losses are measured after each epoch on a sample of the training targets, where the paper has
  2^D − 2 more passes in every step, and without a learned mixture with the values before.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from src.config.cli import setting
from src.io.errors import UserError
from src.objective.weighting import Uniform


@dataclass(frozen=True)
class ShapleySettings:
    """The weighting's own settings."""

    shapley_tau: float = setting(
        0.05, "τ of the softmax: the larger, the more equal the weights", group="Shapley"
    )

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        if not 0.001 <= settings.shapley_tau <= 1000:
            raise UserError(f"--shapley_tau must lie in [0.001, 1000], not {settings.shapley_tau}")


class Shapley(Uniform):
    """Weights by each domain's own contribution, constant within an epoch. A domain without a
    target keeps its contribution, at first 0."""

    Settings = ShapleySettings
    coalition_targets: ClassVar[int] = 256

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self.contribution = torch.zeros_like(gap.state)  # c_d / l_d(∅) [D]

    def weights(self) -> Tensor:
        share = (self.contribution / self.settings.shapley_tau).softmax(0)
        return len(share) * share

    def update_coalitions(self, losses: Tensor) -> None:
        contribution = own_contributions(losses) / losses[0]
        self.contribution = torch.where(contribution.isfinite(), contribution, self.contribution)

    def state_dict(self) -> dict[str, Tensor]:
        return {"contribution": self.contribution}


def own_contributions(losses: Tensor) -> Tensor:
    """c_d [D] from the losses [2^D, D] of every coalition, in row s of the domains whose bit is set
    in s: by how much d's own events lower d's loss, on average over the orders in which the
    domains' events may be added."""
    domains, own = losses.shape[1], torch.zeros_like(losses[0])
    for coalition in range(len(losses)):
        for domain in range(domains):
            if not coalition >> domain & 1:
                orders = domains * math.comb(domains - 1, coalition.bit_count())
                joined = coalition | 1 << domain
                own[domain] += (losses[coalition, domain] - losses[joined, domain]) / orders
    return own
