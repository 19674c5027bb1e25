"""The candidate protocols: which items a target is ranked against, and how to count them.

`full` ranks a target among the items of its domain, `full_all` among those of all domains,
`sampled` and `sampled_all` among N of either that are drawn uniformly, `popular` among N of its
domain drawn by popularity. With the suffix `-unseen` items that the user already had are no
candidates. Over all domains the target's domain is not given: each item is scored for its own
domain. `released` is what the released code does: N negatives over all domains, none from the
user's sequence, all scored for the target's domain. `as_listed` ranks what recommend.py lists: as
`full`, or, where the lists leave out seen items, as `full-unseen` with seen targets *barred*, and
by the path that makes the list (src/evaluation/stand_ins.py).

One pass over the scores serves all of them: a protocol is a sum of counts.
"""

from dataclasses import dataclass

import numpy as np

from src.config.names import AS_LISTED, RELEASED, STRICT, UNSEEN
from src.config.protocols import DRAWN
from src.evaluation.rank_counts import BlockCounts

OF_ALL_DOMAINS = ("full_all", "sampled_all")


@dataclass(frozen=True)
class Ranks:
    """For n targets how many candidates score higher and how many the same (itself included).

    A barred target is no candidate: all candidates are better and none is tied, not even itself.
    """

    better: np.ndarray  # [n] int64
    tied: np.ndarray  # [n] int64
    candidates: np.ndarray  # [n] int64, how many were ranked, the target included

    @property
    def barred(self) -> np.ndarray:
        """[n] whether the target is no candidate, so that it counts 0 in every metric."""
        return self.tied == 0

    def at(self, rows: np.ndarray) -> "Ranks":
        """The ranks of these of the targets."""
        return Ranks(self.better[rows], self.tied[rows], self.candidates[rows])

    def bar(self, targets: np.ndarray) -> "Ranks":
        """The ranks where `targets` [n], marked by a bool, are no candidates."""
        candidates = self.candidates - targets
        better = np.where(targets, candidates, self.better)
        return Ranks(better, np.where(targets, 0, self.tied), candidates)

    def put(self, rows: np.ndarray, ranks: "Ranks") -> None:
        """Write the ranks of the targets `rows` in place; `ranks` may have more rows, ignored."""
        for name in ("better", "tied", "candidates"):
            getattr(self, name)[rows] = getattr(ranks, name)[: len(rows)]


def no_ranks(count: int) -> Ranks:
    """Zeros, for `put`."""
    return Ranks(*(np.zeros(count, dtype=np.int64) for _ in range(3)))


def ties_of(protocol: str, ties: str) -> str:
    """How a protocol breaks ties: the released code ranks the target first."""
    return "optimistic" if protocol.removesuffix(STRICT) == RELEASED else ties


def scores_all_domains(protocols: tuple[str, ...]) -> bool:
    """Whether any protocol needs the scores of other domains' items."""
    return any(name.removesuffix(UNSEEN) in OF_ALL_DOMAINS for name in protocols)


def drawn_sets(protocols: tuple[str, ...]) -> tuple[str, ...]:
    """The sets of drawn candidates that the protocols use."""
    bases = {name.removesuffix(UNSEEN) for name in protocols}
    return tuple(name for name in DRAWN if name in bases)


def ranked_as(protocol: str, excludes_seen: bool) -> str:
    """The protocol whose candidates a protocol has: `as_listed` has those of the lists, which leave
    out seen items with `excludes_seen`."""
    if protocol != AS_LISTED:
        return protocol
    return "full" + UNSEEN if excludes_seen else "full"


def filters_seen(protocols: tuple[str, ...]) -> bool:
    """Whether any protocol leaves out items that the user had."""
    return any(name.endswith(UNSEEN) for name in protocols)


def set_names(drawn: tuple[str, ...], seen: bool) -> tuple[str, ...]:
    """The candidate sets whose scores a pass reads one by one, by their number: the drawn ones and,
    with `seen`, what the user has seen of each, of the target's domain and of the others."""
    if not seen:
        return drawn
    return (*drawn, *(name + UNSEEN for name in drawn), "seen", "seen_elsewhere")


def protocol_ranks(
    protocol: str,
    counts: BlockCounts,
    sizes: np.ndarray,
    names: tuple[str, ...],
    domain_items: np.ndarray,
    other_items: np.ndarray,
) -> Ranks:
    """The ranks of a block of n targets under one protocol, from the counts of one pass.

    Parameters
    ----------
    counts: the block's, with the candidate sets `names` [S].
    sizes: [S, n] how many candidates each set has for each target.
    domain_items, other_items: [n] how many items are in each target's domain, and in the others.
    """
    base = protocol.removesuffix(UNSEEN)
    if base in DRAWN:
        row = names.index(base)
        # the target itself ties with itself, and stands in no set
        better, tied = counts.sets.better[row], counts.sets.tied[row] + 1
        candidates = sizes[row] + 1
        minus = [base + UNSEEN]
    else:
        better, tied = counts.domain.better, counts.domain.tied
        candidates = domain_items
        minus = ["seen"]
        if base == "full_all":
            better, tied = better + counts.other_domains.better, tied + counts.other_domains.tied
            candidates = candidates + other_items
            minus = ["seen", "seen_elsewhere"]
    if protocol.endswith(UNSEEN):
        for row in map(names.index, minus):
            better, tied = better - counts.sets.better[row], tied - counts.sets.tied[row]
            candidates = candidates - sizes[row]
    return Ranks(better, tied, candidates)
