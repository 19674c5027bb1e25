"""What the independent models of quality.sh share: this project's ranking of their vectors, the
choice of the epoch on validation, and the record of a run.

A model is handed over as vectors of users and items, whose products are the scores. Targets,
candidates, ties and metrics are then those of main.py, so that nothing but the model differs. Runs
in the environments of the other libraries, which need pyarrow beside their own packages.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.dataset.store.folder import TEST, TRAIN, VALID, Dataset, open_dataset
from src.evaluation.metrics import summarise
from src.evaluation.protocols import Ranks
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import ModelScorer, Plan, rank_targets
from src.evaluation.targets import split_targets
from src.io.files import write_json

CONTEXT = {"valid": (TRAIN,), "test": (TRAIN, VALID)}  # what is known of a user, by split
METRIC = "ndcg@10"
UNKNOWN = -1e4  # score of an item that a library has no vector of: below all others, and tied


@dataclass(frozen=True)
class Vectors:
    """The score of an item for a target is the product of their vectors."""

    queries: Tensor  # [n, H], in the order of the split's targets
    items: Tensor  # [V + 1, H], by the dataset's item ids; row 0 is not read
    known: np.ndarray  # [V + 1] whether the library has a vector of the item


def rank(dataset: Dataset, split: str, vectors: Vectors) -> Ranks:
    """The ranks of all targets of a split under `full`: among the items of their domain."""
    targets = split_targets(dataset, split)
    every = np.arange(len(targets.users))
    below = torch.from_numpy(np.where(vectors.known, 0.0, UNKNOWN)).float()[:, None]
    model = SimpleNamespace(
        item_table=torch.cat([vectors.items, below], 1), item_starts=dataset.item_starts
    )
    queries = torch.cat([vectors.queries, torch.ones(len(every), 1)], 1)
    domains = len(dataset.domain_names)
    scorer = ModelScorer(Ensemble([model]), queries, np.tile(every, (domains, 1)))
    plan = Plan(dataset, targets, ("full",), {})
    return rank_targets(scorer, plan, every, list(plan.blocks(every)))["full"]


def leave_one_out(folder: Path) -> Dataset:
    """A dataset whose users have one target in each split."""
    dataset = open_dataset(folder)
    for split in (VALID, TEST):
        if int((dataset.split == split).sum()) != dataset.users:
            raise SystemExit(f"{folder} is not split by leave_one_out; make it so")
    return dataset


class EpochChoice:
    """Keeps the weights of the epoch with the best macro NDCG@10 on validation.

    Parameters
    ----------
    vectors: (split) -> the module's vectors with its weights as they are.
    patience: epochs without a better one after which training ends.
    """

    def __init__(
        self, module: nn.Module, dataset: Dataset, vectors: Callable[[str], Vectors], patience: int
    ):
        self.module, self.dataset, self.vectors, self.patience = module, dataset, vectors, patience
        self.figures: list[float] = []  # by epoch, from the first

    def end_epoch(self) -> bool:
        """Validate; returns whether training ends."""
        ranks = rank(self.dataset, "valid", self.vectors("valid"))
        self.figures.append(self._macro("valid", ranks))
        best = int(np.argmax(self.figures))
        if best == len(self.figures) - 1:
            self.best = copy.deepcopy(self.module.state_dict())
        epoch, cpu = len(self.figures), time.process_time()
        print(f"epoch {epoch}: {self.figures[-1]:.4f}, {cpu:.0f} s of CPU", file=sys.stderr)
        return len(self.figures) - 1 - best >= self.patience

    def finish(self, path: Path, facts: dict) -> None:
        """Rank the test targets once, with the weights of the best epoch; write the record."""
        self.module.load_state_dict(self.best)
        vectors = self.vectors("test")
        ranks = rank(self.dataset, "test", vectors)
        write_json(
            path,
            facts
            | {
                "data_sha256": self.dataset.card["sha256"],
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "cpu_seconds": round(time.process_time()),
                "epochs": len(self.figures),
                "best_epoch": int(np.argmax(self.figures)) + 1,
                "valid": [round(figure, 6) for figure in self.figures],
                "test": self._macro("test", ranks),
                "unknown_items": int((~vectors.known[1:]).sum()),
                "better": ranks.better.tolist(),
                "tied": ranks.tied.tolist(),
            },
        )

    def _macro(self, split: str, ranks: Ranks) -> float:
        domains, names = split_targets(self.dataset, split).domains, self.dataset.domain_names
        return summarise(ranks.better, ranks.tied, domains, names)["macro"][METRIC]


def parse(description: str) -> argparse.Namespace:
    """The command line of an independent model."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="dataset folder, made by make_dataset.py")
    parser.add_argument("--out", type=Path, required=True, help="file for the record of the run")
    parser.add_argument("--length", type=int, default=20, help="newest events that are input")
    parser.add_argument("--max_epochs", type=int, default=60)
    parser.add_argument("--patience", type=int, default=5, help="epochs without a better one")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options
