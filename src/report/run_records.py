"""Records of finished runs: what tables need of a run, small enough to be committed.

A record is two files of at most LIMIT bytes together: KEY.json, to be read, and KEY.npz, the ranks.
There are three kinds, all in one folder: of a run, of a dataset (the domain and an anonymous user
number of each target) and of a count model on a dataset, which is the same for every run. Neither
user nor item ids are stored, nor paths of a machine.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.config.identity import Role, hash_values, values_of
from src.config.names import COUNTED, METRICS
from src.config.settings import Settings, recorded_settings
from src.evaluation.packed_ranks import PRESENT, WHOLE, npz_bytes, pack, unpack
from src.evaluation.targets import SPLITS
from src.io.errors import UserError
from src.io.files import json_lines, write_atomically
from src.io.json_schema import Count, MapOf, OptionalKey, read_json
from src.report.finished_runs import Run
from src.report.training_ends import model_ends
from src.report.transfer.training_history import tested_transfer
from src.training.gaps import gaps_at

FORMAT = 1
LIMIT = 60_000  # bytes of both files of a record
PROTOCOL = "full"  # whose ranks are recorded
RUN, DATASET, COUNT_MODEL = "run", "dataset", "count_model"
# Digits of the ranks of the test and the validation targets, the first that fit; None: no ranks
PRECISIONS = (
    (WHOLE, WHOLE), (WHOLE, 6), (WHOLE, 3), (WHOLE, 1), (WHOLE, PRESENT), (WHOLE, None),
    (6, 1), (3, PRESENT), (1, None), (PRESENT, None), (None, None),
)  # fmt: skip
# What is stored of each mean beside the ranks; the other metrics are computed from these
STORED = ("n", "ndcg@10", "hr@10", "mrr")
ENDS = ("domain", "epochs", "steps", "best_epoch", "best_step", "rise", "warmup", "max_epochs")
TRAINED = {Role.IDENTITY, Role.GROWS}  # the settings that decide what is trained
SCORING = {Role.SCORING}
SCHEMA = {"format": Count(FORMAT, FORMAT), "kind": str}
DATA = {"name": str, "sha256": str}
RANKS = MapOf({"digits": int, "paths": [str], "copies": MapOf(MapOf(str))})
METRICS_SCHEMA = {"columns": [str], "valid": OptionalKey(MapOf(dict)), "test": MapOf(dict)}
END: dict[str, Any] = dict.fromkeys(ENDS, int) | {"domain": str, "rise": (float, None)}
SCHEMAS: dict[str, dict] = {
    RUN: {
        "settings": dict, "data": DATA, "ranks": RANKS, "metrics": METRICS_SCHEMA,
        "ends": [END | {"error": float, "bounded": bool}], "cost": MapOf(float),
        "code": {"commit": (str, None), "dirty": (bool, None)},
        "gaps": OptionalKey({"epoch": int, "columns": [str], "domains": MapOf([(float, None)])}),
    },
    COUNT_MODEL: {
        "path": str, "data": DATA, "ranks": RANKS, "metrics": METRICS_SCHEMA, "scoring": dict
    },
    DATASET: {
        "data": DATA, "options": dict, "split": str,
        "domains": MapOf({"users": Count(), "items": Count(), "events": Count()}, 1),
        "targets": {"valid": Count(), "test": Count()},
    },
}  # fmt: skip


# ------------------------------------------------------------------------ read


@dataclass(frozen=True)
class Record:
    """The files of a record; the ranks are read when they are needed."""

    path: Path  # the JSON file
    content: dict[str, Any]

    @property
    def data_sha256(self) -> str:
        return self.content["data"]["sha256"]

    @cached_property
    def settings(self) -> Settings:
        """The settings of a run; one that is newer than it has the value that reproduces it."""
        return recorded_settings(dict(self.content["settings"]), f"settings of {self.path}")

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the .npz file. UserError where it is missing or damaged."""
        path = self.path.with_suffix(".npz")
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except Exception as error:  # a damaged file fails in many ways
            raise self.damaged(error) from None

    def ranks(self, split: str, domains: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """{path: [2, n] better and tied} of a split, in the order of the targets; {} where only
        metrics are stored.

        domains: [n] the domain of each target, a position in `names`.
        """
        entry = self.content["ranks"].get(split)
        if not entry:
            return {}
        try:
            packed = {name: self.arrays[f"{split}_{name}"] for name in ("better", "tied")}
            values = unpack(packed, entry["digits"])
            ranks: dict[str, np.ndarray] = {}
            for path in entry["paths"]:
                ranks[path] = np.zeros((2, len(domains)), dtype=np.int64)
                copied = np.zeros(len(domains), dtype=bool)
                for name, other in entry["copies"].get(path, {}).items():
                    rows = domains == names.index(name)
                    ranks[path][:, rows], copied = ranks[other][:, rows], copied | rows
                count = int((~copied).sum())
                ranks[path][:, ~copied], values = values[:, :count], values[:, count:]
        except (KeyError, ValueError) as error:
            raise self.damaged(error) from None
        return ranks

    def exact(self, split: str) -> bool:
        """Whether the ranks of a split are stored, and none of them is rounded."""
        return self.content["ranks"].get(split, {}).get("digits") == WHOLE

    def stored(self, split: str, path: str) -> dict[str, dict[str, Any]]:
        """{domain, macro or users: the metrics that are stored} of a path."""
        table = self.content["metrics"]
        return {
            mean: {
                name: value
                for name, value in zip(table["columns"], row, strict=True)
                if value is not None
            }
            for mean, row in table[split][path].items()
        }

    def damaged(self, error: Exception) -> UserError:
        """The error for a record that cannot be used."""
        reason = " ".join(str(error).split())[:200]
        return UserError(
            f"the record {self.path.with_suffix('')} is damaged ({reason}); restore it, or remove "
            "both of its files and run the spec again"
        )


@dataclass(frozen=True)
class Records:
    """The records of a folder."""

    runs: dict[str, Record]  # by `run_key` of this version
    datasets: dict[str, Record]  # by the data's sha256
    count_models: dict[tuple[str, str], Record]  # by the data's sha256 and the path


def read_records(folder: Path) -> Records:
    """All records of a folder, which need not exist. UserError for a damaged one."""
    records = Records({}, {}, {})
    for path in sorted(folder.glob("*.json")):
        remedy = "restore it, or remove it and run the spec again"
        content = read_json(path, "the record", SCHEMA, remedy)
        if content["kind"] not in SCHEMAS:
            raise UserError(f"the record {path} has the unknown kind {content['kind']!r}; {remedy}")
        record = Record(path, read_json(path, "the record", SCHEMAS[content["kind"]], remedy))
        sha256 = record.data_sha256
        if content["kind"] == DATASET:
            records.datasets[sha256] = record
        elif content["kind"] == COUNT_MODEL:
            records.count_models[sha256, content["path"]] = record
        else:
            records.runs[run_key(record.settings, sha256)] = record
    return records


def run_key(settings: Settings, data_sha256: str) -> str:
    """The name of a run's record: a hash of all that decides what is trained, and of the data.

    A record is found by the key that this version computes from its settings, so that a setting
    added since doesn't hide it.
    """
    return hash_values(values_of(settings, TRAINED) | {"data_sha256": data_sha256})[:16]


# ------------------------------------------------------------------------ write


def write_run(
    folder: Path, run: Run, cost: dict[str, float], code: dict[str, Any], init_from: str = ""
) -> tuple[Path, str]:
    """Write the record of a finished run, and those of its dataset and count models if they are
    missing; returns its JSON file and a line about ranks that had to be rounded, or "".

    cost: seconds and memory. code: {"commit", "dirty"}. init_from: what is recorded instead of the
    folder of the run that it started from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known, sha256 = read_records(folder), run.data
    settings = dataclasses.replace(run.trained_settings, init_from=init_from)
    if sha256 not in known.datasets:
        _write_dataset(folder, run)
    for path in run.protocol_scores("test", PROTOCOL):
        if path not in COUNTED:
            continue
        if former := known.count_models.get((sha256, path)):
            _check_unchanged(former, run, path)
        else:
            write_count_model(folder, run, path)
    content: dict[str, Any] = {
        "kind": RUN,
        "settings": values_of(settings, TRAINED | SCORING),
        "data": _data(run),
        "code": code,
        "machine": {
            name: run.environment.get(name) for name in ("device", "threads", "python", "packages")
        },
        "cost": cost,
        "ends": [
            {name: _number(getattr(one.end, name)) for name in ENDS}
            | {"error": one.error, "bounded": one.bounded}
            for one in model_ends([run])
        ],
        "serving": {name: choice["path"] for name, choice in (run.serving or {}).items()},
    }
    if gaps := _gaps(run):
        content["gaps"] = gaps
    key = run_key(settings, sha256)
    precision = _write_ranked(folder / key, content, run, run.paths)
    return folder / f"{key}.json", _rounding_line(precision)


def write_count_model(folder: Path, run: Run, path: str) -> None:
    """Write the record of a count model on the data of a run, whose results and ranks have it."""
    content = {"kind": COUNT_MODEL, "path": path, "data": _data(run)}
    content["scoring"] = values_of(run.trained_settings, SCORING)
    _write_ranked(folder / f"{path}-{run.data[:16]}", content, run, [path])


def _data(run: Run) -> dict[str, str]:
    return {"name": run.data_name, "sha256": run.data}


def _gaps(run: Run) -> dict[str, Any]:
    """What a run with two views knew of the transfer at its tested epoch: {"epoch", "columns",
    "domains": {name: values}}; {} for other runs.

    phi is the gap on the training targets, held_out_gap that on held-out events with its standard
    error; null where they were not measured.
    """
    transfer = run.transfer()
    if transfer is None:
        return {}
    epoch, table = tested_transfer(run, transfer)
    table = table[["phi", "gamma", "weight"]].copy()
    table[["held_out_gap", "held_out_error"]] = gaps_at(run.metrics(), epoch)
    rounded = {name: [_number(round(one, 6)) for one in row] for name, *row in table.itertuples()}
    return {"epoch": epoch, "columns": list(table.columns), "domains": rounded}


def _check_unchanged(record: Record, run: Run, path: str) -> None:
    """UserError where a count model no longer ranks as its record says: tables that are made from
    old and new records together would mix both."""
    now = run.scores("test", PROTOCOL, path)["users"]["ndcg@10"]
    before = record.stored("test", path)["users"]["ndcg@10"]
    same_ties = record.content["scoring"].get("ties") == run.trained_settings.ties
    if same_ties and not math.isclose(now, before, abs_tol=1e-6):  # devices round differently
        raise UserError(
            f"{path} has ndcg@10 {now:.6f}, but {before:.6f} in its record {record.path.name}; if "
            "it is meant to have changed, remove both files of the record and run the spec again"
        )


def _write_dataset(folder: Path, run: Run) -> None:
    """The record of the data of a run: facts, and the domain and user number of each target."""
    card, names = run.card, run.domains
    arrays: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for split in SPLITS:
        rows = run.ranks(split, PROTOCOL, run.default_path)
        counts[split] = len(rows)
        numbers = pd.factorize(rows.user_id)[0]
        arrays[f"{split}_user_steps"] = _small(np.diff(numbers, prepend=0))  # mostly 0 or 1
        arrays[f"{split}_domains"] = _small(rows.domain.map(names.index).to_numpy())
    content = {
        "kind": DATASET,
        "data": _data(run),
        "options": card["options"],
        "split": card["split"]["protocol"],
        "users": card["users"],
        "items": card["items"],
        "events": card["events"],
        "targets": counts,
        "domains": {
            name: {key: card["domains"][name][key] for key in ("users", "items", "events")}
            for name in names
        },
    }
    _write(folder / f"data-{run.data[:16]}", content, npz_bytes(arrays))


def _small(numbers: np.ndarray) -> np.ndarray:
    """The same whole numbers in the smallest type that holds them."""
    limits = numbers.min(initial=0), numbers.max(initial=0)
    return numbers.astype(np.result_type(*map(np.min_scalar_type, limits)))


def _write_ranked(
    stem: Path, content: dict[str, Any], run: Run, paths: list[str]
) -> tuple[int | None, int | None]:
    """Write a record with the metrics and ranks of these paths, as precise as fits; returns the
    digits of the test and the validation ranks."""
    content = content | {"metrics": _metrics(run, paths)}
    ranks = {split: _Distinct.of(run, split, paths) for split in SPLITS}
    packed: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for precision in PRECISIONS:
        arrays: dict[str, np.ndarray] = {}
        entries: dict[str, Any] = {}
        for split, digits in zip(("test", "valid"), precision, strict=True):
            if digits is None:
                continue
            if (split, digits) not in packed:
                packed[split, digits] = pack(ranks[split].values, digits)
            arrays |= {f"{split}_{name}": one for name, one in packed[split, digits].items()}
            entries[split] = {"digits": digits, "paths": paths, "copies": ranks[split].copies}
        whole, npz = content | {"ranks": entries}, npz_bytes(arrays)
        if len(_json_text(whole)) + len(npz) <= LIMIT or precision == PRECISIONS[-1]:
            _write(stem, whole, npz)
            return precision
    raise AssertionError("the last precision always fits")


@dataclass(frozen=True)
class _Distinct:
    """The ranks of paths one after the other, without the domains in which one equals an earlier
    path: `served` is, in each domain, one of the others."""

    values: np.ndarray  # [2, N] better and tied
    copies: dict[str, dict[str, str]]  # {path: {domain: the earlier path}}

    @classmethod
    def of(cls, run: Run, split: str, paths: list[str]) -> "_Distinct":
        every: dict[str, np.ndarray] = {}
        parts, copies = [], {}
        for path in paths:
            rows = run.ranks(split, PROTOCOL, path)
            values, domains = rows[["better", "tied"]].to_numpy().T, rows.domain.to_numpy()
            copied, same = np.zeros(len(rows), dtype=bool), {}
            for name in run.domains:
                inside = domains == name
                for other, earlier in every.items():
                    if inside.any() and (values[:, inside] == earlier[:, inside]).all():
                        same[name], copied = other, copied | inside
                        break
            if same:
                copies[path] = same
            every[path] = values
            parts.append(values[:, ~copied])
        return cls(np.concatenate(parts, axis=1), copies)


def _metrics(run: Run, paths: list[str]) -> dict[str, Any]:
    """{"columns": names, split: {path: {mean: values}}}: what cannot be computed from ranks that
    are rounded or left out, and what people look for."""
    scores = {
        split: {path: run.scores(split, PROTOCOL, path) for path in paths} for split in SPLITS
    }
    every = {
        name
        for by_path in scores.values()
        for one in by_path.values()
        for mean in one.values()
        for name in mean
    }
    others = sorted(every - {*STORED, *METRICS})
    columns = [*STORED, *others]
    return {"columns": columns} | {
        split: {
            path: {name: [mean.get(column) for column in columns] for name, mean in one.items()}
            for path, one in by_path.items()
        }
        for split, by_path in scores.items()
    }


def _number(value: Any) -> Any:
    """NaN, which JSON lacks, as null."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _rounding_line(precision: tuple[int | None, int | None]) -> str:
    """What a reader must know of a record whose ranks are not exact; empty where they are."""
    digits = precision[0]
    if digits is None:
        return "the record has metrics but no ranks, which do not fit: no paired differences"
    if digits < WHOLE:
        return "ranks beyond 31 are rounded in the record (mrr is stored; @k is exact)"
    return ""


def _json_text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each entry, so that changes can be read."""
    return json_lines({"format": FORMAT, **content}, levels=1) + "\n"


def _write(stem: Path, content: Mapping[str, Any], npz: bytes) -> None:
    """Both files, the JSON file last: it marks the record as complete."""
    text = _json_text(content)
    paths = stem.with_name(f"{stem.name}.npz"), stem.with_name(f"{stem.name}.json")
    write_atomically(paths[0], lambda temporary: temporary.write_bytes(npz))
    write_atomically(paths[1], lambda temporary: temporary.write_text(text, encoding="utf-8"))
