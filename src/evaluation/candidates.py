"""Sampled candidates: drawn once from a seed, stored, the same for every model."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from src.errors import UserError


def sampled_candidates(
    columns: np.ndarray, domains: np.ndarray, sizes: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """[n, count] distinct negatives of each target, uniform over the other items of its domain.

    Parameters
    ----------
    columns: [n] the target's place among the items of its domain, from 0.
    domains: [n] the target's domain.
    sizes: [D] items of each domain.
    count: negatives a target; a smaller domain gives all its others, then −1.
    seed: the draws depend on it, on the targets and on nothing else.

    Returns places among the items of the target's domain, int64.
    """
    drawn = np.full((len(columns), count), -1, dtype=np.int64)
    for domain, size in enumerate(sizes):
        rows = np.flatnonzero(domains == domain)
        if len(rows) == 0:
            continue
        rng = np.random.default_rng([seed, domain])
        negatives = _distinct(rng, len(rows), int(size) - 1, min(count, int(size) - 1))
        negatives += negatives >= columns[rows, None]  # step over the target
        drawn[rows, : negatives.shape[1]] = negatives
    return drawn


def _distinct(rng: np.random.Generator, rows: int, size: int, count: int) -> np.ndarray:
    """[rows, count] numbers below `size`, distinct in each row, every subset equally likely.

    Floyd's algorithm (Bentley & Floyd, 1987): step j draws from 0 … j and takes j itself where the
    draw is in the row already.
    """
    chosen = np.empty((rows, count), dtype=np.int64)
    for place, last in enumerate(range(size - count, size)):
        draw = rng.integers(0, last + 1, size=rows)
        taken = (chosen[:, :place] == draw[:, None]).any(1)
        chosen[:, place] = np.where(taken, last, draw)
    return chosen


def stored_candidates(path: Path, key: dict, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The candidates of `path`, made and stored there when there are none.

    `key` says what they were drawn for (the data's hash, split, count, seed); a file with another
    key raises UserError.
    """
    wanted = json.dumps(key, sort_keys=True)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{np.random.default_rng().integers(2**32)}.npz")
        try:
            np.savez_compressed(temporary, key=np.array(wanted), candidates=make())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    try:
        with np.load(path, allow_pickle=False) as stored:
            found, candidates = str(stored["key"]), stored["candidates"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to draw again") from None
    if found != wanted:
        raise UserError(f"{path} holds the candidates of other data; delete it to draw again")
    return candidates
