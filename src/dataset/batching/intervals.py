"""Time intervals: how long before its target an input event was, in logarithmic buckets."""

import numpy as np

DAY = 86_400
# where a bucket ends and the next begins, in seconds: one time, an hour, a day, 2 days … 5.6 years
EDGES = np.array([1, 3600, *(DAY * 2**power for power in range(12))])
BUCKETS = len(EDGES) + 2  # 0: no event before the target; 1: an event of the same time


def interval_buckets(times: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[N] the bucket of the time from each event's predecessor to the event.

    `times` [N] are in seconds, one sequence after the other; `positions` [N] count from 0 in each.
    """
    seconds = np.diff(times, prepend=0)
    return np.where(positions == 0, 0, 1 + np.searchsorted(EDGES, seconds, side="right"))
