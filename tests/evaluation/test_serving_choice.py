"""Which path serves: `single` only where validation shows it beyond doubt, by users."""

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from src.config.settings import Settings
from src.evaluation.metrics import target_metrics
from src.evaluation.path_scores import PathScores, add_served, choose_serving
from src.evaluation.protocols import Ranks
from src.evaluation.serving_choice import Choice, serve_paths
from src.evaluation.targets import Targets

DOMAINS = 3000  # simulated at a time


def chosen_share(difference: np.ndarray, users: np.ndarray) -> float:
    """How many of DOMAINS domains are served by `single`, from differences [DOMAINS, targets]."""
    targets, single = difference.shape[1], 0
    for some in np.split(difference, 100):
        domains = np.repeat(np.arange(len(some)), targets)
        names = [str(number) for number in range(len(some))]
        values, owners = some.ravel(), np.tile(users, len(some))
        found = choose(np.zeros(len(values)), values, owners, domains, names)
        assert list(found) == names and {choice.n for choice in found.values()} == {targets}
        single += sum(choice.path == "single" for choice in found.values())
    return single / DOMAINS


def choose(cross: np.ndarray, single: np.ndarray, *targets) -> dict[str, Choice]:
    """The choice between the two paths of SyNCRec, from the metric of each target."""
    return serve_paths({"cross": cross, "single": single}, *targets)


def most(share: float) -> float:
    """What a share of all domains is not above but once in a thousand times."""
    return share + norm.ppf(0.999) * (share * (1 - share) / DOMAINS) ** 0.5


def test_equal_paths_are_served_by_single_in_one_domain_of_twenty():
    difference = np.random.default_rng(0).normal(size=(DOMAINS, 12))
    share = chosen_share(difference, np.arange(12))
    assert 0.05 - (most(0.05) - 0.05) <= share <= most(0.05)


def test_the_targets_of_one_user_are_no_evidence_of_their_own():
    """Eight of each user that all say the same: taken as 96 users, far more would be chosen."""
    rng = np.random.default_rng(1)
    same = rng.normal(size=(DOMAINS, 12)).repeat(8, axis=1)
    difference = same + 0.1 * rng.normal(size=same.shape)
    assert chosen_share(difference, np.arange(12).repeat(8)) <= most(0.05)
    assert chosen_share(difference, np.arange(96)) > 0.2


def test_hits_and_misses_alike_choose_single_no_more_often():
    """A metric of few values, most of them 0, as HR@10 is."""
    rng = np.random.default_rng(2)
    cross, single = (rng.random((DOMAINS, 60)) < 0.15 for _ in "ab")
    assert chosen_share(single.astype(float) - cross, np.arange(60)) <= most(0.05)


def test_a_clear_difference_is_found_and_a_worse_single_never_serves():
    rng = np.random.default_rng(3)
    noise = 0.3 * rng.normal(size=(DOMAINS, 100))
    assert chosen_share(noise + 0.15, np.arange(100)) > 0.99
    assert chosen_share(noise - 0.15, np.arange(100)) == 0


def test_the_bound_is_that_of_the_t_test_over_users():
    rng = np.random.default_rng(4)
    cross, single = rng.random(40), rng.random(40)
    for users in (np.arange(40), np.arange(40) // 4):  # of as many targets each
        difference = single - cross
        means = np.bincount(users, difference) / np.bincount(users)
        test = ttest_1samp(means, 0, alternative="greater").confidence_interval(0.95)
        choice = choose(cross, single, users, np.zeros(40, dtype=int), ["d"])["d"]
        assert choice.difference == pytest.approx(difference.mean(), abs=1e-12)
        assert choice.bound == pytest.approx(test.low, abs=1e-12)


def test_users_of_other_domains_are_no_evidence():
    rng = np.random.default_rng(5)
    cross, single = rng.random(60), rng.random(60)
    users, domains = np.arange(60) // 3, np.arange(60) % 3
    both = choose(cross, single, users, domains, ["a", "b", "c"])
    for domain, name in enumerate(both):
        rows = domains == domain
        alone = choose(cross[rows], single[rows], users[rows], rows[rows] * 0, ["d"])
        assert both[name] == alone["d"]


def test_without_two_users_the_main_path_stays():
    cross, single = np.zeros(5), np.ones(5)
    actual = choose(cross, single, np.zeros(5, int), np.zeros(5, int), ["one user", "no user"])
    for name, difference, n in (("one user", 1.0, 5), ("no user", 0.0, 0)):
        choice = actual[name]
        assert (choice.path, choice.difference, choice.n) == ("cross", difference, n)
        assert choice.bound == -np.inf
    two = choose(cross, single, np.arange(5) // 3, np.zeros(5, int), ["two users"])
    assert two["two users"].path == "single"  # nothing speaks against it


# ------------------------------------------------------------------- with ranks

NAMES = ["a", "b", "c"]


def scores_of(seed: int, targets: int) -> PathScores:
    rng = np.random.default_rng(seed)

    def ranks():
        return Ranks(*rng.integers([[0], [1], [60]], [[50], [4], [90]], (3, targets)))

    lists = {name: rng.integers(0, 9, 1 + 12) for name in ("full", "as_listed")}
    return PathScores({"full": ranks(), "popular-unseen": ranks()}, lists)


def targets_of(domains: np.ndarray) -> Targets:
    every = np.arange(len(domains))
    return Targets("valid", every, every, every, domains, every, every)


@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
@pytest.mark.parametrize("metric", ["ndcg@10", "hr@5"])
def test_the_choice_is_by_the_metric_and_ties_of_the_run_under_full(metric, ties):
    domains = np.arange(120) % 3
    scores = {"cross": scores_of(0, 120), "single": scores_of(1, 120), "markov": scores_of(2, 120)}
    targets, settings = targets_of(domains), Settings(select_metric=metric, ties=ties)
    values = [
        target_metrics(own.better, own.tied, ties)[metric]
        for own in (scores[path].ranks["full"] for path in ("cross", "single"))
    ]
    expected = choose(*values, targets.users, domains, NAMES)
    assert choose_serving(scores, targets, settings, NAMES) == expected


def test_what_is_served_are_the_ranks_and_lists_of_the_chosen_path():
    domains = np.array([0, 1, 2, 1, 0, 2, 2])
    scores = {path: scores_of(seed, 7) for seed, path in enumerate(("cross", "single", "markov"))}
    starts = np.array([1, 6, 9, 13])
    zeros, ones = np.zeros(30), np.ones(30)
    choices = choose(zeros, ones, np.arange(30), np.full(30, 1), NAMES)  # b alone by single
    assert [choice.path for choice in choices.values()] == ["cross", "single", "cross"]
    served = add_served(scores, choices, ("cross", "single"), targets_of(domains), starts)
    assert list(served) == ["cross", "single", "served", "markov"]
    assert all(served[path] is scores[path] for path in scores)
    for protocol, ranks in served["served"].ranks.items():
        for column in ("better", "tied", "candidates"):
            for row, domain in enumerate(domains):
                path = "single" if domain == 1 else "cross"
                own = getattr(scores[path].ranks[protocol], column)[row]
                assert getattr(ranks, column)[row] == own
    for name, lists in served["served"].lists.items():
        cross, single = scores["cross"].lists[name], scores["single"].lists[name]
        assert lists.tolist() == [*cross[:6], *single[6:9], *cross[9:]]
