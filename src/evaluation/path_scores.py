"""Score every path of a run on one split: the ranks under every protocol, the lists of the best
items, and the tables made from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from src.config.modes import BLEND, SERVED
from src.config.names import AS_LISTED, BLENDED_BY, COUNT_MODELS, COUNTED, load
from src.config.settings import Settings
from src.dataset.store.folder import Dataset
from src.evaluation.beyond_accuracy import TOP, beyond_accuracy
from src.evaluation.blend import Blend, BlendScorer, FeatureSource, blended, fit_blend, fit_targets
from src.evaluation.metrics import summarise, target_metrics
from src.evaluation.protocols import Ranks, no_ranks, ties_of
from src.evaluation.queries import Ensemble, Queries, encode_queries
from src.evaluation.ranking import (
    Block,
    BlockScorer,
    CountScorer,
    ModelScorer,
    Plan,
    Scorer,
    rank_targets,
)
from src.evaluation.serving_choice import Choice, serve_paths
from src.evaluation.stand_ins import made_by
from src.evaluation.target_lists import LISTED, block_lists
from src.evaluation.targets import Targets, split_targets, target_columns
from src.interfaces import CountModel
from src.training.processes import Process

Results = dict[str, dict[str, dict[str, float]]]  # {path: {domain, macro, users: metrics}}
Visit = Callable[[str, Block, BlockScorer], None]  # reads more from a path's scorer of a block

ROWS_AT_ONCE = 2**14  # targets whose queries are held at a time


@dataclass(frozen=True)
class PathScores:
    """The scores of one path on a split."""

    ranks: dict[str, Ranks]  # by protocol
    # {protocol: [V + 1]} in how many targets' lists of ten each item is, if requested
    lists: dict[str, np.ndarray]
    variants: dict[str, Ranks] = field(default_factory=dict)  # under `full`; of a blend alone


def fit_count_models(dataset: Dataset, settings: Settings) -> dict[str, CountModel]:
    """{path: count model} of those that every run ranks by and those that its blend asks for,
    fitted on the training events."""
    asked = [
        name for flag, names in BLENDED_BY.items() if getattr(settings, flag) for name in names
    ]
    fitted = [name for name in COUNTED if name in COUNT_MODELS or name in asked]
    return {name: load(COUNTED[name]).fit(dataset) for name in fitted}


def score_validation(
    ensemble: Ensemble,
    settings: Settings,
    dataset: Dataset,
    targets: Targets,
    process: Process,
    visit: Visit | None = None,
) -> Results:
    """{path: {domain, macro, users: metrics}} of the run's paths on a split, under `full`."""
    plan = Plan(dataset, targets, ("full",), {}, process.device)
    scores = score_paths(ensemble, settings, plan, process, {}, lists=False, visit=visit)
    return {
        path: summarise(
            path_scores.ranks["full"].better, path_scores.ranks["full"].tied, targets.domains,
            dataset.domain_names, settings.ties,
        )
        for path, path_scores in scores.items()
    }  # fmt: skip


def score_paths(
    ensemble: Ensemble,
    settings: Settings,
    plan: Plan,
    process: Process,
    count_models: dict[str, CountModel],
    lists: bool,
    blend: Blend | None = None,
    visit: Visit | None = None,
) -> dict[str, PathScores]:
    """{path: scores} of the run's paths, of their blend and of the fitted count models; each
    process scores its share of the targets. With `lists`, also what each path recommends in the
    targets' domains; `visit` is called without them alone."""
    assert not (lists and visit)
    variants: dict[str, tuple[str, ...]] = dict.fromkeys(settings.paths, ())
    variants |= {BLEND: tuple(blend.variants)} if blend else {}
    variants |= dict.fromkeys(count_models, ())

    def scorers(rows: np.ndarray) -> Iterator[tuple[str, Scorer]]:
        return _scorers(ensemble, settings, plan, rows, process, count_models, blend)

    def makers(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {
            path: made_by(plan.dataset, plan.targets, rows, path, settings)
            for path in (*settings.paths, *((BLEND,) if blend else ()))
        }

    return _path_scores(plan, process, variants, scorers, makers, lists, visit)


def score_count_models(
    plan: Plan, process: Process, count_models: dict[str, CountModel], lists: bool
) -> dict[str, PathScores]:
    """`score_paths` of fitted count models alone."""
    variants: dict[str, tuple[str, ...]] = dict.fromkeys(count_models, ())
    return _path_scores(
        plan, process, variants, lambda _: _count_scorers(plan, count_models), lambda _: {}, lists
    )


def _path_scores(
    plan: Plan,
    process: Process,
    variants: dict[str, tuple[str, ...]],
    scorers: Callable[[np.ndarray], Iterator[tuple[str, Scorer]]],
    makers: Callable[[np.ndarray], dict[str, np.ndarray]],
    lists: bool,
    visit: Visit | None = None,
) -> dict[str, PathScores]:
    """The scores of the paths {path: variants} that `scorers` score for some targets. `makers` say
    which path makes each target's list where a path serves: without an entry the path itself."""
    ranks, listed = process.together(
        lambda: _process_share(plan, process, variants, scorers, makers, lists, visit)
    )
    scores = {}
    for path, shares in ranks.items():
        summed = {name: _sum_ranks(share, process) for name, share in shares.items()}
        of_variants = {name: summed.pop(name) for name in variants[path]}
        path_lists = {name: _sum(own, process) for name, own in listed[path].items()}
        scores[path] = PathScores(summed, path_lists, of_variants)
    return scores


def _process_share(
    plan: Plan,
    process: Process,
    variants: dict[str, tuple[str, ...]],
    scorers: Callable[[np.ndarray], Iterator[tuple[str, Scorer]]],
    makers: Callable[[np.ndarray], dict[str, np.ndarray]],
    lists: bool,
    visit: Visit | None,
) -> tuple[dict[str, dict[str, Ranks]], dict[str, dict[str, np.ndarray]]]:
    """The ranks of all targets, by path and protocol or variant, and the lists, by path and
    protocol; 0 where another process has the target."""
    count = len(plan.targets.events)
    rows = np.arange(process.rank, count, process.processes)
    ranks = {
        path: {name: no_ranks(count) for name in (*plan.protocols, *names)}
        for path, names in variants.items()
    }
    listing = [name for name in LISTED if lists and name in plan.protocols]
    listed = {
        path: {name: np.zeros(plan.dataset.item_rows, dtype=np.int64) for name in listing}
        for path in variants
    }
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        blocks = list(plan.blocks(part))
        made = makers(part) if AS_LISTED in plan.protocols else {}
        for path, scorer in scorers(part):
            served = _served_by(path, made, tuple(variants), len(part))
            # the lists of a block follow its ranks: a count model reads the contexts once for both
            read = partial(visit, path) if visit else None
            if listing:
                read = partial(_count_lists, plan, part, path, served, listed)
            by_protocol = rank_targets(scorer, plan, part, blocks, process.leads, read)
            for name, part_ranks in by_protocol.items():
                if name == AS_LISTED:
                    for other, makes in served.items():
                        ranks[other][name].put(part[makes], part_ranks.at(makes))
                else:
                    ranks[path][name].put(part, part_ranks)
    return ranks, listed


def _served_by(
    path: str, made: dict[str, np.ndarray], paths: tuple[str, ...], count: int
) -> dict[str, np.ndarray]:
    """{path that serves: whether `path` makes the list of each of `count` targets for it}. Where
    what stands in is none of the `paths`, the path that serves makes the list."""
    served = {}
    for other in paths:
        makers = made.get(other, np.full(count, other, dtype=object))
        rows = makers == path
        if other == path:
            rows |= ~np.isin(makers.astype(str), paths)
        if rows.any():
            served[other] = rows
    return served


def _scorers(
    ensemble: Ensemble,
    settings: Settings,
    plan: Plan,
    rows: np.ndarray,
    process: Process,
    count_models: dict[str, CountModel],
    blend: Blend | None,
) -> Iterator[tuple[str, Scorer]]:
    models = {}
    for path in settings.paths:
        models[path] = model_scorer(ensemble, settings, plan, rows, path, bar=process.leads)
        yield path, models[path]
    if blend:
        used = blended(count_models, settings)
        source = FeatureSource(plan, models, used)
        yield BLEND, BlendScorer(blend, source)
    yield from _count_scorers(plan, count_models)


def _count_scorers(plan: Plan, count_models: dict[str, CountModel]) -> Iterator[tuple[str, Scorer]]:
    for name, model in count_models.items():
        yield name, CountScorer(model, plan)


def validation_blend(
    ensemble: Ensemble,
    settings: Settings,
    dataset: Dataset,
    process: Process,
    count_models: dict[str, CountModel],
) -> Blend:
    """The blend of a run's paths and of the fitted count models, from the validation targets."""
    targets = split_targets(dataset, "valid")
    plan = Plan(dataset, targets, ("full",), {}, process.device)
    used, rows = blended(count_models, settings), fit_targets(targets)

    def fit() -> Blend:
        models = path_scorers(ensemble, settings, plan, rows)
        source = FeatureSource(plan, models, used)
        return fit_blend(source, rows, settings.seed)

    return process.agree(fit)


def path_scorers(
    ensemble: Ensemble, settings: Settings, plan: Plan, rows: np.ndarray
) -> dict[str, ModelScorer]:
    """{path: scorer} of the run's paths for the targets `rows`."""
    return {
        path: model_scorer(ensemble, settings, plan, rows, path, bar=False)
        for path in settings.paths
    }


def model_scorer(
    ensemble: Ensemble, settings: Settings, plan: Plan, rows: np.ndarray, path: str, bar: bool
) -> ModelScorer:
    """The scorer of a path of the model: encodes the queries of the targets `rows`.

    Where the query depends on the domain to rank and the protocols rank over all domains, each
    target has one query per domain; otherwise one.
    """
    targets, domains = plan.targets, len(plan.dataset.domain_names)
    per_domain = plan.all_domains and ensemble.models[0].reads_domain(path)
    times = targets.times[rows] if settings.reads_time else None
    queries = Queries(targets.users[rows], targets.ends[rows], targets.domains[rows], times)
    if per_domain:
        queries = Queries(
            np.tile(queries.users, domains),
            np.tile(queries.ends, domains),
            np.repeat(np.arange(domains), len(rows)),
            None if times is None else np.tile(times, domains),
        )
    hidden = encode_queries(
        ensemble, plan.dataset, queries, path,
        max_len=settings.max_len, context=settings.context,
        users_at_once=settings.eval_users, device=plan.device, bar=bar,
    )  # fmt: skip
    query_of = np.zeros((domains, len(targets.events)), dtype=np.int64)
    query_of[:, rows] = np.arange(len(rows))
    if per_domain:
        query_of[:, rows] += len(rows) * np.arange(domains)[:, None]
    return ModelScorer(ensemble, hidden, query_of)


def _count_lists(
    plan: Plan,
    part: np.ndarray,
    path: str,
    served: dict[str, np.ndarray],
    listed: dict[str, dict[str, np.ndarray]],
    block: Block,
    scorer: BlockScorer,
) -> None:
    """Add to `listed` {path: {protocol: [V + 1]}} in how many of a block's lists of ten each item
    is: under `full` the scorer's own, under `as_listed` those that it makes for the paths `served`
    (which of the targets `part`, a bool for each)."""
    own = {path: np.ones(len(part), dtype=bool)}
    names = list(listed[path])
    for lists in block_lists(scorer, plan, block, TOP, names):
        for name in names:
            place = np.searchsorted(part, lists[name].rows)
            for other, rows in (served if name == AS_LISTED else own).items():
                chosen = rows[place][:, None] & np.isfinite(lists[name].scores)
                count = listed[other][name]
                count += np.bincount(lists[name].items[chosen], minlength=len(count))


def _sum_ranks(ranks: Ranks, process: Process) -> Ranks:
    """The ranks of all processes; each has zeros where the others have theirs."""
    if process.processes == 1:
        return ranks
    return Ranks(*_sum(np.stack([ranks.better, ranks.tied, ranks.candidates]), process))


def _sum(values: np.ndarray, process: Process) -> np.ndarray:
    if process.processes == 1:
        return values
    return process.sum(torch.from_numpy(values).to(process.device)).cpu().numpy()


# --------------------------------------------------------------------- the served path


def choose_serving(
    scores: dict[str, PathScores], targets: Targets, settings: Settings, names: list[str]
) -> dict[str, Choice]:
    """{domain: the path that serves it}, from the validation targets' ranks under `full`."""
    values = {}
    for path in settings.paths:
        ranks = scores[path].ranks["full"]
        metrics = target_metrics(ranks.better, ranks.tied, settings.ties)
        values[path] = metrics[settings.select_metric]
    return serve_paths(values, targets.users, targets.domains, names)


def add_served(
    scores: dict[str, PathScores],
    choices: dict[str, Choice],
    paths: tuple[str, ...],
    targets: Targets,
    starts: np.ndarray,
) -> dict[str, PathScores]:
    """The scores with the path `served`: each target ranked by the path that serves its domain."""
    main, other = paths
    takes_other = np.array([choice.path == other for choice in choices.values()])
    chosen = takes_other[targets.domains]

    def pick(first: Ranks, second: Ranks) -> Ranks:
        pairs = zip(vars(first).values(), vars(second).values(), strict=True)
        return Ranks(*(np.where(chosen, b, a) for a, b in pairs))

    first, second = scores[main], scores[other]
    ranks = {name: pick(values, second.ranks[name]) for name, values in first.ranks.items()}
    of_other = np.append(False, np.repeat(takes_other, np.diff(starts)))  # item 0 is padding
    lists = {name: np.where(of_other, second.lists[name], own) for name, own in first.lists.items()}
    served = PathScores(ranks, lists)
    order = list(scores)
    after = order.index(other) + 1
    return {path: scores.get(path, served) for path in [*order[:after], SERVED, *order[after:]]}


# --------------------------------------------------------------------- results and tables


def summarise_paths(
    scores: dict[str, PathScores],
    dataset: Dataset,
    targets: Targets,
    ties: str,
    least: int = 0,
) -> dict[str, dict[str, dict]]:
    """{protocol: {path: {domain, macro, users: metrics}}}, as in results.json; a domain with fewer
    than `least` targets is left out of the macro mean."""
    names = dataset.domain_names
    counts = np.bincount(targets.domains, minlength=len(names))
    left_out = [name for name, count in zip(names, counts, strict=True) if count < least]
    results: dict[str, dict[str, dict]] = {}
    for path, path_scores in scores.items():
        for protocol, ranks in path_scores.ranks.items():
            policy = ties_of(protocol, ties)
            summary = summarise(ranks.better, ranks.tied, targets.domains, names, policy, least)
            if protocol in path_scores.lists:
                lists, trained = path_scores.lists[protocol], dataset.training_counts
                for name, values in beyond_accuracy(
                    lists, trained, dataset.item_starts, names, left_out
                ).items():
                    summary[name] |= values
            results.setdefault(protocol, {})[path] = summary
    return results


def with_suffix(scores: dict[str, PathScores], suffix: str) -> dict[str, PathScores]:
    """The same ranks under protocol names with a suffix."""
    return {
        path: replace(old, ranks={name + suffix: ranks for name, ranks in old.ranks.items()})
        for path, old in scores.items()
    }


def rank_tables(
    scores: dict[str, PathScores], dataset: Dataset, targets: Targets
) -> Iterator[pa.Table]:
    """Rows of ranks.parquet: one table per (path, protocol), one row per target."""
    fixed = target_columns(dataset, targets)
    count = len(targets.events)
    for path, path_scores in scores.items():
        for protocol, ranks in path_scores.ranks.items():
            named = {
                name: pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [value])
                for name, value in (("protocol", protocol), ("path", path))
            }
            yield pa.table(
                {
                    "split": fixed["split"], **named,
                    **{name: values for name, values in fixed.items() if name != "split"},
                    "better": ranks.better, "tied": ranks.tied, "candidates": ranks.candidates,
                    "barred": ranks.barred,
                }
            )  # fmt: skip
