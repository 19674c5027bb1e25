"""Random loss weighting: w = D · softmax(z), with z drawn from a normal distribution in each step.

Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for
Multi-Task Learning", TMLR 2022. It measures nothing, so a weighting that is no better has gained
nothing by what it measures. Two departures: z is a function of the seed and the number of the step,
not of the random state of a process, so that every process takes the same step and a resumed run is
repeatable; and the weights sum to D instead of 1, as those of the other weightings.
"""

import numpy as np
import torch
from torch import Tensor

from src.objective.weighting import Uniform

STREAM = 3  # separates the draws from those of other parts with the same seed


class RandomWeights(Uniform):
    """Weights that are drawn anew in each step."""

    needs_losses = True  # `update` counts the steps

    def __init__(self, settings, gap):
        super().__init__(settings, gap)
        self._draw(0)

    def _draw(self, step: int) -> None:
        """Draw the weights of a step, once however often they are asked for."""
        rng = np.random.default_rng([self.settings.seed, step, STREAM])
        draws = torch.from_numpy(rng.standard_normal(len(self.gap.state)))  # z [D]
        self.step, self.drawn = step, len(draws) * draws.softmax(0).to(self.gap.state)

    def weights(self) -> Tensor:
        return self.drawn

    def update(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        self._draw(self.step + 1)

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps": torch.full_like(self.gap.state, self.step, dtype=torch.int64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._draw(int(state["steps"].max()))  # the row of a domain that is new is 0
