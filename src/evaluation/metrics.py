"""Ranking metrics from counts: how many candidates score higher than the target, how many the same.

With b candidates above the target and m tied with it (itself included), the target's rank is one of
b + 1 … b + m, each equally likely; a metric is its expectation over them. A constant scorer then
gets exactly the metric of random ranking.
"""

from collections.abc import Iterable

import numpy as np

from src.config.names import CUTOFFS, METRICS

TIES = ("expected", "pessimistic")

Array = np.ndarray


def target_metrics(better: Array, tied: Array, ties: str = "expected") -> dict[str, Array]:
    """Every metric of every target: [n] counts -> {metric: [n] float64}.

    Parameters
    ----------
    better: candidates that score higher than the target, ≥ 0.
    tied: candidates with the target's score, the target included; 0 where the target is no
        candidate (`as_listed`), which counts 0 in every metric.
    ties: `expected`; `pessimistic`, which takes the rank better + tied; or `optimistic`, which
        takes better + 1, as the released code does.
    """
    from scipy.special import digamma  # takes a fifth of a second to load

    if ties not in (*TIES, "optimistic"):
        raise ValueError(f"ties must be optimistic or one of {TIES}, not {ties!r}")
    better, tied = np.asarray(better, dtype=np.int64), np.asarray(tied, dtype=np.int64)
    if (better < 0).any() or (tied < 0).any():
        raise ValueError("better and tied must be at least 0")
    if ties == "pessimistic":
        better, tied = better + np.maximum(tied - 1, 0), np.minimum(tied, 1)
    elif ties == "optimistic":
        tied = np.minimum(tied, 1)
    worst = better + tied  # = better where the target is no candidate: all differences are 0
    tied = np.maximum(tied, 1)
    ranks = np.arange(1, max(CUTOFFS) + 1)
    gains = {"hr": 1 + 0 * ranks, "ndcg": 1.0 / np.log2(ranks + 1), "mrr": 1.0 / ranks}
    metrics = {}
    for name, gain in gains.items():
        cumulated = np.concatenate([[0], np.cumsum(gain)])  # the gain of all ranks up to k
        for k in CUTOFFS:
            within = cumulated[np.minimum(k, worst)] - cumulated[np.minimum(k, better)]
            metrics[f"{name}@{k}"] = within / tied
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
    by_target = np.stack([*target_metrics(better, tied, ties).values()])  # [metrics, n]
    order = np.argsort(np.asarray(domains), kind="stable")
    # rows in one piece: the sum of each is then that of the metric's values alone, bit for bit
    ordered, numbers = np.take(by_target, order, axis=1), np.arange(len(domain_names))
    ends = np.searchsorted(np.asarray(domains)[order], numbers, side="right")
    parts = np.split(ordered, ends[:-1], axis=1)
    summary = {name: _means(part) for name, part in zip(domain_names, parts, strict=True)}
    return summary | {"macro": macro_mean(summary.values(), least), "users": _means(by_target)}


def macro_mean(domains: Iterable[dict[str, float]], least: int = 0) -> dict[str, float]:
    """{metric: mean} over the domains, each as in `summarise`, with at least one target and at
    least `least`, and their n. A domain without a metric is left out of that one's mean."""
    present = [means for means in domains if means["n"] >= max(1, least)]
    names = dict.fromkeys(name for means in present for name in means)
    macro = {
        name: float(np.mean([means[name] for means in present if name in means])) for name in names
    }
    return macro | {"n": sum(int(means["n"]) for means in present)}


def _means(values: Array) -> dict[str, float]:
    """The mean of each metric [metrics, n], and n."""
    count = values.shape[1]
    if count == 0:
        return {"n": 0}
    return dict(zip(METRICS, values.mean(1).tolist(), strict=True)) | {"n": count}
