"""The losses of the targets of a split, read while the targets are ranked."""

import numpy as np
import torch
from torch import Tensor

from src.config.settings import Settings
from src.evaluation.rank_counts import item_chunks, on_device
from src.evaluation.ranking import Block, BlockScorer, Plan

SCALED = ("ce", "sampled")  # the losses that divide scores by the temperature


class TargetLosses:
    """The losses of a plan's targets on each path: in nats, of a softmax among the items of the
    target's domain, whatever `--loss` trains, without dropout."""

    def __init__(self, settings: Settings, plan: Plan):
        self.plan = plan
        self.temperature = settings.softmax_temperature if settings.loss in SCALED else 1.0
        self.losses = {path: np.zeros(len(plan.targets.events)) for path in settings.paths}
        self.ranked = np.zeros(len(plan.targets.events), dtype=bool)

    def read(self, path: str, block: Block, scorer: BlockScorer) -> None:
        """Read the losses of a block from its scorer."""
        self.losses[path][block.rows] = block_losses(scorer, self.plan, block, self.temperature)
        self.ranked[block.rows] = True

    def of_known_items(self) -> tuple[list[Tensor], Tensor]:
        """Of the targets that this process ranked and whose item has a training event: the losses
        of each path [n] in the order of their domains, and how many each domain has [D].

        The loss of another item says how far a view pushes down what it has never learned.
        """
        dataset, targets = self.plan.dataset, self.plan.targets
        rows = np.flatnonzero(self.ranked & (dataset.training_counts[targets.items] > 0))
        rows = rows[np.argsort(targets.domains[rows], kind="stable")]
        counts = np.bincount(targets.domains[rows], minlength=len(dataset.domain_names))
        device = self.plan.device
        by_path = [torch.from_numpy(losses[rows]).to(device) for losses in self.losses.values()]
        return by_path, torch.from_numpy(counts).to(device)


@torch.no_grad()
def block_losses(
    scorer: BlockScorer, plan: Plan, block: Block, temperature: float = 1.0
) -> np.ndarray:
    """[n] −log softmax(scores / temperature) of each target of a block among the items of its
    domain, in nats; the scores are computed a chunk of items at a time."""
    items, domains = plan.targets.items[block.rows], plan.targets.domains[block.rows]
    own = scorer.pairs(domains, items[:, None])[:, 0].double() / temperature
    losses = np.empty(len(block.rows))
    for share in block.own:
        first, end = plan.dataset.item_starts[share.domain : share.domain + 2].tolist()
        scores = scorer.scores(share.padded, share.domain)
        total = own.new_full((len(share.padded),), -torch.inf)
        for chunk in item_chunks(end - first, plan.device):
            logits = scores(on_device(chunk.columns, plan.device))[:, chunk.counted] / temperature
            total = torch.logaddexp(total, logits.logsumexp(1).double())
        values = total.cpu().numpy()[: len(share.places)]
        losses[share.places] = values - own.cpu().numpy()[share.places]
    return losses
