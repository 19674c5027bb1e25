"""The blocks of the model: experts, gates and towers, on packed tokens.

The sequences of a view stand one after the other in M slots (src/dataset/batching/batch.py), so
products see no padding but the few slots that no sequence fills. Networks of the same shape (the
experts of one owner, the towers of the domains) keep their weights stacked, [K, …].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.dropout import DropoutMasks, dropout
from src.nn.kernels.encoder import ExpertMixture, LayerWeights, Pass, Tiles, tiles_of
from src.nn.kernels.matmul import product_dtype


class StackedLinear(nn.Module):
    """The weights of K linear maps [n, in] -> [n, out]."""

    def __init__(self, stack: int, inputs: int, outputs: int):
        super().__init__()
        bound = math.sqrt(6.0 / (inputs + outputs))  # Glorot's uniform bound, each map drawn anew
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(stack, 1, outputs))


class StackedLayerNorm(nn.Module):
    """The weights of K layer norms over the last dimension of [n, H]."""

    def __init__(self, stack: int, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stack, 1, hidden))
        self.bias = nn.Parameter(torch.zeros(stack, 1, hidden))


class CausalAttention(nn.Module):
    """The maps of K experts' causal self-attention: queries, keys and values; output."""

    def __init__(self, stack: int, hidden: int):
        super().__init__()
        self.project_in = StackedLinear(stack, hidden, 3 * hidden)
        self.project_out = StackedLinear(stack, hidden, hidden)


class EncoderLayer(nn.Module):
    """The weights of one post-norm Transformer layer of K experts: attention, GELU block of 4H."""

    def __init__(self, stack: int, hidden: int):
        super().__init__()
        self.attention = CausalAttention(stack, hidden)
        self.attention_norm = StackedLayerNorm(stack, hidden)
        self.widen = StackedLinear(stack, hidden, 4 * hidden)
        self.narrow = StackedLinear(stack, 4 * hidden, hidden)
        self.output_norm = StackedLayerNorm(stack, hidden)

    def weights(self) -> LayerWeights:
        """All of them, as the encoder takes them."""
        blocks = (
            self.attention.project_in, self.attention.project_out, self.attention_norm,
            self.widen, self.narrow, self.output_norm,
        )  # fmt: skip
        return LayerWeights(*(part for block in blocks for part in (block.weight, block.bias)))


def view_tiles(view, x: Tensor) -> list[Tiles]:
    """The attention tiles of a view with inputs x, for all experts that read it."""
    return tiles_of(view.tiles, view.sequence_ids, product_dtype(x))


class Experts(nn.Module):
    """K causal Transformer encoders with weights of their own, that one task owns."""

    def __init__(
        self,
        stack: int,
        hidden: int,
        layers: int,
        heads: int,
        dropout_rate: float,
        attention_dropout: float = 0.0,
        compiled: bool = False,
    ):
        super().__init__()
        self.stack, self.heads, self.compiled = stack, heads, compiled
        self.dropout_rate, self.attention_dropout = dropout_rate, attention_dropout
        self.layers = nn.ModuleList(EncoderLayer(stack, hidden) for _ in range(layers))

    def forward(
        self,
        x: Tensor,
        share: Tensor,
        tiles: list[Tiles],
        learns: bool = True,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Σ_k share_k · expert_k: inputs [M, H], shares [n, K] -> [n, H].

        Without `learns` the experts are read, not trained: the gradient reaches the shares alone.
        `rows` [n], where no gradient is wanted, are the slots that the last layer is needed for.
        """
        rate = self.dropout_rate if self.training else 0.0
        attention_rate = self.attention_dropout if self.training else 0.0
        run = Pass(
            tiles=tiles,
            rows=rows,
            heads=self.heads,
            product=product_dtype(x),
            masks=DropoutMasks(rate, x.device),
            attention_masks=DropoutMasks(attention_rate, x.device),
            training=torch.is_grad_enabled(),
            compiled=self.compiled,
            stacked=x.device.type != "cpu",
        )
        weights = [weight for layer in self.layers for weight in layer.weights()]
        return ExpertMixture.apply(x, share, run, learns, *weights)


class TokenGate(nn.Module):
    """g: weights of the K experts at position t from position t's own input: nothing leaks."""

    def __init__(self, gates: int, hidden: int, experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(gates, hidden, experts) * 0.02)

    def forward(self, x: Tensor, view, which: Tensor) -> Tensor:
        """Inputs [M, H] and the gate of each slot [M] -> weights [M, K] that sum to 1."""
        gates, hidden, experts = self.weight.shape
        every = x @ self.weight.transpose(0, 1).reshape(hidden, gates * experts)  # [M, G·K]
        index = which[:, None, None].expand(-1, 1, experts)
        weights = every.view(-1, gates, experts).gather(1, index)[:, 0]
        return weights.to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)


class SequenceGate(nn.Module):
    """The paper's gate: one weight vector a sequence, read off its whole flattened input.

    It sees the inputs of later positions, which are the targets of earlier ones: a leak in
    training, kept for comparison. Flattening is a map of its own for each position, summed.
    """

    def __init__(self, gates: int, hidden: int, experts: int, max_len: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(gates, max_len, hidden, experts) * 0.02)

    def forward(self, x: Tensor, view, which: Tensor) -> Tensor:
        """Inputs [M, H] and the gate of each slot [M] -> weights [M, K], equal in a sequence."""
        parts = torch.einsum("nh,nhk->nk", x, self.weight[which, view.positions])
        parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
        # the slots of no sequence have a number after the last
        sums = parts.new_zeros(view.sequences + 1, parts.shape[1])
        sums = sums.index_add(0, view.sequence_ids, parts)
        return sums.softmax(-1)[view.sequence_ids]


class EvenGate(nn.Module):
    """No gate: every expert weighs 1 / K."""

    def __init__(self, experts: int):
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor, view, which: Tensor) -> Tensor:
        """Inputs [M, H] -> weights [M, K]."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.full((len(x), self.experts), 1.0 / self.experts, dtype=dtype, device=x.device)


class Towers(nn.Module):
    """h: a residual feed-forward block for each task, on the gated mixture of the experts."""

    def __init__(self, stack: int, hidden: int, dropout_rate: float):
        super().__init__()
        self.dropout_rate = dropout_rate
        self.first = StackedLinear(stack, hidden, hidden)
        self.second = StackedLinear(stack, hidden, hidden)
        self.norm = StackedLayerNorm(stack, hidden)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """[N, H] -> [N, H], the first counts[0] rows through the first tower, and so on."""
        blocks = (self.first, self.second, self.norm)
        stacked = [part for block in blocks for part in (block.weight, block.bias)]
        # unbound at once: the gradient of a tower's own slice would be as large as the stack
        towers = zip(*(part.unbind(0) for part in stacked), strict=True)
        parts = [
            self._tower(part, *weights)
            for part, weights in zip(x.split(counts), towers, strict=True)
            if len(part)
        ]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else x

    def _tower(
        self, x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor,
        norm: Tensor, norm_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        fed = torch.addmm(second_bias, F.gelu(torch.addmm(first_bias, x, first)), second)
        total = x + dropout(fed, self.dropout_rate, self.training)
        return F.layer_norm(total, x.shape[-1:], norm[0], norm_bias[0])
