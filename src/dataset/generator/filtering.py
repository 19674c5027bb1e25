"""Exact filtering of interests: what a user's events tell of the state that the next one reads.

A step of an interest moves it on along a ring of S states by a random number of places
(`interests.step_law`), so that a belief after a step is a circular convolution, and a Fourier
transform makes of any number of steps a product.
"""

from dataclasses import dataclass

import numpy as np

TINY = np.finfo(float).tiny  # of events that are impossible: without noise, under a wrong reading


@dataclass(frozen=True)
class Evidence:
    """Events that read one interest, one row for each target, in time order from column 0.

    The probability of an event's item is `noise` in every state, plus `signal` in state `states`.
    """

    lengths: np.ndarray  # [n] events of each row
    states: np.ndarray  # [n, T] the state whose cluster has the event's item
    signal: np.ndarray  # [n, T]
    noise: np.ndarray  # [n, T]
    unseen: np.ndarray  # [n, T + 1] expected steps by unseen events before each event, and, in
    # column `lengths`, before the target; their number has a Poisson law


def advance(belief: np.ndarray, law: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """The belief [n, S] after one step and a Poisson number of others, `unseen` [n] on average."""
    step = np.fft.rfft(law)  # of one step; of a Poisson number with mean m: exp(m (step − 1))
    steps = step * np.exp(unseen[:, None] * (step - 1))
    moved = np.fft.irfft(np.fft.rfft(belief, axis=1) * steps, n=belief.shape[1], axis=1)
    return np.maximum(moved, 0.0)  # rounding


def forward(evidence: Evidence, law: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The belief [n, S] about the state that the target reads, and the log-likelihood [n] of the
    events. All states are equally likely before the first event, as in the long run."""
    n, longest = evidence.states.shape
    belief = np.full((n, len(law)), 1 / len(law))
    likelihood = np.zeros(n)
    for column in range(longest):
        rows = np.flatnonzero(evidence.lengths > column)
        before = belief[rows]
        if column:
            before = advance(before, law, evidence.unseen[rows, column])
        states, signal = evidence.states[rows, column], evidence.signal[rows, column]
        after = before * evidence.noise[rows, column, None]
        here = np.arange(len(rows)), states
        after[here] += before[here] * signal
        total = np.maximum(after.sum(axis=1), TINY)
        belief[rows] = after / total[:, None]
        likelihood[rows] += np.log(total)
    unseen = np.take_along_axis(evidence.unseen, evidence.lengths[:, None], axis=1)[:, 0]
    return advance(belief, law, unseen), likelihood
