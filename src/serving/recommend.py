"""What recommend.py does: run folder or bundle -> top-K items per user and domain."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import torch

from src.config.modes import BLEND
from src.config.recommend_settings import (
    INDEXES,
    RecommendSettings,
    check_bundle_flags,
    time_of,
)
from src.config.settings import run_settings
from src.dataset.store.exclusion import excludes_seen, exclusion_text
from src.io.errors import UserError
from src.serving.bundle import Bundle, bundle_facts, is_bundle, open_bundle
from src.serving.choices import chosen_domains, chosen_users
from src.serving.contexts import History
from src.serving.index import build_indexes, import_faiss
from src.serving.item_files import read_candidates, read_item_names
from src.serving.lists import ListOptions, Served, list_schema, make_lists
from src.serving.new_events import read_new_events
from src.serving.output import output_path, write_tables
from src.serving.run import TrainedRun, open_run
from src.serving.summary import Summary
from src.serving.target_lists import asked_items, lists_schema, plan_of, target_lists
from src.training.processes import Process


def recommend(settings: RecommendSettings, start: Callable[[str], Process]) -> None:
    """Rank, and write the table; `start` starts the process on a device. Raises UserError for
    mistakes."""
    folder = Path(settings.run)
    if is_bundle(folder):
        check_bundle_flags(settings)
    elif not (folder / "config.json").is_file():
        raise UserError(f"--run {folder} holds no run (no config.json); train it with main.py")
    if settings.at:
        lists_at_test(settings, start(settings.device).device)
        return
    if settings.index in INDEXES:
        import_faiss(settings.index)
    out = output_path(settings.out, settings.run)
    now = time_of(settings, model_reads_time(folder))
    device = start("cpu" if is_bundle(folder) else settings.device).device
    run = opened_bundle(settings) if is_bundle(folder) else opened(settings, device)
    history = history_of(settings, run)
    users = chosen_users(history, settings.users, settings.users_file, settings.events)
    domains = chosen_domains(run.dataset, settings.domains)
    candidates = read_candidates(settings.candidates, run.dataset) if settings.candidates else None
    items = candidates.items if candidates else None
    excludes = exclusion(settings.exclude_seen, run)
    indexes = None
    if settings.index in INDEXES:
        indexes, lines = build_indexes(run, history, users, domains, settings.index, settings.k)
        print("\n".join(lines))
    options = ListOptions(settings.k, domains, settings.serve_path, excludes, now, items, indexes)
    schema = list_schema(run, history)
    names = None
    if settings.item_names:
        names = read_item_names(settings.item_names, run.dataset, schema.names)
        schema = schema.append(names.field)
    for said in (candidates, names):
        if said:
            print(said.line)
    summary = Summary()

    def tables() -> Iterator[pa.Table]:
        for block in make_lists(run, history, users, options):
            summary.add(block)
            yield names.add(block.table, block.items) if names else block.table

    write_tables(out, schema, tables())
    serving = set(run.paths.values()) if settings.serve_path == "auto" else {settings.serve_path}
    listable = candidates.domains(run.dataset) if candidates else None
    for line in summary.lines(run.dataset.domain_names, serving, listable):
        print(line)
    print(f"{summary.items} recommendations: {out}")


def model_reads_time(folder: Path) -> bool:
    """Whether the model of a run or bundle reads the time of the question."""
    if is_bundle(folder):
        return bundle_facts(folder)["reads_time"]
    return run_settings(folder).reads_time


def opened_bundle(settings: RecommendSettings) -> Bundle:
    """The bundle, on the CPU."""
    bundle = open_bundle(Path(settings.run))
    bundle.check_path(settings.serve_path)
    return bundle


def opened(settings: RecommendSettings, device: torch.device) -> TrainedRun:
    """The run; says which path serves, where validation has not chosen."""
    folder = Path(settings.run)
    run = open_run(folder, device, settings.data_dir, blend=settings.serve_path == BLEND)
    run.check_path(settings.serve_path)
    if not (folder / "results.json").is_file():
        print(
            f"{folder} is not finished (no results.json): its lists are of the best epoch so far; "
            "continue it with main.py --resume"
        )
    elif settings.serve_path == "auto" and not run.chosen:
        print(
            f"{folder} has no serving.json: {run.settings.paths[0]} serves every domain; main.py "
            f"--evaluate {folder} chooses the path of each on validation"
        )
    return run


def exclusion(given: bool | None, run: Served) -> bool:
    """Whether lists leave out seen items, as it is given or else as the data says; prints it."""
    share = run.repeat_share
    excludes = excludes_seen(share) if given is None else given
    print(exclusion_text(share, excludes))
    return excludes


def lists_at_test(settings: RecommendSettings, device: torch.device) -> None:
    """`--at test`: write the lists of the test targets, and the targets beside them."""
    out = output_path(settings.out, settings.run, "test_lists.parquet")
    targets = output_path(str(out.with_stem(f"{out.stem}_targets")), settings.run)
    run = opened(settings, device)
    plan = plan_of(run, exclusion(settings.exclude_seen, run))
    asked = asked_items(plan)
    write_tables(out, lists_schema(run), target_lists(run, plan, settings.serve_path, settings.k))
    write_tables(targets, asked.schema, [asked])
    print(f"lists of {len(asked):,} test targets: {out}; the targets: {targets}")


def history_of(settings: RecommendSettings, run: Served) -> History:
    """The events of the dataset, and those of --events; says what the file holds."""
    if not settings.events:
        return run.history(None)
    matched, notes = read_new_events(settings.events, run.dataset, settings.reading())
    print("\n".join([*notes, *matched.lines(f"--events {settings.events}")]))
    return run.history(matched.events)
