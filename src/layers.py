"""The blocks of the model: packed tokens, stacked experts, gates and towers.

Sequences of all lengths are packed one after the other, [N, H], so no matrix product sees padding;
only attention pads, and only to the longest sequence of a group of similar lengths. Networks of the
same shape (the experts of one owner, the towers of the domains) are stacked, [K, …], so that K of
them run as one batched product.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Pad(torch.autograd.Function):
    """[K, N, H] packed tokens -> [K, S·L, H] slots; a slot without a token repeats another one.

    The padding slots of a causal, right-padded sequence reach no real output, so their gradient is
    zero and the way back is a plain selection, not a scattered sum.
    """

    @staticmethod
    def forward(ctx, tokens: Tensor, slots: Tensor, tokens_to_slots: Tensor) -> Tensor:
        ctx.save_for_backward(tokens_to_slots)
        return tokens.index_select(1, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (tokens_to_slots,) = ctx.saved_tensors
        return gradient.index_select(1, tokens_to_slots), None, None


class _Unpad(torch.autograd.Function):
    """[K, S·L, H] slots -> [K, N, H] packed tokens, the way back of `_Pad`."""

    @staticmethod
    def forward(ctx, padded: Tensor, tokens_to_slots: Tensor) -> Tensor:
        ctx.save_for_backward(tokens_to_slots)
        ctx.slots = padded.shape[1]
        return padded.index_select(1, tokens_to_slots)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (tokens_to_slots,) = ctx.saved_tensors
        padded = gradient.new_zeros(gradient.shape[0], ctx.slots, gradient.shape[2])
        padded[:, tokens_to_slots] = gradient  # each slot at most once: no sum, no order
        return padded, None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout whose mask costs four draws a 64-bit random word where torch draws one a word (CPU).

    p is rounded to a multiple of 2⁻¹⁶.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform on [-2¹⁵, 2¹⁵)
    kept = draws >= round(p * 2**16) - 2**15
    return x * kept.to(x.dtype).mul_(1.0 / (1.0 - p))


class StackedLinear(nn.Module):
    """K linear maps side by side: [K, N, in] -> [K, N, out]."""

    def __init__(self, stack: int, inputs: int, outputs: int):
        super().__init__()
        bound = math.sqrt(6.0 / (inputs + outputs))  # Glorot's uniform bound, each map drawn anew
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(stack, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def one(self, x: Tensor, which: int) -> Tensor:
        """The map `which` alone: [n, in] -> [n, out]."""
        return torch.addmm(self.bias[which], x, self.weight[which])


class StackedLayerNorm(nn.Module):
    """K layer norms side by side over the last dimension of [K, N, H]."""

    def __init__(self, stack: int, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stack, 1, hidden))
        self.bias = nn.Parameter(torch.zeros(stack, 1, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.weight)

    def one(self, x: Tensor, which: int) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight[which, 0], self.bias[which, 0])


class CausalAttention(nn.Module):
    """Multi-head causal self-attention of K experts within each packed sequence."""

    def __init__(self, stack: int, hidden: int, heads: int, attention_dropout: float):
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.project_in = StackedLinear(stack, hidden, 3 * hidden)
        self.project_out = StackedLinear(stack, hidden, hidden)

    def forward(self, x: Tensor, view) -> Tensor:
        """[K, N, H] -> [K, N, H]; `view` says which tokens form a sequence."""
        stack, _, hidden = x.shape
        slots = _Pad.apply(self.project_in(x), view.slots, view.tokens_to_slots)  # [K, ΣS·L, 3H]
        rate = self.attention_dropout if self.training else 0.0
        attended, start = [], 0
        for sequences, length in view.groups:
            end = start + sequences * length
            group = slots[:, start:end].reshape(
                stack * sequences, length, 3, self.heads, hidden // self.heads
            )
            query, key, value = group.permute(2, 0, 3, 1, 4)  # each [K·S, heads, L, H / heads]
            out = F.scaled_dot_product_attention(
                query, key, value, is_causal=length > 1, dropout_p=rate
            )
            attended.append(out.transpose(1, 2).reshape(stack, sequences * length, hidden))
            start = end
        packed = _Unpad.apply(torch.cat(attended, dim=1), view.tokens_to_slots)  # [K, N, H]
        return self.project_out(packed)


class EncoderLayer(nn.Module):
    """One post-norm Transformer layer of K experts: attention, then a GELU block of width 4H."""

    def __init__(
        self, stack: int, hidden: int, heads: int, dropout_rate: float, attention_dropout: float
    ):
        super().__init__()
        self.dropout_rate = dropout_rate
        self.attention = CausalAttention(stack, hidden, heads, attention_dropout)
        self.attention_norm = StackedLayerNorm(stack, hidden)
        self.widen = StackedLinear(stack, hidden, 4 * hidden)
        self.narrow = StackedLinear(stack, 4 * hidden, hidden)
        self.output_norm = StackedLayerNorm(stack, hidden)

    def forward(self, x: Tensor, view) -> Tensor:
        """[K, N, H] -> [K, N, H]."""
        attended = dropout(self.attention(x, view), self.dropout_rate, self.training)
        x = self.attention_norm(x + attended)
        fed = self.narrow(F.gelu(self.widen(x)))
        return self.output_norm(x + dropout(fed, self.dropout_rate, self.training))


class Experts(nn.Module):
    """K causal Transformer encoders with weights of their own, run as one stack."""

    def __init__(
        self,
        stack: int,
        hidden: int,
        layers: int,
        heads: int,
        dropout_rate: float,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        self.stack = stack
        self.layers = nn.ModuleList(
            EncoderLayer(stack, hidden, heads, dropout_rate, attention_dropout)
            for _ in range(layers)
        )

    def forward(self, x: Tensor, view) -> Tensor:
        """Inputs [N, H], the same for all experts -> outputs [K, N, H]."""
        outputs = x.expand(self.stack, *x.shape)
        for layer in self.layers:
            outputs = layer(outputs, view)
        return outputs


class TokenGate(nn.Module):
    """g: weights of the K experts at position t from position t's own input: nothing leaks."""

    def __init__(self, gates: int, hidden: int, experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(gates, hidden, experts) * 0.02)

    def forward(self, x: Tensor, view, which: Tensor) -> Tensor:
        """Inputs [N, H] and the gate of each token [N] -> weights [N, K] that sum to 1."""
        gates, hidden, experts = self.weight.shape
        every = x @ self.weight.transpose(0, 1).reshape(hidden, gates * experts)  # [N, G·K]
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
        """Inputs [N, H] and the gate of each token [N] -> weights [N, K], equal in a sequence."""
        parts = torch.einsum("nh,nhk->nk", x, self.weight[which, view.positions])
        parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
        sums = parts.new_zeros(view.sequences, parts.shape[1]).index_add(0, view.sequence, parts)
        return sums.softmax(-1)[view.sequence]


class Towers(nn.Module):
    """h: a residual feed-forward block for each task, on the gated mixture of the experts."""

    def __init__(self, stack: int, hidden: int, dropout_rate: float):
        super().__init__()
        self.dropout_rate = dropout_rate
        self.first = StackedLinear(stack, hidden, hidden)
        self.second = StackedLinear(stack, hidden, hidden)
        self.norm = StackedLayerNorm(stack, hidden)

    def forward(self, x: Tensor, which: int) -> Tensor:
        """[n, H] -> [n, H] through tower `which`."""
        fed = self.second.one(F.gelu(self.first.one(x, which)), which)
        return self.norm.one(x + dropout(fed, self.dropout_rate, self.training), which)
