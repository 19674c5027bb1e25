"""PLE: layers of shared experts and experts of each domain, a Recommender (src/interfaces.py).

Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020. In layer j the gate of task d
mixes the task's own experts, which read g_{d,j−1}, and the shared experts, which read g_{s,j−1}:

    g_{d,j} = softmax(W_{d,j} g_{d,j−1}) · [own experts of d, shared experts]

with g_{d,0} = g_{s,0} = x; the last g_d goes into the tower of d. `--ple_layers 1` is the paper's
customized gate control (CGC). Departures: x is the state of SASRec's encoder at the target;
experts and towers are residual feed-forward blocks; and what follows.

A target is of one task, its domain d, so of all own experts those of d alone are computed, in every
layer: own + shared experts per target and layer, however many domains there are. In the paper the
shared gate of a layer mixes the experts of all tasks, D times the work; here g_s of a target mixes
the experts of the target's domain and the shared ones, by one map W_s for all domains. No domain
reads or trains another domain's experts in any layer.

Beyond SASRec with D domains, m own and s shared experts, per layer: D · m + s blocks of 2H² + 4H
parameters, D · H · (m + s) of gates, and H · (m + s) of the shared gate, which the last layer
lacks; then D towers of 2H² + 4H.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from src.baselines.multi_task import DomainGate, MultiTask, block_bytes, check_counts, mixed
from src.baselines.sasrec import SASRec
from src.config.cli import setting
from src.nn.initialization import own_stream
from src.nn.towers import Towers


@dataclass(frozen=True)
class PLESettings:
    """PLE's own settings; those of the encoder are shared with other models."""

    ple_shared: int = setting(1, "experts of a layer that all domains share", group="PLE")
    ple_own: int = setting(1, "experts of a layer that each domain has for itself", group="PLE")
    ple_layers: int = setting(2, "extraction layers; 1: customized gate control", group="PLE")

    @staticmethod
    def check(settings) -> None:
        """Refuse numbers of experts or layers out of bounds (UserError)."""
        check_counts(settings, "ple_shared", "ple_own", "ple_layers")


class ExtractionLayer(nn.Module):
    """The experts and gates of one layer; the last layer has no shared gate."""

    def __init__(self, settings, domains: int, last: bool):
        super().__init__()
        hidden, rate = settings.hidden, settings.dropout
        experts = settings.ple_own + settings.ple_shared
        self.own = nn.ModuleList(Towers(domains, hidden, rate) for _ in range(settings.ple_own))
        self.shared = Towers(settings.ple_shared, hidden, rate)
        self.gate = DomainGate(domains, hidden, experts)
        self.shared_gate = None if last else DomainGate(1, hidden, experts)

    def forward(self, task: Tensor, shared: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
        """g_d and g_s of every target, each [n, H], from those of the layer before; the first
        counts[0] targets are of the first domain, and so on."""
        experts = [experts(task, counts) for experts in self.own] + self.shared.every(shared)
        if self.shared_gate is not None:
            shared = mixed(self.shared_gate(shared, [shared.shape[0]]), experts)
        return mixed(self.gate(task, counts), experts), shared


class PLE(MultiTask):
    """Extraction layers between encoder and towers."""

    Settings = PLESettings

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        layers = range(1, settings.ple_layers + 1)
        with own_stream(settings.seed, "ple"):
            self.layers = nn.ModuleList(
                ExtractionLayer(settings, self.domains, layer == layers[-1]) for layer in layers
            )

    def mixture(self, states: Tensor, counts: list[int]) -> Tensor:
        task = shared = states
        for layer in self.layers:
            task, shared = layer(task, shared, counts)
        return task

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        blocks = settings.ple_layers * (settings.ple_own + settings.ple_shared)
        return block_bytes(settings, blocks) + SASRec.activation_bytes(settings, tile)
