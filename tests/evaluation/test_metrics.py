"""Metrics against tables computed by hand, and ties against all the orders they stand for."""

import itertools
import math

import numpy as np
import pytest

from src.evaluation.metrics import CUTOFFS, METRICS, summarise, target_metrics

LOG3, LOG4, LOG5, LOG6 = (math.log2(n) for n in (3, 4, 5, 6))

# better, tied, metric, value: each worked out on paper from the ranks better + 1 … better + tied
BY_HAND = [
    (0, 1, "hr@1", 1),
    (0, 1, "ndcg@10", 1),
    (0, 1, "mrr", 1),
    (1, 1, "hr@1", 0),
    (1, 1, "ndcg@5", 1 / LOG3),
    (4, 1, "hr@5", 1),
    (5, 1, "hr@5", 0),
    (4, 1, "ndcg@5", 1 / LOG6),
    (5, 1, "ndcg@5", 0),
    (0, 2, "hr@1", 1 / 2),  # ranks 1, 2
    (0, 2, "ndcg@1", 1 / 2),
    (0, 2, "ndcg@5", (1 + 1 / LOG3) / 2),
    (0, 2, "mrr", (1 + 1 / 2) / 2),
    (3, 4, "hr@5", 2 / 4),  # ranks 4, 5, 6, 7
    (3, 4, "ndcg@5", (1 / LOG5 + 1 / LOG6) / 4),
    (3, 4, "mrr", (1 / 4 + 1 / 5 + 1 / 6 + 1 / 7) / 4),
    (0, 1, "mrr@1", 1),
    (1, 1, "mrr@1", 0),
    (0, 3, "mrr@1", 1 / 3),
    (4, 1, "mrr@5", 1 / 5),
    (5, 1, "mrr@5", 0),
    (3, 4, "mrr@5", (1 / 4 + 1 / 5) / 4),  # ranks 4 and 5 of 4, 5, 6, 7
    (3, 4, "mrr@10", (1 / 4 + 1 / 5 + 1 / 6 + 1 / 7) / 4),
    (9, 2, "mrr@10", 1 / 10 / 2),
    (1, 40, "mrr@10", sum(1 / rank for rank in range(2, 11)) / 40),
    (19, 2, "mrr@20", 1 / 20 / 2),
    (20, 7, "mrr@20", 0),
    (20, 7, "hr@20", 0),
    (19, 2, "hr@20", 1 / 2),
]


@pytest.mark.parametrize(("better", "tied", "metric", "value"), BY_HAND)
def test_a_metric_equals_the_value_computed_by_hand(better, tied, metric, value):
    metrics = target_metrics(np.array([better]), np.array([tied]))
    assert metrics[metric][0] == pytest.approx(value, abs=1e-12)


def metric_of_rank(metric: str, rank: int) -> float:
    """The textbook definition at one known rank."""
    if metric == "mrr":
        return 1 / rank
    name, k = metric.split("@")
    hit = rank <= int(k)
    return float(hit) if name == "hr" else hit / (rank if name == "mrr" else math.log2(rank + 1))


@pytest.mark.parametrize("size", range(1, 6))
def test_ties_are_the_mean_over_every_order_of_all_candidates(size):
    """Of every table of so many scores, a single candidate's too: an order is drawn first, then
    stably sorted by score, so that each order of the tied ones is as likely."""
    orders = np.array(list(itertools.permutations(range(size))))
    scores = np.array(list(itertools.product(range(3), repeat=size)))  # of the items; 0: the target
    better = (scores > scores[:, :1]).sum(1)
    metrics = target_metrics(better, (scores == scores[:, :1]).sum(1))
    for row, own in enumerate(scores):
        order = np.take_along_axis(orders, np.argsort(-own[orders], axis=1, kind="stable"), axis=1)
        ranks = 1 + np.argwhere(order == 0)[:, 1]
        for metric in METRICS:
            by_rank = np.array([metric_of_rank(metric, rank) for rank in range(1, size + 1)])
            assert metrics[metric][row] == pytest.approx(by_rank[ranks - 1].mean(), abs=1e-12)


@pytest.mark.parametrize("candidates", [3, 10, 101, 5000])
def test_a_constant_scorer_gets_exactly_the_expectation_of_random_ranking(candidates):
    metrics = target_metrics(np.array([0]), np.array([candidates]))
    ranks = range(1, candidates + 1)
    for k in CUTOFFS:
        assert metrics[f"hr@{k}"][0] == pytest.approx(min(k, candidates) / candidates, abs=1e-12)
        gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / candidates
        assert metrics[f"ndcg@{k}"][0] == pytest.approx(gain, abs=1e-12)
    assert metrics["mrr"][0] == pytest.approx(sum(1 / r for r in ranks) / candidates, abs=1e-12)


def test_pessimistic_ties_take_the_last_of_the_tied_ranks():
    metrics = target_metrics(np.array([0, 3]), np.array([6, 2]), ties="pessimistic")
    for metric in METRICS:
        expected = [metric_of_rank(metric, rank) for rank in (6, 5)]
        assert metrics[metric] == pytest.approx(expected, abs=1e-12)


def test_the_summary_holds_domains_macro_mean_and_users_with_n_beside_each():
    better, tied = np.array([0, 1, 4, 0]), np.ones(4, dtype=int)
    summary = summarise(better, tied, np.array([0, 0, 0, 2]), ["a", "empty", "b"])
    assert summary["a"]["hr@1"] == pytest.approx(1 / 3) and summary["a"]["n"] == 3
    assert summary["b"]["hr@1"] == 1 and summary["b"]["n"] == 1
    assert summary["empty"] == {"n": 0}
    assert summary["macro"]["hr@1"] == pytest.approx((1 / 3 + 1) / 2)
    assert summary["users"]["hr@1"] == pytest.approx(2 / 4)
    assert summary["macro"]["n"] == summary["users"]["n"] == 4
    assert set(summary["a"]) == {*METRICS, "n"}


@pytest.mark.parametrize(("least", "kept"), [(0, "ab"), (1, "ab"), (2, "a"), (3, "a"), (4, "")])
def test_domains_with_fewer_targets_are_left_out_of_the_macro_mean(least, kept):
    better, tied = np.array([0, 1, 4, 0]), np.ones(4, dtype=int)
    domains, names = np.array([0, 0, 0, 2]), ["a", "empty", "b"]
    plain = summarise(better, tied, domains, names)
    summary = summarise(better, tied, domains, names, least=least)
    macro = summary.pop("macro")
    assert summary == {name: means for name, means in plain.items() if name != "macro"}
    assert macro["n"] == sum(plain[name]["n"] for name in kept)
    expected = {key: np.mean([plain[name][key] for name in kept]) for key in METRICS if kept}
    assert {key: value for key, value in macro.items() if key != "n"} == pytest.approx(expected)


def test_the_means_of_the_summary_are_those_of_the_values_bit_for_bit():
    rng = np.random.default_rng(0)
    better, tied, domains = (rng.integers(low, 40, 3000) for low in (0, 1, 0))
    domains[:1000] = 0  # a large domain, and many small ones
    values, names = target_metrics(better, tied), [str(number) for number in range(40)]
    summary = summarise(better, tied, domains, names)
    for metric, by_target in values.items():
        means = [float(by_target[domains == number].mean()) for number in range(40)]
        assert [summary[name][metric] for name in names] == means
        assert summary["macro"][metric] == float(np.mean(means))
        assert summary["users"][metric] == float(by_target.mean())


def test_a_split_without_targets_gives_no_numbers():
    none = np.zeros(0, dtype=int)
    summary = summarise(none, none, none, ["a"])
    assert summary == {"a": {"n": 0}, "macro": {"n": 0}, "users": {"n": 0}}


def test_optimistic_ties_take_the_first_of_the_tied_ranks():
    """As the released code does, which sorts the answer before its negatives."""
    metrics = target_metrics(np.array([0, 3]), np.array([6, 2]), ties="optimistic")
    for metric in METRICS:
        expected = [metric_of_rank(metric, rank) for rank in (1, 4)]
        assert metrics[metric] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", ["expected", "pessimistic", "optimistic"])
@pytest.mark.parametrize("better", [0, 3, 400])
def test_a_barred_target_counts_0_in_every_metric(better, ties):
    """Exactly, also where no candidate is left, and whatever stands beside it."""
    metrics = target_metrics(np.array([better, 0]), np.array([0, 1]), ties)
    assert {name: values.tolist() for name, values in metrics.items()} == {
        name: [0, 1] for name in METRICS
    }
    summary = summarise(np.array([better, 0]), np.array([0, 1]), np.zeros(2, int), ["a"], ties)
    assert summary["a"] == dict.fromkeys(METRICS, 0.5) | {"n": 2}


@pytest.mark.parametrize(
    ("better", "tied", "ties"), [(0, -1, "expected"), (-1, 1, "expected"), (0, 1, "best")]
)
def test_counts_that_cannot_be_are_refused(better, tied, ties):
    with pytest.raises(ValueError, match="must be"):
        target_metrics(np.array([better]), np.array([tied]), ties=ties)
