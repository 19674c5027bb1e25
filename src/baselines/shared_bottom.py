"""Shared bottom: one encoder of all domains, a tower per domain, a Recommender (src/interfaces.py).

Caruana, "Multitask Learning", Machine Learning 28, 1997. Departures: the shared hidden layers are
SASRec's encoder over the user's events of all domains; a target trains the tower of its domain
alone; a tower is a residual feed-forward block, and its scores are products with the item table.

Beyond SASRec with D domains: D towers, D · (2H² + 4H) parameters.
"""

from torch import Tensor

from src.baselines.multi_task import MultiTask


class SharedBottom(MultiTask):
    """Nothing between encoder and towers."""

    def mixture(self, states: Tensor, counts: list[int]) -> Tensor:
        return states
