"""Scores of what no run has: other blends, other counts."""

from collections.abc import Callable

import numpy as np

from src.dataset.store.folder import Dataset
from src.evaluation.metrics import summarise
from src.evaluation.ranking import Plan, Scorer, rank_targets
from src.evaluation.targets import split_targets


def ndcg_on_test(
    dataset: Dataset, scorer: Callable[[Plan, np.ndarray], Scorer]
) -> dict[str, float]:
    """{domain or macro: NDCG@10} of `scorer(plan, rows)` on all test targets under `full`."""
    targets = split_targets(dataset, "test")
    plan, rows = Plan(dataset, targets, ("full",), {}), np.arange(len(targets.events))
    ranks = rank_targets(scorer(plan, rows), plan, rows, list(plan.blocks(rows)))["full"]
    names = dataset.domain_names
    means = summarise(ranks.better, ranks.tied, targets.domains, names)
    return {name: means[name]["ndcg@10"] for name in (*names, "macro")}
