"""Which users are in which batch of an epoch, and which of them are a process's own."""

from collections.abc import Iterator

import numpy as np

POOL = 64  # batches that `length` sorts together: close lengths, and chance decides the company


def epoch_batches(
    users: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    processes: int = 1,
    *,
    lengths: np.ndarray | None = None,
    start: int = 0,
) -> Iterator[np.ndarray]:
    """The users of each batch of an epoch, this process's share of them, from batch `start` on."""
    for shares in epoch_shares(
        users, batch_size, seed, epoch, processes, lengths=lengths, start=start
    ):
        yield shares[rank]


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
    """The users of each batch of an epoch by the process that takes them, from batch `start` on.

    The order is a function of seed and epoch; the processes' shares of a batch are disjoint and
    together the batch of a single process. The last batch is kept, however small: with fewer users
    than processes some have none.

    Without `lengths` users are drawn at random. With the tokens of every user, by its number, the
    users of a batch have similar ones, and the shares of a batch have as many users, or one more
    or less, and nearly as many tokens.
    """
    edges = batch_edges(len(users), batch_size)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(users)
    batches = np.arange(len(edges) - 1)
    if lengths is not None:
        rest = edges[-2]  # the last batch is no sorted one: its size would go with its lengths
        for first in range(0, rest, POOL * batch_size):
            pool = order[first : min(first + POOL * batch_size, rest)]
            pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
        batches[:-1] = rng.permutation(len(batches) - 1)
    for batch in batches[start:].tolist():
        own = order[edges[batch] : edges[batch + 1]]
        if lengths is None:
            yield [own[rank::processes] for rank in range(processes)]
        else:
            yield _dealt_out(own, lengths, processes)


def batch_edges(users: int, batch_size: int) -> list[int]:
    """Where each batch of an epoch begins in the order of the users, and where the last ends."""
    return [*range(0, users, batch_size), users]


def _dealt_out(users: np.ndarray, lengths: np.ndarray, processes: int) -> list[np.ndarray]:
    """The users of each process: dealt out longest first, there and back again (0, 1, 1, 0, …)."""
    ordered = users[np.argsort(-lengths[users], kind="stable")]
    turn = np.arange(len(users)) % (2 * processes)
    taker = np.minimum(turn, 2 * processes - 1 - turn)
    return [ordered[taker == rank] for rank in range(processes)]
