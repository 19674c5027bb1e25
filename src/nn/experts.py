"""Experts: causal Transformer encoders on packed tokens, the K of one owner in one stack.

The sequences of a view stand one after the other in M slots (src/dataset/batching/packing.py), so
the only padding is the few slots that no sequence fills.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from src.nn.dropout import DropoutMasks
from src.nn.encoder import LayerWeights, PassOptions, expert_mixture
from src.nn.kernels.encoder import expert_mixture as fused_expert_mixture
from src.nn.kernels.matmul import matmul_dtype
from src.nn.stacked import StackedLayerNorm, StackedLinear
from src.nn.tiles import Tiles, tiles_of


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
        """All of them, in the order in which the encoder takes them."""
        blocks = (
            self.attention.project_in, self.attention.project_out, self.attention_norm,
            self.widen, self.narrow, self.output_norm,
        )  # fmt: skip
        return LayerWeights(*(part for block in blocks for part in (block.weight, block.bias)))


def view_tiles(view, x: Tensor, causal: bool = True) -> list[Tiles]:
    """The attention tiles of a view with inputs x, for all experts that read it."""
    return tiles_of(view.tiles, view.sequence_ids, matmul_dtype(x), causal)


class Experts(nn.Module):
    """K causal Transformer encoders, all owned by one task; each has its weights in the stack.

    `kernels`: "fused" (src/nn/kernels/encoder.py), or "plain" (src/nn/encoder.py).
    """

    def __init__(
        self,
        stack: int,
        hidden: int,
        layers: int,
        heads: int,
        dropout_rate: float,
        attention_dropout: float = 0.0,
        compiled: bool = False,
        kernels: str = "fused",
    ):
        super().__init__()
        self.stack, self.heads, self.compiled, self.kernels = stack, heads, compiled, kernels
        self.dropout_rate, self.attention_dropout = dropout_rate, attention_dropout
        encoder = nn.ModuleList(EncoderLayer(stack, hidden) for _ in range(layers))
        self.layers: Iterable[EncoderLayer] = encoder  # type: ignore[assignment]

    def forward(
        self,
        x: Tensor,
        share: Tensor,
        tiles: list[Tiles],
        learns: bool = True,
        rows: Tensor | None = None,
        attention: list[Tensor] | None = None,
    ) -> Tensor:
        """Σ_k share_k · expert_k: inputs [M, H], shares [n, K] -> [n, H].

        Without `learns` the experts are stopped: the gradient reaches the shares alone. `rows` [n],
        where no gradient is needed, are the slots that the last layer is computed for. `attention`
        gets the attention weights of each layer and block of tiles, with gradients (plain kernels).
        """
        rate = self.dropout_rate if self.training else 0.0
        attention_rate = self.attention_dropout if self.training else 0.0
        options = PassOptions(
            tiles=tiles,
            rows=rows,
            heads=self.heads,
            dtype=matmul_dtype(x),
            dropout=DropoutMasks(rate, x.device),
            attention_dropout=DropoutMasks(attention_rate, x.device),
            stacked=x.device.type != "cpu",
            needs_backward=torch.is_grad_enabled(),
            compiled=self.compiled,
            attention=attention,
        )
        layers = [layer.weights() for layer in self.layers]
        plain = self.kernels == "plain" or attention is not None
        mixture = expert_mixture if plain else fused_expert_mixture
        return mixture(x, share, layers, options, learns)


# Numbers that a target keeps of a layer that learns until its backward pass, in units of H
OPERANDS = 8  # in the products' type: queries, keys, values, attention, 4 H before GELU
ACTIVE = 4  # the same after GELU, which plain kernels keep and fused ones make again
SUMS = 4  # in the weights' type: input, both sums before a norm, what lies between
MASK_BYTES = 2  # bytes of its two dropout masks
AROUND = 12  # of a view, in the weights' type: embedding, norm, mixture, tower, rows of the loss


def activation_bytes(settings, learning: dict[str, int], tile: float) -> float:
    """Bytes that a target holds when the backward pass begins.

    learning: {path: experts that learn from it}. tile: slots of its attention.
    """
    around = number_bytes(settings) * settings.hidden * (AROUND + settings.experts) * len(learning)
    layers = settings.layers * sum(learning.values()) + 1  # one layer is at work
    return layer_bytes(settings, tile) * layers + around


def layer_bytes(settings, tile: float) -> float:
    """Bytes that a target keeps of one layer of an expert until its backward pass."""
    hidden, byte = settings.hidden, number_bytes(settings)
    product = 2 if settings.precision == "bf16" else byte
    operands = OPERANDS + ACTIVE * (settings.kernels == "plain")
    layer = product * (operands * hidden + settings.heads * tile) + byte * SUMS * hidden
    return layer + (MASK_BYTES * hidden if settings.dropout else 0)


def number_bytes(settings) -> int:
    """Bytes of a weight, and of what is summed up."""
    return 8 if settings.precision == "float64" else 4
