"""The command line of main.py: flags, settings files, and the requested action.

Reading it loads no library, so that help and mistakes are there at once.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

from src.config.cli import OneLineParser, build_parser, from_namespace
from src.config.identity import difference
from src.config.names import METRICS
from src.config.protocols import run_protocols
from src.config.settings import (
    Settings,
    choose,
    names_in,
    read_settings,
    run_settings,
    settings_class,
)
from src.config.validation import check_settings
from src.io.errors import UserError


class Command(NamedTuple):
    """A parsed command line: train, or evaluate a run folder, or replay a checkpoint."""

    settings: Settings
    evaluate: Path | None = None  # a run folder
    replay: Path | None = None  # a checkpoint of a run folder


def parse_command(arguments: list[str] | None = None, description: str = "") -> Command:
    """Parse a command line.

    `--config FILE`, or the run of --evaluate or --replay, replaces the defaults; flags win. FILE
    may be the config.json of a run of an earlier version.
    """
    first = OneLineParser(add_help=False, allow_abbrev=False)
    _add_files(first)
    for name in ("model", "weighting", "mode"):
        first.add_argument(f"--{name}")
    first.add_argument("--lc_ntg", action=argparse.BooleanOptionalAction)
    early, _ = first.parse_known_args(arguments)
    if early.evaluate and not (early.evaluate / "results.json").is_file():
        raise UserError(f"--evaluate {early.evaluate}: not a finished run (no results.json)")
    run = early.evaluate or (early.replay and folder_of(early.replay))
    before = run_settings(run) if run else None
    defaults = vars(before) if before else {}
    if early.config:
        of_a_run = (early.config.parent / "environment.json").is_file()
        defaults = read_settings(early.config, "--config", of_a_run=of_a_run)
    defaults = choose(defaults, early.model, early.weighting, early.lc_ntg, early.mode)
    config_class = settings_class(*names_in(defaults))
    parser = build_parser(config_class, description)
    _add_files(parser)
    parser.set_defaults(**defaults)
    settings = from_namespace(config_class, parser.parse_args(arguments))
    check_settings(settings)
    settings = _with_absolute_paths(settings)
    run_protocols(settings)  # refuses unknown ones
    if before and (changed := difference(before, settings, resume=False)):
        action = "--evaluate scores" if early.evaluate else "--replay computes a step of"
        raise UserError(
            f"{action} the run as it was trained, with --{changed} {getattr(before, changed)}; "
            f"drop --{changed}, or train another run"
        )
    if settings.select_metric not in METRICS:
        raise UserError(
            f"--select_metric {settings.select_metric} is unknown; give one of {', '.join(METRICS)}"
        )
    return Command(settings, early.evaluate, early.replay)


def folder_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, also of a model of one domain."""
    for folder in (checkpoint.parent, *checkpoint.resolve().parents[2:3]):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"--replay {checkpoint} is not in a run folder (no config.json)")


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--config", metavar="FILE", type=Path, help="settings as a JSON file")
    files.add_argument(
        "--evaluate", metavar="RUN", type=Path,
        help="score a finished run folder again without training; takes the evaluation flags",
    )  # fmt: skip
    files.add_argument(
        "--replay", metavar="FILE", type=Path,
        help="compute the step that follows a checkpoint of a run folder, such as fault.pt, and "
        "print its losses and gradients; nothing is updated or written",
    )  # fmt: skip


def _with_absolute_paths(settings: Settings) -> Settings:
    """The settings with absolute paths, so that a run does not depend on the current folder."""
    paths = {name: getattr(settings, name) for name in ("data_dir", "init_from")}
    absolute: dict[str, Any] = {
        name: os.path.realpath(path) for name, path in paths.items() if path
    }
    return dataclasses.replace(settings, **absolute)
