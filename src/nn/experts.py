"""Experts: causal Transformer encoders on packed tokens, the K of one owner in one stack.

The sequences of a view stand one after the other in M slots (src/dataset/batching/batches.py), so
the only padding is the few slots that no sequence fills.
"""

import torch
from torch import Tensor, nn

from src.nn.dropout import DropoutMasks
from src.nn.kernels.encoder import ExpertMixture, LayerWeights, Pass, Tiles, tiles_of
from src.nn.kernels.matmul import product_dtype
from src.nn.stacked import StackedLayerNorm, StackedLinear


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
    return tiles_of(view.groups, view.sequence, product_dtype(x))


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


# Numbers that a target keeps of a layer that learns until its backward pass, in units of H
OPERANDS = 12  # in the products' type: queries, keys, values, attention, 8 H
SUMS = 4  # in the weights' type: input, both sums before a norm, what lies between
MASK_BYTES = 2  # bytes of its two dropout masks
AROUND = 12  # of a view, in the weights' type: embedding, norm, mixture, tower, rows of the loss


def activation_bytes(settings, learning: dict[str, int], tile: float) -> float:
    """Bytes that a target holds when the backward pass begins.

    learning: {path: experts that learn from it}. tile: slots of its attention.
    """
    hidden = settings.hidden
    byte = 8 if settings.precision == "float64" else 4
    product = 2 if settings.precision == "bf16" else byte
    layer = product * (OPERANDS * hidden + settings.heads * tile) + byte * SUMS * hidden
    layer += MASK_BYTES * hidden if settings.dropout else 0
    around = byte * hidden * (AROUND + settings.experts) * len(learning)
    return layer * (settings.layers * sum(learning.values()) + 1) + around  # one layer is at work
