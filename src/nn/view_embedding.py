"""The inputs of a sequence encoder: the item before each target, its position and age."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.dropout import dropout
from src.nn.intervals import IntervalEmbedding


class ViewEmbedding(nn.Module):
    """Start tokens, positions and, on request, intervals of one view; LayerNorm and dropout.

    `settings` has `hidden`, `max_len`, `positions`, `time_embedding` and `dropout`.
    """

    def __init__(self, settings, starts: int = 1):
        super().__init__()
        self.settings = settings
        hidden = settings.hidden
        self.start = nn.Parameter(torch.randn(starts, hidden) * 0.02)
        self.position = nn.Parameter(torch.randn(settings.max_len, hidden) * 0.02)
        if settings.reads_time:
            self.interval = IntervalEmbedding(hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, view, items: Tensor, start_of: Tensor, added: Tensor | None = None) -> Tensor:
        """Item rows of the view's inputs [M, H], the start token of each slot [M], and what else is
        added [M, H] -> [M, H]."""
        start = F.embedding(start_of, self.start)  # [M, H]
        tokens = torch.where((view.inputs == 0)[:, None], start, items)
        from_end = self.settings.positions == "end"
        positions = view.reversed_positions if from_end else view.positions
        tokens = tokens + F.embedding(positions, self.position)
        if self.settings.reads_time:
            tokens = tokens + self.interval(view.intervals)
        if added is not None:
            tokens = tokens + added
        return dropout(self.norm(tokens), self.settings.dropout, self.training)
