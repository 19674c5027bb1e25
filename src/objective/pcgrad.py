"""PCGrad: the domains' gradients without their conflicting components.

Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020. Where the gradients of two
domains point against each other, each loses its projection onto the other. One departure: the
domains are visited in an order drawn from the seed and the number of the step, not from the random
state of a process, so that every process takes the same step and a resumed run is repeatable.
"""

import torch
from torch import Tensor

from src.objective.weighting import Uniform


class PCGrad(Uniform):
    """Uniform weights, conflicting gradients projected."""

    needs_losses = True
    per_domain_gradients = True

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self.steps = torch.zeros_like(gap.state)  # steps in which the domain had a target [D]

    def combine(self, gradients: Tensor) -> Tensor:
        """[D, P] -> [P]. A projected gradient is a linear combination of the D gradients: a row of
        coefficients in `kept`; its inner products follow from G = g gᵀ."""
        products = gradients @ gradients.T  # G [D, D]
        kept = torch.eye(len(gradients), dtype=gradients.dtype, device=gradients.device)
        generator = torch.Generator().manual_seed(self.settings.seed + int(self.steps.sum()))
        for domain in range(len(gradients)):
            for other in torch.randperm(len(gradients), generator=generator).tolist():
                if other == domain:
                    continue
                product = kept[domain] @ products[:, other]  # ⟨g'_d, g_o⟩
                square = products[other, other]
                share = torch.where((product < 0) & (square > 0), product / square, 0.0)
                kept[domain, other] -= share  # g'_d ← g'_d − ⟨g'_d, g_o⟩ / ‖g_o‖² · g_o
        return kept.sum(0) @ gradients

    def update(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        self.steps = self.steps + (counts > 0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps": self.steps}
