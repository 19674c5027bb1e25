"""The JSON files of a run folder, read back in the shape that they were written in."""

from pathlib import Path
from typing import Any

from src.config.cli import as_json, config_defaults
from src.io.errors import UserError
from src.config.settings import Settings
from src.io.json_schema import Count, MapOf, OptionalKey, NamedMap, schema_error, read_json

MEANS = ("macro", "users")  # what stands beside the domains in results.json
# the metrics of a domain, or of a mean; one without targets has their number alone
METRICS_SHAPE = {"n": Count()}
SHOWN = {"hr@10": None, "ndcg@10": None}.keys()  # what the table of main.py shows of every target
# {split: {protocol: {path: {domain, "macro" or "users": metrics}}}}
RESULTS = MapOf(NamedMap(NamedMap(NamedMap(METRICS_SHAPE, min_entries=3), min_entries=1), min_entries=1), min_entries=1)
ENVIRONMENT = {
    "data_sha256": str, "commit": OptionalKey((str, None)), "dirty": OptionalKey(bool), "device": OptionalKey(str),
    "init_from": OptionalKey((dict, None)),
}  # fmt: skip
SERVING = NamedMap({"path": lambda value: "" if value in ("cross", "single") else "cross or single"})
AGAIN = "score the run again with main.py --evaluate"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run; a setting that came after the run has its default, and one that is
    gone stays as it is."""
    found = config_defaults(Settings, folder / "config.json", "config.json of the run", others=True)
    return as_json(Settings()) | found


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
