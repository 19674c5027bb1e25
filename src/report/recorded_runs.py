"""Runs as tables read them from committed records, without run folders or data."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from src.config.cli import as_json
from src.config.identity import values_of
from src.config.names import COUNT_MODELS
from src.config.settings import Settings
from src.evaluation.metrics import summarise
from src.evaluation.protocols import Ranks
from src.evaluation.targets import SPLITS
from src.io.errors import UserError
from src.report.finished_runs import Run
from src.report.run_records import ENDS, PROTOCOL, SCORING, Record, Records
from src.training.convergence import TrainingEnd


@dataclass(frozen=True)
class RecordedTargets:
    """The targets of a dataset, from its record."""

    names: list[str]  # the domains
    items: np.ndarray  # [D] of each
    split: str  # how the data was split
    domains: dict[str, np.ndarray]  # {split: [n] a position in `names`}
    users: dict[str, np.ndarray]  # {split: [n] an anonymous number}


def recorded_targets(record: Record) -> RecordedTargets:
    """The targets in the record of a dataset. UserError where it is damaged."""
    domains, users, names = {}, {}, list(record.content["domains"])
    for split in SPLITS:
        try:
            domains[split] = record.arrays[f"{split}_domains"].astype(np.int64)
            users[split] = np.cumsum(record.arrays[f"{split}_user_steps"], dtype=np.int64)
        except KeyError as error:
            raise record.damaged(error) from None
        count = record.content["targets"][split]
        if not len(domains[split]) == len(users[split]) == count:
            raise record.damaged(ValueError(f"it has not {count} {split} targets"))
        if count and not domains[split].max() < len(names):
            raise record.damaged(ValueError("a target of an unknown domain"))
    items = np.array([facts["items"] for facts in record.content["domains"].values()])
    return RecordedTargets(names, items, record.content["split"], domains, users)


def read_ranks(record: Record, targets: RecordedTargets, split: str) -> dict[str, Ranks]:
    """{path: the ranks of all targets of a split, under `full`}; {} where the record has none."""
    domains = targets.domains[split]
    return {
        path: Ranks(better, tied, targets.items[domains])
        for path, (better, tied) in record.ranks(split, domains, targets.names).items()
    }


@dataclass(frozen=True)
class RecordedRun(Run):
    """A finished run from its record and those of its dataset; `folder` is the record's file.

    Only what was recorded can be read: the results under `full` and the ranks.
    """

    targets_of: RecordedTargets
    ranks_of: dict[tuple[str, str], Ranks]  # by split and path
    scored: Settings
    record: Record

    @property
    def data_name(self) -> str:
        return self.record.content["data"]["name"]

    @cached_property
    def trained_settings(self) -> Settings:
        return self.scored

    @property
    def split_protocol(self) -> str | None:
        return self.targets_of.split

    @property
    def recorded_ends(self) -> list[tuple[TrainingEnd, float, bool]]:
        ends = []
        for one in self.record.content["ends"]:
            values: dict[str, Any] = {name: one[name] for name in ENDS}
            values["rise"] = np.nan if one["rise"] is None else one["rise"]
            ends.append((TrainingEnd(**values), one["error"], one["bounded"]))
        return ends

    def ranks(self, split: str, protocol: str, path: str) -> pd.DataFrame:
        self.scores(split, protocol, path)
        if (split, path) not in self.ranks_of:
            raise UserError(f"the record of run {self.name} has no {split} ranks of path {path}")
        ranks, targets = self.ranks_of[split, path], self.targets_of
        return pd.DataFrame(
            {
                "user_id": targets.users[split],
                "domain": np.array(targets.names, dtype=object)[targets.domains[split]],
                "better": ranks.better,
                "tied": ranks.tied,
            },
            index=pd.RangeIndex(len(ranks.better), name="target"),
        )


def recorded_run(
    record: Record,
    name: str,
    settings: Settings,
    records: Records,
    count_models: Iterable[str] = COUNT_MODELS,
) -> RecordedRun:
    """A run from its record, scored as `settings` say, with those of the count models that are
    recorded. UserError where the record of its dataset is missing, or one of them is damaged."""
    sha256 = record.data_sha256
    if sha256 not in records.datasets:
        raise UserError(
            f"{record.path} needs the record of its dataset, data-{sha256[:16]}.json, which is "
            "missing; restore it"
        )
    targets = recorded_targets(records.datasets[sha256])
    counted = [records.count_models.get((sha256, path)) for path in count_models]
    results: dict[str, Any] = {}
    ranks: dict[tuple[str, str], Ranks] = {}
    for split in SPLITS:
        by_path = results.setdefault(split, {}).setdefault(PROTOCOL, {})
        for source in filter(None, (record, *counted)):
            try:
                of_split = read_ranks(source, targets, split)
                for path in source.content["metrics"][split]:
                    own = of_split.get(path)
                    by_path[path] = _scores(source, split, path, own, targets, settings)
            except (KeyError, ValueError, TypeError) as error:  # tables that don't fit together
                raise source.damaged(error) from None
            ranks |= {(split, path): one for path, one in of_split.items()}
    return RecordedRun(
        folder=record.path, name=name, config=as_json(settings), results=results,
        environment={"data_sha256": sha256}, targets_of=targets, ranks_of=ranks, scored=settings,
        record=record,
    )  # fmt: skip


def _scores(
    record: Record, split: str, path: str, ranks: Ranks | None, targets: RecordedTargets,
    settings: Settings,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """{domain, macro or users: metrics} as in results.json: computed from the ranks, and what these
    don't say as it was recorded, where that was scored as the settings ask."""
    stored = record.stored(split, path)
    scored = record.content.get("scoring") or values_of(record.settings, SCORING)
    wanted = values_of(settings, SCORING)
    same = all(scored.get(name) == wanted[name] for name in ("ties", "min_domain_targets"))
    if ranks is None:
        if not same:
            raise UserError(
                f"{record.path} has no ranks, and was scored with other --ties or "
                "--min_domain_targets; give those of the record"
            )
        return stored
    summary: dict[str, dict[str, float]] = summarise(
        ranks.better, ranks.tied, targets.domains[split], targets.names, settings.ties,
        settings.min_domain_targets,
    )  # fmt: skip
    if not same:
        return summary
    if record.exact(split):  # what was recorded is then a copy
        stored = {
            mean: {name: value for name, value in values.items() if name not in summary[mean]}
            for mean, values in stored.items()
        }
    return {mean: values | stored.get(mean, {}) for mean, values in summary.items()}
