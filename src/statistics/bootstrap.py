"""The bootstrap over users: percentile intervals and standard errors of means."""

from dataclasses import dataclass

import numpy as np

from src.statistics.resampling import batch_size, weighted_sums
from src.statistics.user_sums import UserSums, domain_and_overall_means, sum_by_user

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Estimate:
    """A mean over n targets with its 95 % interval and standard error; NaN if one user has all."""

    value: float
    low: float
    high: float
    error: float
    n: int


def estimates(
    values: np.ndarray,
    users: np.ndarray,
    domains: np.ndarray,
    names: list[str],
    *,
    least: int = 0,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The mean of each domain that has targets, their macro mean, and the mean over all targets.

    Parameters
    ----------
    values, users, domains: [n] a target's value, its user's number, its domain's (0 … D − 1).
    names: D names; the result has those with targets as keys, then `macro` and `users`.
    least: domains with fewer targets are left out of the macro mean.
    resamples: bootstrap samples of the users. The intervals are percentiles over them, so they
        stay within the range of the values.

    Raises ValueError as `sum_by_user` does.
    """
    return estimates_of(sum_by_user(values, users, domains, names, least), resamples, seed)


def estimates_of(table: UserSums, resamples: int, seed: int) -> dict[str, Estimate]:
    """`estimates` of values that are already summed by user."""
    values = domain_and_overall_means(table.sums.sum(0), table.counts.sum(0), table.in_macro)
    spread = np.full((3, len(values)), np.nan)  # low, high, error
    if len(table.sums) > 1:
        rng = np.random.default_rng(seed)
        spread = np.array(_bootstrap(table, values[:-2], resamples, rng))
        spread[:, ~np.array(table.has_interval)] = np.nan
    return {
        name: Estimate(float(value), low, high, error, n)
        for name, value, (low, high, error), n in zip(
            table.names, values, spread.T.tolist(), table.targets, strict=True
        )
    }


def _bootstrap(
    table: UserSums, means: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[D + 2] low, high and standard error; a sample without a domain keeps that domain's mean."""
    from scipy import stats  # loads for half a second, which most commands do without

    users, rows = len(table.sums), np.concatenate([table.sums.T, table.counts.T])  # [2 D, U]

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        """[batch, U] users drawn -> [D + 2, batch]."""
        block = np.arange(len(drawn))[:, None] * users
        times = np.bincount((drawn + block).ravel(), minlength=drawn.size).reshape(drawn.shape)
        totals = weighted_sums(times.astype(float), rows)
        sums, counts = np.split(totals, 2, axis=1)  # [batch, D] each
        return domain_and_overall_means(sums, counts, table.in_macro, means)

    result = stats.bootstrap(
        (np.arange(users),), statistic, n_resamples=resamples, batch=batch_size(users),
        vectorized=True, confidence_level=LEVEL, method="percentile", rng=rng,
    )  # fmt: skip
    return *result.confidence_interval, result.standard_error
