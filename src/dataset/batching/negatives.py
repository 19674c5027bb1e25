"""Negatives: other items of its domain for each target."""

import numpy as np

HELD_OUT = 2**63  # in place of an epoch


def draw_negatives(
    item_starts: np.ndarray,
    events: np.ndarray,
    items: np.ndarray,
    domains: np.ndarray,
    seed: int,
    epoch: int,
    count: int = 1,
) -> np.ndarray:
    """[N, count] items of each target's domain other than the target, uniformly, with replacement.

    A hash of (seed, epoch, event) instead of a stream of random numbers: the same negatives
    however the users are batched or spread over processes, and the first ones whatever `count` is.
    """
    draws = event_draws(events, seed, epoch)[:, None]  # [N, 1]
    if count != 1:
        numbers = np.arange(count, dtype=np.uint64)
        draws = np.where(numbers == 0, draws, _mix(draws + numbers))  # [N, count]
    first = item_starts[domains][:, None]
    others = item_starts[domains + 1][:, None] - first - 1
    negatives = first + (draws % np.maximum(others, 1).astype(np.uint64)).astype(np.int64)
    return negatives + (negatives >= items[:, None])


def held_out_events(events: np.ndarray, seed: int, share: float) -> np.ndarray:
    """[N] whether each event is held out of training: a share of all, by a hash of seed and event,
    the same in every epoch."""
    draws = event_draws(events, seed, HELD_OUT)
    return draws < np.uint64(round(share * 2**32)) << np.uint64(32)


def event_draws(events: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """[N] uint64, uniform: a hash of (seed, epoch, event)."""
    key = _mix(np.uint64(seed) ^ _mix(np.asarray(epoch, dtype=np.uint64)))
    return _mix(events.astype(np.uint64) ^ key)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014): 64 bits in, 64 well-mixed bits out."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
