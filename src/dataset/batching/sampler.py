"""Which users are in which batch of an epoch, and which process takes which of them."""

from collections.abc import Iterator

import numpy as np

POOL = 64  # batches sorted by length together: similar lengths, yet random company


def epoch_shares(
    users: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    processes: int = 1,
    *,
    lengths: np.ndarray | None = None,
    start: int = 0,
) -> Iterator[list[np.ndarray]]:
    """The users of each batch of an epoch, one array per process, starting with batch `start`.

    The order is a function of seed and epoch; the processes' shares of a batch are disjoint and
    together the batch of a single process. The last batch is kept, however small: with fewer users
    than processes some shares are empty.

    Without `lengths` users are drawn at random. With `lengths`, the tokens of every user by user
    id, the users of a batch have similar lengths; the shares of a batch differ by at most one user
    and are nearly equal in tokens.
    """
    edges = batch_edges(len(users), batch_size)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(users)
    batches = np.arange(len(edges) - 1)
    if lengths is not None:
        rest = edges[-2]  # the last batch stays unsorted: its size would depend on its lengths
        for first in range(0, rest, POOL * batch_size):
            pool = order[first : min(first + POOL * batch_size, rest)]
            pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
        batches[:-1] = rng.permutation(len(batches) - 1)
    for batch in batches[start:].tolist():
        batch_users = order[edges[batch] : edges[batch + 1]]
        if lengths is None:
            yield [batch_users[rank::processes] for rank in range(processes)]
        else:
            yield _deal_by_length(batch_users, lengths, processes)


def batch_edges(users: int, batch_size: int) -> list[int]:
    """Where each batch of an epoch begins in the order of the users, and where the last ends."""
    return [*range(0, users, batch_size), users]


def _deal_by_length(users: np.ndarray, lengths: np.ndarray, processes: int) -> list[np.ndarray]:
    """The users of each process, dealt longest first, back and forth (0, 1, 1, 0, …)."""
    ordered = users[np.argsort(-lengths[users], kind="stable")]
    turn = np.arange(len(users)) % (2 * processes)
    taker = np.minimum(turn, 2 * processes - 1 - turn)
    return [ordered[taker == rank] for rank in range(processes)]
