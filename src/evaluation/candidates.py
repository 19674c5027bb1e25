"""Sampled candidates: drawn once from a seed and stored, the same for every model.

The draws depend only on the seed and the targets. A row that runs out of items is padded with −1.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from src.io.errors import UserError
from src.io.files import write_atomically


def sampled_candidates(
    columns: np.ndarray, domains: np.ndarray, sizes: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """[n, count] distinct negatives of each target, uniform over the other items of its domain.

    Parameters
    ----------
    columns: [n] the target's index among the items of its domain, from 0.
    domains: [n] the target's domain; all 0 for draws over the items of all domains.
    sizes: [D] items of each domain.
    count: negatives per target; a smaller domain gives all its other items.
    seed: of the draws.

    Returns indices among the items of the target's domain, int64.
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


def popular_candidates(
    columns: np.ndarray,
    domains: np.ndarray,
    popularity: list[np.ndarray],
    count: int,
    seed: int,
) -> np.ndarray:
    """[n, count] distinct negatives of the target's domain, each drawn with a probability
    proportional to `popularity`, D arrays [V_d] of training events. An item without any is never
    drawn. Otherwise as `sampled_candidates`.
    """
    drawn = np.full((len(columns), count), -1, dtype=np.int64)
    for domain, weights in enumerate(popularity):
        rows = np.flatnonzero(domains == domain)
        if len(rows):
            rng = np.random.default_rng([seed, domain, 1])
            drawn[rows] = _by_weight(rng, columns[rows], weights, count)
    return drawn


def _by_weight(
    rng: np.random.Generator, columns: np.ndarray, weights: np.ndarray, count: int
) -> np.ndarray:
    """[n, count] the first `count` distinct indices other than `columns` [n] in a stream of draws
    by weight: the same as drawing without replacement."""
    order = np.argsort(-weights, kind="stable")[: np.count_nonzero(weights)]
    chosen = np.full((len(columns), count), -1, dtype=np.int64)
    filled = np.zeros(len(columns), dtype=np.int64)
    others = len(order) - (weights[columns] > 0)
    wanted = np.minimum(count, others)
    cumulated = np.cumsum(weights[order], dtype=np.float64)
    for _ in range(STREAM_ROUNDS):
        open_rows = np.flatnonzero(filled < wanted)
        if len(open_rows) == 0:
            return chosen
        draws = rng.random((len(open_rows), 2 * count)) * cumulated[-1]
        stream = order[np.searchsorted(cumulated, draws, side="right").clip(max=len(order) - 1)]
        known = np.concatenate([columns[open_rows, None], chosen[open_rows], stream], axis=1)
        fresh = _first_occurrences(known)[:, 1 + count :]
        slot = filled[open_rows, None] + np.cumsum(fresh, axis=1) - 1
        row, column = np.nonzero(fresh & (slot < count))
        chosen[open_rows[row], slot[row, column]] = stream[row, column]
        filled[open_rows] = np.minimum(count, filled[open_rows] + fresh.sum(1))
    for open_row in np.flatnonzero(filled < wanted):  # a few items hold nearly all the weight
        done, end = filled[open_row], wanted[open_row]
        left = np.setdiff1d(order, np.append(chosen[open_row, :done], columns[open_row]))
        # the largest of log weight + Gumbel noise, in their order (Yellott, 1977)
        keys = np.log(weights[left]) + rng.gumbel(size=len(left))
        chosen[open_row, done:end] = left[np.argsort(-keys)][: end - done]
    return chosen


STREAM_ROUNDS = 8
TABLE = 2**25  # bytes at most of a table of members


def _first_occurrences(values: np.ndarray) -> np.ndarray:
    """[n, k] whether each value occurs in its row for the first time."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    first = np.ones(values.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    is_first = np.empty_like(first)
    np.put_along_axis(is_first, order, first, axis=1)
    return is_first


def released_candidates(
    users: np.ndarray, offsets: np.ndarray, items: np.ndarray, size: int, count: int, seed: int
) -> np.ndarray:
    """[n, count] negatives as the released code draws them: items of all domains, drawn with
    replacement, and none that the user has anywhere in the log.

    Parameters
    ----------
    users: [n] the target's user. offsets [users + 1], items [events]: the users' sequences.
    size: the items are 1 … size.

    Returns items, int64; a user who has them all gets −1.
    """
    rng = np.random.default_rng([seed, 2])
    present, user_index = np.unique(users, return_inverse=True)
    lengths = (offsets[1:] - offsets[:-1])[present]
    events = np.repeat(offsets[present] - np.cumsum(lengths) + lengths, lengths)
    events += np.arange(lengths.sum())
    pairs = np.repeat(np.arange(len(present)), lengths) * np.int64(size + 1) + items[events]
    pairs = np.unique(pairs)  # a user and an item as one number
    complete = np.bincount(pairs // (size + 1), minlength=len(present))[user_index] == size
    drawn = np.full((len(users), count), -1, dtype=np.int64)
    rows, columns = np.nonzero(np.broadcast_to(~complete[:, None], drawn.shape))
    while len(rows):
        draws = rng.integers(1, size + 1, size=len(rows))
        drawn[rows, columns] = draws
        taken = is_member(user_index[rows] * np.int64(size + 1) + draws, pairs)
        rows, columns = rows[taken], columns[taken]
    return drawn


def is_member(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """[n] bool: whether each value is in `ordered`, ascending."""
    if len(ordered) == 0:
        return np.zeros(values.shape, dtype=bool)
    index = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    return ordered[index] == values


def membership(ordered: np.ndarray, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """(values [n] from 0 to below `size`) -> [n] bool: whether each is in `ordered`, ascending;
    where `size` is small looked up in a table, which is ten times as fast as a search."""
    if size > TABLE:
        return lambda values: is_member(values, ordered)
    table = np.zeros(size, dtype=bool)
    table[ordered] = True
    return lambda values: table[values]


def _distinct(rng: np.random.Generator, rows: int, size: int, count: int) -> np.ndarray:
    """[rows, count] numbers below `size`, distinct in each row, every subset equally likely.

    Floyd's algorithm (Bentley & Floyd, 1987): step j draws from 0 … j and takes j itself where the
    draw is in the row already.
    """
    chosen = np.empty((rows, count), dtype=np.int64)
    for column, last in enumerate(range(size - count, size)):
        draw = rng.integers(0, last + 1, size=rows)
        taken = (chosen[:, :column] == draw[:, None]).any(1)
        chosen[:, column] = np.where(taken, last, draw)
    return chosen


def stored_candidates(path: Path, key: dict, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The candidates stored in `path`; drawn by `make` and stored where the file is missing.

    `key` identifies what they were drawn for (the data's hash, split, count, seed); a file with
    another key raises UserError.
    """
    wanted = json.dumps(key, sort_keys=True)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, partial(_store, key=np.array(wanted), candidates=make()))
    try:
        with np.load(path, allow_pickle=False) as stored:
            stored_key, candidates = str(stored["key"]), stored["candidates"]
    except Exception as error:  # a damaged archive fails in many ways
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} cannot be read ({cause}); delete it to draw again") from None
    if stored_key != wanted:
        raise UserError(f"{path} holds the candidates of other data; delete it to draw again")
    return candidates


def _store(path: Path, key: np.ndarray, candidates: np.ndarray) -> None:
    with path.open("wb") as file:  # numpy would add to a name that does not end in .npz
        np.savez_compressed(file, key=key, candidates=candidates)
