"""Expert encoders on packed tokens, forward and backward written out.

A layer is a handful of matrix products with cheap steps between them, and at small hidden sizes the
cheap steps cost more than the products if each walks through memory on its own. Written out, the
backward pass adds into the buffers that are there, keeps a byte of each dropout mask, and holds no
copy that it can do without. tests/test_encoder.py compares it with automatic differentiation.

On a CPU one expert at a time runs through a layer, so that its activations stay in the cache; on a
GPU the experts of one owner run as one batch of products. Below, […] is the batch of experts: none
on a CPU, [K] on a GPU.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.dropout import DropoutMasks

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
    rows: Tensor  # [N] the slots whose outputs are wanted
    heads: int
    product: torch.dtype  # of the operands of matrix products
    masks: DropoutMasks
    attention_masks: DropoutMasks
    training: bool  # whether a backward pass follows
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
    """Σ_k share_k · expert_k over the experts of one owner, on the rows of the pass."""

    @staticmethod
    def forward(ctx, x: Tensor, share: Tensor, run: Pass, learns: bool, *weights: Tensor) -> Tensor:
        """Inputs x [M, H], share [N, K], weights by layer -> [N, H].

        Where the experts do not learn, the share alone gets a gradient.
        """
        layers = _layers(weights)
        outputs, saved, mixture = [], [], None
        with torch.autocast(x.device.type, enabled=False):
            for expert in _experts(run, layers[0]):
                hidden, steps = _start(x, layers[0], expert), []
                for number, layer in enumerate(layers):
                    rows = run.rows if number == len(layers) - 1 else None
                    inputs = hidden
                    hidden, step = layer_forward(inputs, _one(layer, expert), run, rows)
                    if run.training and learns:
                        steps.append((inputs, rows, step))
                saved.append(steps)
                outputs.append(hidden if run.training else None)
                mixture = _add_share(mixture, hidden, share.mT[expert])
        ctx.save_for_backward(x, share, *weights)
        ctx.run, ctx.learns, ctx.outputs, ctx.saved = run, learns, outputs, saved
        return mixture

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, share, *weights = ctx.saved_tensors
        layers = _layers(weights)
        share_gradient = torch.empty_like(share)
        found = [torch.empty_like(weight) if ctx.learns else None for weight in weights]
        x_gradient = torch.zeros_like(x) if ctx.learns else None
        for expert in _experts(ctx.run, layers[0]):
            share_gradient.mT[expert] = (gradient * ctx.outputs.pop(0)).sum(-1)
            steps = ctx.saved.pop(0)
            if not ctx.learns:
                continue
            hidden = gradient * share.mT[expert].unsqueeze(-1)
            for layer, into in reversed(list(zip(layers, _layers(found), strict=True))):
                inputs, rows, step = steps.pop()
                hidden = layer_backward(
                    hidden, inputs, step, _one(layer, expert), _one(into, expert), ctx.run, rows
                )
            x_gradient += hidden if hidden.dim() == 2 else hidden.sum(0)
        return x_gradient, share_gradient, None, None, *found


def _experts(run: Pass, layer: LayerWeights) -> list[int] | list[slice]:
    """The experts one by one, or all of them at once."""
    return [slice(None)] if run.stacked else list(range(len(layer.widen)))


def _start(x: Tensor, layer: LayerWeights, expert: int | slice) -> Tensor:
    """The inputs of one expert [M, H], or of all of them [K, M, H] without a copy."""
    return x.expand(len(layer.widen), *x.shape) if isinstance(expert, slice) else x


def _add_share(mixture: Tensor | None, output: Tensor, share: Tensor) -> Tensor:
    """mixture + Σ share · output: output […, N, H], share […, N] -> [N, H]."""
    weighted = output * share.unsqueeze(-1) if mixture is None or output.dim() == 3 else None
    if weighted is None:
        return torch.addcmul(mixture, output, share.unsqueeze(-1))
    weighted = weighted if weighted.dim() == 2 else weighted.sum(0)
    return weighted if mixture is None else mixture + weighted


def layer_forward(
    x: Tensor, weights: LayerWeights, run: Pass, rows: Tensor | None
) -> tuple[Tensor, Saved]:
    """One post-norm layer: x […, M, H] -> […, n, H], n = M, or the `rows` alone."""
    w = _cast(weights, run.product)
    joint = _affine(w.project_in_bias, x.to(run.product), w.project_in)  # […, M, 3H]
    attended, attention = attend(joint, run)  # […, M, H]
    if rows is not None:
        attended, x = attended.index_select(-2, rows), x.index_select(-2, rows)
    branch = _affine(w.project_out_bias, attended, w.project_out)
    total, first_drawn = _add_dropped(x, branch, run.masks)
    middle, *first = _norm(total, weights.attention_norm, weights.attention_norm_bias)
    wide = _affine(w.widen_bias, middle.to(run.product), w.widen)  # […, n, 4H]
    active = F.gelu(wide)
    branch = _affine(w.narrow_bias, active, w.narrow)
    total_2, second_drawn = _add_dropped(middle, branch, run.masks)
    output, *second = _norm(total_2, weights.output_norm, weights.output_norm_bias)
    saved = Saved(
        joint, attention, attended, first_drawn, (total, *first),
        middle, wide, active, second_drawn, (total_2, *second),
    )  # fmt: skip
    return output, saved


def layer_backward(
    gradient: Tensor, x: Tensor, saved: Saved, weights: LayerWeights, gradients: LayerWeights,
    run: Pass, rows: Tensor | None,
) -> Tensor:  # fmt: skip
    """∂/∂x […, M, H] from ∂/∂output […, n, H]; writes ∂/∂weights into `gradients`."""
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
    middle = _add_product(total, wide, w.widen.mT)
    total = _norm_backward(
        middle, saved.first_sum, weights.attention_norm,
        gradients.attention_norm, gradients.attention_norm_bias,
    )  # fmt: skip
    branch = _dropped(total, saved.first_drawn, run.masks, kind)
    _product_into(gradients.project_out, saved.attended.mT, branch)
    _sum_into(gradients.project_out_bias, branch)
    attended = branch @ w.project_out.mT
    if rows is not None:
        attended, total = _spread(attended, rows, x.shape), _spread(total, rows, x.shape)
    joint = attend_backward(attended, saved, run)  # […, M, 3H]
    _product_into(gradients.project_in, x.to(kind).mT, joint)
    _sum_into(gradients.project_in_bias, joint)
    return _add_product(total, joint, w.project_in.mT)


# ------------------------------------------------------------------------ attention


def attend(joint: Tensor, run: Pass) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
    """Causal attention within each sequence: queries, keys, values […, M, 3H] -> […, M, H]."""
    hidden = joint.shape[-1] // 3
    attended = joint.new_empty(*joint.shape[:-1], hidden)
    scale, kept = 1.0 / math.sqrt(hidden // run.heads), []
    for tiles in run.tiles:
        query, key, value = (_heads(part, tiles, run.heads) for part in joint.split(hidden, -1))
        mask = _mask(tiles, len(query), run.heads)
        weights = torch.baddbmm(mask, query, key.mT, alpha=scale).softmax(-1)
        drawn = run.attention_masks.draw(weights.shape)
        dropped = _dropped(weights, drawn, run.attention_masks, weights.dtype)
        _from_heads(torch.bmm(dropped, value), attended, tiles, run.heads)
        kept.append((weights, drawn))
    return attended, kept


def attend_backward(gradient: Tensor, saved: Saved, run: Pass) -> Tensor:
    """∂/∂joint […, M, 3H] from ∂/∂attended […, M, H]."""
    hidden = gradient.shape[-1]
    result = torch.empty_like(saved.joint)
    into = result.split(hidden, -1)
    scale = 1.0 / math.sqrt(hidden // run.heads)
    for tiles, (weights, drawn) in zip(run.tiles, saved.attention, strict=True):
        query, key, value = (
            _heads(part, tiles, run.heads) for part in saved.joint.split(hidden, -1)
        )
        out = _heads(gradient, tiles, run.heads)
        dropped = _dropped(weights, drawn, run.attention_masks, weights.dtype)
        value_gradient = torch.bmm(dropped.mT, out)
        score = _dropped(torch.bmm(out, value.mT), drawn, run.attention_masks, weights.dtype)
        score = torch._softmax_backward_data(score, weights, -1, weights.dtype).mul_(scale)
        _from_heads(torch.bmm(score, key), into[0], tiles, run.heads)
        _from_heads(torch.bmm(score.mT, query), into[1], tiles, run.heads)
        _from_heads(value_gradient, into[2], tiles, run.heads)
    return result


def _heads(x: Tensor, tiles: Tiles, heads: int) -> Tensor:
    """The slots of the tiles […, M, H] as [… · count · heads, length, H / heads]."""
    part = x.narrow(-2, tiles.start, tiles.count * tiles.length)
    part = part.unflatten(-2, (tiles.count, tiles.length)).unflatten(-1, (heads, -1))
    part = part.transpose(-3, -2).flatten(0, -3)
    # the bf16 products of the CPU copy strided operands, slower than this
    return part.contiguous() if part.dtype == torch.bfloat16 else part


def _from_heads(x: Tensor, into: Tensor, tiles: Tiles, heads: int) -> None:
    """The way back of `_heads`, into the slots of the tiles."""
    part = into.narrow(-2, tiles.start, tiles.count * tiles.length)
    part = part.unflatten(-2, (tiles.count, tiles.length)).unflatten(-1, (heads, -1))
    part = part.transpose(-3, -2)
    part.copy_(x.view(part.shape))


def _mask(tiles: Tiles, batch: int, heads: int) -> Tensor:
    """The mask for every expert and head of the tiles [batch, length, length]."""
    if batch == tiles.count:
        return tiles.mask
    experts = batch // (tiles.count * heads)
    every = tiles.mask[None, :, None].expand(experts, -1, heads, -1, -1)
    return every.reshape(batch, tiles.length, tiles.length)


# ------------------------------------------------------------------------ small steps


def _layers(weights: tuple[Tensor, ...] | list[Tensor]) -> list[LayerWeights]:
    size = len(LayerWeights._fields)
    return [LayerWeights(*weights[i : i + size]) for i in range(0, len(weights), size)]


def _one(weights: LayerWeights, expert: int | slice) -> LayerWeights:
    """The weights of one expert, without the stack's dimension; of all where it is a slice."""
    return LayerWeights(*(weight[expert] for weight in weights))


def _cast(weights: LayerWeights, kind: torch.dtype) -> LayerWeights:
    return LayerWeights(*(weight.to(kind) for weight in weights))


def _affine(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return (torch.addmm if x.dim() == 2 else torch.baddbmm)(bias, x, weight)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a·b, in place."""
    if a.dtype != total.dtype:
        return total.add_(a @ b)
    return total.addmm_(a, b) if a.dim() == 2 else total.baddbmm_(a, b)


def _product_into(result: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype != result.dtype:
        result.copy_(a @ b)
    else:
        torch.matmul(a, b, out=result)


def _sum_into(result: Tensor, x: Tensor) -> None:
    torch.sum(x, dim=-2, keepdim=True, dtype=result.dtype, out=result)


def _add_dropped(x: Tensor, branch: Tensor, masks: DropoutMasks) -> tuple[Tensor, Tensor | None]:
    """x + dropout(branch), and what was drawn."""
    drawn = masks.draw(branch.shape)
    if drawn is None:
        return x + branch, None
    kept = masks.kept(drawn, x.dtype)
    return torch.addcmul(x, branch.to(x.dtype), kept, value=masks.scale), drawn


def _dropped(x: Tensor, drawn: Tensor | None, masks: DropoutMasks, kind: torch.dtype) -> Tensor:
    """x with the mask that was drawn before, as `kind`."""
    if drawn is None:
        return x.to(kind)
    return masks.kept(drawn, kind).mul_(masks.scale).mul_(x)


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


def _spread(x: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """The way back of selecting rows: […, n, H] -> `shape` […, M, H], 0 elsewhere."""
    return x.new_zeros(*x.shape[:-2], *shape[-2:]).index_copy_(-2, rows, x)
