"""Towers: one residual feed-forward block per task, on the gated mixture of the experts."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.dropout import dropout
from src.nn.stacked import StackedLayerNorm, StackedLinear


class Towers(nn.Module):
    """h: a stack of residual feed-forward blocks, one per domain (SDSR) or one (CDSR)."""

    def __init__(self, stack: int, hidden: int, dropout_rate: float):
        super().__init__()
        self.dropout_rate = dropout_rate
        self.first = StackedLinear(stack, hidden, hidden)
        self.second = StackedLinear(stack, hidden, hidden)
        self.norm = StackedLayerNorm(stack, hidden)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """[N, H] -> [N, H], the first counts[0] rows through the first tower, and so on."""
        parts = [
            self._tower(part, *weights)
            for part, weights in zip(x.split(counts), self._weights(), strict=True)
            if part.shape[0]
        ]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else x

    def every(self, x: Tensor) -> list[Tensor]:
        """All rows [N, H] through each tower: one [N, H] per tower."""
        return [self._tower(x, *weights) for weights in self._weights()]

    def _weights(self) -> Iterator[tuple[Tensor, ...]]:
        """The weights of each tower, as `_tower` takes them."""
        blocks = (self.first, self.second, self.norm)
        stacked = [part for block in blocks for part in (block.weight, block.bias)]
        # one unbind per weight: the gradient of a slice would be as large as the whole stack
        return zip(*(part.unbind(0) for part in stacked), strict=True)

    def _tower(
        self, x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor,
        norm: Tensor, norm_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        fed = torch.addmm(second_bias, F.gelu(torch.addmm(first_bias, x, first)), second)
        total = x + dropout(fed, self.dropout_rate, self.training)
        return F.layer_norm(total, x.shape[-1:], norm[0], norm_bias[0])
