"""Score a trained run on validation and test, and write its results and tables."""

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from src.config.modes import BLEND
from src.config.names import AS_LISTED, RELEASED, STRICT
from src.config.protocols import run_protocols
from src.config.settings import Settings
from src.dataset.store.exclusion import excludes_seen, exclusion_text
from src.dataset.store.folder import Dataset
from src.dataset.store.repeats import repeat_share
from src.evaluation.blend import Blend, blended, without_parts
from src.evaluation.path_scores import (
    PathScores,
    add_served,
    choose_serving,
    fit_count_models,
    rank_tables,
    score_paths,
    summarise_paths,
    validation_blend,
    with_suffix,
)
from src.evaluation.protocols import drawn_sets
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan
from src.evaluation.serving_choice import Choice
from src.evaluation.targets import (
    SPLITS,
    Targets,
    drawn_candidates,
    split_targets,
    target_facts,
)
from src.io.errors import UserError
from src.io.files import write_atomically, write_json
from src.runs.records import BLEND_WITHOUT, read_results
from src.training.processes import Process


@dataclasses.dataclass(frozen=True)
class SplitScores:
    """The scores of a split under all protocols, with plain or strict contexts."""

    targets: Targets
    scores: dict[str, PathScores]
    strict: bool


def result_names(settings: Settings, dataset: Dataset) -> list[str]:
    """The protocols as results.json names them: those of `run_protocols`, and their strict variants
    where they are requested and differ."""
    names = run_protocols(settings)
    return [name + suffix for suffix in _suffixes(settings, dataset) for name in names]


def missing_results(settings: Settings, dataset: Dataset, folder: Path) -> list[str]:
    """The protocols that the settings ask for and a finished run has no results of: also those that
    were added to this project since."""
    results = read_results(folder)
    return [name for name in result_names(settings, dataset) if name not in results["test"]]


def _suffixes(settings: Settings, dataset: Dataset) -> tuple[str, ...]:
    """Of plain and strict contexts; in a temporal split every context is strict."""
    return ("", STRICT) if settings.strict_context and not dataset.is_temporal else ("",)


def evaluate_run(
    ensemble: Ensemble,
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    process: Process,
    keep: bool = False,
) -> None:
    """Rank all targets by all paths and protocols; write the run folder's tables and results.

    With `keep`, the folder's results under other protocols stay as they are. Nothing is selected on
    the test split: the checkpoint and the serving paths are chosen on validation.
    """
    protocols = run_protocols(settings)
    excludes = AS_LISTED in protocols and excludes_seen(repeat_share(dataset))
    count_models = fit_count_models(dataset, settings)
    blend = validation_blend(ensemble, settings, dataset, process, count_models)
    divided = without_parts(blend, blended(count_models, settings))
    splits: list[SplitScores] = []
    choices: dict[str, Choice] = {}
    for split in SPLITS:  # validation first: it decides the serving paths
        drawn = None  # the same for plain and strict contexts
        for suffix in _suffixes(settings, dataset):
            targets = split_targets(dataset, split, strict=suffix == STRICT)
            drawn = drawn or _drawn(settings, dataset, targets, protocols, folder.parent)
            plan = Plan(dataset, targets, protocols, drawn, process.device, excludes)
            main = split == "test" and not suffix
            used = divided if main else blend
            scores = score_paths(ensemble, settings, plan, process, count_models, main, used)
            if len(settings.paths) == 2:
                choices = choices or choose_serving(scores, targets, settings, dataset.domain_names)
                starts = dataset.item_starts
                scores = add_served(scores, choices, settings.paths, targets, starts)
            splits.append(SplitScores(targets, with_suffix(scores, suffix), bool(suffix)))
    process.agree(lambda: write_scores(splits, choices, blend, settings, dataset, folder, keep))


def _drawn(
    settings: Settings, dataset: Dataset, targets: Targets, protocols: tuple[str, ...], runs: Path
) -> dict[str, np.ndarray]:
    """The drawn candidates of a split, stored beside the runs."""
    names = (*drawn_sets(protocols), *(name for name in protocols if name == RELEASED))
    count, seed = settings.sampled_negatives, settings.candidate_seed
    return drawn_candidates(dataset, targets, names, count, seed, runs / "candidates")


def write_scores(
    splits: list[SplitScores],
    choices: dict[str, Choice],
    blend: Blend,
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    keep: bool,
) -> None:
    """Write ranks.parquet, targets.parquet, serving.json, blend.json, the data card and
    items.parquet (the ids of the item table's rows); results.json last, because it marks the run
    as finished."""
    if AS_LISTED in run_protocols(settings):
        share = repeat_share(dataset)
        print(f"{AS_LISTED}: {exclusion_text(share, excludes_seen(share))}", flush=True)
    for line in lone_targets(splits):
        print(line, flush=True)
    path, ranks = folder / "results.json", folder / "ranks.parquet"
    results = _kept_results(folder) if keep else {}
    tables, facts, least = [], [], settings.min_domain_targets
    for split in splits:
        summary = summarise_paths(split.scores, dataset, split.targets, settings.ties, least)
        results[split.targets.split] = results.get(split.targets.split, {}) | summary
        variants = {
            name: PathScores({"full": ranks}, {})
            for name, ranks in split.scores[BLEND].variants.items()
        }
        if variants:
            results[BLEND_WITHOUT] = summarise_paths(
                variants, dataset, split.targets, settings.ties, least
            )
        tables.append(rank_tables(split.scores, dataset, split.targets))
        if not split.strict:
            facts.append(target_facts(dataset, split.targets))
    before = ranks if keep else None
    write_atomically(ranks, lambda temporary: _write_ranks(temporary, tables, before))
    _write_table(folder / "targets.parquet", pa.concat_tables(facts).unify_dictionaries())
    if choices:
        write_json(
            folder / "serving.json",
            {name: _as_json(choice) for name, choice in choices.items()},
        )
    write_json(folder / "blend.json", blend.by_domain(dataset.domain_names))
    write_json(folder / "data_card.json", dataset.card)
    ids = dataset.folder / "items.parquet"
    write_atomically(folder / ids.name, lambda temporary: shutil.copyfile(ids, temporary))
    write_json(path, results, levels=4)  # a line for each domain


def lone_targets(splits: list[SplitScores]) -> Iterator[str]:
    """A line for each split about its targets that are their only candidate, by protocol: every
    model ranks them first, and they count as hits."""
    counts: dict[str, dict[str, int]] = {}
    for split in splits:
        path_scores = next(iter(split.scores.values()))  # every path has the same candidates
        for protocol, ranks in path_scores.ranks.items():
            if count := int(((ranks.candidates == 1) & ~ranks.barred).sum()):
                counts.setdefault(split.targets.split, {})[protocol] = count
    totals = {split.targets.split: len(split.targets.events) for split in splits}
    for name, by_protocol in counts.items():
        protocols = ", ".join(f"{protocol} {count:,}" for protocol, count in by_protocol.items())
        yield (
            f"{name} targets without another candidate, of {totals[name]:,} (every model ranks "
            f"them first): {protocols}"
        )


def _kept_results(folder: Path) -> dict:
    """The results of an earlier call; {} and a warning where they cannot be read."""
    try:
        return read_results(folder)
    except UserError as error:
        print(f"warning: {error}; replacing it", file=sys.stderr)
        return {}


def _as_json(choice: Choice) -> dict:
    """A choice as JSON; an infinite bound, which JSON does not have, is null."""
    values = dataclasses.asdict(choice)
    return values | {"bound": choice.bound if np.isfinite(choice.bound) else None}


def _write_table(path: Path, table: pa.Table) -> None:
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def _write_ranks(path: Path, tables: list[Iterator[pa.Table]], before: Path | None) -> None:
    """One row group per (split, protocol, path): the new ones, then the others of `before`."""
    new = chain.from_iterable(tables)
    first, written = next(new), set()
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in chain([first], new):
            writer.write_table(table, row_group_size=max(1, len(table)))
            written.add(_group(table))
        for table in _row_groups(before, first.schema) if before else ():
            if _group(table) not in written:
                writer.write_table(table, row_group_size=max(1, len(table)))


def _row_groups(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The row groups of an earlier ranks.parquet; none if it has other columns."""
    if not path.is_file():
        return
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if names in (schema.names, schema.names[:-1]):  # earlier versions barred no target
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                if names != schema.names:
                    table = table.append_column(schema.field(-1), [[False] * len(table)])
                table = table.cast(schema)
                if len(table):
                    yield table
    except Exception as error:  # a damaged table fails in many ways
        raise UserError(f"{path} cannot be read ({error}); remove it and score again") from None


def _group(table: pa.Table) -> tuple[str, ...]:
    """(split, protocol, path) of a row group."""
    return tuple(table[name][0].as_py() for name in ("split", "protocol", "path"))


def results_table(results: dict, protocol: str = "full") -> str:
    """The test metrics as text: one row per domain, one column per path; under `full` also what
    the blend has without its parts, in one line."""
    paths = results["test"][protocol]
    names = list(next(iter(paths.values())))
    width = max(len(name) for name in names)
    lines = [f"test, protocol {protocol}: NDCG@10 / HR@10"]
    lines.append("  ".join([" " * width, f"{'n':>6}", *(f"{path:>15}" for path in paths)]))
    for name in names:
        rows = [metrics[name] for metrics in paths.values()]
        cells = [
            f"{row['ndcg@10']:.4f} / {row['hr@10']:.4f}".rjust(15) if row["n"] else f"{'–':>15}"
            for row in rows
        ]
        lines.append("  ".join([name.ljust(width), f"{rows[0]['n']:6d}", *cells]))
    variants = results.get(BLEND_WITHOUT, {}).get(protocol, {})
    values = [f"without {name} {_macro(means)}" for name, means in variants.items()]
    if values:
        whole = _macro(paths[BLEND])
        lines.append(f"blend {', '.join(values)} (NDCG@10, macro; with all {whole})")
    return "\n".join(lines)


def _macro(means: dict[str, dict[str, float]]) -> str:
    return f"{means['macro']['ndcg@10']:.4f}" if means["macro"]["n"] else "–"
