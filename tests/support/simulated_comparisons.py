"""Simulated pairs of models whose true difference is known, compared on samples of their users."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from src.evaluation.metrics import target_metrics
from src.statistics.comparison import DETECTABLE, compare

DOMAINS = ("A", "B", "C")
SHARES = (0.5, 0.3, 0.2)  # of the targets
ITEMS, POPULATION = 1000, 20_000
# name: (metric, targets per user, correlation of their ranks: 0 … 1)
KINDS = {
    "dense": ("mrr", 1, 0.0),
    "sparse": ("ndcg@10", 1, 0.0),
    "clustered": ("ndcg@10", 4, 0.9),
}
GAIN = 0.5  # logits of the rank's share by which the better model moves a target up


@dataclass(frozen=True)
class Population:
    """The users that samples are drawn from: differences and domains, both [users, targets]."""

    differences: np.ndarray
    domains: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """[D + 2] true differences: domains, macro, all targets."""
        means = [self.differences[self.domains == d].mean() for d in range(len(DOMAINS))]
        return np.array([*means, np.mean(means), self.differences.mean()])

    def needed_users(self) -> int:
        """The sample size at which the true difference over all targets is just detectable."""
        deviation = self.differences.mean(1).std()
        return round((DETECTABLE * deviation / self.truth[-1]) ** 2)


def make_population(kind: str, gain: float, seed: int = 0) -> Population:
    """Two models on the same targets; with a gain of 0 they are equal: true differences of 0.

    A rank's share among the items is a logistic function of the target's difficulty, which both
    models share, and of noise of each model; a user's targets share part of both.
    """
    metric, targets, together = KINDS[kind]
    rng = np.random.default_rng(seed)

    def noise() -> np.ndarray:
        single, shared = rng.normal(size=(POPULATION, targets)), rng.normal(size=(POPULATION, 1))
        return np.sqrt(1 - together) * single + np.sqrt(together) * shared

    def values(logit: np.ndarray) -> np.ndarray:
        better = np.floor(ITEMS * stats.logistic.cdf(logit)).astype(np.int64)
        return target_metrics(better, np.ones_like(better))[metric]

    difficulty, first, second = 2 * noise() - 0.5, noise() - gain, noise()
    differences = values(difficulty + first) - values(difficulty + second)
    domains = rng.choice(len(DOMAINS), size=(POPULATION, targets), p=SHARES)
    if gain == 0:  # each user again with the models exchanged: exact true differences of 0
        differences = np.concatenate([differences, -differences])
        domains = np.concatenate([domains, domains])
    return Population(differences, domains)


@dataclass(frozen=True)
class Outcome:
    """The results of S samples.

    p, covered: [S, D + 2] p-values, and whether the interval contains the true difference.
    detectable: the mean detectable difference over all targets.
    """

    p: np.ndarray
    covered: np.ndarray
    detectable: float


def samples(
    population: Population, users: int, simulations: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Differences and domains of `users` users, both [users, targets], for each simulation.

    A sample that lacks a domain is drawn again.
    """
    rng = np.random.default_rng(seed)
    while simulations:
        drawn = rng.integers(len(population.differences), size=users)
        if len(np.unique(population.domains[drawn])) == len(DOMAINS):
            yield population.differences[drawn], population.domains[drawn]
            simulations -= 1


def simulate(
    population: Population, users: int, simulations: int, *, by_target: bool = False
) -> Outcome:
    """Compare on samples of `users` users; with `by_target` each target counts as a user."""
    p, covered, detectable = [], [], []
    for number, (differences, domains) in enumerate(samples(population, users, simulations)):
        units = np.arange(differences.size) if by_target else user_numbers(differences)
        pairs = compare(
            differences.ravel(), np.zeros(differences.size), units, domains.ravel(), list(DOMAINS),
            resamples=499, permutations=199, seed=number,
        )  # fmt: skip
        p.append([pair.p for pair in pairs.values()])
        covered.append(contains(pairs, population.truth))
        detectable.append(pairs["users"].detectable)
    return Outcome(np.array(p), np.array(covered), float(np.mean(detectable)))


def user_numbers(differences: np.ndarray) -> np.ndarray:
    """The user of each of the [users, targets] differences, flattened."""
    return np.repeat(np.arange(len(differences)), differences.shape[1])


def contains(rows: dict[str, Any], truth: np.ndarray) -> list[bool]:
    """Whether the interval of each row contains the true value."""
    return [row.low <= true <= row.high for row, true in zip(rows.values(), truth, strict=True)]


def bounds(promised: float, simulations: int, at: str) -> tuple[float, float]:
    """The shares of `simulations` that keep a promise.

    What chance alone gives in 99.9 % of cases; if `at` is `most` or `least` instead of `about`,
    also anything on the safe side.
    """
    low, high = map(float, stats.binom.interval(0.999, simulations, promised))
    return (
        0.0 if at == "most" else low / simulations,
        1.0 if at == "least" else high / simulations,
    )
