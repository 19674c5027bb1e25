"""SC-MIM: mutual information of the two views of a user, by InfoNCE with a bilinear critic."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


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
    gather: Callable[[Tensor], list[Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """The mutual-information loss: the mean over the domains that have at least two users.

    single and cross [N, H] are the outputs of the two views and `lengths` [S] the number of targets
    of each (domain, user) pair; `pairs` holds a domain and the rows of its users among the S, users
    with fewer than two targets left out (a first event is predicted from the start token alone).
    critics [D, H, H]. Returns (loss, bound log(n) − loss), both in nats and averaged over domains.

    Where several processes share a batch, `gather` turns the rows [n, 2H] of one, by
    domain, into those of all, one tensor for each of `pairs`: every process then computes the loss
    of the whole batch.
    """
    if not pairs:
        zero = single.new_zeros(())
        return zero, zero
    views = [
        torch.segment_reduce(view, "mean", lengths=lengths, unsafe=True) for view in (single, cross)
    ]
    rows = torch.cat([rows for _, rows in pairs])
    pooled = torch.cat(views, 1).index_select(0, rows)  # [n, 2H]
    by_domain = gather(pooled) if gather else pooled.split([len(rows) for _, rows in pairs])
    losses, bounds, critic = [], [], critics.unbind(0)
    for (domain, _), users in zip(pairs, by_domain, strict=True):
        anchors, candidates = users.chunk(2, dim=1)
        loss = info_nce(anchors, candidates, critic[domain], temperature)
        losses.append(loss)
        bounds.append(math.log(len(users)) - loss.detach())
    return torch.stack(losses).mean(), torch.stack(bounds).mean()
