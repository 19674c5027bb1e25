"""What the negative-transfer report compares: on each data set, the models and their paths.

A *source* of numbers is a model with the path that ranks: SDSR (in one or both of its forms), CDSR,
and the paths of SyNCRec. All sources of a data set rank the same targets.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from src.io.errors import UserError
from src.report.finished_runs import (
    Model,
    Run,
    distinct_names,
    group_by_seed,
    same_data,
    same_targets,
)

PROTOCOL = "full"
# key: (label, mode, path). `sdsr` sees the last events that CDSR sees: the paired comparison;
# `sdsr_separate` is a model a domain on its own last events: what a team of one domain would run.
SOURCES = {
    "sdsr": ("SDSR", "sdsr", "single"),
    "sdsr_separate": ("SDSR separate", "sdsr_separate", "single"),
    "cdsr": ("CDSR", "cdsr", "cross"),
    "cross": ("SyNCRec cross", "syncrec", "cross"),
    "single": ("SyNCRec single", "syncrec", "single"),
    "served": ("SyNCRec served", "syncrec", "served"),
}
NEEDED = {"SDSR": ("sdsr", "sdsr_separate"), "CDSR": ("cdsr",), "SyNCRec": ("syncrec",)}


@dataclass(frozen=True)
class Source:
    """A model with the path that ranks."""

    key: str
    label: str
    model: Model
    path: str


@dataclass(frozen=True)
class DataSet:
    """The models of one data set: one of each mode, each with one run a seed."""

    name: str
    models: dict[str, Model]  # by mode

    @property
    def runs(self) -> list[Run]:
        return [run for model in self.models.values() for run in model.runs]

    @property
    def card(self) -> dict:
        return self.runs[0].card

    @property
    def domains(self) -> list[str]:
        return self.runs[0].domains

    @cached_property
    def sources(self) -> dict[str, Source]:
        return {
            key: Source(key, label, self.models[mode], path)
            for key, (label, mode, path) in SOURCES.items()
            if mode in self.models
        }

    @property
    def baseline(self) -> str:
        """The SDSR that Δ = CDSR − SDSR is taken against: the paired one, where it was run."""
        return "sdsr" if "sdsr" in self.models else "sdsr_separate"

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """(first, second): the differences that the report takes, the transfer itself first."""
        base = self.baseline
        pairs = [("cdsr", base), ("cross", base), ("cross", "cdsr"), ("served", base)]
        if {"sdsr", "sdsr_separate"} <= set(self.models):
            pairs.append(("cdsr", "sdsr_separate"))
        return pairs

    def label(self, *keys: str) -> str:
        """The label of a source, or of the difference of two."""
        return " − ".join(self.sources[key].label for key in keys)


@dataclass(frozen=True)
class Measured:
    """A metric of every test target of a data set; the means of the seeds, and seed by seed."""

    users: np.ndarray  # [n] int, the user of each target
    domains: np.ndarray  # [n] int, a place in `names`
    names: list[str]
    values: dict[str, np.ndarray]  # source -> [n] mean over the seeds
    by_seed: dict[str, dict[int, np.ndarray]]  # source -> seed -> [n]
    targets: pd.DataFrame  # targets.parquet's rows, in the same order

    def seeds(self, *keys: str) -> list[int]:
        """The seeds that all these sources were trained with."""
        return sorted(set.intersection(*(set(self.by_seed[key]) for key in keys)))


def data_sets(runs: list[Run]) -> list[DataSet]:
    """The runs by data set, in the order given.

    Raises UserError where two runs share a name, a data set lacks a kind of model or has two of
    one, its models cannot be compared, or one name stands for two logs.
    """
    distinct_names(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    found: dict[str, DataSet] = {}
    for group in groups.values():
        data = _data_set(group)
        if data.name in found:
            raise UserError(
                f"runs {found[data.name].runs[0].name} and {group[0].name} stand on two logs that "
                f"are both called {data.name}; report them apart"
            )
        found[data.name] = data
    return list(found.values())


def _data_set(runs: list[Run]) -> DataSet:
    same_data(runs)
    name = runs[0].config["data_name"]
    models: dict[str, Model] = {}
    for model in group_by_seed(runs):
        mode = model.runs[0].mode
        if mode in models:
            raise UserError(
                f"{models[mode].label} and {model.label} are both {mode} on {name}, with other "
                "settings; give the runs of one of them"
            )
        models[mode] = model
    missing = [
        f"{kind} (--mode {' or '.join(modes)})"
        for kind, modes in NEEDED.items()
        if not set(modes) & set(models)
    ]
    if missing:
        raise UserError(f"data set {name} has no run of {', '.join(missing)}; add it to RUNS")
    for run in models["syncrec"].runs:
        if "served" not in run.paths or run.serving is None:
            raise UserError(
                f"run {run.name} has no served path; run `python main.py --evaluate {run.folder}`"
            )
        if run.transfer() is None:
            raise UserError(f"{run.folder} has no transfer.csv: γ is not known; train it again")
    return DataSet(name, {run.mode: models[run.mode] for run in runs})


def measure(data: DataSet, metric: str) -> Measured:
    """The test metric of every target under every source, candidates `full`."""
    values, by_seed, first = {}, {}, None
    for key, source in data.sources.items():
        frame = source.model.values("test", PROTOCOL, source.path, metric)
        if first is None:
            first, named = frame, source.model.runs[0].name
        same_targets(first, frame, named, source.model.runs[0].name)
        values[key] = frame.value.to_numpy()
        by_seed[key] = {
            run.seed: run.values("test", PROTOCOL, source.path, metric).value.to_numpy()
            for run in source.model.runs
        }
    names = data.domains
    return Measured(
        users=pd.factorize(first.user_id)[0],
        domains=pd.Categorical(first.domain, categories=names).codes.astype(np.int64),
        names=names,
        values=values,
        by_seed=by_seed,
        targets=_facts(data.runs[0], first.index),
    )


def _facts(run: Run, targets: pd.Index) -> pd.DataFrame:
    """The rows of targets.parquet of these test targets, in their order."""
    rows = run.targets("test")
    if not targets.isin(rows.index).all():
        raise UserError(
            f"{run.folder / 'targets.parquet'} lacks targets of the ranks; run `python main.py "
            f"--evaluate {run.folder}`"
        )
    return rows.loc[targets]
