"""The metrics equal those of trec_eval, the reference tool of retrieval, on the same scores."""

import numpy as np
import pytest
import pytrec_eval
import torch

from src.evaluation.metrics import CUTOFFS, summarise, target_metrics
from src.evaluation.rank_counts import Part, count_ranks, no_reads

NAMES = {"mrr": ("recip_rank",)}  # ours: theirs, all of which it must equal
for k in CUTOFFS:
    NAMES[f"hr@{k}"] = (f"success_{k}", f"recall_{k}")  # the same with one relevant item
    NAMES[f"ndcg@{k}"] = (f"ndcg_cut_{k}",)
    NAMES[f"mrr@{k}"] = (f"recip_rank_{k}",)


def theirs(scores: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Their metrics of every row, from nothing but the scores and the one relevant item."""
    relevant = {f"q{row}": {f"i{target}": 1} for row, target in enumerate(targets)}
    run = {
        f"q{row}": {f"i{item}": float(score) for item, score in enumerate(values)}
        for row, values in enumerate(scores)
    }
    cuts = ",".join(map(str, CUTOFFS))
    wanted = {f"success.{cuts}", f"recall.{cuts}", f"ndcg_cut.{cuts}", "recip_rank"}
    found = pytrec_eval.RelevanceEvaluator(relevant, wanted).evaluate(run)
    rows = [found[f"q{row}"] for row in range(len(targets))]
    metrics = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    whole = metrics["recip_rank"]  # it has no cut-off: 0 where the success at k is 0
    return metrics | {f"recip_rank_{k}": whole * metrics[f"success_{k}"] for k in CUTOFFS}


@pytest.mark.parametrize("items", [1, 2, 7, 30, 300])
def test_every_metric_of_every_target_equals_theirs(items):
    """Distinct whole numbers as scores: their tool breaks ties by name."""
    rng, rows = np.random.default_rng(items), 80
    scores = rng.permuted(np.tile(np.arange(items), (rows, 1)), axis=1) - items // 2
    targets = rng.integers(0, items, rows)
    table = torch.from_numpy(scores.astype(np.float32))
    part = Part(lambda columns: table[:, columns], items, no_reads())
    counts = count_ranks([part], targets, 0, torch.device("cpu")).domain
    assert (counts.tied == 1).all()
    ours, expected = target_metrics(counts.better, counts.tied), theirs(scores, targets)
    assert set(ours) == set(NAMES)
    for name, values in ours.items():
        for other in NAMES[name]:
            np.testing.assert_allclose(values, expected[other], rtol=0, atol=1e-12)
    domains = targets % 3
    summary = summarise(counts.better, counts.tied, domains, ["a", "b", "c"])
    for name, (other, *_) in NAMES.items():
        assert summary["users"][name] == pytest.approx(expected[other].mean(), abs=1e-12)
        own = [expected[other][domains == domain].mean() for domain in set(domains.tolist())]
        assert summary["macro"][name] == pytest.approx(np.mean(own), abs=1e-12)
