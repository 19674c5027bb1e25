"""Reusing an existing dataset folder, if it is the requested one."""

import dataclasses
from pathlib import Path

from src.config.dataset_settings import DatasetSettings
from src.dataset.store.card_schema import CONSOLE_SCHEMA, REUSE_SCHEMA, card_error
from src.dataset.store.folder import CARD, FORMAT, open_dataset
from src.dataset.store.verify import verify_dataset
from src.io.errors import UserError
from src.io.files import check_output
from src.io.json_schema import read_json

REMEDY = "choose a folder beside it with --variant NAME, or remove it"


def holds_dataset(folder: Path, flag: str = "--out_dir") -> bool:
    """Whether a folder has been made; UserError where it holds something else, or could not be
    written (`flag` names it)."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        check_output(folder, flag, folder=True)
        return False
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} exists and is not a dataset folder; choose another --out_dir")
    return True


@dataclasses.dataclass(frozen=True)
class ExistingDataset:
    """A dataset folder that was made with the options asked for."""

    folder: Path
    card: dict
    changes: str  # how the raw files differ from those it was made from; empty where they don't


def existing_dataset(folder: Path, options: dict, raw_files: list[dict]) -> ExistingDataset | None:
    """The dataset of a folder that was made with the same options; None if it is new.

    UserError when the folder holds something else: it is never overwritten.
    """
    if not holds_dataset(folder):
        return None
    path = folder / CARD
    card = read_json(path, "the data card", REUSE_SCHEMA, REMEDY)
    version, old_options, old_files = card["format"], card["options"], card["raw_files"]
    if version != FORMAT:
        raise UserError(
            f"{folder} has format {version}, but this version writes {FORMAT}; {REMEDY}"
        )
    # an option that is newer than the folder had its default when the folder was made
    defaults = {field.name: field.default for field in dataclasses.fields(DatasetSettings)}
    old = {
        name: list(value) if isinstance(value, tuple) else value  # as JSON has it
        for name, value in (defaults | old_options).items()
    }
    different = [name for name in options if old[name] != options[name]]
    if different:
        changes = ", ".join(f"--{name} {old[name]}" for name in different)
        raise UserError(f"{folder} was made with different options ({changes}); {REMEDY}")
    problem = card_error(card, CONSOLE_SCHEMA)
    try:
        verify_dataset(open_dataset(folder))
    except UserError as error:
        problem = problem or str(error)
    if problem:
        raise UserError(f"{folder} is damaged ({problem}); remove it")
    return ExistingDataset(folder, card, file_changes(old_files, raw_files))


def file_changes(before: list[dict], now: list[dict]) -> str:
    """What differs between two lists of raw files {name, …}, in words; empty where nothing does."""
    old, new = ({record["name"]: record for record in records} for records in (before, now))
    changed = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    return ", ".join(
        f"{len(names):,} file{'s' * (len(names) > 1)} {what} ({names[0]}{' …' * (len(names) > 1)})"
        for what, names in changed.items()
        if names
    )


def check_same_content(existing: ExistingDataset, card: dict) -> None:
    """UserError unless the changed raw log, whose dataset would have `card`, has the same events up
    to the cut-off: what came later does not count."""
    old = existing.card
    if card["sha256"] == old["sha256"]:
        return
    counts = [
        f"{card[what]:,} {what} instead of {old[what]:,}"
        for what in ("events", "users", "items")
        if card[what] != old[what]
    ]
    raise UserError(
        f"{existing.folder} was made from a different raw log: {existing.changes}; up to the "
        f"cut-off ({old['cutoff'][:10]}) there are now {', '.join(counts) or 'other events'}; "
        f"{REMEDY}"
    )
