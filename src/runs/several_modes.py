"""The runs of train.sh: one command line trained in several modes."""

import dataclasses
from collections.abc import Collection
from typing import Any

from src.config.settings import Settings
from src.dataset.store.folder import open_named
from src.io.json_schema import read_json
from src.io.paths import ROOT
from src.runs.command import parse_command
from src.runs.lifecycle import run_folder

LIMITS = ROOT / "results" / "limits"  # of the bundled log


def print_plan(modes: Collection[str], flags: Collection[str]) -> None:
    """Print one line per mode, `MODE FOLDER` of its run, and, if the published limits are of the
    run's log, `limits FILE`. Raises UserError for what main.py refuses in any of these modes.

    A --run_name gets the mode as its suffix, so that the runs don't share a folder.
    """
    runs = [_settings(mode, flags) for mode in modes]
    dataset = open_named(runs[0])
    for run in runs:
        print(run.mode, run_folder(run, dataset))
    if _has_limits(dataset.card):
        print("limits", LIMITS / "limits.csv")


def _has_limits(card: dict[str, Any]) -> bool:
    """Whether the published limits are of this dataset: its log, month and test targets."""
    limits = read_json(LIMITS / "limits.json", "the limits", dict)
    log = card.get("notes", {}).get("command"), card["strd_ym"]
    targets = {name: counts["test"] for name, counts in card["split"].get("targets", {}).items()}
    known = {row["domain"]: row["targets"] for row in limits["domains"]}
    return log == (limits["log"], limits["strd_ym"]) and targets == known


def _settings(mode: str, flags: Collection[str]) -> Settings:
    """The settings of one mode."""
    settings = parse_command([*flags, f"--mode={mode}"]).settings
    name = settings.run_name and f"{settings.run_name}-{mode}"
    return dataclasses.replace(settings, run_name=name)
