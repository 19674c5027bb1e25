"""Whether two models differ, and how uncertain a mean is: statistics over users.

A user may have several targets, which are alike; so users, not targets, are resampled, with all of
their targets, and users, not targets, change sides in the test. Everything stands on two tables
[users, domains]: the sum of a user's values in a domain, and the number of the targets there.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL, POWER = 0.95, 0.8
DETECTABLE = float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER))  # standard errors
FEW_USERS = 100  # below it an interval is rough (docs/decisions.md, "Statistics")
BLOCK = 2**18  # numbers drawn at a time: a few MiB, however many users there are

Array = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A mean over n targets, its 95 % interval and standard error; NaN where one user is all."""

    value: float
    low: float
    high: float
    error: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """first − second on the same targets.

    low, high: 95 % interval. error: standard error, from the bootstrap. p: two-sided, from flipped
    signs. detectable: the true difference that a two-sided test at 5 % finds in 80 % of such data.
    low, high, error and detectable are NaN where one user is all there is.
    """

    difference: float
    low: float
    high: float
    error: float
    p: float
    detectable: float
    targets: int
    users: int


@dataclass(frozen=True)
class _Table:
    """What the users have in the domains that have targets: sums and counts, both [U, D]."""

    sums: Array
    counts: Array
    names: list[str]  # D domains, then macro, users

    @property
    def targets(self) -> list[int]:
        """[D + 2] numbers of targets."""
        by_domain = self.counts.sum(0).astype(int).tolist()
        return [*by_domain, sum(by_domain), sum(by_domain)]

    @property
    def users(self) -> list[int]:
        """[D + 2] numbers of users."""
        return [*(self.counts > 0).sum(0).tolist(), len(self.counts), len(self.counts)]

    @property
    def has_interval(self) -> list[bool]:
        """[D + 2] whether there are two users; for the macro mean, in every domain."""
        enough = [users > 1 for users in self.users]
        return [*enough[:-2], all(enough[:-2]), enough[-1]]


def estimates(
    values: Array,
    users: Array,
    domains: Array,
    names: list[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The mean of each domain that has targets, their macro mean, and the mean over all targets.

    Parameters
    ----------
    values, users, domains: [n] a target's value, its user's number, its domain's (0 … D − 1).
    names: D names; the result has those with targets as keys, then `macro` and `users`.
    resamples: bootstrap samples of the users. The intervals are percentiles over them, so they
        stay within the range of the values.
    """
    table = _table(values, users, domains, names)
    return _estimates(table, resamples, seed)


def compare(
    first: Array,
    second: Array,
    users: Array,
    domains: Array,
    names: list[str],
    *,
    resamples: int = 2000,
    permutations: int = 5000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """first − second of each domain that has targets, of the macro mean and over all targets.

    Parameters
    ----------
    first, second: [n] values of the same targets; the rest as in `estimates`.
    permutations: draws of signs for the p-values, whose least possible value is
        1 / (permutations + 1).
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    table = _table(differences, users, domains, names)
    found = _estimates(table, resamples, seed)
    reach = _student(table.users)
    return {
        name: Comparison(
            difference=found[name].value,
            low=found[name].value - reach[number] * found[name].error,
            high=found[name].value + reach[number] * found[name].error,
            error=found[name].error,
            p=_sign_flip_p(shares, permutations, np.random.default_rng([seed, number])),
            detectable=DETECTABLE * found[name].error,
            targets=found[name].n,
            users=table.users[number],
        )
        for number, (name, shares) in enumerate(zip(table.names, _shares(table), strict=True))
    }


def _student(users: list[int]) -> list[float]:
    """Standard errors to either side of a difference that make its 95 % interval.

    Not the percentiles of the bootstrap: one user whom one model serves much better draws them away
    from 0, and they miss a difference of 0 too often.
    """
    return stats.t.ppf((1 + LEVEL) / 2, np.maximum(np.array(users) - 1, 1)).tolist()


def holm(p: Array) -> Array:
    """p-values [m] adjusted for their number, step down (Holm 1979): below .05 keeps the chance of
    one false finding or more among the m at 5 %."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def _table(values: Array, users: Array, domains: Array, names: list[str]) -> _Table:
    values, domains = np.asarray(values, dtype=float), np.asarray(domains)
    if not len(values) == len(users) == len(domains) > 0:
        raise ValueError(f"{len(values)} values, {len(users)} users, {len(domains)} domains")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    different, numbers = np.unique(users, return_inverse=True)
    cells, size = numbers * len(names) + domains, len(different) * len(names)
    counts = np.bincount(cells, minlength=size).reshape(-1, len(names))
    sums = np.bincount(cells, weights=values, minlength=size).reshape(-1, len(names))
    present = counts.any(0)
    kept = [name for name, there in zip(names, present, strict=True) if there]
    return _Table(sums[:, present], counts[:, present].astype(float), [*kept, "macro", "users"])


def _means(sums: Array, counts: Array, empty: Array | None = None) -> Array:
    """[..., D] sums and counts -> [D + 2, ...] means of the domains, macro, over all targets.

    A domain without a target has the mean `empty` [D] says.
    """
    start = np.zeros_like(sums) if empty is None else np.broadcast_to(empty, sums.shape).copy()
    means = np.divide(sums, counts, out=start, where=counts > 0)
    everything = sums.sum(-1) / counts.sum(-1)
    return np.concatenate([np.moveaxis(means, -1, 0), [means.mean(-1)], [everything]])


def _estimates(table: _Table, resamples: int, seed: int) -> dict[str, Estimate]:
    values = _means(table.sums.sum(0), table.counts.sum(0))
    found = np.full((3, len(values)), np.nan)  # low, high, error
    if len(table.sums) > 1:
        found = np.array(_bootstrap(table, values[:-2], resamples, np.random.default_rng(seed)))
        found[:, ~np.array(table.has_interval)] = np.nan
    return {
        name: Estimate(float(value), *numbers, n)
        for name, value, numbers, n in zip(
            table.names, values, found.T.tolist(), table.targets, strict=True
        )
    }


def _bootstrap(
    table: _Table, means: Array, resamples: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """[D + 2] low, high and standard error; a sample that misses a domain keeps its mean [D]."""
    users, rows = len(table.sums), np.concatenate([table.sums.T, table.counts.T])  # [2 D, U]

    def statistic(drawn: Array, axis: int) -> Array:
        """[batch, U] users drawn -> [D + 2, batch]."""
        block = np.arange(len(drawn))[:, None] * users
        times = np.bincount((drawn + block).ravel(), minlength=drawn.size).reshape(drawn.shape)
        sums, counts = np.split(_product(times.astype(float), rows), 2, axis=1)  # [batch, D] each
        return _means(sums, counts, means)

    found = stats.bootstrap(
        (np.arange(users),), statistic, n_resamples=resamples, batch=_batch(users),
        vectorized=True, confidence_level=LEVEL, method="percentile", rng=rng,
    )  # fmt: skip
    return *found.confidence_interval, found.standard_error


def _shares(table: _Table) -> Array:
    """[D + 2, U] what each user adds to each mean, up to a factor: with the counts fixed, a mean is
    a sum over users."""
    weights = table.sums / table.counts.sum(0)
    return np.concatenate([table.sums.T, [weights.sum(1)], [table.sums.sum(1)]])


def _sign_flip_p(shares: Array, permutations: int, rng: np.random.Generator) -> float:
    """Two-sided p of a sum over users [U] where, were the models alike, each user's share could as
    well have the other sign: (b + 1) / (m + 1), with b of m draws at least as far from 0."""
    shares = shares[shares != 0]  # the others change nothing
    if not len(shares):
        return 1.0
    shares = shares / np.abs(shares).sum()

    def signs(size: tuple[int, ...]) -> Array:
        return rng.integers(0, 2, size, dtype=np.int8) * 2.0 - 1.0

    def statistic(drawn: Array, axis: int) -> Array:
        # equal sums must compare equal, whatever the order of the addition left in the last digits
        return np.round(np.abs(_product(drawn, shares[None])[..., 0]), 12)

    found = stats.monte_carlo_test(
        np.ones(len(shares)), signs, statistic, vectorized=True, n_resamples=permutations,
        batch=_batch(len(shares)), alternative="greater",
    )  # fmt: skip
    return float(found.pvalue)


def _product(drawn: Array, rows: Array) -> Array:
    """[..., U] x [R, U] -> [..., R], the same on any number of threads; and none are started, which
    for a few users would take longer than the product."""
    return np.einsum("...u,ru->...r", drawn, rows)


def _batch(users: int) -> int:
    """Samples at a time, so that memory does not grow with the number of users."""
    return max(1, BLOCK // users)
