"""Finished runs as the reports read them: the files of a run folder, checked when they are read."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from src.config.identity import deciding
from src.config.modes import DEFAULT_MODEL, MODES
from src.config.names import AS_LISTED, COUNTED, METRICS, STRICT
from src.config.settings import Settings, run_settings
from src.dataset.store.card_schema import REPORT_SCHEMA, card_error
from src.evaluation.metrics import macro_mean, target_metrics
from src.evaluation.protocols import ties_of
from src.io.errors import UserError
from src.io.json_schema import read_json
from src.report.parquet_rows import read_rows
from src.runs.records import (
    BLEND_WITHOUT,
    MEANS,
    read_config,
    read_environment,
    read_results,
    read_serving,
)
from src.training.convergence import TrainingEnd

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
# Training writes metrics.csv and transfer.csv; scoring a run again does not.
RETRAIN = "train the run again with --overwrite"


@dataclass(frozen=True)
class Run:
    """A finished run. Files other than these three are read when they are needed."""

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
    def data_name(self) -> str:
        """The name of the data, from its card: a run made with --data_dir has another one in its
        settings. An old run without a name in a card has that of its settings."""
        if not (self.folder / "data_card.json").is_file():
            return self.config["data_name"]
        return self.card.get("data_name", self.config["data_name"])

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def model(self) -> str:
        """The name of the trained model; runs from before --model trained the default one."""
        return self.config.get("model", DEFAULT_MODEL)

    @property
    def mode(self) -> str:
        return self.config["mode"]

    @property
    def title(self) -> str:
        """Model and mode for people: a mode of the default model has a title of its own."""
        is_default = self.model == DEFAULT_MODEL
        return MODES[self.mode].title if is_default else f"{self.model} {self.mode}"

    @property
    def loss(self) -> str:
        return self.config["loss"]

    @cached_property
    def trained_settings(self) -> Settings:
        """Every setting; one that is newer than the run has the value that reproduces it."""
        return run_settings(self.folder)

    @property
    def recorded_ends(self) -> list[tuple[TrainingEnd, float, bool]] | None:
        """How each model ended, the standard error of its selecting metric, and whether that is
        only a bound; None for a run folder, whose metrics.csv says more."""
        return None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, except the seed.

        A setting that is newer than the run has its default. `init_from` counts without the seed
        in its name: each seed may start from an earlier run of that seed.
        """
        values = deciding(self.trained_settings)
        return values | {"init_from": without_seed(self.config["init_from"], self.seed)}

    @cached_property
    def _all_paths(self) -> dict[str, Any]:
        return next(iter(next(iter(self.results.values())).values()))

    @property
    def paths(self) -> list[str]:
        """The model's ranking paths, `served` included, without the baselines."""
        return [path for path in self._all_paths if path not in COUNTED]

    @property
    def default_path(self) -> str:
        """The path used where none is given: the one that selected the checkpoint."""
        own = (path for path in MODES[self.mode].paths if path in self.paths)
        return next(own, self.paths[0])

    @property
    def domains(self) -> list[str]:
        """The names of the domains, in the order of the data."""
        return [name for name in next(iter(self._all_paths.values())) if name not in MEANS]

    def protocols(self, split: str) -> list[str]:
        """The protocols that a split was scored under."""
        return list(_entry(self.results, split, f"run {self.name} has no split"))

    def protocol_scores(self, split: str, protocol: str) -> dict[str, dict[str, dict]]:
        """{path: {domain, macro or users: {metric: mean}}}; UserError for unknown names."""
        protocols = _entry(self.results, split, f"run {self.name} has no split")
        return _entry(protocols, protocol, f"run {self.name} has no protocol")

    def scores_of_size(self, split: str, protocol: str, least: int) -> dict[str, dict[str, dict]]:
        """`protocol_scores`, whose macro means are over the domains with at least `least` targets,
        where the run itself was scored with another `--min_domain_targets`."""
        scores = self.protocol_scores(split, protocol)
        if self.config["min_domain_targets"] == least:
            return scores
        return {
            path: means | {"macro": macro_mean([means[name] for name in self.domains], least)}
            for path, means in scores.items()
        }

    def scores(self, split: str, protocol: str, path: str) -> dict[str, dict[str, float]]:
        """{domain, macro or users: {metric: mean}} of a path; UserError for unknown names."""
        paths = self.protocol_scores(split, protocol)
        return _entry(paths, path, f"run {self.name} has no path")

    @property
    def blend_without(self) -> dict[str, dict[str, dict]]:
        """{what the blend lacks: {domain, macro or users: {metric: mean}}} on test under `full`;
        {} for a run that was scored before this was measured."""
        return self.results.get(BLEND_WITHOUT, {}).get("full", {})

    def check_metric(self, metric: str) -> None:
        """UserError where the run was scored before there was this metric."""
        for path, means in self.protocol_scores("test", "full").items():
            if means["users"]["n"] and metric not in means["users"]:
                raise UserError(
                    f"run {self.name} has no {metric} of path {path}: it was scored by an earlier "
                    "version; score it again with main.py --evaluate, or give another --metric"
                )

    def values(
        self, split: str, protocol: str, path: str, metric: str, ties: str | None = None
    ) -> pd.DataFrame:
        """A metric of every target: index `target`, columns `user_id`, `domain`, `value`.

        Ties are scored by the policy `ties`, by default the run's own; see also `ranks`.
        """
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric}; choose from {', '.join(METRICS)}")
        ranks = self.ranks(split, protocol, path)
        values = target_metrics(ranks.better, ranks.tied, ties or self.config["ties"])[metric]
        return ranks[["user_id", "domain"]].assign(value=values)

    def ranks(self, split: str, protocol: str, path: str) -> pd.DataFrame:
        """The rank of every target: index `target`, columns `user_id`, `domain`, `better`, `tied`.

        Under `released` (and `released-strict`) no other item counts as tied. Under `as_listed` a
        barred target has `tied` 0.
        """
        self.scores(split, protocol, path)
        wanted = {"split": split, "protocol": protocol, "path": path}
        rows = self._target_rows("ranks.parquet", wanted, RANKS_COLUMNS)
        if rows.empty:
            raise self._invalid("ranks.parquet", f"has no rows for {split}, {protocol}, {path}")
        least = 0 if protocol.removesuffix(STRICT) == AS_LISTED else 1
        if (rows.better < 0).any() or (rows.tied < least).any():
            fault = f"has impossible ranks (better < 0 or tied < {least})"
            raise self._invalid("ranks.parquet", fault)
        return rows.assign(tied=1) if ties_of(protocol, "") == "optimistic" else rows

    def targets(self, split: str) -> pd.DataFrame:
        """The rows of targets.parquet of a split, indexed by target."""
        return self._target_rows("targets.parquet", {"split": split}, TARGETS_COLUMNS)

    def metrics(self, *, initial: bool = False) -> pd.DataFrame:
        """metrics.csv: epoch, step, split, path, domain, metric, value.

        Without `initial` only trained epochs: epoch 0 is the validation of `--init_from`.
        """
        rows = self._training_csv("metrics.csv", METRICS_COLUMNS)
        if not np.isfinite(rows.value).all():
            raise UserError(f"{self.folder / 'metrics.csv'} has non-finite values; {RETRAIN}")
        return rows if initial else rows[rows.epoch > 0]

    def transfer(self) -> pd.DataFrame | None:
        """transfer.csv: epoch, domain, phi, s, gamma, weight; None if no gap was recorded."""
        if not (self.folder / "transfer.csv").is_file():
            return None
        rows = self._training_csv("transfer.csv", TRANSFER_COLUMNS)
        counts = rows.groupby("epoch").domain.agg(["size", "nunique"])
        if rows.empty or (counts != len(self.domains)).any(axis=None):
            path = self.folder / "transfer.csv"
            raise UserError(f"{path}: expected one row per (epoch, domain); {RETRAIN}")
        return rows

    @cached_property
    def card(self) -> dict[str, Any]:
        """The data card of the data that the run was trained on."""
        path = self.folder / "data_card.json"
        if not path.is_file():
            raise self._invalid(path.name, "does not exist")
        card = read_json(path, "the run's data card", dict)
        fault = card_error(card, REPORT_SCHEMA)
        if not fault and set(card["domains"]) != set(self.domains):
            fault = "its domains are not those of results.json"
        if fault:
            raise self._invalid(path.name, f"is not the run's data card ({fault})")
        return card

    @property
    def split_protocol(self) -> str | None:
        """How the data was split; None for an old run without a data card."""
        if not (self.folder / "data_card.json").is_file():
            return None
        return self.card["split"]["protocol"]

    @cached_property
    def serving(self) -> dict[str, dict[str, Any]] | None:
        """{domain: its served path, and why}; None for a run with one path."""
        if not (self.folder / "serving.json").is_file():
            return None
        return read_serving(self.folder, self.domains)

    def _training_csv(self, name: str, columns: dict[str, type]) -> pd.DataFrame:
        """A CSV file that training wrote; text cells are taken literally, "NA" too."""
        numbers = [column for column, dtype in columns.items() if dtype is float]
        try:
            rows = pd.read_csv(
                self.folder / name, usecols=list(columns), dtype=columns, keep_default_na=False,
                na_values={column: ["nan", ""] for column in numbers},
            )  # fmt: skip
        except FileNotFoundError:
            raise UserError(f"{self.folder / name} does not exist; {RETRAIN}") from None
        except (OSError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"cannot read {self.folder / name}: {reason}; {RETRAIN}") from None
        unknown = set(rows.domain) - {*self.domains, *MEANS}
        if unknown:
            raise UserError(
                f"{self.folder / name} has the domain {unknown.pop()!r}, which results.json lacks; "
                + RETRAIN
            )
        return rows

    def _target_rows(
        self, name: str, wanted: dict[str, str], columns: dict[str, pa.DataType]
    ) -> pd.DataFrame:
        """The wanted rows of a Parquet file with one row per target, indexed by target."""
        rows = self._parquet(name, wanted, columns).set_index("target").sort_index()
        if not rows.index.is_unique:
            raise self._invalid(name, "has more than one row for a target")
        if not set(rows.domain) <= set(self.domains):
            raise self._invalid(name, "has domains that results.json lacks")
        return rows

    def _parquet(
        self, name: str, wanted: dict[str, str], columns: dict[str, pa.DataType]
    ) -> pd.DataFrame:
        try:
            return read_rows(self.folder / name, wanted, columns)
        except FileNotFoundError:
            raise self._invalid(name, "does not exist") from None
        except KeyError:
            raise self._invalid(name, "was written by an earlier version") from None
        except Exception as error:  # a truncated file fails in many ways
            reason = " ".join(str(error).split())[:200]
            raise self._invalid(name, f"cannot be read ({reason})") from None

    def _invalid(self, name: str, fault: str) -> UserError:
        """The error for a file that evaluation writes, with the command that writes it again."""
        remedy = f"run `python main.py --evaluate {self.folder}`"
        return UserError(f"{self.folder / name} {fault}; {remedy}")


def _entry(table: dict[str, Any], name: str, fault: str) -> Any:
    """table[name]; UserError with the fault and the names that exist."""
    if name not in table:
        raise UserError(f"{fault} {name}; choose from {', '.join(table)}")
    return table[name]


def read_runs(folders: list[Path]) -> list[Run]:
    """The runs of these folders, each once; UserError for a folder without a finished run. Warns of
    those that started from weights which know some of their targets."""
    runs = [_read_run(folder) for folder in {path.resolve(): path for path in folders}.values()]
    for run in runs:
        former = run.environment.get("init_from") or {}
        trained = former.get("trained_targets") or {}
        if any(trained.values()):
            print(
                f"WARNING: {run.name} started from weights that were trained on {trained['valid']} "
                f"of its validation and {trained['test']} of its test targets: its figures are too "
                "good",
                file=sys.stderr,
            )
    return runs


def _read_run(folder: Path) -> Run:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a run folder (no config.json); give one of main.py")
    if not (folder / "results.json").is_file():
        raise UserError(
            f"run {folder} is not finished (no results.json); continue it with main.py --resume"
        )
    return Run(
        folder=folder,
        name=folder.resolve().name,
        config=read_config(folder),
        results=read_results(folder),
        environment=read_environment(folder),
    )


def without_seed(name: str, seed: int) -> str:
    """A run's name or folder without the seed at its end."""
    return re.sub(rf"[-_.]*(seed)?[-_.]*{seed}$", "", name)


def domain_means(values: pd.DataFrame, least: int = 0) -> dict[str, float]:
    """The means of `Run.values`: of each domain with targets, macro (of those with at least
    `least`), and users (all targets)."""
    groups = values.groupby("domain").value
    means = groups.mean()
    macro = float(means[groups.size() >= least].mean())
    return {**means.to_dict(), "macro": macro, "users": float(values.value.mean())}


def least_targets(runs: Iterable[Run]) -> int:
    """The targets that a domain needs to count in the macro mean of these runs: what most demands
    of them (`--min_domain_targets`)."""
    return max(run.config["min_domain_targets"] for run in runs)
