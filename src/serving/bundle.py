"""A bundle, opened to serve: scores as the run that it was made from gives them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from src.config.modes import BLEND
from src.dataset.batching.ragged import positions_in_runs
from src.dataset.batching.windows import context_windows
from src.dataset.store.folder import ARRAYS, Dataset
from src.evaluation.blend import Blend, BlendScorer, FeatureSource
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import ModelScorer, Plan
from src.evaluation.targets import Targets
from src.interfaces import CountModel, Requests, Scores
from src.io.errors import UserError
from src.io.json_schema import Count, MapOf, read_json
from src.serving.bundle_files import (
    FOLLOWERS,
    FORMAT,
    ITEMS,
    SERVING,
    SUMS,
    TRANSITIONS,
    VECTORS,
    sha256,
)
from src.serving.export_model import INPUTS, ONNX, PT2
from src.serving.frozen_counts import FrozenTimes, frozen_models

AGAIN = "export the run again with export.py"
SCHEMA: dict[str, Any] = {
    "format": Count(FORMAT, FORMAT),
    "data": {"name": str, "sha256": str, "options": dict},
    "graphs": [str],
    "paths": MapOf({"reads_domain": bool}, 1),
    "reads_time": bool,
    "max_len": Count(1),
    "context": str,
    "hidden": Count(1),
    "items": Count(1),
    "domains": [
        {"name": str, "first": Count(1), "end": Count(1), "serve": {"path": str}}
    ],
    "counts": {
        "time": int, "tick": Count(1), "recent_half_lives": [float], "covisit_half_lives": [float],
    },
    BLEND: (MapOf(MapOf(float)), None),
}  # fmt: skip
Graph = Callable[[dict[str, Tensor]], dict[str, Tensor]]  # inputs -> {path: [B, H]}
ROWS = 1024  # histories that are encoded at a time


@dataclass(frozen=True)
class Catalogue(Dataset):
    """The items of a bundle as a dataset without users."""

    counted: np.ndarray = field(kw_only=True)  # [V + 1]
    ids: pa.ChunkedArray = field(kw_only=True)  # [V]

    @property
    def training_counts(self) -> np.ndarray:  # type: ignore[override]
        return self.counted

    @property
    def item_ids(self) -> pa.ChunkedArray:  # type: ignore[override]
        return self.ids

    @property
    def user_ids(self) -> pa.ChunkedArray:  # type: ignore[override]
        return pa.chunked_array([[]], pa.string())


class ItemVectors:
    """The item table of a bundle, as scores read it; a part of a Recommender."""

    def __init__(self, item_table: Tensor, item_starts: list[int]):
        self.item_table, self.item_starts = item_table, item_starts


@dataclass(frozen=True)
class Bundle:
    """A bundle with its graph loaded. Contexts are the users and events of any dataset with the
    same catalogue; a request about a time before `end` cannot be answered by counts."""

    facts: dict[str, Any]  # serving.json
    dataset: Catalogue
    graph: Graph
    vectors: Ensemble  # of one ItemVectors
    paths: dict[str, str]  # {domain: the path that serves it}
    count_models: dict[str, CountModel]
    blend: Blend | None

    @property
    def end(self) -> int:
        """The first second when every event of the run's log is known."""
        return self.facts["counts"]["time"]

    def queries(self, contexts: Dataset, requests: Requests, domain: int) -> dict[str, Tensor]:
        """{path: [n, H]} of n requests that ask for a domain."""
        parts = [
            self.graph(self.inputs(contexts, requests.rows(slice(start, start + ROWS)), domain))
            for start in range(0, len(requests.users), ROWS)
        ]
        return {path: torch.cat([part[path] for part in parts]) for path in self.facts["paths"]}

    def inputs(self, contexts: Dataset, requests: Requests, domain: int) -> dict[str, Tensor]:
        """What the graph reads of n requests: the events that it does not skip, padded."""
        users, ends, times, _ = requests
        windows = context_windows(
            contexts, users, ends, self.facts["max_len"] - 1, self.facts["context"]
        )
        lengths = np.bincount(windows.rows, minlength=len(users))
        shape = len(users), max(1, int(lengths.max(initial=0)))
        cells = windows.rows, positions_in_runs(lengths)
        padded = np.zeros((2, *shape), dtype=np.int64)
        padded[0][cells], padded[1][cells] = (
            contexts.items[windows.events], contexts.times[windows.events]
        )  # fmt: skip
        asked = np.full(len(users), domain)
        arrays = (*padded, asked, times.astype(np.int64))
        return dict(zip(INPUTS, map(torch.from_numpy, arrays), strict=True))

    def scores(self, contexts: Dataset, requests: Requests, domain: int, path: str) -> Scores:
        """Scores of a domain's items for n requests about users of `contexts`, by a path."""
        queries, rows = self.queries(contexts, requests, domain), np.arange(len(requests.users))
        which = np.tile(rows, (len(self.paths), 1))
        scorers = {name: ModelScorer(self.vectors, h, which) for name, h in queries.items()}
        if path != BLEND:
            return scorers[path].scores(rows, domain)
        if self.blend is None:
            raise UserError(f"the bundle has no blend; score the run again, then {AGAIN}")
        if len(rows) and requests.times.min() < self.end:
            raise UserError(
                "a bundle's counts are as of its export and say nothing of earlier times; give a "
                "later time, or rank from the run folder"
            )
        nothing = np.zeros_like(requests.users)
        targets = Targets(
            "now", requests.ends, requests.users, nothing, nothing + domain, requests.ends,
            requests.times,
        )  # fmt: skip
        counted = {name: model.with_contexts(contexts) for name, model in self.count_models.items()}
        source = FeatureSource(Plan(contexts, targets, ("full",), {}), scorers, counted)
        return BlendScorer(self.blend, source).of(rows).scores(rows, domain)


def open_bundle(folder: Path, graph: str = PT2) -> Bundle:
    """Open a bundle by its graph for torch (pt2) or for ONNX Runtime (onnx), which has to be
    installed. UserError for a folder that is no bundle or is damaged."""
    facts = read_json(folder / SERVING, "serving.json of the bundle", SCHEMA, AGAIN)
    check_sums(folder)
    if f"model.{graph}" not in facts["graphs"]:
        raise UserError(f"{folder} has no model.{graph}; {AGAIN} --format {graph}")
    items = pq.read_table(folder / ITEMS)
    domains = facts["domains"]
    starts = [domain["first"] for domain in domains] + [domains[-1]["end"]]
    nothing = {name: np.zeros(0, dtype=dtype) for name, dtype in ARRAYS.items()}
    names = [domain["name"] for domain in domains]
    dataset = Catalogue(
        folder, {"options": facts["data"]["options"]}, names, np.array(starts),
        offsets=np.zeros(1, dtype=np.int64), items=nothing["items"],
        domains=nothing["domains"], times=nothing["times"], split=nothing["split"],
        counted=np.append(0, items["training_events"].to_numpy()), ids=items["item_id"],
    )  # fmt: skip
    counts = facts["counts"]
    times = FrozenTimes(
        counts["time"], counts["tick"],
        *(np.array(counts[name]) for name in ("recent_half_lives", "covisit_half_lives")),
    )  # fmt: skip
    transitions, followers = (pq.read_table(folder / name) for name in (TRANSITIONS, FOLLOWERS))
    vectors = torch.from_numpy(np.load(folder / VECTORS))
    load = {PT2: _torch_graph, ONNX: _onnx_graph}[graph]
    return Bundle(
        facts=facts,
        dataset=dataset,
        graph=load(folder / f"model.{graph}"),
        vectors=Ensemble([ItemVectors(vectors, starts)]),  # type: ignore[list-item]
        paths={domain["name"]: domain["serve"]["path"] for domain in domains},
        count_models=frozen_models(dataset, items, transitions, followers, times),
        blend=_blend(facts, names),
    )


def check_sums(folder: Path) -> None:
    """UserError where a file of a bundle is missing or is not the one that was exported."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
        for line in lines:
            expected, name = line.split("  ", 1)
            if sha256(folder / name) != expected:
                raise UserError(f"{folder / name} is not the file that was exported; {AGAIN}")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({error}); {AGAIN}") from None


def _blend(facts: dict[str, Any], names: list[str]) -> Blend | None:
    weights = facts[BLEND]
    if weights is None:
        return None
    features = tuple(weights[names[0]])
    return Blend(features, np.array([[weights[name][one] for one in features] for name in names]))


def _torch_graph(path: Path) -> Graph:
    module = torch.export.load(path).module()

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return module(*inputs.values())

    return run


def _onnx_graph(path: Path) -> Graph:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            f"{path} needs onnxruntime: pip install -r requirements-export.txt"
        ) from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    read = [value.name for value in session.get_inputs()]  # an input that is not read is left out
    outputs = [value.name for value in session.get_outputs()]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        values = session.run(None, {name: inputs[name].numpy() for name in read})
        return {name: torch.from_numpy(h) for name, h in zip(outputs, values, strict=True)}

    return run
