"""Counting where a target ranks: no sorting, ties counted, faults never a good rank.

Targets are ranked a block of rows at a time, and the scores of a block are made and counted a chunk
of items at a time, so that memory is bounded by the chunk, however many items there are. Candidates
drawn for the targets are read from the chunks that are scored anyway.

A target ties with the items whose scores have the very bits of its own. The bits of a product may
depend on its shape, so the target's score is first guessed from a product of a chunk's shape, then
read from the chunk in which the target stands; should the two differ, the block is counted again
with what was read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# (columns) -> scores [rows, columns] of a block of rows, the same however often they are asked for.
# The columns are a slice, or their numbers, among which one may stand more than once.
Scores = Callable[[slice | Tensor], Tensor]

# Rows and columns of a chunk. On a CPU a chunk and its flags stay in the cache between the passes
# (GFLOP/s of the product on one core, 100 at the best, H 64: 97 with 1024 x 1024, 82 with
# 512 x 8192); a GPU needs more at a time to be filled.
SIDES = {"cpu": 1024, "cuda": 4096}
# The guess costs a chunk of work a block. With more chunks than this it is an eighth at the most;
# with fewer, all items are one chunk of fewer rows, and nothing is guessed.
WHOLE = 8
# A product with fewer rows or columns may end in a kernel that adds in another order (seen below 12
# with MKL), so that equal items would not tie: it is filled up to this many.
FEWEST = 16


class NonFiniteScore(FloatingPointError):
    """A score is NaN or infinite: at `row` and `column` of the scores that were counted."""

    def __init__(self, row: int, column: int):
        super().__init__(f"the score of row {row}, column {column} is not finite")
        self.row, self.column = row, column


@dataclass(frozen=True)
class Counts:
    """For n targets, how many items score higher and how many the same, the target included."""

    better: np.ndarray  # [n] int64
    tied: np.ndarray  # [n] int64


@dataclass(frozen=True)
class Chunk:
    """Items that are scored at a time; each item of the catalogue is counted in one chunk."""

    columns: slice | np.ndarray  # what is scored
    counted: slice  # what of it is counted here
    start: int  # the first item that is scored


def rows_at_once(items: int, device: torch.device) -> int:
    """How many targets to rank in one block among so many items."""
    side = SIDES[device.type]
    if items <= WHOLE * side:
        return max(FEWEST, min(2 * side, 2 * side * side // items))
    return side


def item_chunks(items: int, device: torch.device) -> list[Chunk]:
    """The chunks of a catalogue, all of one width, so that all are scored by the same kernel.

    The last one reaches back over items that are counted before it. A catalogue of fewer than
    `FEWEST` items is scored more than once, to fill a chunk, and counted once.
    """
    side = SIDES[device.type]
    if items < FEWEST:
        return [Chunk(np.arange(FEWEST) % items, slice(0, items), 0)]
    if items <= WHOLE * side:
        return [Chunk(slice(0, items), slice(0, items), 0)]
    width = -(-items // -(-items // side))
    width = min(side, -(-width // 64) * 64)  # 64: whole registers and cache lines
    chunks = []
    for first in range(0, items, width):
        start = min(first, items - width)
        chunks.append(Chunk(slice(start, start + width), slice(first - start, width), start))
    return chunks


def count_ranks(
    scores: Scores,
    items: int,
    targets: np.ndarray,
    candidates: np.ndarray | None,
    device: torch.device,
) -> tuple[Counts, Counts | None]:
    """Rank a block of targets among all items and, from the same scores, among their candidates.

    Parameters
    ----------
    scores: the scores of the block, on `device`; asked for a chunk of columns at a time.
    items: how many columns there are, V.
    targets: [n] column of each row's target; n is best what `rows_at_once` says.
    candidates: [n, N] columns other than the target's, −1 where there is none; or None.

    Returns
    -------
    The counts among all V items, and those among the target and its candidates (None without). The
    host waits for the device once.

    Raises
    ------
    NonFiniteScore for the first score, by row and then by column, that is NaN or infinite, wherever
    it stands: NaN compares false with everything and must not make a good rank.
    """
    chunks = item_chunks(items, device)
    reader = _Reader(targets, candidates, chunks, device)
    own = None if len(chunks) == 1 else _guess(scores, targets, chunks[0], device)
    found = _count(scores, chunks, reader, own, device)
    if not np.isfinite(found["total"][0]):
        _raise_at_fault(scores, chunks, device)  # unless finite scores overflowed in their sum
    if found["moved"].any():
        found = _count(scores, chunks, reader, reader.drawn()[:, :1].clone(), device)
        if found["moved"].any():
            raise RuntimeError("scores that were asked for again were not the same")
    better, level, drawn_better, drawn_level = (
        found[name].astype(np.int64) for name in ("better", "level", "drawn_better", "drawn_level")
    )
    full = Counts(better, level - better)
    if candidates is None:
        return full, None
    # Where there is no candidate, the target's own score was read in its place.
    missing = (candidates < 0).sum(1)
    return full, Counts(drawn_better, drawn_level - missing - drawn_better)


class _Reader:
    """Reads the scores of the targets and of their candidates from the chunks as they pass."""

    def __init__(
        self,
        targets: np.ndarray,
        candidates: np.ndarray | None,
        chunks: list[Chunk],
        device: torch.device,
    ):
        wanted = targets[:, None]
        if candidates is not None:
            wanted = np.concatenate([wanted, np.where(candidates < 0, wanted, candidates)], axis=1)
        self.shape, self.values = wanted.shape, None  # [n, 1 + N], the target first
        self.places = None
        if len(chunks) == 1:
            self.columns = to_device(wanted, device)
            return
        width = chunks[0].columns.stop
        chunk = wanted.ravel() // width
        small = np.uint16 if len(chunks) < 2**16 else np.int64  # sorted by digits, in one pass
        order = np.argsort(chunk.astype(small), kind="stable")
        starts = np.array([chunk.start for chunk in chunks])
        inside = order // wanted.shape[1] * width + (wanted.ravel() - starts[chunk])[order]
        self.counts = np.bincount(chunk, minlength=len(chunks)).tolist()
        self.inside = to_device(inside, device).split(self.counts)  # places in [n, width]
        self.places = to_device(order, device)

    def read(self, number: int, scores: Tensor) -> None:
        """Take what stands in chunk `number`, whose scores [n, width] these are."""
        if self.places is None:
            self.values = scores.gather(1, self.columns)
            return
        if self.values is None:
            # All at once: small tensors that are kept from chunk to chunk would each take the
            # start of the room that a chunk of scores left, and the next one would need new room.
            self.values = scores.new_empty(len(self.places))
            self.parts = self.values.split(self.counts)
        torch.take(scores, self.inside[number], out=self.parts[number])

    def drawn(self) -> Tensor:
        """[n, 1 + N] scores of the target and its candidates, after the last chunk."""
        if self.places is None:
            return self.values
        return (
            torch.empty_like(self.values).index_copy_(0, self.places, self.values).view(self.shape)
        )


def _guess(scores: Scores, targets: np.ndarray, chunk: Chunk, device: torch.device) -> Tensor:
    """[n, 1] the targets' own scores, on the diagonal of a product of a chunk's shape."""
    width = chunk.columns.stop
    columns = np.resize(targets, max(len(targets), width))
    return scores(to_device(columns, device)).diagonal()[: len(targets), None].clone()


def _count(
    scores: Scores, chunks: list[Chunk], reader: _Reader, own: Tensor | None, device: torch.device
) -> dict[str, np.ndarray]:
    """One pass over the chunks against the targets' own scores [n, 1] (None: read them from the
    only chunk): [n] each, how many are `better` and how many `level` or better, among all and among
    the `drawn`; whether the own score `moved` from what was read; the `total` of all scores."""
    rows, flags = reader.shape[0], None
    for number, chunk in enumerate(chunks):
        some = scores(_on_device(chunk.columns, device))  # [n, width]
        reader.read(number, some)
        if flags is None:
            own = reader.drawn()[:, :1] if own is None else own
            flags = _flags(some)
            # whole numbers are exact up to 2²⁴ in float32, whose sums are converted nowhere
            wide = flags.dtype if chunks[-1].start < 2**23 else torch.float64
            better, level = torch.zeros(2, rows, dtype=wide, device=device)
            total = torch.zeros((), dtype=wide, device=device)
        # One pass: a sum is finite unless a member is not (or it overflows).
        total += some.sum(dtype=flags.dtype)
        part = flags
        if chunk.counted != slice(0, some.shape[1]):
            some, part = some[:, chunk.counted], flags[:, chunk.counted]
        _add_counts(some, own, part, better, level)
    drawn = reader.drawn()
    drawn_better, drawn_level = torch.zeros(2, rows, dtype=better.dtype, device=device)
    _add_counts(drawn, drawn[:, :1], _flags(drawn), drawn_better, drawn_level)
    moved = (drawn[:, 0] != own[:, 0]).to(better.dtype)
    found = {
        "better": better, "level": level, "drawn_better": drawn_better, "drawn_level": drawn_level,
        "moved": moved, "total": total.expand(rows),
    }  # fmt: skip
    values = torch.stack(list(found.values())).cpu().numpy()  # the one wait for the device
    return dict(zip(found, values, strict=True))


def _flags(scores: Tensor) -> Tensor:
    """Room for a comparison of the scores, as numbers: written straight as 0 and 1, and summed,
    these cost an eighth of what booleans do on a CPU. Sums are exact below 2²⁴ columns."""
    wide = torch.promote_types(scores.dtype, torch.float32)  # no conversion on the way
    return torch.empty(scores.shape, dtype=wide, device=scores.device)


def _add_counts(scores: Tensor, own: Tensor, flags: Tensor, better: Tensor, level: Tensor) -> None:
    """Add to `better` and `level` [n] how many scores [n, C] are above, and not below, `own`."""
    level += torch.ge(scores, own, out=flags).sum(1)
    better += torch.gt(scores, own, out=flags).sum(1)


def _raise_at_fault(scores: Scores, chunks: list[Chunk], device: torch.device) -> None:
    """Raise NonFiniteScore for the first fault by row, then column; nothing where there is none."""
    first = None
    for chunk in chunks:
        some = scores(_on_device(chunk.columns, device))[:, chunk.counted]
        faults = (~torch.isfinite(some)).nonzero()
        if len(faults):
            row, column = faults[0].tolist()
            fault = (row, chunk.start + chunk.counted.start + column)
            first = fault if first is None else min(first, fault)
    if first is not None:
        raise NonFiniteScore(*first)


def check_finite(scores: Tensor) -> None:
    """Raise NonFiniteScore for the first score [n, C] that is NaN or infinite."""
    # A sum is finite unless a member is not (or it overflows): one pass, no mask in memory.
    if torch.isfinite(scores.sum()):
        return
    faults = (~torch.isfinite(scores)).nonzero()
    if len(faults):
        raise NonFiniteScore(int(faults[0, 0]), int(faults[0, 1]))


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor there, without waiting for the copy."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _on_device(columns: slice | np.ndarray, device: torch.device) -> slice | Tensor:
    return columns if isinstance(columns, slice) else to_device(columns, device)
