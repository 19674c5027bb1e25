"""The step losses of targets (`--loss`), and their mean over the targets of a step.

Targets are in the canonical order of a batch, by domain, user and time: the targets of a domain are
one slice, whose length is in `counts` [D].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from src.nn.softmax_loss import softmax_loss


def sampled_losses(
    settings, hidden: Tensor, positive: Tensor, negatives: Tensor, others: Tensor
) -> Tensor:
    """The step loss in nats of a target among n negatives (`--loss bce|gbce|sampled`).

    bce is the paper's, with n = 1. gbce raises the target's probability to a power β ≤ 1, because
    the negatives are a sample: Petrov and Macdonald, "gSASRec", RecSys 2023, equations 9 and 12.
    sampled is a softmax over the target and its negatives.

    hidden and positive embeddings [N, H], negative ones [N, n, H], other items of each target's
    domain [N] -> [N].
    """
    sum_dtype = torch.promote_types(hidden.dtype, torch.float32)
    up = (hidden * positive).sum(-1, dtype=sum_dtype)  # [N]
    down = (hidden[:, None] * negatives).sum(-1, dtype=sum_dtype)  # [N, n]
    if settings.loss == "sampled":
        scores = torch.cat([up[:, None], down], 1) / settings.softmax_temperature
        return scores.logsumexp(1) - scores[:, 0]
    if settings.loss == "bce":
        return F.softplus(-up) + F.softplus(down).sum(1)
    rate = (negatives.shape[1] / others.to(sum_dtype).clamp(min=1)).clamp(max=1)  # α
    power = rate * (settings.gbce_t * (1 - 1 / rate) + 1 / rate)  # β
    return (power * F.softplus(-up) + F.softplus(down).sum(1)) / (1 + negatives.shape[1])


def target_losses(
    settings,
    batch,
    outputs: Tensor,
    table: Tensor,
    item_starts: list[int],
    coefficients: Tensor | None = None,
    rows: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Σ coefficient · loss with its gradient, and the step loss of each target [N] without one.

    Parameters
    ----------
    outputs: [N, H] of the targets, in the canonical order.
    table: [V + 1, H] item embeddings; items of domain d are rows item_starts[d] … [d + 1] − 1.
    coefficients: [N]; None: 1.
    rows: {"targets": [N, H], "negatives": [N · n, H]} of the table, if they have been looked up.
    """
    if coefficients is None:
        dtype = torch.promote_types(outputs.dtype, torch.float32)
        coefficients = torch.ones(len(outputs), dtype=dtype, device=outputs.device)
    if settings.loss == "ce":
        spans = domain_spans(batch.counts, item_starts, settings.softmax_items == "all")
        scaled = outputs
        if settings.softmax_temperature != 1.0:
            scaled = outputs / settings.softmax_temperature
        return softmax_loss(scaled, table, batch.targets, spans, coefficients, settings.kernels)
    if rows is None:
        items = {"targets": batch.targets, "negatives": batch.negatives.flatten()}
        rows = {name: F.embedding(one, table) for name, one in items.items()}
    negatives = rows["negatives"].unflatten(0, batch.negatives.shape)  # [N, n, H]
    sizes = torch.tensor(item_starts, device=outputs.device).diff() - 1  # [D]
    others = sizes.repeat_interleave(batch.domain_counts, output_size=len(outputs))  # [N]
    losses = sampled_losses(settings, outputs, rows["targets"], negatives, others)
    return (coefficients * losses).sum(), losses.detach()


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
