"""Arrays of counts as the tensors of scores that ranking takes."""

import numpy as np
import torch
from torch import Tensor


def in_columns(columns: slice | Tensor) -> slice | np.ndarray:
    """Columns as numpy takes them."""
    return columns if isinstance(columns, slice) else columns.numpy()


def as_scores(values: np.ndarray) -> Tensor:
    """An array of scores as a tensor, in one piece."""
    return torch.from_numpy(np.ascontiguousarray(values))


def log_counts(counts: np.ndarray, offset: float) -> Tensor:
    """log(counts + offset) in float32."""
    return as_scores(np.log(counts.astype(np.float32) + np.float32(offset)))
