"""The candidate protocols: which items a target is ranked against, and how a protocol adds up.

`full` ranks a target among the items of its domain, `full_all` among those of all domains,
`sampled` and `sampled_all` among N of either that are drawn uniformly, `popular` among N of its
domain drawn by popularity. With the suffix `-unseen` what the user already had is no rival. Over
all domains the target's domain is not given: each item is scored as if its domain were asked for.
`released` is what the released code does: N negatives over all domains, none from the user's
sequence, all scored as if the target's domain were asked for.

One pass over the scores counts all of them: a protocol is a sum of counts.
"""

from dataclasses import dataclass

import numpy as np

from src.config.names import PROTOCOLS, RELEASED, STRICT, UNSEEN
from src.evaluation.rank_counts import BlockCounts
from src.io.errors import UserError

# What draws the candidates of each protocol that has drawn ones, in the order of their sets.
DRAWN = ("sampled", "popular", "sampled_all")
OF_ALL_DOMAINS = ("full_all", "sampled_all")


@dataclass(frozen=True)
class Ranks:
    """For n targets how many candidates score higher and how many the same (itself included)."""

    better: np.ndarray  # [n] int64
    tied: np.ndarray  # [n] int64
    candidates: np.ndarray  # [n] int64, how many were ranked, the target included

    def put(self, rows: np.ndarray, found: "Ranks") -> None:
        """Write the ranks of the targets `rows` in place; `found` may have more behind them."""
        for name in ("better", "tied", "candidates"):
            getattr(self, name)[rows] = getattr(found, name)[: len(rows)]


def no_ranks(count: int) -> Ranks:
    """Zeros, to be filled in or added to."""
    return Ranks(*(np.zeros(count, dtype=np.int64) for _ in range(3)))


def ties_of(protocol: str, ties: str) -> str:
    """How a protocol's ties are read: the released code's put the answer first."""
    return "optimistic" if protocol.removesuffix(STRICT) == RELEASED else ties


def chosen_protocols(names: tuple[str, ...], negatives: int) -> tuple[str, ...]:
    """The protocols that are asked for, none named: all; without `negatives` those that draw none.

    UserError for an unknown one, or one that draws where no negatives are wanted.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"--protocol {name} is unknown; give some of {', '.join(PROTOCOLS)}")
        if not negatives and draws(name):
            raise UserError(f"--protocol {name} draws negatives, and --sampled_negatives is 0")
    wanted = [name for name in PROTOCOLS if not names or name in names]
    return tuple(name for name in wanted if negatives or not draws(name))


def draws(protocol: str) -> bool:
    """Whether the protocol's candidates are drawn."""
    return protocol == RELEASED or protocol.removesuffix(UNSEEN) in DRAWN


def scores_all_domains(protocols: tuple[str, ...]) -> bool:
    """Whether some protocol needs the scores of other domains' items."""
    return any(name.removesuffix(UNSEEN) in OF_ALL_DOMAINS for name in protocols)


def drawn_sets(protocols: tuple[str, ...]) -> tuple[str, ...]:
    """The sets of drawn candidates that the protocols count."""
    bases = {name.removesuffix(UNSEEN) for name in protocols}
    return tuple(name for name in DRAWN if name in bases)


def filters_seen(protocols: tuple[str, ...]) -> bool:
    """Whether some protocol leaves out what the user had."""
    return any(name.endswith(UNSEEN) for name in protocols)


# The sets whose scores a pass reads by themselves: the drawn ones, what of each the user has seen,
# and what the user has seen of the target's domain and of the others.
def set_names(drawn: tuple[str, ...], seen: bool) -> tuple[str, ...]:
    """The names of the candidate sets of a pass, by their number."""
    if not seen:
        return drawn
    return (*drawn, *(name + UNSEEN for name in drawn), "seen", "seen_elsewhere")


def protocol_ranks(
    protocol: str,
    counts: BlockCounts,
    sizes: np.ndarray,
    names: tuple[str, ...],
    own_items: int,
    other_items: int,
) -> Ranks:
    """The ranks of a block of n targets under one protocol, from the counts of the one pass.

    Parameters
    ----------
    counts: the block's, with the candidate sets `names` [S].
    sizes: [S, n] how many candidates each set has for each target.
    own_items, other_items: the items of the target's domain, and of the others.
    """
    base = protocol.removesuffix(UNSEEN)
    if base in DRAWN:
        row = names.index(base)
        # the target itself ties with itself, and stands in no set
        better, tied = counts.sets.better[row], counts.sets.tied[row] + 1
        candidates = sizes[row] + 1
        minus = [base + UNSEEN]
    else:
        better, tied = counts.own.better, counts.own.tied
        candidates = np.full(len(better), own_items)
        minus = ["seen"]
        if base == "full_all":
            better, tied = better + counts.others.better, tied + counts.others.tied
            candidates = candidates + other_items
            minus = ["seen", "seen_elsewhere"]
    if protocol.endswith(UNSEEN):
        for row in map(names.index, minus):
            better, tied = better - counts.sets.better[row], tied - counts.sets.tied[row]
            candidates = candidates - sizes[row]
    return Ranks(better, tied, candidates)
