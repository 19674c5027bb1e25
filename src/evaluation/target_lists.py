"""The lists of best items of the targets of a split: what stands in a list, and what was ranked.

The lists come from the scores and the seen items by which a protocol ranks the same targets.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from src.config.names import AS_LISTED
from src.evaluation.rank_counts import NonFiniteScore, check_finite, to_device
from src.evaluation.ranking import Block, BlockScorer, Plan, Share, fault_of
from src.evaluation.top_items import top_lists
from src.interfaces import Scores

LISTED = ("full", AS_LISTED)  # the protocols that have lists


@dataclass(frozen=True)
class TargetLists:
    """The best items of the domain of m targets, best first; equal scores by the item's number."""

    rows: np.ndarray  # [m] numbers of the targets
    scores: np.ndarray  # [m, k] −inf where no candidate is left
    items: np.ndarray  # [m, k]


def block_lists(
    scorer: BlockScorer, plan: Plan, block: Block, k: int, protocols: list[str]
) -> Iterator[dict[str, TargetLists]]:
    """{protocol: lists of the k best items} of LISTED `protocols`, for one share of a block after
    the other. The scores are computed once for all of them.

    Raises NotFinite for a score that is not finite.
    """
    starts = plan.dataset.item_starts
    for share in block.own:
        first, end = starts[share.domain : share.domain + 2].tolist()
        scores = _checked(scorer.scores(share.padded, share.domain), plan, block, share)
        excludes = [name == AS_LISTED and plan.excludes_seen for name in protocols]
        kinds = sorted(set(excludes))  # protocols with the same candidates have the same lists
        without = [_excluded(plan, block, share) if kind else None for kind in kinds]
        best = [
            tuple(part.cpu().numpy() for part in lists)
            for lists in top_lists(scores, end - first, k, plan.device, without)
        ]
        targets, m = block.rows[share.places], len(share.places)
        yield {
            name: TargetLists(targets, best[kind][0][:m], first + best[kind][1][:m])
            for name, kind in zip(protocols, map(kinds.index, excludes), strict=True)
        }


def _excluded(plan: Plan, block: Block, share: Share) -> tuple[Tensor, Tensor]:
    """Rows and columns of the scores of a share that its targets' users have seen: those that are
    read as a candidate set, and the barred targets."""
    of_seen = share.reads.sets == plan.sets.index("seen")
    barred = np.flatnonzero(block.barred[share.places])
    targets = plan.targets.items[block.rows[share.places[barred]]]
    rows = np.concatenate([share.reads.rows[of_seen], barred])
    columns = targets - plan.dataset.item_starts[share.domain]
    columns = np.concatenate([share.reads.columns[of_seen], columns])
    return to_device(rows, plan.device), to_device(columns, plan.device)


def _checked(scores: Scores, plan: Plan, block: Block, share: Share) -> Scores:
    """The same scores; NotFinite where one is not finite."""

    def checked(columns: slice | Tensor) -> Tensor:
        values = scores(columns)
        try:
            check_finite(values)
        except NonFiniteScore as fault:
            scored = columns if isinstance(columns, slice) else columns.cpu().numpy()
            column = np.arange(plan.dataset.item_rows)[scored][fault.column]
            row = block.rows[share.padded[fault.row]]
            item = int(plan.dataset.item_starts[share.domain] + column)
            raise fault_of(plan, row, item) from None
        return values

    return checked
