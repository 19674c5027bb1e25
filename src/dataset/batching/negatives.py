"""Negatives: one other item of its domain for each target."""

import numpy as np


def draw_negatives(
    item_starts: np.ndarray,
    events: np.ndarray,
    items: np.ndarray,
    domains: np.ndarray,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """[N] an item of each target's domain other than the target, uniformly.

    A hash of (seed, epoch, event) instead of a stream of random numbers: the same negatives
    however the users are batched or spread over processes.
    """
    key = _mix(np.uint64(seed) ^ _mix(np.asarray(epoch, dtype=np.uint64)))
    draws = _mix(events.astype(np.uint64) ^ key)
    first = item_starts[domains]
    others = item_starts[domains + 1] - first - 1
    negative = first + (draws % np.maximum(others, 1).astype(np.uint64)).astype(np.int64)
    return negative + (negative >= items)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014): 64 bits in, 64 well-mixed bits out."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
