"""Counting where a target ranks: no sorting, ties counted, faults never a good rank."""

import torch
from torch import Tensor


class NonFiniteScore(FloatingPointError):
    """A score is NaN or infinite: at `row` and `column` of the scores that were counted."""

    def __init__(self, row: int, column: int):
        super().__init__(f"the score of row {row}, column {column} is not finite")
        self.row, self.column = row, column


def count_better_tied(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Among all columns: scores [n, C], target columns [n] -> better [n], tied [n] (int64).

    `tied` counts the target itself. Raises NonFiniteScore at the first NaN or infinity.
    """
    check_finite(scores)
    own = scores.gather(1, targets[:, None])  # [n, 1], read where the others are read
    return (scores > own).sum(1), (scores == own).sum(1)


def count_in_candidates(
    scores: Tensor, targets: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Among the target and its candidates: candidate columns [n, N], −1 where there is none.

    scores [n, C], target columns [n] -> better [n], tied [n] (int64). Raises NonFiniteScore.
    """
    check_finite(scores)
    own = scores.gather(1, targets[:, None])
    drawn = scores.gather(1, candidates.clamp(min=0))  # [n, N]
    real = candidates >= 0
    return ((drawn > own) & real).sum(1), 1 + ((drawn == own) & real).sum(1)


def check_finite(scores: Tensor) -> None:
    """Raise NonFiniteScore for the first score that is NaN or infinite."""
    # A sum is finite unless a member is not (or it overflows): one pass, no mask in memory.
    if torch.isfinite(scores.sum()):
        return
    faults = (~torch.isfinite(scores)).nonzero()
    if len(faults):
        raise NonFiniteScore(int(faults[0, 0]), int(faults[0, 1]))
