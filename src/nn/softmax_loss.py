"""Softmax cross-entropy over the items of a domain (`--loss ce`): plain code or fused kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from src.nn.kernels.softmax_loss import softmax_loss as fused_softmax_loss


def softmax_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    spans: list[tuple[slice, slice]],
    coefficients: Tensor,
    kernels: str = "fused",
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target over the items of its domain, and their weighted sum.

    Under bf16 autocast the logits are multiplied in bf16, and all sums are float32.

    Parameters
    ----------
    hidden : [N, H] outputs of the targets.
    table : [V + 1, H] item embeddings; its gradient is dense.
    targets : [N] rows of the table.
    spans : for each domain with targets the slice of its targets and the slice of its items;
        in order, and together they cover all targets.
    coefficients : [N] weight of each loss in the objective, of any sign; they get no gradient.
    kernels : "fused" (src/nn/kernels/softmax_loss.py, for one backward pass), or "plain".

    Returns
    -------
    objective : scalar Σ_t coefficients[t] · losses[t], with a gradient.
    losses : [N] −log softmax of each target in nats, without a gradient.
    """
    if kernels == "fused":
        return fused_softmax_loss(hidden, table, targets, spans, coefficients)
    sum_dtype = torch.promote_types(hidden.dtype, torch.float32)
    parts = [hidden[:0, 0].to(sum_dtype)]  # [0]: without targets the objective has a gradient too
    for span, items in spans:
        logits = (hidden[span] @ table[items].T).to(sum_dtype)  # [n, V_d]
        labels = targets[span] - items.start
        parts.append(F.cross_entropy(logits, labels, reduction="none"))
    losses = torch.cat(parts)  # [N]
    return coefficients.detach().to(sum_dtype) @ losses, losses.detach()
