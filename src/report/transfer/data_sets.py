"""The data sets of the negative-transfer report, and the models that it compares on each.

On each data set the report compares rankers of the default model: each domain on its own (SDSR, one
or both forms), all domains joined (CDSR), and every path of SyNCRec; beside them the count models
of the runs. All of them rank the same targets.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from src.config.modes import (
    BASELINE_MODES,
    BLEND,
    DEFAULT_MODEL,
    JOINT_MODE,
    MODES,
    SERVED,
    TWO_VIEW_MODE,
)
from src.config.names import COUNTED
from src.io.errors import UserError
from src.report.finished_runs import RETRAIN, Run, least_targets
from src.report.formatting import join_and
from src.report.seed_groups import (
    Ranker,
    SeedGroup,
    budgets_line,
    check_distinct_names,
    check_same_data,
    check_same_targets,
    group_seeds,
    withheld,
)

PROTOCOL = "full"  # of the targets' ranks, unless a table says otherwise
COMPARED_MODES = (*BASELINE_MODES, JOINT_MODE, TWO_VIEW_MODE)
# How the report calls the rankers whose acronyms only its footnote has
TITLES = {"sdsr_separate": "on its own", "sdsr": "on its own (paired)", JOINT_MODE: "joined"}
# The same in sentences: about all domains, and about one
PHRASES = {
    "sdsr_separate": ("the domains' own models", "the domain's own model"),
    "sdsr": ("the paired model", "the paired model"),
    JOINT_MODE: ("the joined model", "the joined model"),
}


def ranker_paths(mode: str) -> dict[str, str]:
    """{key: path} of the rankers of a mode: the mode names its only path, else each path itself."""
    paths = MODES[mode].paths
    return {mode: paths[0]} if len(paths) == 1 else {path: path for path in (*paths, SERVED, BLEND)}


CROSS_KEY = next(iter(ranker_paths(TWO_VIEW_MODE)))  # the path that selects SyNCRec's checkpoint
RANKER_KEYS = tuple(key for mode in COMPARED_MODES for key in ranker_paths(mode))


@dataclass(frozen=True)
class DataSet:
    """The compared models of one data set: one of each mode, each with one run per seed."""

    name: str
    groups: dict[str, SeedGroup]  # by mode
    others: list[SeedGroup] = field(default_factory=list)  # other models, which are not compared

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups.values() for run in group.runs]

    @property
    def card(self) -> dict[str, Any]:
        return self.runs[0].card

    @property
    def domains(self) -> list[str]:
        return self.runs[0].domains

    @property
    def two_view(self) -> SeedGroup:
        """SyNCRec, whose runs have γ and the served path."""
        return self.groups[TWO_VIEW_MODE]

    @cached_property
    def rankers(self) -> dict[str, Ranker]:
        """{key: ranker}, in the order of RANKER_KEYS; without a blend that a run was not scored by,
        as those of earlier versions."""
        return {
            key: Ranker(self.groups[mode], path)
            for mode in COMPARED_MODES
            if mode in self.groups
            for key, path in ranker_paths(mode).items()
            if path != BLEND or all(BLEND in run.paths for run in self.groups[mode].runs)
        }

    @cached_property
    def count_models(self) -> dict[str, Ranker]:
        """{name: ranker} of the simple baselines, which are the same in every run."""
        run = self.runs[0]
        scored = run.protocol_scores("test", PROTOCOL)
        group = SeedGroup(run.name, [run])
        return {name: Ranker(group, name) for name in COUNTED if name in scored}

    @property
    def columns(self) -> dict[str, Ranker]:
        """{key: ranker}, the count models last."""
        return self.rankers | self.count_models

    @property
    def baselines(self) -> list[str]:
        """The forms of "on its own" that were run; the first one is that of Δ."""
        return [mode for mode in BASELINE_MODES if mode in self.groups]

    @property
    def baseline(self) -> str:
        """What Δ = joined − on its own is measured against: one model per domain, if there is."""
        return self.baselines[0]

    @property
    def transfer_pair(self) -> tuple[str, str]:
        """(joined, on its own): the keys whose difference is the measured transfer Δ."""
        return JOINT_MODE, self.baseline

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """(first, second): the differences that the report shows, the transfer itself first."""
        base = self.baseline
        return [
            *((JOINT_MODE, mode) for mode in self.baselines),
            (CROSS_KEY, base), (CROSS_KEY, JOINT_MODE), (SERVED, base),
            *([(BLEND, base)] if BLEND in self.rankers else []),
        ]  # fmt: skip

    @property
    def count_comparisons(self) -> list[tuple[str, str]]:
        """(model, count model): whether a look-up table does as well."""
        return [(key, name) for key in (JOINT_MODE, self.baseline) for name in self.count_models]

    def withheld(self, *keys: str) -> dict[str, str]:
        """{domain, macro or users: why no verdict is drawn from these rankers' difference}."""
        return withheld({self.label(key): self.columns[key] for key in keys})

    def untrained(self, domain: str, *keys: str) -> str:
        """The labels of the rankers that were not trained to the end in a domain, or a mean."""
        return join_and([self.label(key) for key in keys if domain in self.withheld(key)])

    @property
    def budgets(self) -> str:
        """What differs in the budgets of the compared models; empty if nothing does."""
        keys = (*self.baselines, JOINT_MODE, CROSS_KEY)
        titles = {key: TITLES.get(key, self.groups[TWO_VIEW_MODE].title) for key in keys}
        return budgets_line({titles[key]: self.rankers[key] for key in keys})

    def label(self, *keys: str) -> str:
        """The label of a ranker, or of the difference of two."""
        return " − ".join(TITLES.get(key) or self.columns[key].title for key in keys)

    def phrase(self, key: str, *, one: bool = False) -> str:
        """A ranker in a sentence, about all domains or about `one`."""
        return PHRASES[key][one] if key in PHRASES else self.label(key)


@dataclass(frozen=True)
class TargetMetrics:
    """A metric of every test target of a data set: its mean over the seeds, and for each seed."""

    users: np.ndarray  # [n] int, the user of each target
    domains: np.ndarray  # [n] int, a position in `names`
    names: list[str]
    values: dict[str, np.ndarray]  # ranker -> [n] mean over the seeds
    by_seed: dict[str, dict[int, np.ndarray]]  # ranker -> seed -> [n]
    targets: pd.DataFrame  # the rows of targets.parquet, in the same order
    least: int = 0  # domains with fewer targets are left out of the macro mean

    def seeds(self, *keys: str) -> list[int]:
        """The seeds that all these rankers were trained with."""
        return sorted(set.intersection(*(set(self.by_seed[key]) for key in keys)))


def data_sets(runs: list[Run]) -> list[DataSet]:
    """The runs by data set, in the order given.

    Raises UserError if two runs share a name, a data set lacks a mode or has two models of one,
    its models cannot be compared, or two data sets share a name.
    """
    check_distinct_names(runs)
    by_content: dict[str, list[Run]] = {}
    for run in runs:
        by_content.setdefault(run.data, []).append(run)
    by_name: dict[str, DataSet] = {}
    for group in by_content.values():
        data = _data_set(group)
        if data.name in by_name:
            names = f"{by_name[data.name].runs[0].name} and {group[0].name}"
            raise UserError(
                f"runs {names} were trained on two different data sets named {data.name}; report "
                "them separately"
            )
        by_name[data.name] = data
    return list(by_name.values())


def _data_set(runs: list[Run]) -> DataSet:
    check_same_data(runs)
    name = runs[0].data_name
    groups: dict[str, SeedGroup] = {}
    others = []
    for group in group_seeds(runs):
        model, mode = group.runs[0].model, group.runs[0].mode
        if model != DEFAULT_MODEL:
            others.append(group)
            continue
        if mode in groups:
            raise UserError(
                f"{groups[mode].label} and {group.label} are both --mode {mode} on {name} but "
                "differ in other settings; give the runs of only one of them"
            )
        groups[mode] = group
    _check_complete(name, groups)
    return DataSet(name, groups, others)


def _check_complete(name: str, groups: dict[str, SeedGroup]) -> None:
    """UserError if a mode is missing, or a run of SyNCRec lacks its served path or γ."""
    needed = (BASELINE_MODES, (JOINT_MODE,), (TWO_VIEW_MODE,))
    missing = [
        f"{MODES[modes[-1]].title} (--mode {' or '.join(modes)})"
        for modes in needed
        if not set(modes) & set(groups)
    ]
    if missing:
        raise UserError(
            f"data set {name} has no run of {join_and(missing)}; train it and add its folder"
        )
    for run in groups[TWO_VIEW_MODE].runs:
        if SERVED not in run.paths or run.serving is None:
            raise UserError(
                f"run {run.name} has no {SERVED} path; run `python main.py --evaluate {run.folder}`"
            )
        if run.transfer() is None:
            raise UserError(f"{run.folder / 'transfer.csv'} (γ and φ) does not exist; {RETRAIN}")


def measure(data: DataSet, metric: str) -> TargetMetrics:
    """The metric of every test target under every ranker, with the candidates of PROTOCOL."""
    values, by_seed = {}, {}
    first: pd.DataFrame | None = None
    every_seed = {run.seed for run in data.runs}
    for key, ranker in data.columns.items():
        frame = ranker.group.values("test", PROTOCOL, ranker.path, metric)
        if first is None:
            first, first_name = frame, ranker.group.runs[0].name
        check_same_targets(first, frame, first_name, ranker.group.runs[0].name)
        values[key] = frame.value.to_numpy()
        if ranker.counted:
            by_seed[key] = dict.fromkeys(every_seed, values[key])
            continue
        by_seed[key] = {
            run.seed: run.values("test", PROTOCOL, ranker.path, metric).value.to_numpy()
            for run in ranker.group.runs
        }
    assert first is not None  # a data set has rankers
    names = data.domains
    return TargetMetrics(
        users=pd.factorize(first.user_id)[0],
        domains=pd.Categorical(first.domain, categories=names).codes.astype(np.int64),
        names=names,
        values=values,
        by_seed=by_seed,
        targets=_target_facts(data.runs[0], first.index),
        least=least_targets(data.runs),
    )


def _target_facts(run: Run, targets: pd.Index) -> pd.DataFrame:
    """The rows of targets.parquet for these test targets, in their order."""
    rows = run.targets("test")
    if not targets.isin(rows.index).all():
        raise UserError(
            f"{run.folder / 'targets.parquet'} lacks targets of ranks.parquet; run `python main.py "
            f"--evaluate {run.folder}`"
        )
    return rows.loc[targets]
