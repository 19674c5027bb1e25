"""The losses of the targets of a split, read while the targets are ranked."""

import numpy as np
import torch
from torch import Tensor

from src.evaluation.rank_counts import item_chunks, on_device, to_device
from src.evaluation.ranking import Block, BlockScorer, Plan, Share


@torch.no_grad()
def block_losses(
    scorer: BlockScorer, plan: Plan, block: Block, temperature: float = 1.0
) -> np.ndarray:
    """[n] of each target of a block −log softmax(scores / temperature) among the items of its
    domain, in nats: the loss of `--loss ce`, without dropout."""
    losses = np.empty(len(block.rows))
    for share in block.own:
        values = _share_losses(scorer, plan, block, share, temperature)
        losses[share.places] = values[: len(share.places)].cpu().numpy()
    return losses


def _share_losses(
    scorer: BlockScorer, plan: Plan, block: Block, share: Share, temperature: float
) -> Tensor:
    """[≥ m] the losses of the targets of a share, a chunk of its domain's items at a time."""
    first, end = plan.dataset.item_starts[share.domain : share.domain + 2].tolist()
    scores = scorer.scores(share.padded, share.domain)
    targets = to_device(plan.targets.items[block.rows[share.padded]] - first, plan.device)
    total = torch.full(targets.shape, -torch.inf, dtype=torch.float64, device=plan.device)
    own = torch.zeros_like(total)
    for chunk in item_chunks(end - first, plan.device):
        logits = scores(on_device(chunk.columns, plan.device))[:, chunk.counted] / temperature
        total = torch.logaddexp(total, logits.logsumexp(1).double())
        column = targets - chunk.start - chunk.counted.start
        inside = (column >= 0) & (column < logits.shape[1])
        column = column.clamp(0, logits.shape[1] - 1)
        own = torch.where(inside, logits.gather(1, column[:, None])[:, 0].double(), own)
    return total - own
