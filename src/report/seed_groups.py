"""Runs grouped by their settings: the seeds of one experiment, and what may be compared."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from src.config.names import COUNTED
from src.io.errors import UserError
from src.report.finished_runs import Run, without_seed
from src.report.training_ends import ModelEnd, faults, model_ends, unequal_budgets


@dataclass(frozen=True)
class SeedGroup:
    """Runs on the same data that differ only in their seed.

    label: what the names of the runs have in common.
    """

    label: str
    runs: list[Run]

    @property
    def title(self) -> str:
        """Model and mode, for people."""
        return self.runs[0].title

    @cached_property
    def ends(self) -> list[ModelEnd]:
        """How the models of all seeds ended; none for runs without metrics.csv."""
        return model_ends(self.runs)

    def values(
        self, split: str, protocol: str, path: str, metric: str, ties: str | None = None
    ) -> pd.DataFrame:
        """`Run.values`, averaged over the seeds for each target."""
        parts = [run.values(split, protocol, path, metric, ties) for run in self.runs]
        for run, part in zip(self.runs[1:], parts[1:], strict=True):
            check_same_targets(parts[0], part, self.runs[0].name, run.name)
        return parts[0].assign(value=np.mean([part.value for part in parts], axis=0))


@dataclass(frozen=True)
class Ranker:
    """A seed group with the path that ranks: what one column or mark of a report stands for."""

    group: SeedGroup
    path: str

    @property
    def name(self) -> str:
        """RUN:PATH, by the names of the runs; a baseline, the same in every run, by its own."""
        return self.path if self.counted else f"{self.group.label}:{self.path}"

    @property
    def title(self) -> str:
        """Model and mode, with the path if the model has several; a baseline by its name."""
        if self.counted:
            return self.path
        several = len(self.group.runs[0].paths) > 1
        return f"{self.group.title} {self.path}" if several else self.group.title

    @property
    def by_seed(self) -> dict[int, Run]:
        return {run.seed: run for run in self.group.runs}

    @property
    def counted(self) -> bool:
        """Whether it is a count model, which is not trained."""
        return self.path in COUNTED


def withheld(rankers: dict[str, Ranker]) -> dict[str, str]:
    """{domain, macro or users: why no verdict is drawn from a difference of these rankers}.

    rankers: {how sentences call it: ranker}.
    """
    reasons: dict[str, list[str]] = {}
    for name, ranker in rankers.items():
        for domain, fault in ({} if ranker.counted else faults(ranker.group.ends, name)).items():
            reasons.setdefault(domain, []).append(fault)
    return {domain: "; ".join(parts) for domain, parts in reasons.items()}


def budgets_line(rankers: dict[str, Ranker]) -> str:
    """What differs in the budgets of rankers that were trained; empty if nothing does."""
    return unequal_budgets(
        {
            name: (one.group.runs[0].settings, one.group.ends)
            for name, one in rankers.items()
            if not one.counted
        }
    )


def group_seeds(runs: list[Run]) -> list[SeedGroup]:
    """The groups of these runs, in order; UserError for two runs of the same settings and seed."""
    groups: list[list[Run]] = []
    for run in runs:
        same = (g for g in groups if (g[0].settings, g[0].data) == (run.settings, run.data))
        group = next(same, None)
        if group is None:
            groups.append([run])
            continue
        for other in group:
            if other.seed == run.seed:
                names = f"runs {other.name} and {run.name}"
                raise UserError(f"{names} have the same settings and seed; give only one of them")
        group.append(run)
    labels = [_common_name(group) for group in groups]
    return [
        SeedGroup(label if labels.count(label) == 1 else "+".join(run.name for run in group), group)
        for label, group in zip(labels, groups, strict=True)
    ]


def _common_name(runs: list[Run]) -> str:
    """The common start of the runs' names without their seeds."""
    if len(runs) == 1:
        return runs[0].name
    stems = [without_seed(run.name, run.seed) for run in runs]
    shared = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    return "".join(letters[0] for letters in shared).rstrip("-_.") or runs[0].name


def titles_line(groups: list[SeedGroup]) -> str:
    """What each label stands for: "a: SyNCRec; b: CDSR"."""
    return "; ".join(f"{group.label}: {group.title}" for group in groups)


def check_same_data(runs: list[Run]) -> None:
    """UserError if two runs were trained on different data or on different splits of it."""
    for other in runs[1:]:
        first, names = runs[0], f"runs {runs[0].name} and {other.name}"
        splits = first.split_protocol, other.split_protocol
        if None not in splits and splits[0] != splits[1]:
            raise UserError(
                f"{names} use different splits ({splits[0]} and {splits[1]}); report them "
                "separately"
            )
        if first.data != other.data:
            raise UserError(f"{names} were trained on different data; report them separately")


def check_distinct_names(runs: list[Run]) -> None:
    """UserError if two run folders have the same name: a table could not tell them apart."""
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs are named {name}; give one of them, or rename its folder")


def check_same_targets(first: pd.DataFrame, second: pd.DataFrame, name: str, other: str) -> None:
    """UserError unless two frames of `Run.values` have the same targets, row by row."""
    columns = ["user_id", "domain"]
    if not first[columns].equals(second[columns]):
        raise UserError(
            f"runs {name} and {other} rank different targets; compare runs of one dataset"
        )
