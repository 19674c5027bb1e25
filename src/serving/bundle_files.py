"""The files of a bundle: what a service needs of a run, without its training data.

docs/serving.md describes them. A format number stands in serving.json; SHA256SUMS has the hash of
every other file, as `sha256sum -c` reads it.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from src.baselines.decayed_counts import tick_of
from src.config.modes import BLEND, PATHS
from src.config.recommend_settings import READING_FLAGS
from src.config.settings import Settings
from src.config.validation import check_settings
from src.dataset.store.exclusion import excludes_seen
from src.dataset.store.folder import Dataset, open_trained_on
from src.dataset.store.repeats import repeat_share
from src.evaluation.blend import Blend, blended, feature_names
from src.evaluation.path_scores import fit_count_models
from src.evaluation.queries import Ensemble
from src.interfaces import CountModel
from src.io.files import write_json
from src.report.finished_runs import Run, read_runs
from src.runs.models import best_models
from src.runs.records import read_blend
from src.serving.count_tables import followers_table, recent_columns, transitions_table
from src.serving.export_model import (
    INPUTS,
    ONNX,
    PT2,
    check_exportable,
    export_program,
    write_onnx,
    write_program,
)
from src.serving.model_card import model_card
from src.serving.plain_forward import PlainForward

# How make_dataset.py read the log, spelled its ids and made the sequences: a history to be served
# is made the same way.
OPTIONS = (
    "dedup", "max_len", "tie_order", "shared_items", "strip", "fold_case", "strd_ym",
    "events", "exclude",
    *sorted(READING_FLAGS),
)  # fmt: skip
FORMAT = 1  # raised when an older reader would misread a bundle
SERVING, ITEMS, VECTORS, CARD = "serving.json", "items.parquet", "item_vectors.npy", "model_card.md"
FOLLOWERS, SUMS = "followers.parquet", "SHA256SUMS"
# {count model: its transitions}; the second one is of runs with --joint_transitions
TRANSITIONS = {"markov": "transitions.parquet", "markov_any": "joint_transitions.parquet"}


class Exported(NamedTuple):
    """What a bundle is made of."""

    run: Run
    settings: Settings
    dataset: Dataset
    ensemble: Ensemble
    count_models: dict[str, CountModel]  # of every event of the log
    blend: Blend | None  # None: an earlier version scored the run


def opened_run(folder: Path, device: torch.device, data_dir: str = "") -> Exported:
    """A finished run with its models; `data_dir` is the dataset folder, if it has moved. UserError
    where it is not finished, or not of the dataset."""
    (run,) = read_runs([folder])
    settings = run.trained_settings
    check_settings(settings)
    dataset = open_trained_on(settings, data_dir)
    ensemble = best_models(settings, dataset, folder, device)
    return Exported(run, settings, dataset, ensemble, {}, None)


def with_counts(exported: Exported) -> Exported:
    """With what a bundle holds beside the model. UserError for a model that cannot be exported."""
    _, settings, dataset, ensemble, *_ = exported
    check_exportable(ensemble.models, settings.model)
    folder, fitted, blend = exported.run.folder, fit_count_models(dataset, settings), None
    if (folder / "blend.json").is_file():
        features = feature_names(settings.paths, blended(fitted, settings))
        blend = read_blend(folder, dataset.domain_names, features)
    to_date = {name: model.to_date() for name, model in fitted.items()}
    return exported._replace(count_models=to_date, blend=blend)


def fill_bundle(folder: Path, exported: Exported, formats: Collection[str]) -> None:
    """Write the files of a bundle into an empty folder."""
    dataset, ensemble = exported.dataset, exported.ensemble
    np.save(folder / VECTORS, item_vectors(ensemble, dataset))
    # after the vectors, which are of the run's precision: the graph is of float32
    program = export_program(PlainForward(ensemble, dataset.item_starts.tolist()))
    if PT2 in formats:
        write_program(program, folder / f"model.{PT2}")
    if ONNX in formats:
        write_onnx(program, folder / f"model.{ONNX}", exported.settings.paths)
    time = int(dataset.times.max()) + tick_of(dataset)  # every event of the log is before it
    models = exported.count_models
    pq.write_table(items_table(dataset, models, time), folder / ITEMS)
    for name, file in TRANSITIONS.items():
        if name in models:
            pq.write_table(transitions_table(models[name]), folder / file)  # type: ignore
    pq.write_table(followers_table(models["covisit"], time), folder / FOLLOWERS)  # type: ignore
    write_json(folder / SERVING, serving_facts(exported, formats, time))
    (folder / CARD).write_text(model_card(exported.run, dataset.domain_names))
    sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(sums))


def item_vectors(ensemble: Ensemble, dataset: Dataset) -> np.ndarray:
    """[V + 1, H] float32 E, the vectors of all items by dense id; row 0 is padding."""
    vectors = np.zeros((dataset.item_rows, ensemble.hidden), dtype=np.float32)
    for domain in range(len(dataset.domain_names)):
        model, number = ensemble.of(domain)
        rows = slice(model.item_starts[number], model.item_starts[number + 1])
        vectors[dataset.domain_items(domain)] = model.item_table[rows].detach().cpu().numpy()
    return vectors


def items_table(dataset: Dataset, count_models: dict[str, CountModel], time: int) -> pa.Table:
    """One row per item in the order of the dense ids, which begin at 1."""
    numbers = np.arange(1, dataset.item_rows)
    names = pa.array(dataset.domain_names)
    events = np.bincount(dataset.items, minlength=dataset.item_rows)
    columns = {
        "item": numbers.astype(np.int32),
        "item_id": pc.cast(dataset.item_ids, pa.string()),
        "domain": names.take(pa.array(dataset.item_domains[1:])),
        "training_events": dataset.training_counts[1:],
        "events": events[1:],
    }
    return pa.table(columns | recent_columns(count_models["recent"], time))  # type: ignore


def serving_facts(exported: Exported, formats: Collection[str], time: int) -> dict[str, Any]:
    """serving.json: how the files are read."""
    run, settings, dataset = exported.run, exported.settings, exported.dataset
    model, recent, covisit = (
        exported.ensemble.models[0], exported.count_models["recent"],
        exported.count_models["covisit"],
    )  # fmt: skip
    names, starts = dataset.domain_names, dataset.item_starts.tolist()
    served = run.serving or {name: {"path": settings.paths[0]} for name in names}
    blend = exported.blend
    return {
        "format": FORMAT,
        "run": run.name,
        "model": settings.model,
        "mode": settings.mode,
        "data": {"name": run.data_name, "sha256": run.data, "options": card_options(dataset)},
        "graphs": [f"model.{format}" for format in formats],
        "inputs": list(INPUTS),
        "paths": {
            path: {"reads_domain": model.reads_domain(path) or PATHS[path].single_domain}
            for path in settings.paths
        },
        "reads_time": settings.reads_time,
        "max_len": settings.max_len,
        "context": settings.context,
        "hidden": exported.ensemble.hidden,
        "items": dataset.item_rows - 1,
        "domains": [
            {"name": name, "first": starts[number], "end": starts[number + 1],
             "serve": served[name]}
            for number, name in enumerate(names)
        ],
        "time_unit": "seconds since 1970, UTC",
        "repeat_share": repeat_share(dataset),
        "exclude_seen": excludes_seen(repeat_share(dataset)),
        "ties": "equal scores in ascending order of item",
        "counts": {
            "time": time,
            "tick": tick_of(dataset),
            "recent_half_lives": recent.half_lives.tolist(),  # type: ignore
            "covisit_half_lives": covisit.half_lives.tolist(),  # type: ignore
        },
        BLEND: blend and blend.by_domain(names),
    }  # fmt: skip


def card_options(dataset: Dataset) -> dict[str, Any]:
    """The options of the data that histories follow."""
    options = dataset.card.get("options", {})
    return {name: options[name] for name in OPTIONS if name in options}


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
