"""Expert encoders on packed tokens, forward and backward written out.

A layer is a handful of matrix products with cheap steps between them, and at small hidden sizes the
cheap steps cost more than the products if each walks through memory on its own. Written out, the
backward pass adds into the buffers that are there, keeps a byte of each dropout mask, and holds no
copy that it can do without. tests/method/test_encoder.py compares it with finite differences.

On a CPU one expert at a time runs through a layer, so that its activations stay in the cache; on a
GPU the experts of one owner run as one batch of products. Below, […] is the batch of experts: none
on a CPU, [K] on a GPU.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.nn.dropout import DropoutMasks
from src.nn.kernels.matmul import add_product

EPSILON = 1e-5  # of the layer norms, as in torch
FAR = -1e9  # added to a score that may not be: its softmax is exactly 0


class LayerWeights(NamedTuple):
    """The weights of a layer; stacked for K experts, or those of one."""

    project_in: Tensor  # […, H, 3H]: queries, keys, values
    project_in_bias: Tensor  # […, 1, 3H]
    project_out: Tensor  # […, H, H]
    project_out_bias: Tensor
    attention_norm: Tensor  # […, 1, H]
    attention_norm_bias: Tensor
    widen: Tensor  # […, H, 4H]
    widen_bias: Tensor
    narrow: Tensor  # […, 4H, H]
    narrow_bias: Tensor
    output_norm: Tensor  # […, 1, H]
    output_norm_bias: Tensor


@dataclass(frozen=True)
class Tiles:
    """A block of attention tiles: `count` runs of `length` slots from slot `start` on.

    A tile holds whole sequences one after the other; `mask` [count, length, length] is 0 where a
    slot may see another (an earlier one of its sequence, or itself) and FAR elsewhere.
    """

    start: int
    count: int
    length: int
    mask: Tensor


@dataclass(frozen=True)
class Pass:
    """What all experts of a pass have in common."""

    tiles: list[Tiles]
    rows: Tensor | None  # [n] slots whose outputs are wanted where no backward pass follows
    heads: int
    product: torch.dtype  # of the operands of matrix products
    masks: DropoutMasks
    attention_masks: DropoutMasks
    training: bool  # whether a backward pass follows
    compiled: bool  # whether torch.compile has made the layers' code
    stacked: bool  # all experts in one batch of products, or one after the other


class Saved(NamedTuple):
    """What a layer's backward pass needs of its forward pass."""

    joint: Tensor  # […, M, 3H]
    attention: list[tuple[Tensor, Tensor | None]]  # softmax and dropped of each block of tiles
    attended: Tensor  # […, n, H]
    first_drawn: Tensor | None
    first_sum: tuple[Tensor, Tensor, Tensor]  # input, mean and 1 / deviation of the first norm
    middle: Tensor  # […, n, H] between the two blocks
    wide: Tensor  # […, n, 4H] before GELU
    active: Tensor  # […, n, 4H] after it
    second_drawn: Tensor | None
    second_sum: tuple[Tensor, Tensor, Tensor]


def tiles_of(groups: list[tuple[int, int]], sequence: Tensor, dtype: torch.dtype) -> list[Tiles]:
    """The tiles of a view from its (count, length) groups and the sequence of each slot [M]."""
    found, start = [], 0
    for count, length in groups:
        end = start + count * length
        own = sequence[start:end].view(count, length)
        mask = torch.empty(count, length, length, dtype=dtype, device=sequence.device)
        torch.ne(own[:, :, None], own[:, None, :], out=mask)
        mask.add_(torch.ones_like(mask[0]).triu_(1)).mul_(FAR)
        found.append(Tiles(start, count, length, mask))
        start = end
    return found


class ExpertMixture(torch.autograd.Function):
    """Σ_k share_k · expert_k over the experts of one owner."""

    @staticmethod
    def forward(ctx, x: Tensor, share: Tensor, run: Pass, learns: bool, *weights: Tensor) -> Tensor:
        """Inputs x [M, H], share [n, K], weights layer by layer -> [n, H], n = M or the rows alone.

        Where the experts do not learn, the share alone gets a gradient.
        """
        outputs, saved, mixture = [], [], None
        forward, _ = _layer_functions(run.compiled)
        with torch.autocast(x.device.type, enabled=False):
            for own, layers in zip(_shares(share, run), _experts(weights, run), strict=True):
                hidden, steps = x.expand(*own.shape[:-1], *x.shape), []
                for layer in layers:
                    inputs, rows = hidden, run.rows if layer is layers[-1] else None
                    hidden, step = forward(inputs, layer, run, rows, _draw(run, inputs, rows))
                    if run.training and learns:
                        steps.append((inputs, step))
                saved.append(steps)
                outputs.append(hidden if run.training else None)
                mixture = _add_share(mixture, hidden, own)
        ctx.save_for_backward(x, share, *weights)
        ctx.run, ctx.learns, ctx.outputs, ctx.saved = run, learns, outputs, saved
        return mixture

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        if not ctx.outputs:
            raise RuntimeError("the experts keep their activations for one backward pass only")
        x, share, *weights = ctx.saved_tensors
        run, learns = ctx.run, ctx.learns
        found = [torch.empty_like(weight) for weight in weights] if learns else []
        share_gradient = torch.empty_like(share)
        for column in _shares(share_gradient, run):
            # what is saved goes as soon as it is used: the peak of memory is here
            torch.sum(gradient * ctx.outputs.pop(0), -1, out=column)
        if not learns:
            return None, share_gradient, None, None, *[None] * len(weights)
        x_gradient, (_, backward) = torch.zeros_like(x), _layer_functions(run.compiled)
        for own, layers, into in zip(
            _shares(share, run), _experts(weights, run), _experts(found, run), strict=True
        ):
            hidden, steps = gradient * own.unsqueeze(-1), ctx.saved.pop(0)
            for layer, gradients in zip(reversed(layers), reversed(into), strict=True):
                inputs, step = steps.pop()
                hidden = backward(hidden, inputs, step, layer, gradients, run)
            x_gradient += hidden.sum(0) if run.stacked else hidden
        return x_gradient, share_gradient, None, None, *found


def _experts(weights: Sequence[Tensor], run: Pass) -> list[list[LayerWeights]]:
    """The layers of each expert, or of all of them as one stack."""
    size = len(LayerWeights._fields)
    each = [weights] if run.stacked else zip(*(weight.unbind(0) for weight in weights), strict=True)
    return [
        [LayerWeights(*own[first : first + size]) for first in range(0, len(own), size)]
        for own in each
    ]


def _draw(run: Pass, x: Tensor, rows: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What the two dropout masks of a layer are made of, for inputs x […, M, H]."""
    shape = (*x.shape[:-2], x.shape[-2] if rows is None else len(rows), x.shape[-1])
    return run.masks.draw(shape), run.masks.draw(shape)


def _shares(share: Tensor, run: Pass) -> Sequence[Tensor]:
    """The share of each expert [n], or of all of them [K, n], out of [n, K]."""
    return [share.mT] if run.stacked else share.unbind(1)


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
    run: Pass,
    rows: Tensor | None,
    drawn: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, Saved]:
    """One post-norm layer: x […, M, H] -> […, n, H], n = M, or the `rows` alone; `drawn` […, n, H]
    are the draws of its two dropout masks."""
    w = _cast(weights, run.product)
    joint = _affine(w.project_in_bias, x.to(run.product), w.project_in)  # […, M, 3H]
    attended, attention = attend(joint, run)  # […, M, H]
    if rows is not None:
        attended, x = attended.index_select(-2, rows), x.index_select(-2, rows)
    branch = _affine(w.project_out_bias, attended, w.project_out)
    total = _add_dropped(x, branch, drawn[0], run.masks)
    middle, *first = _norm(total, weights.attention_norm, weights.attention_norm_bias)
    wide = _affine(w.widen_bias, middle.to(run.product), w.widen)  # […, n, 4H]
    active = F.gelu(wide)
    branch = _affine(w.narrow_bias, active, w.narrow)
    total_2 = _add_dropped(middle, branch, drawn[1], run.masks)
    output, *second = _norm(total_2, weights.output_norm, weights.output_norm_bias)
    saved = Saved(
        joint, attention, attended, drawn[0], (total, *first),
        middle, wide, active, drawn[1], (total_2, *second),
    )  # fmt: skip
    return output, saved


def layer_backward(
    gradient: Tensor, x: Tensor, saved: Saved, weights: LayerWeights, gradients: LayerWeights,
    run: Pass,
) -> Tensor:  # fmt: skip
    """∂/∂x […, M, H] from ∂/∂output […, M, H]; writes ∂/∂weights into `gradients`."""
    kind, w = run.product, _cast(weights, run.product)
    total = _norm_backward(
        gradient, saved.second_sum, weights.output_norm,
        gradients.output_norm, gradients.output_norm_bias,
    )  # fmt: skip
    branch = _dropped(total, saved.second_drawn, run.masks, kind)
    _product_into(gradients.narrow, saved.active.mT, branch)
    _sum_into(gradients.narrow_bias, branch)
    wide = torch.ops.aten.gelu_backward(branch @ w.narrow.mT, saved.wide)
    _product_into(gradients.widen, saved.middle.to(kind).mT, wide)
    _sum_into(gradients.widen_bias, wide)
    middle = add_product(total, wide, w.widen.mT)
    total = _norm_backward(
        middle, saved.first_sum, weights.attention_norm,
        gradients.attention_norm, gradients.attention_norm_bias,
    )  # fmt: skip
    branch = _dropped(total, saved.first_drawn, run.masks, kind)
    _product_into(gradients.project_out, saved.attended.mT, branch)
    _sum_into(gradients.project_out_bias, branch)
    attended = branch @ w.project_out.mT
    joint = attend_backward(attended, saved, run)  # […, M, 3H]
    _product_into(gradients.project_in, x.to(kind).mT, joint)
    _sum_into(gradients.project_in_bias, joint)
    return add_product(total, joint, w.project_in.mT)


# ------------------------------------------------------------------------ attention


def attend(joint: Tensor, run: Pass) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
    """Causal attention within each sequence: queries, keys, values […, M, 3H] -> […, M, H]."""
    hidden = joint.shape[-1] // 3
    attended = joint.new_empty(*joint.shape[:-1], hidden)
    scale, kept = 1.0 / math.sqrt(hidden // run.heads), []
    for tiles in run.tiles:
        query, key, value = _heads(joint, tiles, run.heads, 3)
        mask = _mask(tiles, len(query), run.heads)
        weights = torch.baddbmm(mask, query, key.mT, alpha=scale).softmax(-1)
        drawn = run.attention_masks.draw(weights.shape)
        dropped = _dropped(weights, drawn, run.attention_masks, weights.dtype)
        (into,) = _blocks(attended, tiles, run.heads, 1)
        if len(into.shape) == 4 and run.heads == 1:
            torch.bmm(dropped, value, out=into[:, 0])
        else:
            _from_heads(torch.bmm(dropped, value), into)
        kept.append((weights, drawn))
    return attended, kept


def attend_backward(gradient: Tensor, saved: Saved, run: Pass) -> Tensor:
    """∂/∂joint […, M, 3H] from ∂/∂attended […, M, H]."""
    result = torch.empty_like(saved.joint)
    scale = 1.0 / math.sqrt(gradient.shape[-1] // run.heads)
    for tiles, (weights, drawn) in zip(run.tiles, saved.attention, strict=True):
        query, key, value = _heads(saved.joint, tiles, run.heads, 3)
        (out,) = _heads(gradient, tiles, run.heads, 1)
        into = _blocks(result, tiles, run.heads, 3)
        dropped = _dropped(weights, drawn, run.attention_masks, weights.dtype)
        _from_heads(torch.bmm(dropped.mT, out), into[2])
        score = _dropped(torch.bmm(out, value.mT), drawn, run.attention_masks, weights.dtype)
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
    found = (block.flatten(0, -3) for block in _blocks(x, tiles, heads, parts))
    if x.dtype == torch.bfloat16:  # whose products on a CPU are slower on strided operands
        return tuple(part.contiguous() for part in found)
    return tuple(found)


def _from_heads(x: Tensor, into: Tensor) -> None:
    """The way back of `_heads`, into one of the `_blocks`."""
    into.copy_(x.view(into.shape))


def _mask(tiles: Tiles, batch: int, heads: int) -> Tensor:
    """The mask for every expert and head of the tiles [batch, length, length]."""
    if batch == tiles.count:
        return tiles.mask
    experts = batch // (tiles.count * heads)
    every = tiles.mask[None, :, None].expand(experts, -1, heads, -1, -1)
    return every.reshape(batch, tiles.length, tiles.length)


# ------------------------------------------------------------------------ small steps


def _cast(weights: LayerWeights, kind: torch.dtype) -> LayerWeights:
    if weights.widen.dtype == kind:
        return weights
    return LayerWeights(*(weight.to(kind) for weight in weights))


def _affine(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if x.dim() == 2:
        return torch.addmm(bias[0], x, weight)  # a bias vector is added inside the product
    return torch.baddbmm(bias, x, weight)


def _product_into(result: Tensor, a: Tensor, b: Tensor) -> None:
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


def _dropped(x: Tensor, drawn: Tensor | None, masks: DropoutMasks, kind: torch.dtype) -> Tensor:
    """x with the mask that was drawn before, as `kind`."""
    if drawn is None:
        return x.to(kind)
    return masks.kept(drawn, x.dtype).mul_(masks.scale).mul_(x).to(kind)


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
