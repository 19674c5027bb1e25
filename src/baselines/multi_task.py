"""What multi-task baselines share: SASRec's encoder over all domains, and a tower per domain.

The task of a target is its domain, so a target needs the state of one task alone. What differs, how
the tasks share experts between encoder and towers, is a subclass's `mixture`. Experts and towers
are residual feed-forward blocks of width H (src/nn/towers.py), 2H² + 4H parameters each.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from src.baselines.sasrec import SASRec
from src.io.errors import UserError
from src.nn.initialization import own_stream
from src.nn.towers import Towers

# Numbers that a target keeps of a block until the backward pass, in units of H: before and after
# GELU, the dropout mask, the sum before the norm, the output
BLOCK = 5
ALLOWED = 2  # blocks that the encoder's estimate already allows for: a tower and a mixture
PER_DOMAIN = {"towers", "own", "gate"}  # parts whose weights have one row per domain


class MultiTask(SASRec):
    """SASRec, whose state at a target goes through the experts and the tower of its domain."""

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        with own_stream(settings.seed, "towers"):
            self.towers = Towers(self.domains, settings.hidden, settings.dropout)

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        states = super().outputs(batch, path, last)  # [n, H]
        counts = batch.last_counts if last else batch.counts
        return self.towers(self.mixture(states, counts), counts)

    def mixture(self, states: Tensor, counts: list[int]) -> Tensor:
        """What the towers read [n, H], from the encoder's states at targets [n, H], the first
        counts[0] of which are of the first domain, and so on."""
        raise NotImplementedError

    def reads_domain(self, path: str) -> bool:
        """The tower is that of the domain that is asked for."""
        return True

    def rows_of(self, name: str) -> str:
        return "domains" if PER_DOMAIN & set(name.split(".")) else super().rows_of(name)


class DomainGate(nn.Module):
    """A softmax gate per domain: weights of K experts from one linear map of the row."""

    def __init__(self, domains: int, hidden: int, experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(domains, hidden, experts) * 0.02)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """[n, H], the first counts[0] rows by the first gate, and so on -> [n, K], sums of 1."""
        parts = zip(x.split(counts), self.weight.unbind(0), strict=True)
        logits = torch.cat([part @ weight for part, weight in parts])
        return logits.to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)


def mixed(weights: Tensor, experts: Iterable[Tensor]) -> Tensor:
    """Σ_k weights_k · expert_k: [n, K], K of [n, H] -> [n, H]."""
    total = weights.new_zeros(())
    for weight, expert in zip(weights.split(1, 1), experts, strict=True):
        total = total + weight * expert
    return total


def check_counts(settings, *names: str) -> None:
    """Refuse numbers of experts or layers out of bounds (UserError)."""
    for name in names:
        if not 1 <= getattr(settings, name) <= 64:
            raise UserError(f"--{name} must be between 1 and 64, not {getattr(settings, name)}")


def block_bytes(settings, blocks: int) -> float:
    """Bytes that a target holds of the experts' blocks when the backward pass begins, beyond those
    that SASRec's estimate allows for."""
    byte = 8 if settings.precision == "float64" else 4
    return byte * BLOCK * settings.hidden * max(0, blocks - ALLOWED)
