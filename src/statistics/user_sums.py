"""The values of targets summed by user and domain: the table that the statistics resample.

A user's targets are not independent of each other. So users, not targets, are resampled, with all
of their targets, and users, not targets, change sign in the permutation test. Both need only the
sum of a user's values in a domain and the number of the user's targets there.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class UserSums:
    """Sums and numbers of the users' values in the domains that have targets, both [U, D].

    The macro mean is over the domains with at least `least` targets.
    """

    sums: np.ndarray
    counts: np.ndarray
    names: list[str]  # D domains, then macro, users
    least: int = 0

    @property
    def in_macro(self) -> np.ndarray:
        """[D] whether a domain counts in the macro mean."""
        return self.counts.sum(0) >= self.least

    @property
    def targets(self) -> list[int]:
        """[D + 2] numbers of targets."""
        by_domain = self.counts.sum(0).astype(int)
        return [*by_domain.tolist(), int(by_domain[self.in_macro].sum()), int(by_domain.sum())]

    @property
    def users(self) -> list[int]:
        """[D + 2] numbers of users."""
        active = self.counts > 0
        in_macro = int(active[:, self.in_macro].any(1).sum())
        return [*active.sum(0).tolist(), in_macro, len(self.counts)]

    @property
    def has_interval(self) -> list[bool]:
        """[D + 2] whether there are at least two users; for the macro mean, in every domain."""
        enough = [users > 1 for users in self.users]
        macro = all(np.array(enough[:-2])[self.in_macro])
        return [*enough[:-2], macro, enough[-1]]

    @property
    def shares(self) -> np.ndarray:
        """[D + 2, U] what each user adds to each mean, up to a constant factor.

        With the counts fixed, a mean is a sum over users.
        """
        weights = self.sums / self.counts.sum(0)
        macro = _columns(weights, self.in_macro).sum(1)
        return np.concatenate([self.sums.T, [macro], [self.sums.sum(1)]])


def sum_by_user(
    values: np.ndarray, users: np.ndarray, domains: np.ndarray, names: list[str], least: int = 0
) -> UserSums:
    """Sum the values of n targets by user and domain.

    values, users, domains: [n] each; a domain is a position in `names`. `least` as in UserSums.
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
    names = [*kept, "macro", "users"]
    return UserSums(sums[:, present], counts[:, present].astype(float), names, least)


def domain_and_overall_means(
    sums: np.ndarray, counts: np.ndarray, in_macro: np.ndarray, empty: np.ndarray | None = None
) -> np.ndarray:
    """[..., D] sums and counts -> [D + 2, ...] means: by domain, macro, over all targets.

    in_macro: [D] whether a domain counts in the macro mean.
    empty: [D] the mean of a domain without targets; 0 by default.
    """
    start = np.zeros_like(sums) if empty is None else np.broadcast_to(empty, sums.shape).copy()
    means = np.divide(sums, counts, out=start, where=counts > 0)
    over_all = sums.sum(-1) / counts.sum(-1)
    return np.concatenate(
        [np.moveaxis(means, -1, 0), [_columns(means, in_macro).mean(-1)], [over_all]]
    )


def _columns(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[..., D] the chosen columns; all of them as they are, so that sums keep their last digit."""
    return values if chosen.all() else values[..., chosen]
