"""The JSON records of a run folder: environment.json made, and all of them read back, checked."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from src.config.cli import as_json
from src.config.modes import PATHS
from src.config.settings import run_settings
from src.io.errors import UserError
from src.io.json_schema import Count, MapOf, NamedMap, OptionalKey, read_json, schema_error
from src.io.paths import ROOT

PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "torch")
MEANS = ("macro", "users")  # what stands beside the domains in results.json
# the metrics of a domain, or of a mean; one without targets has their number alone
METRICS_SHAPE = {"n": Count()}
SHOWN = {"hr@10": None, "ndcg@10": None}.keys()  # what the table of main.py shows of every target
# {split: {protocol: {path: {domain, "macro" or "users": metrics}}}}
RESULTS = MapOf(
    NamedMap(NamedMap(NamedMap(METRICS_SHAPE, min_entries=3), min_entries=1), min_entries=1),
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
AGAIN = "score the run again with main.py --evaluate"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run, as `run_settings` reads it: every setting of this version."""
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
        return None  # a copy without a repository is as good a place to train
    return done.stdout.strip()


def read_environment(folder: Path) -> dict[str, Any]:
    """environment.json of a run."""
    return read_json(folder / "environment.json", "environment.json of the run", ENVIRONMENT)


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a run: {split: {protocol: {path: {domain, macro or users: metrics}}}}, of
    the same domains everywhere."""
    path, what = folder / "results.json", "results of the run"
    results = read_json(path, what, RESULTS, AGAIN)
    domains = None
    for split, protocols in results.items():
        for protocol, paths in protocols.items():
            for name, means in paths.items():
                place = f"{what} {path}: {split}, {protocol}, {name}"
                if fault := schema_error(means, MapOf(MapOf(float))):
                    raise UserError(f"{place}: {fault}; {AGAIN}")
                lacking = [
                    one for one, own in means.items() if own["n"] and not own.keys() >= SHOWN
                ]
                if lacking:
                    raise UserError(f"{place}: {lacking[0]} lacks {' or '.join(SHOWN)}; {AGAIN}")
                domains = domains or list(means)
                if set(means) != set(domains) or not set(MEANS) < set(means):
                    raise UserError(f"{place} is of other domains; {AGAIN}")
    if "full" not in results.get("test", {}):
        raise UserError(f"{what} {path} has no test results under full; {AGAIN}")
    return results


def read_serving(folder: Path, domains: list[str]) -> dict[str, dict[str, Any]]:
    """serving.json of a run: {domain: its path, and why}."""
    path = folder / "serving.json"
    serving = read_json(path, "serving paths of the run", SERVING, AGAIN)
    for name in domains:
        if name not in serving:
            raise UserError(f"{path} says no path for domain {name}; {AGAIN}")
    return serving
