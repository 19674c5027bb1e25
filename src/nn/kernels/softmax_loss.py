"""Softmax cross-entropy over a catalogue, losses and gradients tile by tile.

Targets stand in the canonical order of a batch, by domain, user and time, so the targets of a
domain are one slice.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.nn.kernels.matmul import add_product, product_dtype

# The tiles of the softmax loss, by measurement on two cores (see `_tile_shape`).
CHUNK_ELEMENTS = 2**22  # logits held at a time; 16 MiB in float32, which a large cache still takes
TILE_ROWS = 256  # more targets at a time gain nothing
LEAST_ROWS = 64  # below, three products of so few rows cost more than four of TILE_ROWS
TILE_ITEMS = 4096  # where the items are cut; 4 MiB of logits with TILE_ROWS
ALIGNMENT = 16  # float32 rows of logits start on a cache line; else a product is up to half slower


def _aligned(width: int) -> int:
    return -(-width // ALIGNMENT) * ALIGNMENT


def _tile_shape(targets: int, items: int) -> tuple[int, int]:
    """(targets, items) of a tile of logits: at most CHUNK_ELEMENTS, its alignment included.

    A tile spans all items if that leaves enough targets for efficient products; then one pass over
    the logits gives losses and gradients. Otherwise the items are cut too, and it takes two.
    """
    rows = CHUNK_ELEMENTS // _aligned(items)
    if rows >= min(targets, LEAST_ROWS):
        return min(rows, targets, TILE_ROWS), items
    rows = max(1, min(targets, TILE_ROWS, CHUNK_ELEMENTS // ALIGNMENT))
    return rows, min(TILE_ITEMS, max(1, CHUNK_ELEMENTS // rows // ALIGNMENT) * ALIGNMENT)


def _pieces(whole: slice, size: int) -> list[slice]:
    starts = range(whole.start, whole.stop, size)
    return [slice(start, min(start + size, whole.stop)) for start in starts]


def _softmax_(logits: Tensor) -> Tensor:
    """Softmax in place of each row of logits [n, m], and the log-sum-exp of what stood there [n].

    torch's kernel does the maximum, exp, sum and division of a row while the row is in the nearest
    cache, the price of exp alone as a pass of its own. Σ exp(x − max) is 1 / (the largest share).
    """
    largest = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    return largest.sub_(logits.amax(1).log_())


class _Tiles:
    """Losses and gradients of the softmax, tile by tile in memory that is used again.

    rows [N, H], items [V + 1, H] and `scaled` [N, H], the rows times their coefficients, have the
    dtype of the products; log_sum, picked (the logit of the target) [N] and the gradients, each
    None where not wanted, that of all sums. hidden_gradient lacks the factor of the coefficients.
    """

    def __init__(self, rows, items, targets, scaled, hidden_gradient, table_gradient):
        self.rows, self.items, self.targets, self.scaled = rows, items, targets, scaled
        self.hidden_gradient, self.table_gradient = hidden_gradient, table_gradient
        self.wanted = hidden_gradient is not None or table_gradient is not None
        self.full = torch.promote_types(rows.dtype, torch.float32)
        self.log_sum = rows.new_full((len(rows),), -math.inf, dtype=self.full)
        self.picked = rows.new_zeros(len(rows), dtype=self.full)
        self.products = self.sums = rows.new_empty(0)

    def run(self, own: slice, span: slice) -> None:
        """All targets `own` of a domain over its items `span`."""
        height, width = _tile_shape(own.stop - own.start, span.stop - span.start)
        self._allocate(height * _aligned(width))
        # items outside: their rows of table and gradient then stay in the cache for all targets
        tiles = [(part, chunk) for part in _pieces(span, width) for chunk in _pieces(own, height)]
        one_pass = len(_pieces(span, width)) == 1
        for part, chunk in tiles:
            logits, column, inside = self._logits(part, chunk)
            found = logits.gather(1, column)[:, 0]
            self.picked[chunk] = torch.where(inside, found, self.picked[chunk])
            self.log_sum[chunk] = torch.logaddexp(self.log_sum[chunk], _softmax_(logits))
            if one_pass and self.wanted:
                self._add_gradients(part, chunk, logits, column, inside)
        if one_pass or not self.wanted:
            return
        for part, chunk in tiles:
            logits, column, inside = self._logits(part, chunk)
            logits.sub_(self.log_sum[chunk, None]).exp_()
            self._add_gradients(part, chunk, logits, column, inside)

    def _allocate(self, elements: int) -> None:
        if self.products.numel() < elements:
            self.products = self.rows.new_empty(elements)
            lower = self.rows.dtype != self.full
            self.sums = self.rows.new_empty(elements, dtype=self.full) if lower else self.products

    def _logits(self, part: slice, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [n, m] of a tile, −inf where rows are filled up; the target column, if inside."""
        height, width = chunk.stop - chunk.start, part.stop - part.start
        shape = height, _aligned(width)
        products = self.products[: shape[0] * shape[1]].view(shape)
        torch.mm(self.rows[chunk], self.items[part].T, out=products[:, :width])
        logits = self.sums[: shape[0] * shape[1]].view(shape)
        if logits.dtype != products.dtype:
            logits.copy_(products)
        logits[:, width:] = -math.inf
        column = self.targets[chunk] - part.start
        inside = (column >= 0) & (column < width)
        return logits, column.clamp_(0, width - 1)[:, None], inside

    def _add_gradients(self, part: slice, chunk: slice, share: Tensor, column, inside) -> None:
        """Add what the softmax `share` [n, m] of a tile gives: ∂ loss / ∂ logits = share − onehot.

        The target is taken off before rounding to bf16, so a share near 1 keeps its distance to 1.
        """
        share.scatter_add_(1, column, inside[:, None].to(share.dtype).neg_())
        if share.dtype != self.rows.dtype:
            share = self.products[: share.numel()].view(share.shape).copy_(share)
        share = share[:, : part.stop - part.start]
        if self.hidden_gradient is not None:
            add_product(self.hidden_gradient[chunk], share, self.items[part])
        if self.table_gradient is not None:
            add_product(self.table_gradient[part], share.T, self.scaled[chunk])


class _SoftmaxLoss(torch.autograd.Function):
    """Objective and losses of `softmax_loss`, the gradients of the objective made on the way.

    They are linear in the gradient of the objective, a scalar: the backward pass only multiplies.
    """

    @staticmethod
    def forward(ctx, hidden, table, targets, spans, coefficients, kind, wanted):
        full = torch.promote_types(kind, torch.float32)
        coefficients = coefficients.to(full)
        hidden_gradient = torch.zeros_like(hidden, dtype=full) if wanted[0] else None
        table_gradient = torch.zeros_like(table, dtype=full) if wanted[1] else None
        scaled = (hidden * coefficients[:, None]).to(kind) if wanted[1] else None
        tiles = _Tiles(
            hidden.to(kind), table.to(kind), targets, scaled, hidden_gradient, table_gradient
        )
        for own, span in spans:
            tiles.run(own, span)
        if wanted[0]:
            hidden_gradient.mul_(coefficients[:, None])
        losses = tiles.log_sum - tiles.picked
        ctx.gradients, ctx.kinds = (hidden_gradient, table_gradient), (hidden.dtype, table.dtype)
        ctx.mark_non_differentiable(losses)
        return coefficients @ losses, losses

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, _):
        if ctx.gradients is None:
            raise RuntimeError("softmax_loss keeps its gradients for one backward pass only")
        found, ctx.gradients = ctx.gradients, None  # multiplied in place: they are gone after
        return *(
            None if total is None else total.mul_(gradient).to(kind)
            for total, kind in zip(found, ctx.kinds, strict=True)
        ), *[None] * 5


def softmax_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    spans: list[tuple[slice, slice]],
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target over the items of its domain (`--loss ce`), and their sum.

    The coefficients are known before the losses, so the forward pass makes the gradients from the
    same logits, a tile at a time: three matrix products of [N, V_d, H] in all, four for a domain so
    large that its items are cut too. No tensor over [targets, items] is ever held, only a tile of
    at most CHUNK_ELEMENTS. Under bf16 autocast the products are bf16 and all sums float32.

    Parameters
    ----------
    hidden : [N, H] outputs of the targets.
    table : [V + 1, H] item embeddings; its gradient is dense.
    targets : [N] rows of the table.
    spans : for each domain with targets the slice of its targets and the slice of its items;
        together they cover all targets.
    coefficients : [N] weight of each loss in the objective, of any sign; they get no gradient.

    Returns
    -------
    objective : scalar Σ_t coefficients[t] · losses[t], for one backward pass.
    losses : [N] −log softmax of each target in nats, without a gradient.
    """
    grad = torch.is_grad_enabled()
    wanted = grad and hidden.requires_grad, grad and table.requires_grad
    kind = product_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        return _SoftmaxLoss.apply(hidden, table, targets, spans, coefficients, kind, wanted)
