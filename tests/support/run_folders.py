"""Run folders as main.py writes them, but without training: ranks are drawn with planted gains.

`Log` is the data that runs share: its targets are a function of its fields, so every run on one log
ranks the same targets. `write_run` draws the ranks: each target has a difficulty that all models
share, a path's gain moves its targets up, and each seed adds its own noise.
"""

import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from src.config.cli import as_json
from src.config.modes import BLEND, CROSS, DEFAULT_MODEL, MODES, SERVED, SINGLE, TWO_VIEW_MODE
from src.config.names import COUNT_MODELS
from src.config.settings import Settings
from src.evaluation.metrics import METRICS, summarise

SPLITS = ("valid", "test")
PROTOCOLS = (
    "full", "full-unseen", "full_all", "sampled", "popular", "released", "released-strict",
)  # fmt: skip
EPOCHS = 4
STEPS = 500  # per epoch, so that the default warm-up is a small part
TRAINED = (0.02, 0.05, 0.0799, 0.08)  # the selecting metric by epoch: trained to the end
RISING = (0.02, 0.04, 0.06, 0.9)  # not trained to the end, however few targets there are


@dataclass(frozen=True)
class Log:
    """The data of the runs: users with `per_user` targets each, in as many different domains."""

    domains: tuple[str, ...] = ("A", "B")
    users: int = 60
    per_user: int = 1
    split: str = "leave_one_out"
    name: str = "tiny"
    sha256: str = "aaaa"

    @cached_property
    def targets(self) -> dict[str, pd.DataFrame]:
        """{split: the rows of targets.parquet}, with the difficulty that all models share."""
        return {split: self._targets(number) for number, split in enumerate(SPLITS)}

    def _targets(self, number: int) -> pd.DataFrame:
        rng = np.random.default_rng([number, self.users])
        users = np.repeat(np.arange(self.users), self.per_user)
        draws = [rng.permutation(len(self.domains))[: self.per_user] for _ in range(self.users)]
        n, names = len(users), np.array(self.domains)[np.concatenate(draws)]
        history = rng.integers(2, 60, n)
        return pd.DataFrame(
            {
                "target": np.arange(n, dtype=np.int32),
                "user_id": [f"u{user:05d}" for user in users],
                "domain": names,
                "item_id": names.astype(object) + rng.integers(200, size=n).astype(str),
                "history": history,
                "domain_history": rng.integers(0, history + 1),
                "domains": rng.integers(1, len(self.domains) + 1, n),
                "item_count": rng.integers(0, 40, n),
                "seen": rng.random(n) < 0.2,
                "same_time": rng.random(n) < 0.3,
                "difficulty": rng.normal(size=n) + rng.normal(size=self.users)[users] - 1.0,
            }
        )

    @property
    def card(self) -> dict:
        """The keys of data_card.json that reports read."""
        counts = {name: int((self.targets["test"].domain == name).sum()) for name in self.domains}
        shared = {name: dict.fromkeys(self.domains, self.users // 2) for name in self.domains}
        return {
            "data_name": self.name,
            "strd_ym": "202312",
            "options": {"tie_order": "hashed", "split": self.split},
            "tie_order": "hashed",
            "notes": {},
            "users": self.users,
            "items": 200 * len(self.domains),
            "events": 30 * self.users,
            "domains": {
                name: {"users": count, "items": 200, "events": 10 * count, "mean_length": 10.0}
                for name, count in counts.items()
            },
            "overlap": shared,
            "split": {
                "protocol": self.split,
                "valid_events": len(self.targets["valid"]),
                "test_events": len(self.targets["test"]),
                "cold_test_items": 1,
            },
            "sha256": self.sha256,
        }


def write_run(
    folder: Path,
    log: Log,
    *,
    gains: dict[str, float | dict[str, float]] | None = None,
    gaps: dict[str, float] | None = None,
    protocols: tuple[str, ...] = PROTOCOLS,
    noise: float = 0.5,
    model: str = DEFAULT_MODEL,
    blend: bool = False,
    curve: tuple[float, ...] = TRAINED,
    steps: int = STEPS,
    **settings,
) -> Path:
    """Write a finished run's folder; `folder` itself is returned.

    Parameters
    ----------
    gains: {path: how far its targets move up, in logits of the rank's share; or {domain: that}};
        a path that is left out gains nothing. Count models are the same in every run.
    gaps: {domain: φ after the last epoch}, for transfer.csv; with `mode` syncrec only.
    noise: standard deviation of what a seed adds to a target's logit.
    model: the trained model, for config.json. blend: whether the run has that path.
    curve: every validation metric by epoch. steps: optimiser steps per epoch.
    settings: those of main.py that are not at their default: mode, loss, seed, …
    """
    folder.mkdir(parents=True)
    chosen = Settings(data_name=log.name, run_name=folder.name, **settings)
    gains = dict.fromkeys(COUNT_MODELS, -1.5) | {"markov": -0.5} | (gains or {})
    paths = (*chosen.paths, *((BLEND,) if blend else ()), *COUNT_MODELS)
    ranks = _ranks(log, chosen, paths, gains, protocols, noise)
    _write_ranks(folder, log, ranks)
    (folder / "results.json").write_text(json.dumps(_results(log, ranks, chosen)))
    (folder / "config.json").write_text(json.dumps(as_json(chosen) | {"model": model}))
    (folder / "environment.json").write_text(json.dumps({"data_sha256": log.sha256}))
    (folder / "data_card.json").write_text(json.dumps(log.card))
    _write_targets(folder, log)
    _write_metrics(folder, log, chosen, curve, steps)
    if chosen.mode == TWO_VIEW_MODE:
        (folder / "serving.json").write_text(json.dumps(_serving(log)))
        _write_transfer(folder, log, gaps or {})
    return folder


def _serving(log: Log) -> dict:
    """The single path serves every second domain, whatever the ranks say."""
    return {
        name: {
            "path": (CROSS, SINGLE)[number % 2],
            "difference": 0.01 * (number % 2),
            "bound": 0.005 * (number % 2) - 0.001,
            "n": int((log.targets["valid"].domain == name).sum()),
        }
        for number, name in enumerate(log.domains)
    }


def _ranks(
    log: Log, settings: Settings, paths: tuple, gains: dict, protocols: tuple, noise: float
) -> dict:
    """{(split, protocol, path): frame of better, tied, candidates by target}."""
    ranks = {}
    keys = itertools.product(enumerate(SPLITS), enumerate(protocols), paths)
    for (split_number, split), (number, protocol), path in keys:
        targets = log.targets[split]
        streams = (
            (0, 0) if path in COUNT_MODELS else (settings.seed, list(MODES).index(settings.mode))
        )
        path_number = (CROSS, SINGLE, *COUNT_MODELS, BLEND).index(path)
        rng = np.random.default_rng([split_number, path_number, *streams])
        gain = gains.get(path, 0.0)
        if isinstance(gain, dict):
            gain = targets.domain.map(gain).fillna(0.0).to_numpy()
        logit = targets.difficulty + rng.normal(size=len(targets)) * noise - gain
        candidates = 200 * len(log.domains) if protocol.endswith("_all") else 200
        better = np.floor(candidates / (1 + np.exp(-logit * (1 + 0.1 * number)))).astype(np.int64)
        tied = np.where(rng.random(len(targets)) < 0.05, 3, 1)
        ranks[split, protocol, path] = pd.DataFrame(
            {"better": np.minimum(better, candidates - tied), "tied": tied}
        ).assign(candidates=candidates)
    if settings.mode == TWO_VIEW_MODE:
        served = {name: entry["path"] for name, entry in _serving(log).items()}
        for split, protocol in itertools.product(SPLITS, protocols):
            cross, single = (ranks[split, protocol, path] for path in (CROSS, SINGLE))
            by_single = log.targets[split].domain.map(served) == SINGLE
            ranks[split, protocol, SERVED] = single.where(by_single, cross, axis=0)
    return ranks


def _results(log: Log, ranks: dict, settings: Settings) -> dict:
    results: dict = {}
    least = settings.min_domain_targets
    for (split, protocol, path), found in ranks.items():
        domains = log.targets[split].domain.map(log.domains.index).to_numpy()
        names = list(log.domains)
        if protocol.startswith("released"):
            means = summarise(found.better, np.ones_like(found.tied), domains, names, least=least)
        else:
            means = summarise(found.better, found.tied, domains, names, settings.ties, least)
        if (split, protocol) == ("test", "full"):
            for mean in means.values():
                mean |= {"coverage@10": 0.25, "popularity@10": 1.5} if mean["n"] else {}
        results.setdefault(split, {}).setdefault(protocol, {})[path] = means
    return results


def _write_ranks(folder: Path, log: Log, ranks: dict) -> None:
    """One row group per split, protocol and path."""
    same = {split: _target_columns(targets) for split, targets in log.targets.items()}
    writer = None
    for key, found in ranks.items():
        n = len(found)
        columns = {
            name: pa.array([value]).dictionary_encode().take(pa.array([0] * n))
            for name, value in zip(("split", "protocol", "path"), key, strict=True)
        }
        columns |= same[key[0]] | {name: found[name].to_numpy() for name in found}
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(folder / "ranks.parquet", table.schema)
        writer.write_table(table)
    writer.close()


def _target_columns(targets: pd.DataFrame) -> dict[str, pa.Array]:
    names = ("target", "user_id", "domain", "item_id")
    columns = {name: pa.array(targets[name].tolist()) for name in names}
    target = columns["target"].cast(pa.int32())
    return columns | {"target": target, "domain": columns["domain"].dictionary_encode()}


def _write_targets(folder: Path, log: Log) -> None:
    parts = [targets.assign(split=split) for split, targets in log.targets.items()]
    rows = pd.concat(parts).drop(columns="difficulty")
    rows = rows[["split", *(name for name in rows.columns if name != "split")]]
    rows.to_parquet(folder / "targets.parquet", index=False)


def _write_metrics(
    folder: Path, log: Log, settings: Settings, curve: tuple[float, ...], steps: int
) -> None:
    """Training loss that falls and the curve of the validation metrics, by epoch; of one model per
    domain the domains' rows alone."""
    names = [*log.domains, *(() if settings.per_domain else ("macro", "users"))]
    rows = []
    for (epoch, value), path, name in itertools.product(enumerate(curve, 1), settings.paths, names):
        rows.append((epoch, steps * epoch, "train", path, name, "loss", 5.0 / epoch))
        rows += [(epoch, steps * epoch, "valid", path, name, m, value) for m in METRICS]
    columns = ["epoch", "step", "split", "path", "domain", "metric", "value"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metrics.csv", index=False)


def _write_transfer(folder: Path, log: Log, gaps: dict[str, float]) -> None:
    """φ grows to its planted value; γ is its softmax, the weight γ without a floor."""
    rows = []
    for epoch in range(1, EPOCHS + 1):
        gap = np.array([gaps.get(name, 0.0) for name in log.domains]) * epoch / EPOCHS
        gamma = np.exp(gap / 0.3) / np.exp(gap / 0.3).sum()
        rows += zip(
            itertools.repeat(epoch), log.domains, gap, gap, gamma, gamma * len(gap), strict=False
        )
    columns = ["epoch", "domain", "phi", "s", "gamma", "weight"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "transfer.csv", index=False)


def write_old_run(folder, *, value, data="aaaa", path="cross", loss="ce"):
    """A run from before targets were numbered: two domains, one path, one baseline."""
    folder.mkdir(parents=True)

    def metrics(number):
        rows = {
            "d1": number,
            "d2": number / 2,
            "macro": 0.75 * number,
            "users": 0.6 * number,
        }
        return {d: {"ndcg@10": v, "hr@10": 2 * v, "n": 7} for d, v in rows.items()}

    paths = {path: metrics(value), "popularity": metrics(0.01)}
    results = {split: {"full": paths} for split in ("valid", "test")}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.json").write_text(json.dumps({"mode": "cdsr", "loss": loss, "seed": 1}))
    (folder / "environment.json").write_text(json.dumps({"data_sha256": data}))
    return folder
