"""Time-interval embedding: how long before the target its input event was, in log-scale buckets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DAY = 86_400
# where buckets begin, in seconds: one time, up to an hour, a day, 2 days, … 5.6 years, longer
EDGES = (0, 1, 3600, *(DAY * 2**power for power in range(12)))


class IntervalEmbedding(nn.Module):
    """One learned vector per bucket, and one for a target without an event before it. They are 0 at
    first, so that a model begins as it does without."""

    edges: Tensor

    def __init__(self, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1 + len(EDGES), hidden))
        self.register_buffer("edges", torch.tensor(EDGES), persistent=False)

    def forward(self, intervals: Tensor) -> Tensor:
        """Seconds [M] int64, −1 where no event came before, -> [M, H]."""
        buckets = torch.bucketize(intervals, self.edges, right=True)
        return F.embedding(buckets, self.weight)
