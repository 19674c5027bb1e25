"""Ranking metrics from counts: how many candidates score higher than the target, how many the same.

With b candidates above the target and m tied with it (itself included), the target's rank is one of
b + 1 … b + m, each equally likely; a metric is its expectation over them. A constant scorer then
gets exactly the metric of random ranking.
"""

import numpy as np
from scipy.special import digamma

CUTOFFS = (1, 5, 10, 20)
METRICS = (*(f"hr@{k}" for k in CUTOFFS), *(f"ndcg@{k}" for k in CUTOFFS), "mrr")
TIES = ("expected", "pessimistic")

Array = np.ndarray


def target_metrics(better: Array, tied: Array, ties: str = "expected") -> dict[str, Array]:
    """Every metric of every target: [n] counts -> {metric: [n] float64}.

    Parameters
    ----------
    better: candidates that score higher than the target, ≥ 0.
    tied: candidates with the target's score, the target included, ≥ 1.
    ties: `expected`; `pessimistic`, which takes the rank better + tied; or `optimistic`, which
        takes better + 1, as the released code does.
    """
    if ties not in (*TIES, "optimistic"):
        raise ValueError(f"ties must be optimistic or one of {TIES}, not {ties!r}")
    better, tied = np.asarray(better, dtype=np.int64), np.asarray(tied, dtype=np.int64)
    if (better < 0).any() or (tied < 1).any():
        raise ValueError("better must be at least 0 and tied, which counts the target, at least 1")
    if ties == "pessimistic":
        better, tied = better + tied - 1, np.ones_like(tied)
    elif ties == "optimistic":
        tied = np.ones_like(tied)
    worst = better + tied
    gains = 1.0 / np.log2(np.arange(2, max(CUTOFFS) + 2))
    cumulated = np.concatenate([[0.0], np.cumsum(gains)])  # the gain of all ranks up to k
    metrics = {}
    for k in CUTOFFS:
        metrics[f"hr@{k}"] = (np.minimum(k, worst) - np.minimum(k, better)) / tied
    for k in CUTOFFS:
        within = cumulated[np.minimum(k, worst)] - cumulated[np.minimum(k, better)]
        metrics[f"ndcg@{k}"] = within / tied
    # the mean of 1 / rank over b + 1 … b + m is a difference of harmonic numbers
    metrics["mrr"] = (digamma(worst + 1) - digamma(better + 1)) / tied
    return metrics


def summarise(
    better: Array,
    tied: Array,
    domains: Array,
    domain_names: list[str],
    ties: str = "expected",
    least: int = 0,
) -> dict[str, dict[str, float]]:
    """Mean metrics of each domain, their macro mean, and the mean over all targets (`users`).

    better, tied and domains [n]. `n` stands beside each mean. A domain without a target, or with
    fewer than `least`, is left out of the macro mean; the first has n = 0 and no metrics.
    """
    by_target = target_metrics(better, tied, ties)
    domains = np.asarray(domains)
    summary: dict[str, dict[str, float]] = {}
    for number, name in enumerate(domain_names):
        rows = domains == number
        summary[name] = _means(by_target, rows)
    present = [means for means in summary.values() if means["n"] >= max(1, least)]
    users = _means(by_target, np.ones(len(domains), dtype=bool))
    macro: dict[str, float] = {}
    if present:
        macro = {name: float(np.mean([means[name] for means in present])) for name in METRICS}
    macro["n"] = sum(int(means["n"]) for means in present)
    return summary | {"macro": macro, "users": users}


def _means(by_target: dict[str, Array], rows: Array) -> dict[str, float]:
    count = int(rows.sum())
    if count == 0:
        return {"n": 0}
    return {name: float(values[rows].mean()) for name, values in by_target.items()} | {"n": count}
