"""Softmax loss over a catalogue: losses and hand-written gradients, tile by tile.

The plain twin is in src/nn/softmax_loss.py. Targets stand in the canonical order of a batch, by
domain, user and time, so the targets of a domain are one slice.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.nn.kernels.matmul import add_matmul, matmul_dtype

# Sizes of tiles, chosen by measurement on two cores (see `_tile_shape`).
CHUNK_ELEMENTS = 2**22  # logits in memory at a time: 16 MiB in float32, which a large cache holds
TILE_ROWS = 256  # more targets at a time gain nothing
LEAST_ROWS = 64  # below, three multiplications of so few rows cost more than four of TILE_ROWS
TILE_ITEMS = 4096  # where the items are cut; 4 MiB of logits with TILE_ROWS
# float32 rows of logits start on a cache line; otherwise a product takes up to half as long again
ALIGNMENT = 16


def _aligned(width: int) -> int:
    return -(-width // ALIGNMENT) * ALIGNMENT


def _tile_shape(targets: int, items: int) -> tuple[int, int]:
    """(targets, items) of a tile of logits: at most CHUNK_ELEMENTS, its alignment included.

    A tile spans all items if that leaves enough targets for efficient multiplications; then one
    pass over the logits gives losses and gradients. Otherwise the items are cut too, which takes
    two passes.
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
    """Softmax in place of each row of logits [n, m], and the log-sum-exp of the logits [n].

    torch's kernel does the maximum, exp, sum and division while a row is in the nearest cache, for
    the price of a separate pass of exp alone. Σ exp(x − max) is 1 / (the largest share).
    """
    largest = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    return largest.sub_(logits.amax(1).log_())


class _Tiles:
    """Losses and gradients of the softmax, tile by tile in reused memory.

    hidden [N, H], table [V + 1, H] and `scaled` [N, H], hidden times the coefficients, have the
    dtype of the multiplications; log_sum [N], target_logit [N] and the gradients, each None where
    not wanted, have that of the sums. hidden_gradient lacks the factor of the coefficients.
    """

    def __init__(self, hidden, table, targets, scaled, hidden_gradient, table_gradient):
        self.hidden, self.table, self.targets, self.scaled = hidden, table, targets, scaled
        self.hidden_gradient, self.table_gradient = hidden_gradient, table_gradient
        self.wanted = hidden_gradient is not None or table_gradient is not None
        self.sum_dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.log_sum = hidden.new_full((len(hidden),), -math.inf, dtype=self.sum_dtype)
        self.target_logit = hidden.new_zeros(len(hidden), dtype=self.sum_dtype)
        self.matmul_buffer = self.sum_buffer = hidden.new_empty(0)

    def run(self, targets: slice, items: slice) -> None:
        """All targets of a domain over all of its items."""
        height, width = _tile_shape(targets.stop - targets.start, items.stop - items.start)
        self._allocate(height * _aligned(width))
        row_chunks, item_chunks = _pieces(targets, height), _pieces(items, width)
        # items outside: their rows of table and gradient then stay in the cache for all targets
        tiles = [(span, rows) for span in item_chunks for rows in row_chunks]
        one_pass = len(item_chunks) == 1
        for span, rows in tiles:
            logits, column, inside = self._logits(span, rows)
            logit = logits.gather(1, column)[:, 0]  # [n, m] -> [n]
            self.target_logit[rows] = torch.where(inside, logit, self.target_logit[rows])
            self.log_sum[rows] = torch.logaddexp(self.log_sum[rows], _softmax_(logits))
            if one_pass and self.wanted:
                self._add_gradients(span, rows, logits, column, inside)
        if one_pass or not self.wanted:
            return
        for span, rows in tiles:
            logits, column, inside = self._logits(span, rows)
            logits.sub_(self.log_sum[rows, None]).exp_()
            self._add_gradients(span, rows, logits, column, inside)

    def _allocate(self, elements: int) -> None:
        if self.matmul_buffer.numel() < elements:
            self.matmul_buffer = self.hidden.new_empty(elements)
            self.sum_buffer = self.matmul_buffer
            if self.hidden.dtype != self.sum_dtype:
                self.sum_buffer = self.hidden.new_empty(elements, dtype=self.sum_dtype)

    def _logits(self, span: slice, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [n, m] of a tile, −inf where rows are filled up; the target column, if inside."""
        height, width = rows.stop - rows.start, span.stop - span.start
        shape = height, _aligned(width)
        multiplied = self.matmul_buffer[: shape[0] * shape[1]].view(shape)
        torch.mm(self.hidden[rows], self.table[span].T, out=multiplied[:, :width])
        logits = self.sum_buffer[: shape[0] * shape[1]].view(shape)
        if logits.dtype != multiplied.dtype:
            logits.copy_(multiplied)
        logits[:, width:] = -math.inf
        column = self.targets[rows] - span.start
        inside = (column >= 0) & (column < width)
        return logits, column.clamp_(0, width - 1)[:, None], inside

    def _add_gradients(self, span: slice, rows: slice, share: Tensor, column, inside) -> None:
        """Add what the softmax `share` [n, m] of a tile gives: ∂ loss / ∂ logits = share − onehot.

        The target is taken off before rounding to bf16, so a share near 1 keeps its distance to 1.
        """
        share.scatter_add_(1, column, inside[:, None].to(share.dtype).neg_())
        if share.dtype != self.hidden.dtype:
            share = self.matmul_buffer[: share.numel()].view(share.shape).copy_(share)
        share = share[:, : span.stop - span.start]
        if self.hidden_gradient is not None:
            add_matmul(self.hidden_gradient[rows], share, self.table[span])
        if self.table_gradient is not None:
            add_matmul(self.table_gradient[span], share.T, self.scaled[rows])


class _SoftmaxLoss(torch.autograd.Function):
    """Objective and losses of `softmax_loss`; the forward pass makes the gradients as well.

    They are linear in the gradient of the objective, a scalar: the backward pass only multiplies.
    """

    @staticmethod
    def forward(ctx, hidden, table, targets, spans, coefficients, dtype, wanted):
        sum_dtype = torch.promote_types(dtype, torch.float32)
        coefficients = coefficients.to(sum_dtype)
        hidden_gradient = torch.zeros_like(hidden, dtype=sum_dtype) if wanted[0] else None
        table_gradient = torch.zeros_like(table, dtype=sum_dtype) if wanted[1] else None
        scaled = (hidden * coefficients[:, None]).to(dtype) if wanted[1] else None
        tiles = _Tiles(
            hidden.to(dtype), table.to(dtype), targets, scaled, hidden_gradient, table_gradient
        )
        for span, items in spans:
            tiles.run(span, items)
        if hidden_gradient is not None:
            hidden_gradient.mul_(coefficients[:, None])
        losses = tiles.log_sum - tiles.target_logit
        ctx.gradients, ctx.dtypes = (hidden_gradient, table_gradient), (hidden.dtype, table.dtype)
        ctx.mark_non_differentiable(losses)
        return coefficients @ losses, losses

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, _):
        if ctx.gradients is None:
            raise RuntimeError("softmax_loss keeps its gradients for one backward pass only")
        gradients, ctx.gradients = ctx.gradients, None  # multiplied in place, so used up
        return *(
            None if total is None else total.mul_(gradient).to(dtype)
            for total, dtype in zip(gradients, ctx.dtypes, strict=True)
        ), *[None] * 5


def softmax_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    spans: list[tuple[slice, slice]],
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target over the items of its domain, and their weighted sum.

    Arguments and results are those of src/nn/softmax_loss.py; goes backward once.

    The coefficients are known before the losses, so the forward pass makes the gradients from the
    same logits, one tile at a time: three multiplications of [N, V_d, H] in all, four for a domain
    so large that its items are cut too. No tensor over [targets, items] is ever held, only a tile
    of at most CHUNK_ELEMENTS. Under bf16 autocast multiplications are bf16 and all sums float32.
    """
    grad = torch.is_grad_enabled()
    wanted = grad and hidden.requires_grad, grad and table.requires_grad
    dtype = matmul_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        return _SoftmaxLoss.apply(hidden, table, targets, spans, coefficients, dtype, wanted)
