"""The losses of the targets of a split, read while the targets are ranked."""

import numpy as np
import torch
from torch import Tensor

from src.config.settings import Settings
from src.dataset.store.folder import Dataset
from src.evaluation.rank_counts import item_chunks, on_device
from src.evaluation.ranking import Block, BlockScorer
from src.evaluation.targets import Targets

SCALED = ("ce", "sampled")  # the losses that divide scores by the temperature


class TargetLosses:
    """The losses of targets on each path: in nats, of a softmax among the items of the target's
    domain, whatever `--loss` trains, without dropout."""

    def __init__(
        self, settings: Settings, dataset: Dataset, targets: Targets, device: torch.device
    ):
        self.dataset, self.targets, self.device = dataset, targets, device
        self.temperature = settings.softmax_temperature if settings.loss in SCALED else 1.0
        self.losses = {path: np.zeros(len(targets.events)) for path in settings.paths}
        self.ranked = np.zeros(len(targets.events), dtype=bool)

    @torch.no_grad()
    def read(self, path: str, block: Block, scorer: BlockScorer) -> None:
        """Read the losses of a block from its scorer: −log softmax(scores / temperature), with the
        scores computed a chunk of items at a time."""
        items, domains = self.targets.items[block.rows], self.targets.domains[block.rows]
        own = scorer.pairs(domains, items[:, None])[:, 0].double() / self.temperature
        for share in block.own:
            first, end = self.dataset.item_starts[share.domain : share.domain + 2].tolist()
            scores = scorer.scores(share.padded, share.domain)
            total = own.new_full((len(share.padded),), -torch.inf)
            for chunk in item_chunks(end - first, self.device):
                logits = scores(on_device(chunk.columns, self.device))[:, chunk.counted]
                total = torch.logaddexp(total, (logits / self.temperature).logsumexp(1).double())
            losses = total[: len(share.places)].cpu().numpy() - own.cpu().numpy()[share.places]
            self.losses[path][block.rows[share.places]] = losses
        self.ranked[block.rows] = True

    def of_known_items(self) -> tuple[list[Tensor], Tensor]:
        """Of the targets that this process ranked and whose item has a training event: the losses
        of each path [n] in the order of their domains, and how many each domain has [D].

        The loss of another item says how far a view pushes down what it has never learned.
        """
        known = self.dataset.training_counts[self.targets.items] > 0
        rows = np.flatnonzero(self.ranked & known)
        rows = rows[np.argsort(self.targets.domains[rows], kind="stable")]
        counts = np.bincount(self.targets.domains[rows], minlength=len(self.dataset.domain_names))
        by_path = [
            torch.from_numpy(losses[rows]).to(self.device) for losses in self.losses.values()
        ]
        return by_path, torch.from_numpy(counts).to(self.device)
