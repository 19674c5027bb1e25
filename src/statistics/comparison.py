"""Whether two models differ: paired differences with intervals and p-values over users."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from src.statistics.bootstrap import LEVEL, estimates_of
from src.statistics.permutation import sign_flip_p
from src.statistics.user_sums import sum_by_user

POWER = 0.8
DETECTABLE = float(ndtri((1 + LEVEL) / 2) + ndtri(POWER))  # standard errors
FEW_USERS = 100  # with fewer an interval is approximate (docs/evaluation.md, "Statistics")


@dataclass(frozen=True)
class Comparison:
    """first − second on the same targets.

    low, high: 95 % interval. error: standard error, from the bootstrap. p: two-sided, from the
    permutation test. detectable: the true difference that a two-sided test at 5 % detects in 80 %
    of such data sets. low, high, error and detectable are NaN if one user has all targets.
    """

    difference: float
    low: float
    high: float
    error: float
    p: float
    detectable: float
    targets: int
    users: int


def compare(
    first: np.ndarray,
    second: np.ndarray,
    users: np.ndarray,
    domains: np.ndarray,
    names: list[str],
    *,
    least: int = 0,
    resamples: int = 2000,
    permutations: int = 5000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """first − second of each domain that has targets, of the macro mean and over all targets.

    Parameters
    ----------
    first, second: [n] values of the same targets; the rest as in `bootstrap.estimates`.
    permutations: draws of signs for the p-values, whose smallest possible value is
        1 / (permutations + 1).

    Raises ValueError as `sum_by_user` does.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    table = sum_by_user(differences, users, domains, names, least)
    means = estimates_of(table, resamples, seed)
    reach = _interval_reach(table.users)
    return {
        name: Comparison(
            difference=means[name].value,
            low=means[name].value - reach[number] * means[name].error,
            high=means[name].value + reach[number] * means[name].error,
            error=means[name].error,
            p=sign_flip_p(shares, permutations, np.random.default_rng([seed, number])),
            detectable=DETECTABLE * means[name].error,
            targets=means[name].n,
            users=table.users[number],
        )
        for number, (name, shares) in enumerate(zip(table.names, table.shares, strict=True))
    }


def _interval_reach(users: list[int]) -> list[float]:
    """Standard errors on either side of a difference in its 95 % interval (Student's t).

    Not the percentiles of the bootstrap: one user whom one model serves much better pulls them away
    from 0, and they miss a true difference of 0 too often.
    """
    return stdtrit(np.maximum(np.array(users) - 1, 1), (1 + LEVEL) / 2).tolist()
