"""Whether the intervals and p-values of src/statistics/significance.py hold what they promise.

    python benchmarks/robustness/significance.py
    python benchmarks/robustness/significance.py --simulations 200 --json

Two models are made up that rank the same targets of many users in three domains; samples of these
users are drawn, and each is compared as `report.py compare` does. Promised is: where the models are
alike, p is .05 or less in 5 % of the samples at most, and so is, adjusted by Holm, that of any
domain; the interval holds the true difference in 95 % at least; where that difference is the one
printed as detectable, p is .05 or less in 80 %. `bounds` are what keeps a promise but for chance
(99.9 %); a `!` stands where they are left. The last rows are the ways not taken: percentiles of the
bootstrap for the interval, and targets for users.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import print_result, say
from src.config.cli import OneLineParser
from src.evaluation.metrics import target_metrics
from src.io.errors import UserError, run_command
from src.statistics.significance import DETECTABLE, LEVEL, POWER, compare, estimates, holm

DOMAINS = ("A", "B", "C")
SHARES = (0.5, 0.3, 0.2)  # of the targets
ITEMS, POPULATION = 1000, 20_000
ALPHA = 0.05
USERS = (30, 100, 300, 1000)
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
        whose = np.arange(differences.size) if by_target else _users(differences)
        found = compare(
            differences.ravel(), np.zeros(differences.size), whose, domains.ravel(), list(DOMAINS),
            resamples=499, permutations=199, seed=number,
        )  # fmt: skip
        p.append([pair.p for pair in found.values()])
        covered.append(_holds(found, population.truth))
        detectable.append(found["users"].detectable)
    return Outcome(np.array(p), np.array(covered), float(np.mean(detectable)))


def _users(differences: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(differences)), differences.shape[1])


def _holds(found: dict[str, Any], truth: np.ndarray) -> list[bool]:
    return [row.low <= true <= row.high for row, true in zip(found.values(), truth, strict=True)]


def bounds(promised: float, simulations: int, at: str) -> tuple[float, float]:
    """The shares of `simulations` that keep a promise: what chance alone gives in 99.9 % of cases,
    and anything on the safe side where `at` is `most` or `least` instead of `about`."""
    low, high = map(float, stats.binom.interval(0.999, simulations, promised))
    return (
        0.0 if at == "most" else low / simulations,
        1.0 if at == "least" else high / simulations,
    )


def null_rows(kind: str, users: int, simulations: int, *, by_target: bool = False) -> list[dict]:
    """Models that are alike: false findings, and intervals that hold 0."""
    found = simulate(make_population(kind, 0), users, simulations, by_target=by_target)
    families = np.array([holm(p[: len(DOMAINS)]).min() for p in found.p])
    data = f"{kind}, targets for users" if by_target else kind
    fewest = len(DOMAINS) - 1
    rows = {
        "p ≤ .05, macro": (found.p[:, -2] <= ALPHA, ALPHA, "most"),
        "Holm's p ≤ .05 in any domain": (families <= ALPHA, ALPHA, "most"),
        "0 in the interval, macro": (found.covered[:, -2], LEVEL, "least"),
        f"0 in the interval, {SHARES[fewest]:.0%}": (found.covered[:, fewest], LEVEL, "least"),
    }
    return [_row(data, users, what, *row) for what, row in rows.items()]


def power_rows(kind: str, simulations: int) -> list[dict]:
    """Models whose true difference is the one that so many users can detect."""
    population = make_population(kind, GAIN)
    users = population.needed_users()
    found = simulate(population, users, simulations)
    data = f"{kind}, difference {population.truth[-1] / found.detectable:.2f} × detectable"
    return [
        _row(data, users, "p ≤ .05, users", found.p[:, -1] <= ALPHA, POWER, "about"),
        _row(data, users, "in the interval, users", found.covered[:, -1], LEVEL, "least"),
    ]


def percentile_rows(kind: str, users: int, simulations: int) -> list[dict]:
    """What the percentiles of the bootstrap would hold, in place of the interval of `compare`."""
    population = make_population(kind, 0)
    covered = [
        _holds(
            estimates(
                differences.ravel(), _users(differences), domains.ravel(), list(DOMAINS),
                resamples=499, seed=number,
            ),
            population.truth,
        )[-2]
        for number, (differences, domains) in enumerate(samples(population, users, simulations))
    ]  # fmt: skip
    what = "0 in the interval, macro"
    return [_row(f"{kind}, percentiles", users, what, np.array(covered), LEVEL, "least")]


def _row(
    data: str, users: int, what: str, happened: np.ndarray, promised: float, at: str
) -> dict[str, Any]:
    """One line of the table; `happened` [S] says in which of the samples it did."""
    low, high = bounds(promised, len(happened), at)
    share = float(happened.mean())
    return {
        "data": data, "users": users, "what": what, "promised": f"{at} {promised:.2f}",
        "found": share, "bounds": [low, high], "within": low <= share <= high,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Simulate and print."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--simulations", type=int, default=800, help="samples a row (800)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parsed = parser.parse_args(arguments)
    if parsed.simulations < 1:
        raise UserError(f"--simulations must be at least 1, not {parsed.simulations}")
    rows = []
    for kind in KINDS:
        for users in USERS:
            rows += null_rows(kind, users, parsed.simulations)
            say(f"{kind}, {users} users: done")
        rows += power_rows(kind, parsed.simulations)
        say(f"{kind}, a difference: done")
    for users in USERS:
        rows += percentile_rows("dense", users, parsed.simulations)
    rows += null_rows("clustered", USERS[-1], parsed.simulations, by_target=True)
    table = [["data", "users", "what", "promised", "found", "bounds", ""]]
    table += [
        [
            row["data"], row["users"], row["what"], row["promised"], f"{row['found']:.3f}",
            "{:.3f} to {:.3f}".format(*row["bounds"]), "" if row["within"] else "!",
        ]
        for row in rows
    ]  # fmt: skip
    print_result({"simulations": parsed.simulations, "rows": rows}, table, parsed.json)


if __name__ == "__main__":
    run_command(main)
