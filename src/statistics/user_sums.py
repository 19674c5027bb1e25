"""The values of targets summed by user and domain: the table that the statistics resample.

A user's targets are not independent of each other. So users, not targets, are resampled, with all
of their targets, and users, not targets, change sign in the permutation test. Both need only the
sum of a user's values in a domain and the number of the user's targets there.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class UserSums:
    """Sums and numbers of the users' values in the domains that have targets, both [U, D]."""

    sums: np.ndarray
    counts: np.ndarray
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
        """[D + 2] whether there are at least two users; for the macro mean, in every domain."""
        enough = [users > 1 for users in self.users]
        return [*enough[:-2], all(enough[:-2]), enough[-1]]

    @property
    def shares(self) -> np.ndarray:
        """[D + 2, U] what each user adds to each mean, up to a constant factor.

        With the counts fixed, a mean is a sum over users.
        """
        weights = self.sums / self.counts.sum(0)
        return np.concatenate([self.sums.T, [weights.sum(1)], [self.sums.sum(1)]])


def sum_by_user(
    values: np.ndarray, users: np.ndarray, domains: np.ndarray, names: list[str]
) -> UserSums:
    """Sum the values of n targets by user and domain.

    values, users, domains: [n] each; a domain is a position in `names`.
    Raises ValueError for arrays of different lengths, no target, or a value that is not finite.
    """
    values, domains = np.asarray(values, dtype=float), np.asarray(domains)
    if not len(values) == len(users) == len(domains) > 0:
        raise ValueError(f"{len(values)} values, {len(users)} users, {len(domains)} domains")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    distinct, numbers = np.unique(users, return_inverse=True)
    cells, size = numbers * len(names) + domains, len(distinct) * len(names)
    counts = np.bincount(cells, minlength=size).reshape(-1, len(names))
    sums = np.bincount(cells, weights=values, minlength=size).reshape(-1, len(names))
    present = counts.sum(0) > 0
    kept = [name for name, has_targets in zip(names, present, strict=True) if has_targets]
    return UserSums(sums[:, present], counts[:, present].astype(float), [*kept, "macro", "users"])


def domain_and_overall_means(
    sums: np.ndarray, counts: np.ndarray, empty: np.ndarray | None = None
) -> np.ndarray:
    """[..., D] sums and counts -> [D + 2, ...] means: by domain, macro, over all targets.

    empty: [D] the mean of a domain without targets; 0 by default.
    """
    start = np.zeros_like(sums) if empty is None else np.broadcast_to(empty, sums.shape).copy()
    means = np.divide(sums, counts, out=start, where=counts > 0)
    over_all = sums.sum(-1) / counts.sum(-1)
    return np.concatenate([np.moveaxis(means, -1, 0), [means.mean(-1)], [over_all]])
