"""A finished run, opened to serve: its models, which path serves each domain, and their scores."""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from src.config.modes import BLEND
from src.config.names import COUNT_MODELS, NEWCOMER_MODEL, load
from src.config.settings import Settings, run_settings
from src.config.validation import check_settings
from src.dataset.store.folder import Dataset, open_trained_on
from src.dataset.store.repeats import repeat_share
from src.evaluation.blend import Blend, BlendScorer, FeatureSource, blended, feature_names
from src.evaluation.path_scores import fit_count_models, path_scorers
from src.evaluation.queries import Ensemble, Queries, domain_items, domain_scores, encode_queries
from src.evaluation.ranking import CountScorer, Plan
from src.evaluation.stand_ins import rows_by_path
from src.evaluation.targets import Targets
from src.interfaces import CountModel, Requests, Scores
from src.io.errors import UserError
from src.runs.models import best_models
from src.runs.records import read_blend, read_serving
from src.serving.contexts import Contexts, History, NewEvents
from src.serving.lists import USERS_AT_ONCE


@dataclass(frozen=True)
class TrainedRun:
    """A finished run with its models loaded."""

    settings: Settings
    dataset: Dataset
    ensemble: Ensemble
    paths: dict[str, str]  # {domain: the path that serves it}
    device: torch.device
    chosen: bool = True  # whether serving.json chose them, or there is a single path
    blend: Blend | None = None  # if it was asked for
    count_models: dict[str, CountModel] = field(default_factory=dict)  # of the blend, to date

    @property
    def users_at_once(self) -> int:
        """How many users make a block; of them, --eval_users are encoded at a time."""
        return max(USERS_AT_ONCE, self.settings.eval_users)

    @property
    def score_type(self) -> np.dtype:
        """The type of the scores in the lists."""
        return np.dtype("float64" if self.ensemble.dtype == torch.float64 else "float32")

    @cached_property
    def newcomer_model(self) -> CountModel:
        """What serves a user without an event: counts of the run's log, to date."""
        if NEWCOMER_MODEL in self.count_models:
            return self.count_models[NEWCOMER_MODEL]
        return load(COUNT_MODELS[NEWCOMER_MODEL]).fit(self.dataset).to_date()

    @cached_property
    def repeat_share(self) -> float:
        """The share of the test targets whose user had the item before."""
        return repeat_share(self.dataset)

    def history(self, new: NewEvents | None) -> History:
        """The users of the dataset, and those of new events."""
        return History(self.dataset, new)

    def check_path(self, path: str) -> None:
        """UserError for a path that the run does not have, or that was not opened."""
        if path == BLEND:
            if self.blend is None:
                raise UserError("the path blend is not open; open the run with blend=True")
        elif path not in ("auto", *self.settings.paths):
            raise UserError(
                f"--serve_path {path}: a run of --mode {self.settings.mode} has only the path "
                f"{' and '.join(self.settings.paths)}"
            )

    def reads_time(self, path: str) -> bool:
        """Whether lists by a path depend on the time of the question."""
        return path == BLEND or self.settings.reads_time

    def rows_by_path(
        self, contexts: Contexts, users: np.ndarray, ends: np.ndarray, domain: int, path: str
    ) -> dict[str, np.ndarray]:
        """{path: which of the users' lists it makes} in a domain; `path` may be auto."""
        serving = self.paths[self.dataset.domain_names[domain]] if path == "auto" else path
        return rows_by_path(contexts, users, ends, domain, serving, self.settings)

    def scores(self, contexts: Contexts, requests: Requests, domain: int, path: str) -> Scores:
        """Scores of a domain's items for n requests about users of `contexts`, by a path."""
        if path == NEWCOMER_MODEL:
            plan = self._plan(contexts, requests, domain)
            scorer = CountScorer(self.newcomer_model, plan).of(np.arange(len(requests.users)))
            return scorer.scores(np.arange(len(requests.users)), domain)
        if path == BLEND:
            return self._blend_scores(contexts, requests, domain)
        hidden = self.path_queries(contexts, requests, domain, path)
        model, number = self.ensemble.of(domain)
        return lambda columns: domain_scores(model, hidden, number, columns)

    @property
    def model_paths(self) -> tuple[str, ...]:
        """The paths that score by ⟨query, item vector⟩."""
        return self.settings.paths

    def item_vectors(self, domain: int) -> torch.Tensor:
        """[V_d, H] those of a domain."""
        return domain_items(*self.ensemble.of(domain))

    def path_queries(
        self, contexts: Contexts, requests: Requests, domain: int, path: str
    ) -> torch.Tensor:
        """[n, H] for n requests about a domain, by one of `model_paths`."""
        times = requests.times if self.settings.reads_time else None
        domains = np.full(len(requests.users), domain)
        return encode_queries(
            self.ensemble, contexts, Queries(requests.users, requests.ends, domains, times), path,
            max_len=self.settings.max_len,
            context=self.settings.context,
            users_at_once=self.settings.eval_users, device=self.device,
        )  # fmt: skip

    def _blend_scores(self, contexts: Contexts, requests: Requests, domain: int) -> Scores:
        rows = np.arange(len(requests.users))
        plan = self._plan(contexts, requests, domain)
        paths = path_scorers(self.ensemble, self.settings, plan, rows)
        counted = {name: model.with_contexts(contexts) for name, model in self.count_models.items()}
        assert self.blend is not None  # `check_path`
        return (
            BlendScorer(self.blend, FeatureSource(plan, paths, counted))
            .of(rows)
            .scores(rows, domain)
        )

    def _plan(self, contexts: Contexts, requests: Requests, domain: int) -> Plan:
        """The requests as targets of a split, whose items nobody knows."""
        users, ends, times, _ = requests
        nothing = np.zeros_like(users)
        targets = Targets("now", ends, users, nothing, nothing + domain, ends, times)
        return Plan(contexts, targets, ("full",), {}, self.device)


def open_run(
    folder: Path | str,
    device: torch.device | str = "cpu",
    data_dir: str = "",
    blend: bool = False,
) -> TrainedRun:
    """The dataset, the best checkpoints and the serving paths of a run folder.

    Parameters
    ----------
    folder: run folder of main.py, trained to the end.
    device: where models and scores are.
    data_dir: the dataset folder, if it has moved since the training.
    blend: also open the path `blend`, whose count models are counted from the log.

    UserError when the folder holds no trained run, or the dataset is not its training data.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"--run {folder} holds no run (no config.json); train it with main.py")
    settings = run_settings(folder)
    check_settings(settings)
    dataset = open_trained_on(settings, data_dir)
    device = torch.device(device)
    ensemble = best_models(settings, dataset, folder, device)
    paths = dict.fromkeys(dataset.domain_names, settings.paths[0])
    both = len(settings.paths) == 2
    chosen = not both or (folder / "serving.json").is_file()
    if both and chosen:
        serving = read_serving(folder, dataset.domain_names)
        paths = {name: serving[name]["path"] for name in dataset.domain_names}
    run = TrainedRun(settings, dataset, ensemble, paths, device, chosen)
    return _with_blend(run, folder) if blend else run


def _with_blend(run: TrainedRun, folder: Path) -> TrainedRun:
    """The run with the blend of its folder; its count models count every event of the log."""
    fitted = blended(fit_count_models(run.dataset, run.settings), run.settings)
    features = feature_names(run.settings.paths, fitted)
    blend = read_blend(folder, run.dataset.domain_names, features)
    to_date = {name: model.to_date() for name, model in fitted.items()}
    return dataclasses.replace(run, blend=blend, count_models=to_date)
