"""Holm's correction of p-values for their number."""

import numpy as np


def holm(p: np.ndarray | list[float]) -> np.ndarray:
    """Adjust p-values by Holm's step-down procedure (Holm 1979).

    p: [m] p-values of one family. Returns [m] in the same order. Rejecting where the result is
    below .05 keeps the probability of any false rejection in the family at or below 5 %.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result
