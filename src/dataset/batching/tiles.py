"""Attention tiles: sequences of many lengths laid out in blocks of a few lengths."""

import numpy as np

from src.dataset.batching.ragged import positions_in_runs

# Lengths up to which sequences share tiles of one length. Short tiles cost attention little, many
# different lengths cost calls: the coarse steps, unless they would leave over a twentieth empty.
SHORTEST_TILE = 32
COARSE_STEPS = tuple(32 * 2**k for k in range(12))
FINE_STEPS = tuple(4 * 2**k * eighth for k in range(12) for eighth in range(8, 16))


def attention_tiles(lengths: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Lay sequences [S] of N tokens out in tiles, whole and without overlap.

    Returns the (count, length) of each block of tiles and the slot of each token [N].
    """
    for steps in (COARSE_STEPS, FINE_STEPS):
        tiles, starts = _fill_tiles(lengths, steps)
        if lengths.sum() >= 0.95 * slot_count(tiles):
            break
    return tiles, np.repeat(starts, lengths) + positions_in_runs(lengths)


def slot_count(tiles: list[tuple[int, int]]) -> int:
    """M, the slots of all blocks of tiles."""
    return sum(count * length for count, length in tiles)


def _fill_tiles(
    lengths: np.ndarray, steps: tuple[int, ...]
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The (count, length) of each block of tiles and the first slot of each sequence [S].

    The longest sequence left opens a tile; the longest that still fits goes on in it.
    """
    ordered = np.argsort(-lengths, kind="stable")
    negated, first = np.unique(-lengths[ordered], return_index=True)
    sizes = (-negated).tolist()  # the lengths that occur, longest first
    waiting = np.diff(np.append(first, len(ordered))).tolist()  # sequences of a size not yet laid
    following, order, starts = first.tolist(), ordered.tolist(), [0] * len(lengths)
    most = max([SHORTEST_TILE, *sizes])
    fits = np.searchsorted(negated, -np.arange(most + 1)).tolist()  # the first size, by free slots
    tiles: list[tuple[int, int]] = []
    slot, tokens = 0, int(lengths.sum())
    longest = 0  # index into sizes
    while longest < len(sizes):
        shortest = max((step for step in steps if step < sizes[longest]), default=0)
        length = sizes[longest] if shortest else min(SHORTEST_TILE, tokens)
        count = 0
        while longest < len(sizes) and sizes[longest] > shortest:
            free, size = length, longest
            while (size := max(size, fits[free])) < len(sizes):
                fitting = min(waiting[size], free // sizes[size])
                for sequence in order[following[size] : following[size] + fitting]:
                    starts[sequence] = slot + length - free
                    free -= sizes[size]
                following[size] += fitting
                waiting[size] -= fitting
                tokens -= fitting * sizes[size]
                size += 1
            slot, count = slot + length, count + 1
            while longest < len(sizes) and not waiting[longest]:
                longest += 1
        tiles.append((count, length))
    return tiles, np.array(starts, dtype=np.int64)
