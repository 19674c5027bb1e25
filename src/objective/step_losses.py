"""The step loss of one target, and its mean over the targets of a step.

Targets are in the canonical order of a batch, by domain, user and time: the targets of a domain are
one slice, whose length is in `counts` [D].
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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


def mean_coefficients(counts: Tensor, weights: Tensor) -> Tensor:
    """w_d / Σ_d w_d · counts_d [D]: the factor of a domain's losses in the weighted mean of a step,
    which is the plain mean if all weights are equal.

    `counts` [D] are the whole step's, over all its micro-batches and processes.
    """
    return weights / (weights * counts).sum().clamp(min=torch.finfo(weights.dtype).tiny)


def domain_spans(
    counts: list[int], item_starts: list[int], every_item: bool = False
) -> list[tuple[slice, slice]]:
    """The targets of each domain, and the items that they are ranked among: a pair of slices per
    domain with targets; with `every_item` one pair for all targets and all items.

    counts: [D] targets of each domain, in the canonical order. item_starts: [D + 1].
    """
    if every_item:
        return [(slice(0, sum(counts)), slice(1, item_starts[-1]))] if sum(counts) else []
    spans, start = [], 0
    for domain, count in enumerate(counts):
        if count:
            items = slice(item_starts[domain], item_starts[domain + 1])
            spans.append((slice(start, start + count), items))
        start += count
    return spans
