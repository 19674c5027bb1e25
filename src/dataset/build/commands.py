"""The commands that the card of a dataset gives to paste."""

import dataclasses
import re
import shlex
from typing import Any

from src.config.cli import as_command
from src.config.dataset_settings import DatasetSettings

# Flags of notes that can be added as they are: {flag: (setting, value)}. Others need a choice.
REMEDIES: dict[str, tuple[str, Any]] = {
    "--strip": ("strip", True),
    "--fold_case": ("fold_case", True),
    "--dedup exact": ("dedup", "exact"),
    "--time_unit yyyymmdd": ("time_unit", "yyyymmdd"),
}
OF_TRAINING = "--min_domain_targets"
VARIANT = "as-noted"


def card_commands(settings: DatasetSettings, card: dict) -> dict[str, str]:
    """{purpose: command}: to make the dataset again, to make the variant that the notes suggest,
    and to train on it."""
    flags = [flag for entry in card["data_notes"] for flag in re.split(r" (?=--)", entry["flag"])]
    changes = dict(REMEDIES[flag] for flag in flags if flag in REMEDIES)
    given = {name for name in changes if getattr(settings, name) != getattr(DatasetSettings, name)}
    changes = {name: value for name, value in changes.items() if name not in given}
    commands = {"To make this dataset": _make(settings)}
    if changes:
        variant = f"{settings.variant}-{VARIANT}" if settings.variant else VARIANT
        changed = dataclasses.replace(settings, variant=variant, out_dir="", **changes)
        commands["To make it as the notes above suggest, as a variant"] = _make(changed)
    named = {"data_name": settings.data_name, "strd_ym": settings.strd_ym}
    named |= {"variant": settings.variant} if settings.variant else {}
    where = {"data_dir": settings.out_dir} if settings.out_dir else named
    words = ["python", "main.py", *(f"--{name}={value}" for name, value in where.items())]
    for flag in flags:
        words += flag.split() if flag.startswith(OF_TRAINING) else []
    commands["To train on it"] = shlex.join(words)
    return commands


def _make(settings: DatasetSettings) -> str:
    return as_command("make_dataset.py", settings, leave_out=("describe", "suggest"))
