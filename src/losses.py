"""The losses as pure functions of tensors: step losses, LC-NTG, SC-MIM.

Targets stand in the canonical order of a batch, by domain, user and time, so the targets of a
domain are one slice and `counts` [D] says how long each slice is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**22  # logits held at a time; 16 MiB in float32, which a large cache still takes


def _autocast_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _SoftmaxLoss(torch.autograd.Function):
    """−log softmax of each target among the items of its domain, a chunk of rows at a time.

    No tensor over [targets, items] is held: the backward pass computes the logits of a chunk again.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, targets: Tensor, spans: list) -> Tensor:
        kind = _autocast_dtype(hidden)
        rows, items = hidden.to(kind), table.to(kind)
        full = torch.promote_types(kind, torch.float32)
        log_sum, loss = (torch.empty(len(targets), dtype=full, device=hidden.device) for _ in "ab")
        for chunk, span in _chunks(spans):
            logits = (rows[chunk] @ items[span].T).to(full)
            log_sum[chunk] = logits.logsumexp(1)
            picked = logits.gather(1, (targets[chunk] - span.start)[:, None])[:, 0]
            loss[chunk] = log_sum[chunk] - picked
        ctx.save_for_backward(rows, items, targets, log_sum)
        ctx.spans, ctx.kinds = spans, (hidden.dtype, table.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        rows, items, targets, log_sum = ctx.saved_tensors
        hidden_gradient = torch.empty_like(rows)
        table_gradient = torch.zeros(items.shape, dtype=ctx.kinds[1], device=items.device)
        for chunk, span in _chunks(ctx.spans):
            logits = (rows[chunk] @ items[span].T).to(log_sum.dtype)
            share = logits.sub_(log_sum[chunk, None]).exp_().mul_(gradient[chunk, None])
            column = (targets[chunk] - span.start)[:, None]
            share.scatter_add_(1, column, -gradient[chunk, None])
            share = share.to(rows.dtype)  # ∂ loss / ∂ logits
            hidden_gradient[chunk] = share @ items[span]
            table_gradient[span] += share.T @ rows[chunk]
        return hidden_gradient.to(ctx.kinds[0]), table_gradient, None, None


def _chunks(spans: list[tuple[slice, slice]]):
    """The (rows, items) slices to compute at a time, none over CHUNK_ELEMENTS logits."""
    for rows, items in spans:
        step = max(1, CHUNK_ELEMENTS // (items.stop - items.start))
        for start in range(rows.start, rows.stop, step):
            yield slice(start, min(start + step, rows.stop)), items


def softmax_loss(
    hidden: Tensor, table: Tensor, targets: Tensor, spans: list[tuple[slice, slice]]
) -> Tensor:
    """Cross-entropy in nats of each target over the items of its domain (`--loss ce`).

    hidden [N, H], table [V + 1, H], targets [N] rows of the table; `spans` holds for each domain
    with targets the slice of its targets and the slice of its items -> [N].
    """
    return _SoftmaxLoss.apply(hidden, table, targets, spans)


def pairwise_loss(hidden: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy in nats of a target and one negative (`--loss bce`, the paper's).

    hidden, positive and negative embeddings [N, H] -> [N].
    """
    up = (hidden * positive).sum(-1, dtype=torch.promote_types(hidden.dtype, torch.float32))
    down = (hidden * negative).sum(-1, dtype=up.dtype)
    return F.softplus(-up) + F.softplus(down)


def domain_sums(values: Tensor, counts: Tensor) -> Tensor:
    """Sums over the targets of each domain: [N], [D] -> [D]; 0 where a domain has none."""
    return torch.segment_reduce(values, "sum", lengths=counts, unsafe=True, initial=0)


def weighted_mean(sums: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Σ_d w_d · sums_d / Σ_d w_d · counts_d: the plain mean when all weights are equal.

    `counts` [D] may be larger than what `sums` saw (other micro-batches, other processes): the
    denominator is the whole step's.
    """
    return (weights * sums).sum() / (weights * counts).sum()


def lc_ntg_weights(state: Tensor, temperature: float, floor: float) -> tuple[Tensor, Tensor]:
    """γ = softmax(s / τ) and w = f + (1 − f)·D·γ, each [D]; uniform γ gives w = 1."""
    gamma = (state / temperature).softmax(0)
    return gamma, floor + (1.0 - floor) * len(state) * gamma


def lc_ntg_update(
    state: Tensor, gap_sums: Tensor, counts: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """s_d ← α·s_d + β·φ_d with φ_d = gap_sums_d / counts_d, the mean of l_single − l_cross.

    A domain without a target in the step keeps its state; its φ is NaN. Returns (s, φ), each [D].
    """
    gap = gap_sums / counts
    return torch.where(counts > 0, alpha * state + beta * gap, state), gap


def info_nce(anchors: Tensor, candidates: Tensor, critic: Tensor, temperature: float) -> Tensor:
    """InfoNCE with the bilinear critic ρ(a, c) = aᵀ W c / temperature, in nats.

    anchors and candidates [n, H], n ≥ 2, row by row the same user in the single and the cross view
    (the positive pair; the other rows are the negatives), critic W [H, H] -> scalar. The mutual
    information of the views is at least log(n) − loss (van den Oord et al., 2018).
    """
    logits = (anchors @ critic @ candidates.T) / temperature  # [n, n]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def sc_mim(
    single: Tensor,
    cross: Tensor,
    lengths: Tensor,
    pairs: list[tuple[int, Tensor]],
    critics: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Single-cross mutual information: the mean over the domains that have at least two users.

    single and cross [N, H] are the outputs of the two views and `lengths` [S] the number of targets
    of each (domain, user) pair; `pairs` holds a domain and the rows of its users among the S, users
    with fewer than two targets left out (a first event is predicted from the start token alone).
    critics [D, H, H]. Returns (loss, bound log(n) − loss), both in nats and averaged over domains.
    """
    if not pairs:
        zero = single.new_zeros(())
        return zero, zero
    pooled_single = torch.segment_reduce(single, "mean", lengths=lengths, unsafe=True)  # [S, H]
    pooled_cross = torch.segment_reduce(cross, "mean", lengths=lengths, unsafe=True)
    losses, bounds = [], []
    for domain, rows in pairs:
        loss = info_nce(pooled_single[rows], pooled_cross[rows], critics[domain], temperature)
        losses.append(loss)
        bounds.append(math.log(len(rows)) - loss.detach())
    return torch.stack(losses).mean(), torch.stack(bounds).mean()
