"""Finished runs as the reports read them: their files, and which of them are one model's seeds."""

import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from src.baselines import BASELINES
from src.config.settings import RUN_ONLY
from src.dataset.store.card_schema import REPORT_SCHEMA, card_error
from src.evaluation.metrics import METRICS, target_metrics
from src.evaluation.protocols import ties_of
from src.io.errors import UserError
from src.io.json_schema import read_json
from src.report.parquet import read_rows
from src.runs.records import MEANS, read_config, read_environment, read_results, read_serving

NUMBER, TEXT, FLAG = pa.int64(), pa.string(), pa.bool_()
RANKS_COLUMNS = {
    "target": NUMBER, "user_id": TEXT, "domain": TEXT, "better": NUMBER, "tied": NUMBER,
}  # fmt: skip
TARGETS_COLUMNS = {
    "target": NUMBER, "user_id": TEXT, "domain": TEXT, "item_id": TEXT, "history": NUMBER,
    "domain_history": NUMBER, "domains": NUMBER, "item_count": NUMBER, "seen": FLAG,
    "same_time": FLAG,
}  # fmt: skip
METRICS_COLUMNS = {
    "epoch": int, "step": int, "split": str, "path": str, "domain": str, "metric": str,
    "value": float,
}  # fmt: skip
TRANSFER_COLUMNS = {
    "epoch": int, "domain": str, "phi": float, "s": float, "gamma": float, "weight": float
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run. What lies in other files than these three is read when it is asked for."""

    folder: Path
    name: str
    config: dict[str, Any]
    results: dict[str, Any]
    environment: dict[str, Any]

    @property
    def data(self) -> str:
        """sha256 of the data."""
        return self.environment["data_sha256"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def mode(self) -> str:
        return self.config["mode"]

    @property
    def loss(self) -> str:
        return self.config["loss"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside data and seed; a setting younger than the run has its
        default. Each seed may start from a former run of that seed."""
        every = self.config | {"init_from": without_seed(self.config["init_from"], self.seed)}
        return {name: value for name, value in every.items() if name not in {*RUN_ONLY, "seed"}}

    @cached_property
    def _all_paths(self) -> dict[str, Any]:
        return next(iter(next(iter(self.results.values())).values()))

    @property
    def paths(self) -> list[str]:
        """The model's ranking paths, `served` included, the baselines not."""
        return [path for path in self._all_paths if path not in BASELINES]

    @property
    def default_path(self) -> str:
        """The path that stands for the run where none is named: cross, where there is one."""
        return "cross" if "cross" in self.paths else "single"

    @property
    def domains(self) -> list[str]:
        """The names of the domains, in the order of the data."""
        return [name for name in next(iter(self._all_paths.values())) if name not in MEANS]

    def protocols(self, split: str) -> list[str]:
        """The protocols that a split was scored under."""
        return list(chosen(self.results, split, f"run {self.name} has no split"))

    def protocol_scores(self, split: str, protocol: str) -> dict[str, dict[str, dict]]:
        """{path: {domain, macro or users: {metric: mean}}}; UserError names what there is."""
        protocols = chosen(self.results, split, f"run {self.name} has no split")
        return chosen(protocols, protocol, f"run {self.name} has no protocol")

    def scores(self, split: str, protocol: str, path: str) -> dict[str, dict[str, float]]:
        """{domain, macro or users: {metric: mean}} of a path; UserError names what there is."""
        paths = self.protocol_scores(split, protocol)
        return chosen(paths, path, f"run {self.name} has no path")

    def values(
        self, split: str, protocol: str, path: str, metric: str, ties: str | None = None
    ) -> pd.DataFrame:
        """A metric of every target: index `target`, columns `user_id`, `domain`, `value`.

        Ties count as `ties` says, by default as the run's own setting; see also `ranks`.
        """
        if metric not in METRICS:
            raise UserError(f"metric {metric} is unknown; give one of {', '.join(METRICS)}")
        ranks = self.ranks(split, protocol, path)
        values = target_metrics(ranks.better, ranks.tied, ties or self.config["ties"])[metric]
        return ranks[["user_id", "domain"]].assign(value=values)

    def ranks(self, split: str, protocol: str, path: str) -> pd.DataFrame:
        """The rank of every target: index `target`, columns `user_id`, `domain`, `better`, `tied`.

        Under `released` (and `released-strict`) no other item counts as tied.
        """
        self.scores(split, protocol, path)
        wanted = {"split": split, "protocol": protocol, "path": path}
        rows = self._targets("ranks.parquet", wanted, RANKS_COLUMNS)
        if rows.empty:
            raise self._missing("ranks.parquet", f"has no rows of {split}, {protocol}, {path}")
        if (rows.better < 0).any() or (rows.tied < 1).any():
            raise self._missing("ranks.parquet", "holds ranks that cannot be")
        return rows.assign(tied=1) if ties_of(protocol, "") == "optimistic" else rows

    def targets(self, split: str) -> pd.DataFrame:
        """The rows of targets.parquet of a split, by target."""
        return self._targets("targets.parquet", {"split": split}, TARGETS_COLUMNS)

    def metrics(self) -> pd.DataFrame:
        """metrics.csv: epoch, step, split, path, domain, metric, value; the epochs that the run
        trained, without the epoch 0 of `--init_from`."""
        rows = self._csv("metrics.csv", METRICS_COLUMNS)
        if not np.isfinite(rows.value).all():
            raise UserError(f"{self.folder / 'metrics.csv'} has values that are not finite")
        return rows[rows.epoch > 0]

    def transfer(self) -> pd.DataFrame | None:
        """transfer.csv: epoch, domain, phi, s, gamma, weight; None where no gap was taken."""
        if not (self.folder / "transfer.csv").is_file():
            return None
        rows = self._csv("transfer.csv", TRANSFER_COLUMNS)
        counts = rows.groupby("epoch").domain.agg(["size", "nunique"])
        if rows.empty or (counts != len(self.domains)).any(axis=None):
            raise UserError(
                f"{self.folder / 'transfer.csv'} has not one row an epoch and domain; train again"
            )
        return rows

    @cached_property
    def card(self) -> dict[str, Any]:
        """The data card of what the run was trained on."""
        path = self.folder / "data_card.json"
        if not path.is_file():
            raise self._missing(path.name, "is not there")
        card = read_json(path, "the data card of the run", dict)
        fault = card_error(card, REPORT_SCHEMA)
        if not fault and set(card["domains"]) != set(self.domains):
            fault = "it is of other domains than the results"
        if fault:
            raise self._missing(path.name, f"is no data card of the run ({fault})")
        return card

    @property
    def split_protocol(self) -> str | None:
        """How the data was split; None where an old run does not tell."""
        if not (self.folder / "data_card.json").is_file():
            return None
        return self.card["split"]["protocol"]

    @cached_property
    def serving(self) -> dict[str, dict[str, Any]] | None:
        """{domain: its served path, and why}; None for a run with one path."""
        there = (self.folder / "serving.json").is_file()
        return read_serving(self.folder, self.domains) if there else None

    def _csv(self, name: str, columns: dict[str, type]) -> pd.DataFrame:
        """A table of these columns; a text is what stands there, "NA" too."""
        numbers = [column for column, kind in columns.items() if kind is float]
        try:
            rows = pd.read_csv(
                self.folder / name, usecols=list(columns), dtype=columns, keep_default_na=False,
                na_values={column: ["nan", ""] for column in numbers},
            )  # fmt: skip
        except FileNotFoundError:
            raise self._missing(name, "is not there") from None
        except (OSError, ValueError, OverflowError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"{self.folder / name} cannot be read: {said}; train again") from None
        strangers = set(rows.domain) - {*self.domains, *MEANS}
        if strangers:
            raise UserError(f"{self.folder / name} is of another run: domain {strangers.pop()!r}")
        return rows

    def _targets(
        self, name: str, wanted: dict[str, str], columns: dict[str, pa.DataType]
    ) -> pd.DataFrame:
        """Rows of a table about targets, by target."""
        rows = self._parquet(name, wanted, columns).set_index("target").sort_index()
        if not rows.index.is_unique:
            raise self._missing(name, "holds a target twice")
        if not set(rows.domain) <= set(self.domains):
            raise self._missing(name, "is of other domains than the results")
        return rows

    def _parquet(
        self, name: str, wanted: dict[str, str], columns: dict[str, pa.DataType]
    ) -> pd.DataFrame:
        try:
            return read_rows(self.folder / name, wanted, columns)
        except FileNotFoundError:
            raise self._missing(name, "is not there") from None
        except KeyError:
            raise self._missing(name, "is of an earlier version") from None
        except Exception as error:  # a torn table fails in many ways
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{self.folder / name} cannot be read: {said}") from None

    def _missing(self, name: str, fault: str) -> UserError:
        remedy = f"run `python main.py --evaluate {self.folder}`"
        return UserError(f"{self.folder / name} {fault}; {remedy}")


def chosen(table: dict[str, Any], name: str, fault: str) -> Any:
    """table[name]; UserError with the fault and the names that there are."""
    if name not in table:
        raise UserError(f"{fault} {name}; it has {', '.join(table)}")
    return table[name]


def read_runs(folders: list[Path]) -> list[Run]:
    """The runs of these folders, each once; UserError for a folder without a finished run."""
    return [_read_run(folder) for folder in {path.resolve(): path for path in folders}.values()]


def _read_run(folder: Path) -> Run:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no run (no config.json); give a run folder of main.py")
    if not (folder / "results.json").is_file():
        raise UserError(
            f"{folder} holds no finished run (no results.json); go on with main.py --resume"
        )
    return Run(
        folder=folder,
        name=folder.resolve().name,
        config=read_config(folder),
        results=read_results(folder),
        environment=read_environment(folder),
    )


def same_data(runs: list[Run]) -> None:
    """UserError where runs stand on different data, or on the same split in different ways."""
    for other in runs[1:]:
        first, names = runs[0], f"runs {runs[0].name} and {other.name}"
        splits = first.split_protocol, other.split_protocol
        if None not in splits and splits[0] != splits[1]:
            raise UserError(f"{names} are split by {splits[0]} and {splits[1]}; report them apart")
        if first.data != other.data:
            raise UserError(f"{names} stand on different data; report them apart")


def distinct_names(runs: list[Run]) -> None:
    """UserError where two folders give runs of one name, which a table could not tell apart."""
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs are called {name}; report one of them")


@dataclass(frozen=True)
class Model:
    """Runs of the same settings on the same data, one a seed; `label` is what their names share."""

    label: str
    runs: list[Run]

    def values(
        self, split: str, protocol: str, path: str, metric: str, ties: str | None = None
    ) -> pd.DataFrame:
        """Run.values, the mean over the seeds of each target."""
        parts = [run.values(split, protocol, path, metric, ties) for run in self.runs]
        for run, part in zip(self.runs[1:], parts[1:], strict=True):
            same_targets(parts[0], part, self.runs[0].name, run.name)
        return parts[0].assign(value=np.mean([part.value for part in parts], axis=0))


def same_targets(first: pd.DataFrame, second: pd.DataFrame, name: str, other: str) -> None:
    """UserError unless both frames of `Run.values` are of the same targets, row by row."""
    columns = ["user_id", "domain"]
    if not first[columns].equals(second[columns]):
        raise UserError(f"runs {name} and {other} have other targets; compare runs of one dataset")


def domain_means(values: pd.DataFrame) -> dict[str, float]:
    """The means of `Run.values`: of each domain with targets, macro, and users (all targets)."""
    means = values.groupby("domain").value.mean()
    return {**means.to_dict(), "macro": float(means.mean()), "users": float(values.value.mean())}


def group_by_seed(runs: list[Run]) -> list[Model]:
    """The models of these runs, in order; UserError where two runs have one seed and settings."""
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
                raise UserError(f"{names} have the same settings and seed; give one of them")
        group.append(run)
    labels = [_label(group) for group in groups]
    return [
        Model(label if labels.count(label) == 1 else "+".join(run.name for run in group), group)
        for label, group in zip(labels, groups, strict=True)
    ]


def without_seed(name: str, seed: int) -> str:
    """A run's name, or its folder, without the seed that it ends with."""
    return re.sub(rf"[-_.]*(seed)?[-_.]*{seed}$", "", name)


def _label(runs: list[Run]) -> str:
    """What the runs' names share once each has lost its own seed."""
    if len(runs) == 1:
        return runs[0].name
    stems = [without_seed(run.name, run.seed) for run in runs]
    shared = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    return "".join(letters[0] for letters in shared).rstrip("-_.") or runs[0].name
