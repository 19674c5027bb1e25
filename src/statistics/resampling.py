"""What the bootstrap and the permutation test share: batches of draws and their weighted sums."""

import numpy as np

BLOCK = 2**18  # numbers drawn at a time: a few MiB, however many users there are


def weighted_sums(draws: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[..., U] times [R, U] -> [..., R].

    `einsum` gives the same result for any number of threads and starts none, which for few users
    would take longer than the product.
    """
    return np.einsum("...u,ru->...r", draws, rows)


def batch_size(users: int) -> int:
    """Draws per batch, so that memory does not grow with the number of users."""
    return max(1, BLOCK // users)
