"""The JSON records of a run folder: create environment.json; read and validate all of them."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.config.cli import as_json
from src.config.modes import PATHS
from src.config.settings import run_settings
from src.evaluation.blend import Blend
from src.io.errors import UserError
from src.io.json_schema import Count, MapOf, NamedMap, OptionalKey, read_json, schema_error
from src.io.paths import ROOT

PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "torch")
MEANS = ("macro", "users")  # entries of results.json beside the domains
# beside its splits: {"full": {what the blend lacks: {domain, macro or users: metrics}}} on test
BLEND_WITHOUT = "blend_without"
# the metrics of a domain, or of a mean; without targets only n
METRICS_SCHEMA = {"n": Count()}
SHOWN = {"hr@10": None, "ndcg@10": None}.keys()  # the metrics of the table that main.py prints
# {split: {protocol: {path: {domain, "macro" or "users": metrics}}}}
RESULTS = MapOf(
    NamedMap(NamedMap(NamedMap(METRICS_SCHEMA, min_entries=3), min_entries=1), min_entries=1),
    min_entries=1,
)
ENVIRONMENT = {
    "data_sha256": str,
    "commit": OptionalKey((str, None)),
    "dirty": OptionalKey((bool, None)),
    "device": OptionalKey(str),
    "init_from": OptionalKey((dict, None)),
}
SERVING = NamedMap({"path": lambda value: "" if value in list(PATHS) else " or ".join(PATHS)})
BLEND = NamedMap(MapOf(float))  # {domain: {feature: weight}}
AGAIN = "score the run again with main.py --evaluate"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run, with every setting of this version."""
    return as_json(run_settings(folder))


def environment(device: torch.device, data_sha256: str) -> dict[str, Any]:
    """What environment.json records: code, versions, device, data and the command.

    `commit` and `dirty` are null where git or the repository is missing.
    """
    changes = _git("status", "--porcelain")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "data_sha256": data_sha256,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # training works without a repository
    return done.stdout.strip()


def read_environment(folder: Path) -> dict[str, Any]:
    """environment.json of a run."""
    return read_json(folder / "environment.json", "environment.json of the run", ENVIRONMENT)


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a run: {split: {protocol: {path: {domain, macro or users: metrics}}}}, with
    the same domains everywhere; of runs that have it also BLEND_WITHOUT, of the same form."""
    path, what = folder / "results.json", "results of the run"
    results = read_json(path, what, RESULTS, AGAIN)
    domains = None
    for split, protocols in results.items():
        for protocol, paths in protocols.items():
            for name, means in paths.items():
                location = f"{what} {path}: {split}, {protocol}, {name}"
                if fault := schema_error(means, MapOf(MapOf(float))):
                    raise UserError(f"{location}: {fault}; {AGAIN}")
                for mean, metrics in means.items():
                    if metrics["n"] and not metrics.keys() >= SHOWN:
                        raise UserError(f"{location}: {mean} lacks {' or '.join(SHOWN)}; {AGAIN}")
                domains = domains or list(means)
                if set(means) != set(domains) or not set(MEANS) < set(means):
                    raise UserError(f"{location} has other domains; {AGAIN}")
    if "full" not in results.get("test", {}):
        raise UserError(f"{what} {path} has no test results under full; {AGAIN}")
    return results


def read_serving(folder: Path, domains: list[str]) -> dict[str, dict[str, Any]]:
    """serving.json of a run: {domain: the path that serves it, and the evidence}."""
    path = folder / "serving.json"
    serving = read_json(path, "serving paths of the run", SERVING, AGAIN)
    for name in domains:
        if name not in serving:
            raise UserError(f"{path} has no path for domain {name}; {AGAIN}")
    return serving


def read_blend(folder: Path, domains: list[str], features: tuple[str, ...]) -> Blend:
    """blend.json of a run: the weights of its features in each domain."""
    path = folder / "blend.json"
    if not path.is_file():
        raise UserError(f"{folder} has no blend: an earlier version scored it; {AGAIN} {folder}")
    weights = read_json(path, "weights of the run's blend", BLEND, AGAIN)
    for name in domains:
        if tuple(weights.get(name, ())) != features:
            raise UserError(f"{path} has other features for domain {name}; {AGAIN}")
    return Blend(features, np.array([list(weights[name].values()) for name in domains]))
