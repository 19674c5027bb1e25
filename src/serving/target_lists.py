"""`--at test`: the lists as they would have been at the time of each test target.

They are what the protocol `as_listed` ranks: made by the scorers that rank the targets, from the
contexts and the counts that were known then, so that anybody can compute the metrics again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from src.config.modes import BLEND
from src.config.names import AS_LISTED
from src.config.settings import Settings
from src.dataset.store.folder import Dataset
from src.evaluation.blend import Blend, BlendScorer, FeatureSource, blended
from src.evaluation.path_scores import ROWS_AT_ONCE, path_scorers
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan, Scorer
from src.evaluation.target_lists import block_lists
from src.evaluation.targets import split_targets
from src.interfaces import CountModel


@dataclass(frozen=True)
class AtTest:
    """A finished run as its test targets were scored."""

    settings: Settings
    dataset: Dataset
    ensemble: Ensemble
    device: torch.device
    count_models: dict[str, CountModel]  # fitted, not to date
    blend: Blend | None = None  # if it is asked for

    def plan(self, excludes_seen: bool) -> Plan:
        """The test targets, for lists that may leave out seen items."""
        targets = split_targets(self.dataset, "test")
        return Plan(self.dataset, targets, (AS_LISTED,), {}, self.device, excludes_seen)

    def scorers(self, plan: Plan, rows: np.ndarray) -> dict[str, Scorer]:
        """{path: scorer} of the run's paths, and of its blend, for the targets `rows`."""
        models = path_scorers(self.ensemble, self.settings, plan, rows)
        scorers: dict[str, Scorer] = dict(models)
        if self.blend:
            source = FeatureSource(plan, models, blended(self.count_models, self.settings))
            scorers[BLEND] = BlendScorer(self.blend, source)
        return scorers


def target_lists(run: AtTest, plan: Plan, paths: np.ndarray, k: int) -> Iterator[pa.Table]:
    """The k best items of each test target's domain, some thousand targets after the other.

    paths: [n] the path that makes each target's list.

    Columns: query (the number of the target, as `target` in ranks.parquet), user_id, domain, rank
    (from 1), item_id, score, path; ordered by query and rank. A list has no rows where no candidate
    is left. Raises NotFinite for a score that is not finite.
    """
    for start in range(0, len(paths), ROWS_AT_ONCE):
        part = np.arange(start, min(start + ROWS_AT_ONCE, len(paths)))
        blocks, scorers = list(plan.blocks(part)), run.scorers(plan, part)
        queries, ranks, items, scores = [], [], [], []
        for path in np.unique(paths[part]).tolist():
            for block in blocks:
                if not (paths[block.rows] == path).any():
                    continue
                for by_protocol in block_lists(
                    scorers[path].of(block.rows), plan, block, k, [AS_LISTED]
                ):
                    lists = by_protocol[AS_LISTED]
                    listed = np.isfinite(lists.scores) & (paths[lists.rows] == path)[:, None]
                    row, rank = np.nonzero(listed)
                    queries.append(lists.rows[row])
                    ranks.append(rank + 1)
                    items.append(lists.items[row, rank])
                    scores.append(lists.scores[row, rank])
        query, rank = np.concatenate(queries), np.concatenate(ranks)
        order = np.lexsort((rank, query))
        query = query[order]
        yield pa.table(
            {
                **_asked(plan, query),
                "rank": pa.array(rank[order].astype(np.int32)),
                "item_id": _items(plan, np.concatenate(items)[order]),
                "score": np.concatenate(scores)[order],
                "path": pa.array(paths[query], pa.string()),
            }
        )


def asked_items(plan: Plan) -> pa.Table:
    """The test targets, one row for each list: query, user_id, domain, item_id (what the user took)
    and barred (whether the list leaves it out, because the user has it)."""
    count = len(plan.targets.events)
    barred = np.zeros(count, dtype=bool)
    for start in range(0, count, ROWS_AT_ONCE):
        for block in plan.blocks(np.arange(start, min(start + ROWS_AT_ONCE, count))):
            barred[block.rows] = block.barred
    every = np.arange(count)
    return pa.table(
        {
            **_asked(plan, every),
            "item_id": _items(plan, plan.targets.items),
            "barred": barred,
        }
    )


def _asked(plan: Plan, queries: np.ndarray) -> dict[str, pa.Array]:
    dataset, targets = plan.dataset, plan.targets
    names = pa.array(dataset.domain_names, pa.string())
    return {
        "query": pa.array(queries.astype(np.int32)),
        "user_id": dataset.user_ids.take(pa.array(targets.users[queries])),
        "domain": names.take(pa.array(targets.domains[queries])),
    }


def _items(plan: Plan, items: np.ndarray) -> pa.ChunkedArray:
    return plan.dataset.item_ids.take(pa.array(items - 1))
