"""Expert encoder in plain autograd code: the reference of kernels/encoder.py, and what is exported.

K experts of one shape keep their weights stacked. They run as one stack on a GPU and one at a time
on a CPU, where the activations of one stay in the cache: below, k is K or 1. Both encoders draw
the same dropout masks.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.nn.dropout import DropoutMasks
from src.nn.tiles import Tiles

EPSILON = 1e-5  # of the layer norms, torch's default


class LayerWeights(NamedTuple):
    """The weights of one layer, of K stacked experts or of a single one."""

    project_in: Tensor  # […, H, 3H]: queries, keys, values
    project_in_bias: Tensor  # […, 1, 3H]
    project_out: Tensor  # […, H, H]
    project_out_bias: Tensor  # […, 1, H]
    attention_norm: Tensor  # […, 1, H]
    attention_norm_bias: Tensor  # […, 1, H]
    widen: Tensor  # […, H, 4H]
    widen_bias: Tensor  # […, 1, 4H]
    narrow: Tensor  # […, 4H, H]
    narrow_bias: Tensor  # […, 1, H]
    output_norm: Tensor  # […, 1, H]
    output_norm_bias: Tensor  # […, 1, H]


@dataclass(frozen=True)
class PassOptions:
    """What all experts of a forward pass have in common."""

    tiles: list[Tiles]  # together they cover all M slots
    rows: Tensor | None  # [n] the slots whose outputs are needed, where no backward pass follows
    heads: int
    dtype: torch.dtype  # of the operands of matrix multiplications
    dropout: DropoutMasks  # of block outputs
    attention_dropout: DropoutMasks
    stacked: bool  # all experts at once, or one after the other
    needs_backward: bool = True  # (fused only) whether a backward pass follows
    compiled: bool = False  # (fused only) whether layers run through torch.compile
    # (plain only) gets the attention weights [k, count, heads, length, length] of each layer and
    # block of tiles
    attention: list[Tensor] | None = None


def expert_mixture(
    x: Tensor, share: Tensor, layers: list[LayerWeights], options: PassOptions, learns: bool = True
) -> Tensor:
    """Σ_k share_k · expert_k: x [M, H], share [n, K], stacked layers -> [n, H].

    Without `learns` the experts are stopped: the gradient reaches the shares alone.
    """
    if not learns:  # the stop-gradient
        x = x.detach()
        layers = [LayerWeights(*(weight.detach() for weight in layer)) for layer in layers]
    k = share.shape[1] if options.stacked else 1
    # one split per weight: the gradient of a slice would be as large as the whole stack
    experts = zip(
        *(zip(*(weight.split(k) for weight in layer), strict=True) for layer in layers), strict=True
    )
    mixture = x.new_zeros(())
    for expert_layers, expert_share in zip(experts, share.T.split(k), strict=True):
        hidden = x.expand(k, -1, -1)  # [M, H] -> [k, M, H]
        for number, weights in enumerate(expert_layers, 1):
            rows = options.rows if number == len(layers) else None
            hidden = encoder_layer(hidden, LayerWeights(*weights), options, rows)
        mixture = mixture + (expert_share[:, :, None] * hidden).sum(0)  # [k, n, H] -> [n, H]
    return mixture


def encoder_layer(
    x: Tensor, weights: LayerWeights, options: PassOptions, rows: Tensor | None = None
) -> Tensor:
    """One post-norm Transformer layer of k experts: x [k, M, H] -> [k, n, H], n = M or the rows."""
    w, dtype = weights, options.dtype
    joint = affine(x, w.project_in, w.project_in_bias, dtype)  # [k, M, 3H]
    first, second = (drawn_mask(x, rows, options.dropout) for _ in range(2))  # [k, n, H]
    attended = causal_attention(joint, options)  # [k, M, H]
    if rows is not None:
        x, attended = x[:, rows], attended[:, rows]  # [k, n, H]
    branch = affine(attended, w.project_out, w.project_out_bias, dtype)
    branch = dropped(branch.to(x.dtype), first, options.dropout)
    x = layer_norm(x + branch, w.attention_norm, w.attention_norm_bias)
    wide = F.gelu(affine(x, w.widen, w.widen_bias, dtype))  # [k, n, 4H]
    branch = affine(wide, w.narrow, w.narrow_bias, dtype)  # [k, n, H]
    branch = dropped(branch.to(x.dtype), second, options.dropout)
    return layer_norm(x + branch, w.output_norm, w.output_norm_bias)


def causal_attention(joint: Tensor, options: PassOptions) -> Tensor:
    """Attention within each sequence: queries, keys, values [k, M, 3H] -> [k, M, H]."""
    k, heads = len(joint), options.heads
    size = joint.shape[-1] // (3 * heads)  # H / heads
    if not options.tiles:  # a process without users in the batch
        return joint[:, :, : heads * size]
    blocks = joint.split([tiles.count * tiles.length for tiles in options.tiles], 1)
    attended = []
    for tiles, block in zip(options.tiles, blocks, strict=True):
        # [k, count · length, 3H] -> three of [k, count, heads, length, H / heads]
        block = block.reshape(k, tiles.count, tiles.length, 3, heads, size)
        query, key, value = block.permute(3, 0, 1, 4, 2, 5)
        # [k, count, heads, length, length]
        scores = query @ key.mT / math.sqrt(size) + tiles.mask[:, None]
        weights = scores.softmax(-1)
        if options.attention is not None:
            options.attention.append(weights)
        drawn = options.attention_dropout.draw(weights.shape)
        weights = dropped(weights, drawn, options.attention_dropout)
        # [k, count, heads, length, H / heads] -> [k, count · length, H]
        attended.append((weights @ value).transpose(2, 3).reshape(k, -1, heads * size))
    return torch.cat(attended, 1)


def affine(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """x·W + b in `dtype`: [k, n, in], [k, in, out], [k, 1, out] -> [k, n, out]."""
    return torch.baddbmm(bias.to(dtype), x.to(dtype), weight.to(dtype))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over the last dimension of [k, n, H], each expert with its weight [k, 1, H]."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * weight + bias


def drawn_mask(x: Tensor, rows: Tensor | None, masks: DropoutMasks) -> Tensor | None:
    """The draws of one dropout mask [k, n, H] for inputs x [k, M, H]; None without dropout."""
    return masks.draw((x.shape[0], x.shape[1] if rows is None else rows.shape[0], x.shape[2]))


def dropped(x: Tensor, drawn: Tensor | None, masks: DropoutMasks) -> Tensor:
    """x with the mask that was drawn for it, rescaled so that its expectation stays."""
    if drawn is None:
        return x
    return (x * masks.scale).where(masks.kept(drawn, torch.bool), 0.0)
