"""Gates: how much each expert weighs in the mixture, on packed tokens.

The sequences of a view stand one after the other in M slots (src/dataset/batching/packing.py).
`which` [M] is the gate of each slot: SDSR has one gate per domain, CDSR a single one.

Rows that several slots share are looked up by F.embedding: on several CPU threads the gradient of
`table[rows]` is summed in an order that changes from run to run.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenGate(nn.Module):
    """g: weights of the K experts at position t from the input at t alone: nothing leaks."""

    def __init__(self, gates: int, hidden: int, experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(gates, hidden, experts) * 0.02)

    def forward(self, x: Tensor, view, which: Tensor) -> Tensor:
        """Inputs [M, H] and the gate of each slot [M] -> weights [M, K] that sum to 1."""
        gates, hidden, experts = self.weight.shape
        logits = x @ self.weight.transpose(0, 1).reshape(hidden, gates * experts)  # [M, G·K]
        index = which[:, None, None].expand(-1, 1, experts)
        logits = logits.view(-1, gates, experts).gather(1, index)[:, 0]  # [M, K]
        return logits.to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)


class SequenceGate(nn.Module):
    """The paper's gate: one weight vector per sequence, computed from its whole flattened input.

    It sees the inputs of later positions, which are the targets of earlier ones: a leak in
    training, kept for comparison. A map of the flattened input is a sum of one map per position.
    """

    def __init__(self, gates: int, hidden: int, experts: int, max_len: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(gates, max_len, hidden, experts) * 0.02)

    def forward(self, x: Tensor, view, which: Tensor) -> Tensor:
        """Inputs [M, H] and the gate of each slot [M] -> weights [M, K], equal in a sequence."""
        gates, max_len, hidden, experts = self.weight.shape
        maps = self.weight.view(gates * max_len, hidden * experts)
        maps = F.embedding(which * max_len + view.positions, maps)  # [M, H·K]
        parts = torch.einsum("nh,nhk->nk", x, maps.view(-1, hidden, experts))  # [M, K]
        parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
        # slots of no sequence have the number `view.sequences`
        sums = parts.new_zeros(view.sequences + 1, parts.shape[1])
        sums = sums.index_add(0, view.sequence_ids, parts)
        return F.embedding(view.sequence_ids, sums.softmax(-1))  # [sequences + 1, K] -> [M, K]


class EvenGate(nn.Module):
    """No gate: every expert weighs 1 / K."""

    def __init__(self, experts: int):
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor, view, which: Tensor) -> Tensor:
        """Inputs [M, H] -> weights [M, K]."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        shape = x.shape[0], self.experts
        return torch.full(shape, 1.0 / self.experts, dtype=dtype, device=x.device)
