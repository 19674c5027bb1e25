"""The permutation test of paired differences: random flips of the signs of users' differences."""

import numpy as np

from src.statistics.resampling import batch_size, weighted_sums


def sign_flip_p(shares: np.ndarray, permutations: int, rng: np.random.Generator) -> float:
    """The two-sided p-value of a sum over users.

    shares: [U] what each user adds to the difference. If the models were equal, each share could
    equally have the opposite sign. Returns (b + 1) / (m + 1), where b of the m = `permutations`
    draws of signs give a sum at least as far from 0 as the observed one.
    """
    shares = shares[shares != 0]  # zeros do not change the sum
    if not len(shares):
        return 1.0
    shares = shares / np.abs(shares).sum()

    def signs(size: tuple[int, ...]) -> np.ndarray:
        return rng.integers(0, 2, size, dtype=np.int8) * 2.0 - 1.0

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        # equal sums must compare equal, whatever the order of addition left in the last digits
        return np.round(np.abs(weighted_sums(drawn, shares[None])[..., 0]), 12)

    from scipy import stats  # loads for half a second, which most commands do without

    test = stats.monte_carlo_test(
        np.ones(len(shares)), signs, statistic, vectorized=True, n_resamples=permutations,
        batch=batch_size(len(shares)), alternative="greater",
    )  # fmt: skip
    return float(test.pvalue)
