"""Expert encoder: forward pass and hand-written backward pass, on packed tokens.

The plain twin is src/nn/encoder.py. A layer is a handful of matrix multiplications with cheap steps
between them, and at small hidden sizes the cheap steps cost more than the multiplications if each
walks through memory separately. Written by hand, the backward pass adds into existing buffers,
keeps one byte per element of a dropout mask, makes GELU's output (a quarter of the activations)
again, and frees activations as it goes.
tests/method/test_encoder.py compares it with the plain twin and with finite differences.

On a CPU one expert at a time runs through a layer, so that its activations stay in the cache; on a
GPU the experts of one owner run as one batch. Below, […] is the batch of experts: none on a CPU,
[K] on a GPU.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.nn.dropout import DropoutMasks
from src.nn.encoder import EPSILON, LayerWeights, PassOptions
from src.nn.kernels.matmul import add_matmul
from src.nn.tiles import Tiles


class Saved(NamedTuple):
    """What a layer's backward pass needs of its forward pass."""

    joint: Tensor  # […, M, 3H]
    attention: list[tuple[Tensor, Tensor | None]]  # softmax and dropped of each block of tiles
    attended: Tensor  # […, n, H]
    first_drawn: Tensor | None
    first_sum: tuple[Tensor, Tensor, Tensor]  # input, mean and 1 / deviation of the first norm
    middle: Tensor  # […, n, H] between the two blocks
    wide: Tensor  # […, n, 4H] before GELU
    second_drawn: Tensor | None
    second_sum: tuple[Tensor, Tensor, Tensor]


def expert_mixture(
    x: Tensor, share: Tensor, layers: list[LayerWeights], options: PassOptions, learns: bool = True
) -> Tensor:
    """Σ_k share_k · expert_k: x [M, H], share [n, K], stacked layers -> [n, H].

    Without `learns` the experts are stopped: the gradient reaches the shares alone. Goes backward
    once.
    """
    flat = [weight for layer in layers for weight in layer]
    return _ExpertMixture.apply(x, share, options, learns, *flat)


class _ExpertMixture(torch.autograd.Function):
    """`expert_mixture` of weights in one flat list, layer by layer."""

    @staticmethod
    def forward(
        ctx, x: Tensor, share: Tensor, options: PassOptions, learns: bool, *weights: Tensor
    ) -> Tensor:
        """Inputs x [M, H], share [n, K], weights layer by layer -> [n, H], n = M or the rows."""
        outputs: list[Tensor | None] = []
        saved: list[list[tuple[Tensor, Saved]]] = []
        mixture: Tensor | None = None
        forward, _ = _layer_functions(options.compiled)
        with torch.autocast(x.device.type, enabled=False):
            experts = _experts(weights, options), _shares(share, options)
            for layers, expert_share in zip(*experts, strict=True):
                # [M, H] -> […, M, H]
                hidden = x.expand(*expert_share.shape[:-1], *x.shape)
                saved.append([])
                for layer in layers:
                    inputs, rows = hidden, options.rows if layer is layers[-1] else None
                    drawn = _draw(options, inputs, rows)
                    hidden, saved_layer = forward(inputs, layer, options, rows, drawn)
                    if options.needs_backward and learns:
                        saved[-1].append((inputs, saved_layer))
                outputs.append(hidden if options.needs_backward else None)
                mixture = _add_share(mixture, hidden, expert_share)
        ctx.save_for_backward(x, share, *weights)
        ctx.options, ctx.learns, ctx.outputs, ctx.saved = options, learns, outputs, saved
        assert mixture is not None  # an owner has an expert
        return mixture

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        if not ctx.outputs:
            raise RuntimeError("the experts keep their activations for one backward pass only")
        x, share, *weights = ctx.saved_tensors
        options, learns = ctx.options, ctx.learns
        weight_gradients = [torch.empty_like(weight) for weight in weights] if learns else []
        share_gradient = torch.empty_like(share)
        for column in _shares(share_gradient, options):
            # free what is saved as soon as it is used: memory peaks here
            torch.sum(gradient * ctx.outputs.pop(0), -1, out=column)
        if not learns:
            return None, share_gradient, None, None, *[None] * len(weights)
        x_gradient, (_, backward) = torch.zeros_like(x), _layer_functions(options.compiled)
        experts = _experts(weights, options), _experts(weight_gradients, options)
        for layers, gradients, expert_share in zip(*experts, _shares(share, options), strict=True):
            # [n, H] -> […, n, H]
            hidden, saved_layers = gradient * expert_share.unsqueeze(-1), ctx.saved.pop(0)
            for layer, layer_gradients in zip(reversed(layers), reversed(gradients), strict=True):
                inputs, saved_layer = saved_layers.pop()
                hidden = backward(hidden, inputs, saved_layer, layer, layer_gradients, options)
            x_gradient += hidden.sum(0) if options.stacked else hidden
        return x_gradient, share_gradient, None, None, *weight_gradients


def _experts(weights: Sequence[Tensor], options: PassOptions) -> list[list[LayerWeights]]:
    """The layers of each expert, or of all of them as one stack."""
    size = len(LayerWeights._fields)
    experts: Iterable[Sequence[Tensor]] = [weights]
    if not options.stacked:
        experts = zip(*(weight.unbind(0) for weight in weights), strict=True)
    return [
        [LayerWeights(*flat[first : first + size]) for first in range(0, len(flat), size)]
        for flat in experts
    ]


def _draw(
    options: PassOptions, x: Tensor, rows: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What the two dropout masks of a layer are made of, for inputs x […, M, H]."""
    shape = (*x.shape[:-2], x.shape[-2] if rows is None else len(rows), x.shape[-1])
    return options.dropout.draw(shape), options.dropout.draw(shape)


def _shares(share: Tensor, options: PassOptions) -> Sequence[Tensor]:
    """The share of each expert [n], or of all of them [K, n], out of [n, K]."""
    return [share.mT] if options.stacked else share.unbind(1)


def _add_share(mixture: Tensor | None, output: Tensor, share: Tensor) -> Tensor:
    """mixture + Σ share · output: output […, n, H], share […, n] -> [n, H]."""
    if mixture is not None:
        return torch.addcmul(mixture, output, share.unsqueeze(-1))
    weighted = output * share.unsqueeze(-1)
    return weighted if weighted.dim() == 2 else weighted.sum(0)


@functools.cache
def _layer_functions(compiled: bool) -> tuple[Callable, Callable]:
    """The two passes of a layer; compiled, or as they are where torch finds no compiler."""
    if not compiled:
        return layer_forward, layer_backward
    torch._dynamo.config.suppress_errors = True
    return torch.compile(layer_forward, dynamic=True), torch.compile(layer_backward, dynamic=True)


def layer_forward(
    x: Tensor,
    weights: LayerWeights,
    options: PassOptions,
    rows: Tensor | None,
    drawn: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, Saved]:
    """One post-norm layer: x […, M, H] -> […, n, H], n = M, or the `rows` alone; `drawn` […, n, H]
    are the draws of its two dropout masks."""
    w = _cast(weights, options.dtype)
    joint = _affine(w.project_in_bias, x.to(options.dtype), w.project_in)  # […, M, 3H]
    attended, attention = attend(joint, options)  # […, M, H]
    if rows is not None:
        attended, x = attended.index_select(-2, rows), x.index_select(-2, rows)
    branch = _affine(w.project_out_bias, attended, w.project_out)
    total = _add_dropped(x, branch, drawn[0], options.dropout)
    middle, *scales = _norm(total, weights.attention_norm, weights.attention_norm_bias)
    first_sum = total, scales[0], scales[1]
    wide = _affine(w.widen_bias, middle.to(options.dtype), w.widen)  # […, n, 4H]
    active = F.gelu(wide)
    branch = _affine(w.narrow_bias, active, w.narrow)
    total = _add_dropped(middle, branch, drawn[1], options.dropout)
    output, *scales = _norm(total, weights.output_norm, weights.output_norm_bias)
    second_sum = total, scales[0], scales[1]
    saved = Saved(
        joint, attention, attended, drawn[0], first_sum,
        middle, wide, drawn[1], second_sum,
    )  # fmt: skip
    return output, saved


def layer_backward(
    gradient: Tensor, x: Tensor, saved: Saved, weights: LayerWeights, gradients: LayerWeights,
    options: PassOptions,
) -> Tensor:  # fmt: skip
    """∂/∂x […, M, H] from ∂/∂output […, M, H]; writes ∂/∂weights into `gradients`."""
    dtype, w = options.dtype, _cast(weights, options.dtype)
    total = _norm_backward(
        gradient, saved.second_sum, weights.output_norm,
        gradients.output_norm, gradients.output_norm_bias,
    )  # fmt: skip
    branch = _dropped(total, saved.second_drawn, options.dropout, dtype)
    _matmul_into(gradients.narrow, F.gelu(saved.wide).mT, branch)
    _sum_into(gradients.narrow_bias, branch)
    wide = torch.ops.aten.gelu_backward(branch @ w.narrow.mT, saved.wide)
    _matmul_into(gradients.widen, saved.middle.to(dtype).mT, wide)
    _sum_into(gradients.widen_bias, wide)
    middle = add_matmul(total, wide, w.widen.mT)
    total = _norm_backward(
        middle, saved.first_sum, weights.attention_norm,
        gradients.attention_norm, gradients.attention_norm_bias,
    )  # fmt: skip
    branch = _dropped(total, saved.first_drawn, options.dropout, dtype)
    _matmul_into(gradients.project_out, saved.attended.mT, branch)
    _sum_into(gradients.project_out_bias, branch)
    attended = branch @ w.project_out.mT
    joint = attend_backward(attended, saved, options)  # […, M, 3H]
    _matmul_into(gradients.project_in, x.to(dtype).mT, joint)
    _sum_into(gradients.project_in_bias, joint)
    return add_matmul(total, joint, w.project_in.mT)


# ------------------------------------------------------------------------ attention


def attend(
    joint: Tensor, options: PassOptions
) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
    """Causal attention within each sequence: queries, keys, values […, M, 3H] -> […, M, H]."""
    hidden = joint.shape[-1] // 3
    attended = joint.new_empty(*joint.shape[:-1], hidden)
    scale, kept = 1.0 / math.sqrt(hidden // options.heads), []
    for tiles in options.tiles:
        query, key, value = _heads(joint, tiles, options.heads, 3)
        mask = _mask(tiles, len(query), options.heads)
        weights = torch.baddbmm(mask, query, key.mT, alpha=scale).softmax(-1)
        drawn = options.attention_dropout.draw(weights.shape)
        dropped = _dropped(weights, drawn, options.attention_dropout, weights.dtype)
        (into,) = _blocks(attended, tiles, options.heads, 1)
        if len(into.shape) == 4 and options.heads == 1:
            torch.bmm(dropped, value, out=into[:, 0])
        else:
            _from_heads(torch.bmm(dropped, value), into)
        kept.append((weights, drawn))
    return attended, kept


def attend_backward(gradient: Tensor, saved: Saved, options: PassOptions) -> Tensor:
    """∂/∂joint […, M, 3H] from ∂/∂attended […, M, H]."""
    result = torch.empty_like(saved.joint)
    scale = 1.0 / math.sqrt(gradient.shape[-1] // options.heads)
    for tiles, (weights, drawn) in zip(options.tiles, saved.attention, strict=True):
        query, key, value = _heads(saved.joint, tiles, options.heads, 3)
        (out,) = _heads(gradient, tiles, options.heads, 1)
        into = _blocks(result, tiles, options.heads, 3)
        dropped = _dropped(weights, drawn, options.attention_dropout, weights.dtype)
        _from_heads(torch.bmm(dropped.mT, out), into[2])
        score = _dropped(torch.bmm(out, value.mT), drawn, options.attention_dropout, weights.dtype)
        score = torch._softmax_backward_data(score, weights, -1, weights.dtype).mul_(scale)
        _from_heads(torch.bmm(score, key), into[0])
        _from_heads(torch.bmm(score.mT, query), into[1])
    return result


def _blocks(x: Tensor, tiles: Tiles, heads: int, parts: int) -> tuple[Tensor, ...]:
    """The slots of the tiles in each part of […, M, parts · H]: views
    […, count, heads, length, H / heads]."""
    block = x.narrow(-2, tiles.start, tiles.count * tiles.length)
    block = block.view(*x.shape[:-2], tiles.count, tiles.length, parts, heads, -1)
    return block.transpose(-3, -2).transpose(-4, -3).unbind(-2)


def _heads(x: Tensor, tiles: Tiles, heads: int, parts: int) -> tuple[Tensor, ...]:
    """Each part of […, M, parts · H] as [… · count · heads, length, H / heads]."""
    blocks = (block.flatten(0, -3) for block in _blocks(x, tiles, heads, parts))
    if x.dtype == torch.bfloat16:  # multiplied more slowly on a CPU where strided
        return tuple(block.contiguous() for block in blocks)
    return tuple(blocks)


def _from_heads(x: Tensor, into: Tensor) -> None:
    """The inverse of `_heads`, written into one of the `_blocks`."""
    into.copy_(x.view(into.shape))


def _mask(tiles: Tiles, batch: int, heads: int) -> Tensor:
    """The mask for every expert and head of the tiles [batch, length, length]."""
    if batch == tiles.count:
        return tiles.mask
    experts = batch // (tiles.count * heads)
    every = tiles.mask[None, :, None].expand(experts, -1, heads, -1, -1)
    return every.reshape(batch, tiles.length, tiles.length)


# ------------------------------------------------------------------------ small steps


def _cast(weights: LayerWeights, dtype: torch.dtype) -> LayerWeights:
    if weights.widen.dtype == dtype:
        return weights
    return LayerWeights(*(weight.to(dtype) for weight in weights))


def _affine(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if x.dim() == 2:
        return torch.addmm(bias[0], x, weight)  # a bias vector is added inside the multiplication
    return torch.baddbmm(bias, x, weight)


def _matmul_into(result: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype != result.dtype:
        result.copy_(a @ b)
    else:
        torch.matmul(a, b, out=result)


def _sum_into(result: Tensor, x: Tensor) -> None:
    torch.sum(x, dim=-2, keepdim=True, dtype=result.dtype, out=result)


def _add_dropped(x: Tensor, branch: Tensor, drawn: Tensor | None, masks: DropoutMasks) -> Tensor:
    """x + dropout(branch)."""
    if drawn is None:
        return x + branch
    return torch.addcmul(x, branch.to(x.dtype), masks.kept(drawn, x.dtype), value=masks.scale)


def _dropped(x: Tensor, drawn: Tensor | None, masks: DropoutMasks, dtype: torch.dtype) -> Tensor:
    """x with the mask that was drawn before, cast to `dtype`."""
    if drawn is None:
        return x.to(dtype)
    return masks.kept(drawn, x.dtype).mul_(masks.scale).mul_(x).to(dtype)


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm of […, n, H], and the mean and 1 / deviation that its backward pass needs."""
    size = x.shape[-1:]
    if x.dim() == 2:
        return torch.native_layer_norm(x, size, weight[0], bias[0], EPSILON)
    plain, mean, inverse = torch.native_layer_norm(x, size, None, None, EPSILON)
    return torch.addcmul(bias, plain, weight), mean, inverse


def _norm_backward(
    gradient: Tensor, saved: tuple[Tensor, Tensor, Tensor], weight: Tensor,
    weight_gradient: Tensor, bias_gradient: Tensor,
) -> Tensor:  # fmt: skip
    """∂/∂x; writes ∂/∂weight and ∂/∂bias."""
    x, mean, inverse = saved
    backward, size = torch.ops.aten.native_layer_norm_backward, x.shape[-1:]
    if x.dim() == 2:
        result, for_weight, for_bias = backward(
            gradient.contiguous(), x, size, mean, inverse, weight[0], weight[0], [True] * 3
        )
        weight_gradient.copy_(for_weight)
        bias_gradient.copy_(for_bias)
        return result
    plain = (x - mean).mul_(inverse)
    _sum_into(weight_gradient, plain.mul_(gradient))
    _sum_into(bias_gradient, gradient)
    only_x = [True, False, False]
    return backward(gradient * weight, x, size, mean, inverse, None, None, only_x)[0]
