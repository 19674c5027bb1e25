"""Searches: settings of a model chosen on validation, by Optuna's TPE with pruned trials.

The trials stand in a small JSON file that is committed, `results/search/SPEC-NAME.json`: an
interrupted search goes on from it, and its best trials become models of the grid.
"""

import csv
import dataclasses
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from experiments.runner.grid import Grid, drop_checkpoints
from experiments.runner.pool import Running, last_lines, status_words
from experiments.runner.spec import Job, Search, Spec
from src.config.identity import values_of
from src.config.settings import Settings, recorded_settings
from src.io.errors import UserError
from src.io.files import write_atomically
from src.io.json_schema import Count, read_json
from src.report.finished_runs import read_runs
from src.report.formatting import level
from src.report.run_records import TRAINED, run_key
from src.report.table_files import markdown

RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"
RANDOM = 3  # one trial in so many is drawn at random, the first ones
COMPARED = 4  # trials that must have reached an epoch before another is pruned there
RUNGS = (8, 16, 32)  # epochs after which a trial may be pruned, once at each
LOOK_S = 1.0  # between two looks at the validations
TRIAL = {
    "number": Count(), "state": str, "settings": dict, "value": (float, None),
    "seconds": float, "curve": [float],
}  # fmt: skip
FILE = {"base": dict, "data_sha256": str, "space": dict, "seed": int, "trials": [TRIAL]}


@dataclass
class Trial:
    """One trial: settings, and what came of them."""

    number: int
    settings: dict[str, Any]
    state: str = RUNNING
    value: float | None = None  # the best validation
    seconds: float = 0.0
    curve: list[float] = field(default_factory=list)  # the validation of each epoch


@dataclass
class Study:
    """A search and its trials so far."""

    search: Search
    base: Job  # with the settings of the model itself
    data_sha256: str
    path: Path
    trials: list[Trial] = field(default_factory=list)

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state != RUNNING]

    @property
    def done(self) -> bool:
        return len(self.finished) >= self.search.trials

    def best(self, count: int) -> list[Trial]:
        """The best complete trials, the best first."""
        complete = [trial for trial in self.trials if trial.state == COMPLETE]
        return sorted(complete, key=lambda one: (-(one.value or 0.0), one.number))[:count]

    def job(self, spec: Spec, trial: Trial) -> Job:
        search = self.search
        return spec.job(search.log, search.model, search.seed, **trial.settings)

    def write(self) -> None:
        """Write the file of trials, one line for each."""
        head = {
            "model": self.search.model,
            "log": self.search.log,
            "base": values_of(self.base.settings, TRAINED),
            "data_sha256": self.data_sha256,
            "space": self.search.space,
            "seed": self.search.seed,
        }
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        ordered = sorted(self.trials, key=lambda one: one.number)
        trials = ",\n".join(f"  {json.dumps(dataclasses.asdict(one))}" for one in ordered)
        text = "{\n" + ",\n".join([*lines, f' "trials": [\n{trials}\n ]']) + "\n}\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda temporary: temporary.write_text(text))


def search_file(results: Path, spec: Spec, search: Search) -> Path:
    """The file of a search's trials."""
    return results / "search" / f"{spec.name}-{search.name}.json"


def read_studies(grid: Grid, results: Path) -> list[Study]:
    """The searches of the spec whose data is known, each with the trials of its file."""
    return [
        _read_study(search, grid, results)
        for search in grid.spec.searches.values()
        if search.log in grid.data
    ]


def _read_study(search: Search, grid: Grid, results: Path) -> Study:
    """A search with the trials of its file. UserError for a file of another model, space or
    data."""
    data, path = grid.data[search.log], search_file(results, grid.spec, search)
    base = grid.spec.job(search.log, search.model, search.seed)
    study = Study(search, base, data, path)
    if not path.is_file():
        return study
    content = read_json(path, "the search", FILE)
    settings = recorded_settings(content["base"], f"base of the search {path}")
    former = run_key(settings, content["data_sha256"]), content["space"], content["seed"]
    if former != (run_key(base.settings, data), search.space, search.seed):
        raise UserError(
            f"{path} is a search of another model, space, seed or data; give the search of the "
            "spec another name, or remove the file"
        )
    names = [entry.name for entry in dataclasses.fields(Trial)]
    study.trials = [Trial(**{name: one[name] for name in names}) for one in content["trials"]]
    return study


def with_best_trials(spec: Spec, studies: list[Study]) -> Spec:
    """The spec with the best trials of the searches that are done as models of its grid."""
    models, runs = dict(spec.models), list(spec.runs)
    for study in studies:
        if not study.done:
            continue
        search = study.search
        for name, trial in zip(search.best_names, study.best(search.best), strict=False):
            models[name] = spec.models[search.model] | trial.settings
            runs += [(search.log, name, seed) for seed in search.seeds]
    return dataclasses.replace(spec, models=models, runs=list(dict.fromkeys(runs)))


# ------------------------------------------------------------------------ Optuna


def optuna_module() -> Any:
    """Optuna, silenced; UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "a search needs Optuna: pip install -r requirements-experiments.txt"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Sampler:
    """Optuna's view of a search: proposes settings; and which trials to prune."""

    def __init__(self, study: Study):
        self.optuna, self.study = optuna_module(), study
        search = study.search
        self.space = {name: self._distribution(one) for name, one in search.space.items()}
        self.optuna_study = self.optuna.create_study(direction="maximize")
        self.asked: dict[int, Any] = {}  # {number: Optuna's trial}
        self.reported: dict[int, int] = {}  # {number: epochs}
        self.unfinished = [trial for trial in study.trials if trial.state == RUNNING]
        for trial in study.finished:
            self.optuna_study.add_trial(self._frozen(trial))

    def _distribution(self, choices: Any) -> Any:
        """A list of choices, or a range {low, high, log}: of whole numbers where both ends are."""
        distributions = self.optuna.distributions
        if isinstance(choices, list):
            return distributions.CategoricalDistribution(choices)
        low, high = choices["low"], choices["high"]
        whole = type(low) is int and type(high) is int
        chosen = distributions.IntDistribution if whole else distributions.FloatDistribution
        return chosen(low, high, log=choices.get("log", False))

    def _frozen(self, trial: Trial) -> Any:
        states = self.optuna.trial.TrialState
        state = {COMPLETE: states.COMPLETE, PRUNED: states.PRUNED, FAILED: states.FAIL}
        return self.optuna.trial.create_trial(
            state=state[trial.state], params=trial.settings, distributions=self.space,
            value=trial.value if trial.state == COMPLETE else None,
            intermediate_values=dict(enumerate(trial.curve, start=1)),
        )  # fmt: skip

    def ask(self) -> Trial:
        """The next trial: one that was interrupted, the settings of the model itself, or a
        proposal, whose randomness is that of the seed and its number."""
        number = max((trial.number for trial in self.study.trials), default=-1) + 1
        again = self.unfinished.pop(0) if self.unfinished else None
        own = {name: getattr(self.study.base.settings, name) for name in self.space}
        fixed = again.settings if again else own if number == 0 and self._contains(own) else None
        if fixed:
            self.optuna_study.enqueue_trial(fixed)
        search = self.study.search
        self.optuna_study.sampler = self.optuna.samplers.TPESampler(
            seed=search.seed + number, n_startup_trials=max(2, search.trials // RANDOM)
        )
        asked = self.optuna_study.ask(self.space)
        trial = again or Trial(number, {k: self._short(k, v) for k, v in asked.params.items()})
        self.asked[trial.number] = asked
        if not again:
            self.study.trials.append(trial)
        return trial

    def _contains(self, values: dict[str, Any]) -> bool:
        """Whether settings lie in the space."""
        inside = []
        for name, one in self.space.items():
            value = values[name]
            if hasattr(one, "choices"):
                inside.append(value in one.choices)
            else:
                inside.append(value is not None and one.low <= value <= one.high)
        return all(inside)

    def _short(self, name: str, value: Any) -> Any:
        """A proposed number with three digits, so that it can be written and read."""
        space = self.space[name]
        if not isinstance(value, float) or hasattr(space, "choices"):
            return value
        return min(max(float(f"{value:.3g}"), space.low), space.high)

    def hopeless(self, trial: Trial) -> bool:
        """Note the validations so far; whether at one of `RUNGS` among the new ones the best of the
        trial is below the median of the others that got there, pruned ones included.

        Optuna's median rule compares with completed trials alone. These are the better ones, so it
        prunes ever more, nine of ten in the end (findings/optuna_median_ratchet.sh).
        """
        before = self.reported.get(trial.number, 0)
        self._report(trial)
        passed = [rung for rung in RUNGS if before < rung <= len(trial.curve)]
        return self.study.search.pruned and any(self._behind(trial, rung) for rung in passed)

    def _behind(self, trial: Trial, rung: int) -> bool:
        others = [
            max(one.curve[:rung])
            for one in self.study.trials
            if one is not trial and len(one.curve) >= rung
        ]
        return len(others) >= COMPARED and max(trial.curve[:rung]) < median(others)

    def _report(self, trial: Trial) -> Any:
        """Report the epochs that Optuna has not been told of."""
        asked = self.asked[trial.number]
        for epoch in range(self.reported.get(trial.number, 0), len(trial.curve)):
            asked.report(trial.curve[epoch], epoch + 1)
        self.reported[trial.number] = len(trial.curve)
        return asked

    def tell(self, trial: Trial) -> None:
        """Note how a trial ended."""
        states = self.optuna.trial.TrialState
        asked = self._report(trial)
        if trial.state == COMPLETE:
            self.optuna_study.tell(asked, trial.value)
        else:
            state = states.PRUNED if trial.state == PRUNED else states.FAIL
            self.optuna_study.tell(asked, state=state)


# ------------------------------------------------------------------------ the queue


def search(grid: Grid, studies: list[Study]) -> None:
    """Run the trials that the searches lack, all searches in one queue."""
    samplers = [Sampler(study) for study in studies if not study.done]
    looked = 0.0
    while True:
        for slot in grid.pool.free:
            sampler = next((one for one in samplers if _to_start(one)), None)
            if sampler:
                _start(sampler, grid, slot)
        if not grid.pool.running:
            break
        for ended in grid.pool.ended():
            _finish(*ended.what, ended, grid)
        if time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            for one in grid.pool.running:
                _look(*one.what, one, grid)
        grid.pool.pause()
    for study in studies:
        _remove_runs(study, grid)


def _to_start(sampler: Sampler) -> bool:
    """Whether a search has a trial to start: interrupted ones first."""
    study = sampler.study
    return bool(sampler.unfinished) or len(study.trials) < study.search.trials


def _start(sampler: Sampler, grid: Grid, slot: str) -> None:
    trial, study = sampler.ask(), sampler.study
    study.write()
    job = study.job(grid.spec, trial)
    grid.start(job, _folder(study, trial, grid), slot, what=(sampler, trial))


def _folder(study: Study, trial: Trial, grid: Grid) -> Path:
    name = f"search-{study.search.name}-{trial.number:02d}"
    return grid.run_folder(study.job(grid.spec, trial), name)


def _look(sampler: Sampler, trial: Trial, one: Running, grid: Grid) -> None:
    """Read the validations so far; stop a trial that is hopeless."""
    settings = sampler.study.job(grid.spec, trial).settings
    curve = validation_curve(_folder(sampler.study, trial, grid) / "metrics.csv", settings)
    if len(curve) > len(trial.curve):
        trial.curve = curve
        if not one.stopped and sampler.hopeless(trial):
            one.stop()


def validation_curve(path: Path, settings: Settings) -> list[float]:
    """The validation metric that selects the checkpoint, by epoch; [] while there is none, and for
    a mode with one model per domain, whose table comes at the end."""
    wanted = ("valid", settings.paths[0], settings.select_average, settings.select_metric)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if tuple(row[2:6]) == wanted]
    except FileNotFoundError:
        return []
    return [round(float(row[6]), 6) for row in rows if row[0] != "0"]


def _finish(sampler: Sampler, trial: Trial, ended: Running, grid: Grid) -> None:
    """Note how a trial ended, and say it."""
    study = sampler.study
    folder = _folder(study, trial, grid)
    trial.seconds = round(ended.seconds, 1)
    settings = study.job(grid.spec, trial).settings
    trial.curve = validation_curve(folder / "metrics.csv", settings) or trial.curve
    words = ""
    if ended.status == 0:
        (run,) = read_runs([folder])
        scores = run.scores("valid", "full", run.default_path)[settings.select_average]
        trial.state, trial.value = COMPLETE, scores[settings.select_metric]
        drop_checkpoints(folder)
    elif ended.stopped:
        trial.state, trial.value = PRUNED, max(trial.curve)
    else:
        trial.state = FAILED
        words = (
            f" ({status_words(ended.status or 0)}): {last_lines(ended.log)}; output: {ended.log}"
        )
    if trial.state != COMPLETE:
        shutil.rmtree(folder, ignore_errors=True)
    sampler.tell(trial)
    study.write()
    value = "" if trial.value is None else f" {level(trial.value)}"
    best = "".join(f"; best {level(one.value or 0)} (trial {one.number})" for one in study.best(1))
    epochs = f" after {len(trial.curve)} epochs" if trial.curve else ""
    print(
        f"[{len(study.finished)}/{study.search.trials}] search {study.search.name}, trial "
        f"{trial.number}: {trial.state}{value}{epochs}, {trial.seconds:.0f} s{words}{best}"
        f"{_left(study, grid)}",
        flush=True,
    )
    _check_failures(study)


def _left(study: Study, grid: Grid) -> str:
    """The time that the search takes still, in words."""
    seconds = sum(one.seconds for one in study.finished) / len(study.finished)
    left = (study.search.trials - len(study.finished)) * seconds / len(grid.pool.slots)
    return f"; about {max(1, round(left / 60))} min left" if left > 0 else ""


def _check_failures(study: Study) -> None:
    """UserError where the first trials all failed: not their settings are at fault."""
    states = [trial.state for trial in study.finished]
    if len(states) == RANDOM and set(states) == {FAILED}:
        raise UserError(
            f"the first {RANDOM} trials of search {study.search.name} failed; see their output "
            f"above, and remove {study.path}"
        )


def _remove_runs(study: Study, grid: Grid) -> None:
    """Remove the run folders of a search that is done, but those of its best trials, which the grid
    takes over."""
    kept = {trial.number for trial in study.best(study.search.best)}
    for trial in study.trials:
        if study.done and trial.number not in kept:
            shutil.rmtree(_folder(study, trial, grid), ignore_errors=True)


# ------------------------------------------------------------------------ the table


def search_text(study: Study) -> str:
    """The trials of a search, the best first; epochs only of a mode that trains one model."""
    search = study.search
    states = [trial.state for trial in study.finished]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    ordered = sorted(study.finished, key=lambda one: (one.state != COMPLETE, -(one.value or 0.0)))
    cells = [
        [
            str(one.number), *(str(one.settings[name]) for name in search.space),
            "–" if one.value is None else level(one.value),
            str(len(one.curve) or "–"), one.state,
        ]
        for one in ordered
    ]  # fmt: skip
    head = ["trial", *search.space, study.base.settings.select_metric, "epochs", "state"]
    title = f"## search {search.name}: {search.model} on {search.log}, validation ({counts})"
    return f"{title}\n\n{markdown(head, cells, 1)}"
