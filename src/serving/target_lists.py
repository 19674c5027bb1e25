"""`--at test`: the lists as they would have been at the time of each test target.

They are what the protocol `as_listed` ranks: made by the scorers that rank the targets, from the
contexts and the counts that were known then, so that anybody can compute the metrics again.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from src.config.modes import BLEND
from src.config.names import AS_LISTED, COUNT_MODELS, NEWCOMER_MODEL, load
from src.evaluation.blend import BlendScorer, FeatureSource, blended
from src.evaluation.path_scores import ROWS_AT_ONCE, fit_count_models, path_scorers
from src.evaluation.ranking import CountScorer, Plan, Scorer
from src.evaluation.stand_ins import made_by
from src.evaluation.target_lists import block_lists
from src.evaluation.targets import split_targets
from src.interfaces import CountModel
from src.serving.run import TrainedRun


def plan_of(run: TrainedRun, excludes_seen: bool) -> Plan:
    """The test targets of a run, for lists that may leave out seen items."""
    targets = split_targets(run.dataset, "test")
    return Plan(run.dataset, targets, (AS_LISTED,), {}, run.device, excludes_seen)


def lists_schema(run: TrainedRun) -> pa.Schema:
    """The columns of `target_lists`."""
    return pa.schema(
        [
            ("query", pa.int32()),
            ("user_id", run.dataset.user_ids.type),
            ("domain", pa.string()),
            ("rank", pa.int32()),
            ("item_id", run.dataset.item_ids.type),
            ("score", pa.from_numpy_dtype(run.score_type)),
            ("path", pa.string()),
        ]
    )


def target_lists(run: TrainedRun, plan: Plan, path: str, k: int) -> Iterator[pa.Table]:
    """The k best items of each test target's domain, some thousand targets after the other.

    path: `cross`, `single`, `blend` (of a run opened with it), or `auto`: in each domain the one
        that serves it. Others stand in for it as for users of today (src/evaluation/stand_ins.py).

    Columns (`lists_schema`): query (the number of the target, as `target` in ranks.parquet),
    user_id, domain, rank (from 1), item_id, score, path (that made the list); ordered by query and
    rank. Where no candidate is left a query has no rows. Raises NotFinite for a score that is not
    finite.
    """
    serving = [run.paths[name] if path == "auto" else path for name in run.dataset.domain_names]
    of_targets = np.array(serving, dtype=object)[plan.targets.domains]
    if run.blend:
        fitted = fit_count_models(run.dataset, run.settings)
    else:
        fitted = {NEWCOMER_MODEL: load(COUNT_MODELS[NEWCOMER_MODEL]).fit(run.dataset)}
    for start in range(0, len(of_targets), ROWS_AT_ONCE):
        part = np.arange(start, min(start + ROWS_AT_ONCE, len(of_targets)))
        serves = of_targets[part]
        for name in set(serving):
            rows = part[serves == name]
            of_targets[rows] = made_by(run.dataset, plan.targets, rows, name, run.settings)
        lists = _part_lists(plan, part, of_targets, _scorers(run, plan, part, fitted), k)
        yield lists.cast(lists_schema(run))  # counts may have another type than a model's scores


def _scorers(
    run: TrainedRun, plan: Plan, rows: np.ndarray, fitted: dict[str, CountModel]
) -> dict[str, Scorer]:
    """{path: scorer} of whatever may make a list for the targets `rows`."""
    models = path_scorers(run.ensemble, run.settings, plan, rows)
    scorers: dict[str, Scorer] = dict(models)
    if run.blend:
        source = FeatureSource(plan, models, blended(fitted, run.settings))
        scorers[BLEND] = BlendScorer(run.blend, source)
    return scorers | {NEWCOMER_MODEL: CountScorer(fitted[NEWCOMER_MODEL], plan)}


def _part_lists(
    plan: Plan, part: np.ndarray, makers: np.ndarray, scorers: dict[str, Scorer], k: int
) -> pa.Table:
    """The lists of the targets `part`; `makers` [n] are the paths of all targets."""
    queries, ranks, items, scores = [], [], [], []
    for block in plan.blocks(part):
        for path in np.unique(makers[block.rows].astype(str)).tolist():
            scorer = scorers[path].of(block.rows)
            for by_protocol in block_lists(scorer, plan, block, k, [AS_LISTED]):
                lists = by_protocol[AS_LISTED]
                listed = np.isfinite(lists.scores) & (makers[lists.rows] == path)[:, None]
                row, rank = np.nonzero(listed)
                queries.append(lists.rows[row])
                ranks.append(rank + 1)
                items.append(lists.items[row, rank])
                scores.append(lists.scores[row, rank])
    query, rank = np.concatenate(queries), np.concatenate(ranks)
    order = np.lexsort((rank, query))
    query = query[order]
    return pa.table(
        {
            **_asked(plan, query),
            "rank": pa.array(rank[order].astype(np.int32)),
            "item_id": _items(plan, np.concatenate(items)[order]),
            "score": np.concatenate(scores)[order],
            "path": pa.array(makers[query], pa.string()),
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
