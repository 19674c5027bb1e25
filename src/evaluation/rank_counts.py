"""Counting where a target ranks: no sorting, ties counted, faults never a good rank.

Targets are ranked in blocks of rows, and the scores of a block are computed and counted in chunks
of items, so that memory is bounded by a chunk, however many items there are. The scores of single
items, drawn as candidates or seen by the user, are read from the same chunks.

A target ties with the items whose scores have exactly the same bits. The bits of a product may
depend on its shape, so the target's score is first guessed from a product of a chunk's shape, then
read from the chunk that contains the target; if the two differ, the items of its domain are counted
again with the score that was read.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src.interfaces import Scores

# Rows and columns of a chunk. On a CPU a chunk and its flags stay in the cache between the passes
# (GFLOP/s of the product on one core, 100 at the best, H 64: 97 with 1024 x 1024, 82 with
# 512 x 8192); a GPU needs more at a time to be filled.
SIDES = {"cpu": 1024, "cuda": 4096}
# The guess costs one more chunk per block. With more chunks than this it is an eighth at the most;
# with fewer, all items are one chunk of fewer rows, and nothing is guessed.
WHOLE = 8
# A product with fewer rows or columns may end in a kernel that adds in another order (seen below 12
# with MKL), so that equal items would not tie: it is padded to this many.
FEWEST = 16


class NonFiniteScore(FloatingPointError):
    """A score is NaN or infinite: at `row` and `column` of the scores of part `part`."""

    def __init__(self, row: int, column: int, part: int = 0):
        super().__init__(f"the score of row {row}, column {column} is not finite")
        self.row, self.column, self.part = row, column, part


@dataclass(frozen=True)
class Reads:
    """P single scores to read, each counted in one of the candidate sets."""

    rows: np.ndarray  # [P] int32 row of the block
    columns: np.ndarray  # [P] int32 item of the part
    sets: np.ndarray  # [P] int32 number of the set


@dataclass(frozen=True)
class Part:
    """The items of one domain, scored for a block of targets."""

    scores: Scores
    items: int  # columns that it has, V_d
    reads: Reads


@dataclass(frozen=True)
class Counts:
    """For n targets, how many items score higher and how many the same."""

    better: np.ndarray  # [..., n] int64
    tied: np.ndarray  # [..., n] int64


@dataclass(frozen=True)
class BlockCounts:
    """A block of n targets against the items of their domain (the target among the tied), against
    those of the other domains, and against S candidate sets [S, n]."""

    domain: Counts
    other_domains: Counts
    sets: Counts
    target_scores: Tensor  # [n] the targets' own, as read among the items of their domain


@dataclass(frozen=True)
class Chunk:
    """Items that are scored together; each item of the catalogue is counted in one chunk."""

    columns: slice | np.ndarray  # what is scored
    counted: slice  # what of it is counted here
    start: int  # the first item that is scored

    @property
    def width(self) -> int:
        """How many items are scored."""
        if isinstance(self.columns, slice):
            return self.columns.stop - self.columns.start
        return len(self.columns)


def rows_at_once(items: int, device: torch.device) -> int:
    """How many targets to rank in one block among `items` items."""
    side = SIDES[device.type]
    if items <= WHOLE * side:
        return max(FEWEST, min(2 * side, 2 * side * side // items))
    return side


def item_chunks(items: int, device: torch.device) -> list[Chunk]:
    """The chunks of a catalogue, all of one width, so that all are scored by the same kernel.

    The last one overlaps the one before and counts only the rest. A catalogue of fewer than
    `FEWEST` items is repeated to fill a chunk, and counted once.
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


def no_reads() -> Reads:
    """No single score to read."""
    return Reads(*(np.zeros(0, dtype=np.int32) for _ in range(3)))


def count_ranks(
    parts: list[Part], targets: np.ndarray, sets: int, device: torch.device, scorings: int = 1
) -> BlockCounts:
    """Rank a block of targets among the items of all parts and, from the same scores, their sets.

    Parameters
    ----------
    parts: the items to score, on `device`, a chunk of columns at a time; the targets are in the
        first part.
    targets: [n] column of each row's target in it; `rows_at_once` gives the best n.
    sets: how many candidate sets the reads name. A set does not hold the target itself.
    scorings: how often the targets are scored: the scores [scorings · n, columns] have the rows of
        one scoring after those of the other, and so have the counts. Reads are of the first.

    Returns
    -------
    The counts among the items of the first part, of the others together, and of each set. The host
    waits for the device once.

    Raises
    ------
    NonFiniteScore for the first score, by part, row and then column, that is NaN or infinite,
    wherever it stands: NaN compares false with everything and must not make a good rank.
    """
    count, first = scorings * len(targets), parts[0]
    chunks = item_chunks(first.items, device)
    guess = None if len(chunks) == 1 else _guess(first.scores, targets, chunks[0], device)
    targets = np.tile(targets, scorings)
    counts, target_scores = _count(first, targets, guess, count, sets, device)
    passes = [counts]
    for part in parts[1:]:
        passes.append(_count(part, None, target_scores, count, sets, device)[0])
    # [parts, 4 + 2 S, n]; the one wait for the device
    numbers = torch.stack([counts.double() for counts in passes]).cpu().numpy()
    if not np.isfinite(numbers[:, TOTAL]).all():
        _raise_at_fault(parts, device)  # unless finite scores overflowed in their sum
    if numbers[0, MOVED].any():
        again, _ = _count(first, targets, target_scores, count, sets, device)
        numbers[0] = again.cpu().numpy()
        if numbers[0, MOVED].any():
            raise RuntimeError("the same scores, computed again, differ")
    drawn = numbers[:, SETS:].sum(0).reshape(2, sets, count)
    return BlockCounts(
        domain=_counts(numbers[0, BETTER], numbers[0, LEVEL]),
        other_domains=_counts(numbers[1:, BETTER].sum(0), numbers[1:, LEVEL].sum(0)),
        sets=_counts(*drawn),
        target_scores=target_scores,
    )


def count_others(
    parts: list[Part], target_scores: list[Tensor], sets: int, device: torch.device
) -> list[BlockCounts]:
    """Count the items of each part, and the reads among them, against scores [n] of targets that
    are in none of them; n may differ by part. Raises and waits as `count_ranks` does."""
    passes = [
        _count(part, None, scores, len(scores), sets, device)[0].double()
        for part, scores in zip(parts, target_scores, strict=True)
    ]
    numbers = torch.cat(passes, 1).cpu().numpy()  # [4 + 2 S, Σ n]
    if not np.isfinite(numbers[TOTAL]).all():
        _raise_at_fault(parts, device)
    ends = np.cumsum([len(scores) for scores in target_scores])
    return [
        BlockCounts(
            domain=_counts(*np.zeros((2, len(scores)))),
            other_domains=_counts(counted[BETTER], counted[LEVEL]),
            sets=_counts(*counted[SETS:].reshape(2, sets, len(scores))),
            target_scores=scores,
        )
        for counted, scores in zip(np.split(numbers, ends[:-1], 1), target_scores, strict=True)
    ]


def no_counts(count: int, sets: int) -> BlockCounts:
    """Zeros, for `add_counts`."""

    def zeros(*shape: int) -> Counts:
        return Counts(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64))

    return BlockCounts(zeros(count), zeros(count), zeros(sets, count), torch.zeros(0))


def add_counts(total: BlockCounts, counts: BlockCounts, places: np.ndarray) -> None:
    """Add to `total`, at `places` [m] of its targets, the counts of as many; `counts` may have
    more, ignored."""
    for name in ("domain", "other_domains", "sets"):
        into, added = getattr(total, name), getattr(counts, name)
        into.better[..., places] += added.better[..., : len(places)]
        into.tied[..., places] += added.tied[..., : len(places)]


def _counts(better: np.ndarray, level: np.ndarray) -> Counts:
    """Counts above, and not below, the target, as counts above and level with it."""
    better = better.astype(np.int64)
    return Counts(better, level.astype(np.int64) - better)


BETTER, LEVEL, MOVED, TOTAL = range(4)  # rows of what a pass counts; those of the sets follow
SETS = 4


class _Reader:
    """Reads single scores from the chunks as they are computed, in the order of the chunks."""

    def __init__(
        self, rows: np.ndarray, columns: np.ndarray, chunks: list[Chunk], device: torch.device
    ):
        self.values: Tensor | None = None
        self.order: slice | np.ndarray = slice(None)
        width = chunks[0].width
        if len(chunks) == 1:
            self.counts = [len(rows)]
            inside = rows * np.int64(width) + columns
        else:
            chunk = columns // width
            small = np.uint16 if len(chunks) < 2**16 else np.int64  # sorted by digits, in one pass
            self.order = np.argsort(chunk.astype(small), kind="stable")
            starts = np.array([chunk.start for chunk in chunks])
            inside = (rows * np.int64(width) + columns - starts[chunk])[self.order]
            self.counts = np.bincount(chunk, minlength=len(chunks)).tolist()
        self.inside = to_device(inside, device).split(self.counts)  # indices into [n, width]

    def indices(self) -> np.ndarray:
        """The index of each read score among `values`."""
        indices = np.arange(sum(self.counts))
        indices[self.order] = indices.copy()
        return indices

    def read(self, number: int, scores: Tensor) -> Tensor:
        """Read from the scores [n, width] of chunk `number`; returns all values read so far."""
        if self.values is None:
            # All at once: small tensors that are kept from chunk to chunk would each take the
            # start of the room that a chunk of scores left, and the next one would need new room.
            self.values = scores.new_empty(sum(self.counts))
            self.parts = self.values.split(self.counts)
        torch.take(scores, self.inside[number], out=self.parts[number])
        return self.values


def _guess(scores: Scores, targets: np.ndarray, chunk: Chunk, device: torch.device) -> Tensor:
    """[scorings · n] the targets' own scores, on the diagonals of products of a chunk's shape."""
    columns = np.resize(targets, max(len(targets), chunk.width))
    values = scores(to_device(columns, device)).unflatten(0, (-1, len(targets)))
    return values.diagonal(dim1=1, dim2=2).flatten().clone()


def _count(
    part: Part,
    targets: np.ndarray | None,
    target_scores: Tensor | None,
    count: int,
    sets: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """One pass over a part against the targets' scores [n] (None: read from the only chunk).

    Returns [4 + 2 · sets, n] counts, and the targets' scores: as read in this part where it has
    `targets`, else as given.
    """
    chunks = item_chunks(part.items, device)
    known = np.arange(0 if targets is None else count, dtype=np.int32)  # the targets come first
    rows = np.concatenate([known, part.reads.rows])
    columns = part.reads.columns if targets is None else np.append(targets, part.reads.columns)
    reader = _Reader(rows, columns, chunks, device)
    flags = None
    for number, chunk in enumerate(chunks):
        scores = part.scores(on_device(chunk.columns, device))  # [n, width]
        values = reader.read(number, scores)
        if target_scores is None:
            target_scores = values[:count]
        if flags is None:
            flags = _flags(scores)
            # whole numbers are exact up to 2²⁴ in float32, whose sums are converted nowhere
            wide = flags.dtype if chunks[-1].start < 2**23 else torch.float64
            better, level = torch.zeros(2, count, dtype=wide, device=device)
            total = torch.zeros((), dtype=wide, device=device)
        # One pass: a sum is finite unless a member is not (or it overflows).
        total += scores.sum(dtype=flags.dtype)
        counted = flags
        if chunk.counted != slice(0, scores.shape[1]):
            scores, counted = scores[:, chunk.counted], flags[:, chunk.counted]
        _add_counts(scores, target_scores[:, None], counted, better, level)
    assert target_scores is not None  # there is at least one chunk
    read, moved = target_scores, torch.zeros_like(better)
    if targets is not None:
        read = values[to_device(reader.indices()[:count], device)]
        moved = (read != target_scores).to(wide)
    cells = to_device(_cells(rows, part.reads.sets, sets, count)[reader.order], device)
    compared = target_scores[to_device(rows[reader.order].astype(np.int64), device)]
    in_sets = torch.zeros(2, sets * count + 1, dtype=wide, device=device)
    in_sets[0].index_add_(0, cells, (values > compared).to(wide))
    in_sets[1].index_add_(0, cells, (values >= compared).to(wide))
    whole = torch.stack([better, level, moved, total.expand(count)])
    return torch.cat([whole, in_sets[:, :-1].reshape(2 * sets, count)]), read


def _cells(rows: np.ndarray, numbers: np.ndarray, sets: int, count: int) -> np.ndarray:
    """Where each read is counted, flat in [sets, n]: `rows` [P] of the reads, `numbers` of their
    sets. The reads of the targets, which come first and are in no set, have the cell behind."""
    cells = np.full(len(rows), sets * count, dtype=np.int64)
    in_set = slice(len(rows) - len(numbers), None)
    cells[in_set] = numbers * np.int64(count) + rows[in_set]
    return cells


def _flags(scores: Tensor) -> Tensor:
    """Room for a comparison of the scores, as numbers: written straight as 0 and 1, and summed,
    these cost an eighth of what booleans do on a CPU. Sums are exact below 2²⁴ columns."""
    wide = torch.promote_types(scores.dtype, torch.float32)  # no conversion on the way
    return torch.empty(scores.shape, dtype=wide, device=scores.device)


def _add_counts(
    scores: Tensor, target_scores: Tensor, flags: Tensor, better: Tensor, level: Tensor
) -> None:
    """Add to `better` and `level` [n] how many scores [n, C] are above, and not below, the
    target's [n, 1]."""
    level += torch.ge(scores, target_scores, out=flags).sum(1)
    better += torch.gt(scores, target_scores, out=flags).sum(1)


def _raise_at_fault(parts: list[Part], device: torch.device) -> None:
    """Raise NonFiniteScore for the first fault by part, row and column; nothing without one."""
    for number, part in enumerate(parts):
        first = None
        for chunk in item_chunks(part.items, device):
            scores = part.scores(on_device(chunk.columns, device))[:, chunk.counted]
            faults = (~torch.isfinite(scores)).nonzero()
            if len(faults):
                row, column = faults[0].tolist()
                fault = (row, chunk.start + chunk.counted.start + column)
                first = fault if first is None else min(first, fault)
        if first is not None:
            raise NonFiniteScore(*first, number)


def check_finite(scores: Tensor) -> None:
    """Raise NonFiniteScore for the first score [n, C] that is NaN or infinite."""
    # A sum is finite unless a member is not (or it overflows): one pass, no mask in memory.
    if math.isfinite(scores.sum()):
        return
    faults = (~torch.isfinite(scores)).nonzero()
    if len(faults):
        raise NonFiniteScore(int(faults[0, 0]), int(faults[0, 1]))


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor there, without waiting for the copy."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def on_device(columns: slice | np.ndarray, device: torch.device) -> slice | Tensor:
    return columns if isinstance(columns, slice) else to_device(columns, device)


def columns_on_cpu(columns: slice | Tensor) -> slice | Tensor:
    """Columns as a count model takes them."""
    return columns if isinstance(columns, slice) else columns.cpu()
