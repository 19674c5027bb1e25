"""Two made-up models that rank the same targets, and what comparing them on samples gives.

What the statistics promise is checked on them: where the models are alike, and where one is better
by a known amount.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from src.statistics.significance import DETECTABLE, compare

from src.evaluation.metrics import target_metrics

DOMAINS = ("A", "B", "C")
SHARES = (0.5, 0.3, 0.2)  # of the targets
ITEMS, POPULATION = 1000, 20_000
# name: (metric, targets a user, how far their ranks go together: 0 … 1)
KINDS = {
    "dense": ("mrr", 1, 0.0),
    "sparse": ("ndcg@10", 1, 0.0),
    "clustered": ("ndcg@10", 4, 0.9),
}
GAIN = 0.5  # logits of the rank's share, by which the better model moves a target up


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
        """The sample whose detectable difference of the mean over all targets is the true one."""
        deviation = self.differences.mean(1).std()
        return round((DETECTABLE * deviation / self.truth[-1]) ** 2)


def make_population(kind: str, gain: float, seed: int = 0) -> Population:
    """Two models on the same targets; with a gain of 0 they are alike: the true differences are 0.

    A rank's share among the items is a logistic function of the target's difficulty, which both
    models meet, and noise of the model's own; both are shared by a user's targets in part.
    """
    metric, targets, together = KINDS[kind]
    rng = np.random.default_rng(seed)

    def noise() -> np.ndarray:
        own, shared = rng.normal(size=(POPULATION, targets)), rng.normal(size=(POPULATION, 1))
        return np.sqrt(1 - together) * own + np.sqrt(together) * shared

    def values(logit: np.ndarray) -> np.ndarray:
        better = np.floor(ITEMS * stats.logistic.cdf(logit)).astype(np.int64)
        return target_metrics(better, np.ones_like(better))[metric]

    difficulty, first, second = 2 * noise() - 0.5, noise() - gain, noise()
    differences = values(difficulty + first) - values(difficulty + second)
    domains = rng.choice(len(DOMAINS), size=(POPULATION, targets), p=SHARES)
    if gain == 0:  # each user once more with the sides exchanged: the true differences are exact
        differences = np.concatenate([differences, -differences])
        domains = np.concatenate([domains, domains])
    return Population(differences, domains)


@dataclass(frozen=True)
class Outcome:
    """What the samples gave: p and whether the interval held the truth, both [S, D + 2], and the
    mean detectable difference over all targets."""

    p: np.ndarray
    covered: np.ndarray
    detectable: float


def samples(
    population: Population, users: int, simulations: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Differences and domains of `users` users, both [users, targets], for each simulation; a
    sample without a target in some domain is drawn again."""
    rng = np.random.default_rng(seed)
    while simulations:
        drawn = rng.integers(len(population.differences), size=users)
        if len(np.unique(population.domains[drawn])) == len(DOMAINS):
            yield population.differences[drawn], population.domains[drawn]
            simulations -= 1


def simulate(
    population: Population, users: int, simulations: int, *, by_target: bool = False
) -> Outcome:
    """Compare on samples of `users` users; `by_target` takes each target for a user of its own."""
    p, covered, detectable = [], [], []
    for number, (differences, domains) in enumerate(samples(population, users, simulations)):
        whose = np.arange(differences.size) if by_target else users_of(differences)
        found = compare(
            differences.ravel(), np.zeros(differences.size), whose, domains.ravel(), list(DOMAINS),
            resamples=499, permutations=199, seed=number,
        )  # fmt: skip
        p.append([pair.p for pair in found.values()])
        covered.append(holds(found, population.truth))
        detectable.append(found["users"].detectable)
    return Outcome(np.array(p), np.array(covered), float(np.mean(detectable)))


def users_of(differences: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(differences)), differences.shape[1])


def holds(found: dict[str, Any], truth: np.ndarray) -> list[bool]:
    return [row.low <= true <= row.high for row, true in zip(found.values(), truth, strict=True)]


def bounds(promised: float, simulations: int, at: str) -> tuple[float, float]:
    """The shares of `simulations` that keep a promise: what chance alone gives in 99.9 % of cases,
    and anything on the safe side where `at` is `most` or `least` instead of `about`."""
    low, high = map(float, stats.binom.interval(0.999, simulations, promised))
    return (
        0.0 if at == "most" else low / simulations,
        1.0 if at == "least" else high / simulations,
    )
