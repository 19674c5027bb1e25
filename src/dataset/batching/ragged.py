"""Ragged arrays: runs of different lengths, stored one after the other."""

import numpy as np


def expand_ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of each half-open range, one range after the other, and each one's range."""
    lengths = ends - starts
    rows = np.repeat(np.arange(len(starts)), lengths)
    return starts[rows] + positions_in_runs(lengths), rows


def positions_in_runs(lengths: np.ndarray) -> np.ndarray:
    """0 … length − 1 for each run, one run after the other."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def run_lengths(keys: np.ndarray) -> np.ndarray:
    """Lengths of the runs of equal columns of keys [k, N]."""
    if keys.shape[1] == 0:
        return np.zeros(0, dtype=np.int64)
    edges = np.flatnonzero((np.diff(keys) != 0).any(axis=0)) + 1
    return np.diff(np.concatenate([[0], edges, [keys.shape[1]]]))
