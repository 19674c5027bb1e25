"""MMoE: shared experts, a gate and a tower per domain, a Recommender (src/interfaces.py).

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
KDD 2018: y_d = h_d(Σ_k g_d(x)_k · f_k(x)), g_d(x) = softmax(W_d x). Departures: x is the state of
SASRec's encoder at the target, not a vector of features; experts f_k and towers h_d are residual
feed-forward blocks; a target is of one task, its domain, so one gate and one tower are computed.

Beyond SASRec with D domains and K experts: K + D blocks of 2H² + 4H parameters, D · H · K of gates.
"""

from dataclasses import dataclass

from torch import Tensor

from src.baselines.multi_task import DomainGate, MultiTask, block_bytes, check_counts, mixed
from src.baselines.sasrec import SASRec
from src.config.cli import setting
from src.nn.initialization import own_stream
from src.nn.towers import Towers


@dataclass(frozen=True)
class MMoESettings:
    """MMoE's own settings; those of the encoder are shared with other models."""

    mmoe_experts: int = setting(4, "feed-forward experts of all domains", group="MMoE")

    @staticmethod
    def check(settings) -> None:
        """Refuse a number of experts out of bounds (UserError)."""
        check_counts(settings, "mmoe_experts")


class MMoE(MultiTask):
    """All experts read the state of a target; the gate of its domain mixes them."""

    Settings = MMoESettings

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        with own_stream(settings.seed, "mmoe"):
            self.experts = Towers(settings.mmoe_experts, settings.hidden, settings.dropout)
            self.gate = DomainGate(self.domains, settings.hidden, settings.mmoe_experts)

    def mixture(self, states: Tensor, counts: list[int]) -> Tensor:
        return mixed(self.gate(states, counts), self.experts.every(states))

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        blocks = block_bytes(settings, settings.mmoe_experts)
        return blocks + SASRec.activation_bytes(settings, tile)
