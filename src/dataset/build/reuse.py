"""Whether a dataset folder that exists is the one asked for."""

import dataclasses
from pathlib import Path

from src.config.dataset_settings import DatasetSettings
from src.dataset.store.card_schema import CONSOLE_SCHEMA, REUSE_SCHEMA, card_error
from src.dataset.store.folder import FORMAT, open_dataset
from src.dataset.store.verify import verify_dataset
from src.io.errors import UserError
from src.io.json_schema import read_json

HINT = "name a folder beside it with --variant NAME, or remove it"


def existing_card(folder: Path, options: dict, raw_files: list[dict]) -> dict | None:
    """The card of a folder made from the same raw files with the same options; None without one.

    UserError when the folder holds something else: it is never overwritten.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    path = folder / "data_card.json"
    if not path.is_file():
        raise UserError(f"{folder} exists and is no dataset folder; choose another --out_dir")
    card = read_json(path, "the data card", REUSE_SCHEMA, HINT)
    version, old_options, old_files = card["format"], card["options"], card["raw_files"]
    if version != FORMAT:
        raise UserError(f"{folder} has format {version}, this version writes {FORMAT}; {HINT}")
    # an option that came after the folder has the value that the folder was made with
    defaults = {field.name: field.default for field in dataclasses.fields(DatasetSettings)}
    had = defaults | old_options
    different = [name for name in options if had[name] != options[name]]
    if different:
        changes = ", ".join(f"--{name} {had[name]}" for name in different)
        raise UserError(f"{folder} was made with other options ({changes}); {HINT}")
    if old_files != raw_files:
        raise UserError(f"{folder} was made from another raw log; {HINT}")
    fault = card_error(card, CONSOLE_SCHEMA)
    try:
        verify_dataset(open_dataset(folder))
    except UserError as error:
        fault = fault or str(error)
    if fault:
        raise UserError(f"{folder} is damaged, remove it: {fault}")
    return card
