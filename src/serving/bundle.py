"""A bundle, opened to serve: scores as the run that it was made from gives them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from src.config.modes import BLEND
from src.config.names import NEWCOMER_MODEL
from src.dataset.batching.ragged import positions_in_runs
from src.dataset.batching.windows import context_windows
from src.dataset.store.folder import ARRAYS, Dataset
from src.evaluation.blend import Blend, BlendScorer, FeatureSource
from src.evaluation.queries import Ensemble, domain_items
from src.evaluation.ranking import CPU, CountScorer, ModelScorer, Plan
from src.evaluation.stand_ins import rows_by_path
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
from src.serving.contexts import Contexts, History, NewEvents
from src.serving.export_model import INPUTS, ONNX, PT2
from src.serving.frozen_counts import FrozenTimes, frozen_models

AGAIN = "export the run again with export.py"
SCHEMA: dict[str, Any] = {
    "format": Count(FORMAT, FORMAT),
    "data": {"name": str, "sha256": str, "options": dict},
    "graphs": [str],
    "paths": MapOf({"reads_domain": bool}, 1),
    "reads_time": bool,
    "repeat_share": float,
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


@dataclass(frozen=True)
class BundleHistory(History):
    """The users of new events, to whom the events of a bundle's run are known as counts alone."""

    counts: dict[str, Any] = field(kw_only=True)  # of serving.json

    @property
    def tick(self) -> int:  # type: ignore[override]
        return self.counts["tick"]

    @cached_property
    def end(self) -> int:
        newest = self.new.times.max(initial=0) if self.new else 0
        return max(self.counts["time"], int(newest) + self.tick)


class ItemVectors:
    """The item table of a bundle, as scores read it; a part of a Recommender."""

    def __init__(self, item_table: Tensor, item_starts: list[int]):
        self.item_table, self.item_starts = item_table, item_starts


class PathReads(NamedTuple):
    """What the paths of a bundle read."""

    paths: tuple[str, ...]
    max_len: int
    context: str


@dataclass(frozen=True)
class Bundle:
    """A bundle with its graph loaded, a `Served` (src/serving/lists.py). Contexts are the users and
    events of any dataset with the same catalogue; a request about a time before `end` cannot be
    answered by counts."""

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

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return CPU

    @property
    def users_at_once(self) -> int:
        """How many users make a block."""
        return ROWS

    @property
    def score_type(self) -> np.dtype:
        """The type of the scores in the lists."""
        return np.dtype("float32")

    @property
    def repeat_share(self) -> float:
        """The share of the test targets whose user had the item before."""
        return self.facts["repeat_share"]

    @cached_property
    def reads(self) -> PathReads:
        """What the paths read."""
        facts = self.facts
        return PathReads(tuple(facts["paths"]), facts["max_len"], facts["context"])

    def history(self, new: NewEvents | None) -> BundleHistory:
        """The users of new events, without whom there are none."""
        return BundleHistory(self.dataset, new, counts=self.facts["counts"])

    def check_path(self, path: str) -> None:
        """UserError for a path that the bundle does not have."""
        if path == BLEND and self.blend is None:
            raise UserError(f"the bundle has no blend; score the run again, then {AGAIN}")
        if path not in ("auto", BLEND, *self.reads.paths):
            known = " and ".join(self.reads.paths)
            raise UserError(f"--serve_path {path}: the bundle has only the path {known}")

    def reads_time(self, path: str) -> bool:
        """Whether lists by a path depend on the time of the question."""
        return path == BLEND or self.facts["reads_time"]

    def rows_by_path(
        self, contexts: Contexts, users: np.ndarray, ends: np.ndarray, domain: int, path: str
    ) -> dict[str, np.ndarray]:
        """{path: which of the users' lists it makes} in a domain; `path` may be auto."""
        serving = self.paths[self.dataset.domain_names[domain]] if path == "auto" else path
        return rows_by_path(contexts, users, ends, domain, serving, self.reads)

    @property
    def model_paths(self) -> tuple[str, ...]:
        """The paths that score by ⟨query, item vector⟩."""
        return self.reads.paths

    def item_vectors(self, domain: int) -> Tensor:
        """[V_d, H] those of a domain."""
        return domain_items(*self.vectors.of(domain))

    def path_queries(
        self, contexts: Contexts, requests: Requests, domain: int, path: str
    ) -> Tensor:
        """[n, H] for n requests about a domain, by one of `model_paths`."""
        return self.queries(contexts, requests, domain)[path]

    @property
    def reads_domain(self) -> bool:
        """Whether a query depends on the domain that is asked for."""
        return any(path["reads_domain"] for path in self.facts["paths"].values())

    def queries(
        self, contexts: Dataset, requests: Requests, domains: int | np.ndarray
    ) -> dict[str, Tensor]:
        """{path: [n, H]} of n requests that ask for a domain, or each for one of `domains` [n]."""
        domains = np.broadcast_to(domains, len(requests.users))
        blocks = [slice(start, start + ROWS) for start in range(0, len(domains), ROWS)]
        parts = [
            self.graph(self.inputs(contexts, requests.rows(block), domains[block]))
            for block in blocks
        ]
        return {path: torch.cat([part[path] for part in parts]) for path in self.facts["paths"]}

    def _unique_queries(
        self, contexts: Dataset, requests: Requests, domain: int
    ) -> dict[str, Tensor]:
        """As `queries`; equal requests, which pad small blocks, are encoded once."""
        keys = np.stack([requests.users, requests.ends, requests.times])
        _, first, where = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        queries = self.queries(contexts, requests.rows(first), domain)
        return {path: hidden[torch.from_numpy(where)] for path, hidden in queries.items()}

    def inputs(
        self, contexts: Dataset, requests: Requests, domains: np.ndarray
    ) -> dict[str, Tensor]:
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
        arrays = (*padded, domains.astype(np.int64), times.astype(np.int64))
        return dict(zip(INPUTS, map(torch.from_numpy, arrays), strict=True))

    def scores(self, contexts: Dataset, requests: Requests, domain: int, path: str) -> Scores:
        """Scores of a domain's items for n requests about users of `contexts`, by a path."""
        queries = {}
        if path != NEWCOMER_MODEL:
            queries = self._unique_queries(contexts, requests, domain)
        return self.scores_of(queries, contexts, requests, domain, path)

    def scores_of(
        self,
        queries: dict[str, Tensor],
        contexts: Dataset,
        requests: Requests,
        domain: int,
        path: str,
    ) -> Scores:
        """As `scores`, from the requests' queries {path: [n, H]}."""
        rows = np.arange(len(requests.users))
        if path in (BLEND, NEWCOMER_MODEL) and len(rows) and requests.times.min() < self.end:
            raise UserError(
                "a bundle's counts are as of its export and say nothing of earlier times; give a "
                "later time, or rank from the run folder"
            )
        nothing = np.zeros_like(requests.users)
        targets = Targets(
            "now", requests.ends, requests.users, nothing, nothing + domain, requests.ends,
            requests.times,
        )  # fmt: skip
        plan = Plan(contexts, targets, ("full",), {})
        if path == NEWCOMER_MODEL:
            return CountScorer(self.count_models[path], plan).of(rows).scores(rows, domain)
        which = np.tile(rows, (len(self.paths), 1))
        scorers = {name: ModelScorer(self.vectors, h, which) for name, h in queries.items()}
        if path != BLEND:
            return scorers[path].scores(rows, domain)
        assert self.blend is not None  # `check_path`
        counted = {
            name: model.with_contexts(contexts)
            for name, model in self.count_models.items()
            if set(model.feature_names) <= set(self.blend.names)
        }
        source = FeatureSource(plan, scorers, counted)
        return BlendScorer(self.blend, source).of(rows).scores(rows, domain)


def is_bundle(folder: Path) -> bool:
    """Whether a folder is one that export.py wrote; a run has a serving.json too."""
    return (folder / SERVING).is_file() and (folder / SUMS).is_file()


def bundle_facts(folder: Path) -> dict[str, Any]:
    """serving.json of a bundle."""
    return read_json(folder / SERVING, "serving.json of the bundle", SCHEMA, AGAIN)


def open_bundle(folder: Path | str, graph: str = "") -> Bundle:
    """Open a bundle by its graph for torch (pt2) or for ONNX Runtime (onnx), which has to be
    installed; by default the first of them that it has. UserError for a folder that is no bundle or
    is damaged."""
    folder = Path(folder)
    facts = bundle_facts(folder)
    check_sums(folder)
    graph = graph or facts["graphs"][0].removeprefix("model.")
    if f"model.{graph}" not in facts["graphs"]:
        raise UserError(f"{folder} has no model.{graph}; {AGAIN} --format {graph}")
    items = pq.read_table(folder / ITEMS)
    domains = facts["domains"]
    starts = [domain["first"] for domain in domains] + [domains[-1]["end"]]
    nothing = {name: np.zeros(0, dtype=dtype) for name, dtype in ARRAYS.items()}
    names = [domain["name"] for domain in domains]
    card = {"options": facts["data"]["options"], "data_name": facts["data"]["name"]}
    dataset = Catalogue(
        folder, card, names, np.array(starts),
        offsets=np.zeros(1, dtype=np.int64), items=nothing["items"],
        domains=nothing["domains"], times=nothing["times"], split=nothing["split"],
        counted=np.append(0, items["training_events"].to_numpy()), ids=items["item_id"],
    )  # fmt: skip
    counts = facts["counts"]
    times = FrozenTimes(
        counts["time"], counts["tick"],
        *(np.array(counts[name]) for name in ("recent_half_lives", "covisit_half_lives")),
    )  # fmt: skip
    followers = pq.read_table(folder / FOLLOWERS)
    transitions = {
        name: pq.read_table(folder / file)
        for name, file in TRANSITIONS.items()
        if (folder / file).is_file()
    }
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
