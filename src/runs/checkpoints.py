"""Checkpoints: written atomically, and validated when read: version, run and dataset.

A checkpoint is one dict in the zip format of `torch.save`, which keeps a CRC-32 of each record.
`torch.load` does not check them; reading a checkpoint here does.
"""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.config.identity import hash_values, identity, identity_hash
from src.config.settings import BEFORE, Settings
from src.dataset.store.folder import Dataset
from src.io.errors import UserError
from src.io.files import write_atomically
from src.training.torch_errors import is_out_of_memory

FORMAT = 2
READABLE = (1, 2)  # 1 kept LC-NTG's state among the weights, and no hash of the run
BEST = "best.pt"  # the best validation
LAST, FORMER = "last.pt", "former.pt"  # what --resume continues from: the newest, the one before
FAULT = "fault.pt"  # the state before a step that is not finite


def header(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    """The entries of a checkpoint that identify its run."""
    return {
        "format": FORMAT,
        "identity": identity_hash(settings),
        "data_sha256": dataset.card["sha256"],
        "settings": identity(settings),
        "domain_names": dataset.domain_names,
    }


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; an existing last.pt becomes former.pt.

    UserError where the disk is full or read-only; an existing file is then unchanged.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a full disk is then an OSError
            torch.save(state, file)

    write_atomically(path, write, path.with_name(FORMER) if path.name == LAST else None)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint to continue from, valid or not."""
    return any((folder / name).is_file() for name in (LAST, FORMER))


def check_continuable(folder: Path, finished: bool) -> None:
    """UserError where a model was trained in the folder but no checkpoint to continue from is left:
    training would start again and replace it. A `finished` run had one in each of its folders."""
    if not has_checkpoint(folder) and (finished or (folder / BEST).is_file()):
        raise UserError(
            f"{folder / LAST} is missing; no other checkpoint to continue from, rerun with "
            "--overwrite, or give another --run_name"
        )


class Unusable(UserError):
    """A checkpoint that is damaged, or of another run."""

    def __init__(self, fault: str):
        super().__init__(f"{fault}; train again")
        self.fault = fault


def newest_checkpoint(
    folder: Path,
    settings: Settings,
    dataset: Dataset,
    load: Callable[[dict[str, Any], Path], None] | None = None,
) -> tuple[Path | None, str]:
    """The newest valid checkpoint of a run, and a line about a newer one that is not; (None, "")
    where there is no checkpoint.

    `load`, if given, loads it and raises Unusable where it does not fit; otherwise the checkpoint
    is only validated, memory-mapped. UserError where no checkpoint is valid: it names the newest.
    """
    faults: list[str] = []
    for path in (folder / LAST, folder / FORMER):
        if not path.is_file():
            continue
        try:
            state = read_checkpoint(path, settings, dataset, mapped=load is None)
            if load:
                load(state, path)
        except Unusable as error:
            faults.append(error.fault)
            continue
        return path, f"{faults[0]}; continuing from {path.name}" if faults else ""
    if faults:
        raise UserError(
            f"{faults[0]}; no other checkpoint to continue from, rerun with --overwrite"
        )
    return None, ""


def read_checkpoint(
    path: Path, settings: Settings, dataset: Dataset, mapped: bool = False
) -> dict[str, Any]:
    """A checkpoint's dict; nothing in it can run code. `mapped` as in `load_checkpoint`.

    Raises Unusable for a checkpoint that is damaged, or of another dataset or run, and UserError
    where it cannot be read.
    """
    state = load_checkpoint(path, mapped)
    if state["data_sha256"] != dataset.card["sha256"]:
        raise Unusable(
            f"{path} was trained on another dataset (sha256 {state['data_sha256'][:12]}…, "
            f"not {dataset.card['sha256'][:12]}…)"
        )
    if state.get("identity") != identity_hash(settings):
        before = state["settings"]
        # what a setting was that was added after the run
        defaults = {field.name: field.default for field in dataclasses.fields(settings)} | BEFORE
        for name, value in identity(settings).items():
            former = before.get(name, defaults[name])
            if former != value:
                raise Unusable(f"{path} is of another run: --{name} was {former}, now {value}")
        if state["format"] == FORMAT and state.get("identity") != hash_values(before):
            raise Unusable(f"{path} is of another run")
    return state


def load_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint's dict, of any dataset and run, on the CPU.

    With `mapped` the tensors stay in the file until they are read, which saves memory where only
    some of them are needed. Raises Unusable where it is damaged, UserError where it is missing or
    cannot be read.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; train first")
    try:
        with zipfile.ZipFile(path) as records:
            damaged = records.testzip()
        state: Any = None
        if not damaged:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:  # the disk or the network fails; the file may be intact
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, storage
        if is_out_of_memory(error):
            raise
        raise Unusable(f"{path} is damaged ({type(error).__name__})") from None
    if damaged:
        raise Unusable(f"{path} is damaged (wrong checksum of its record {damaged})")
    if not _is_checkpoint(state):
        raise Unusable(f"{path} is not a checkpoint of this version")
    if state["format"] == 1:
        state["model"].pop("gap_state", None)  # a copy of the entry lc_ntg
        state["settings"].pop("lc_ntg_beta", None)  # 0.0 stood for 1 − α
    return state


def _is_checkpoint(state: Any) -> bool:
    """Whether it is a dict of a readable version, each entry of the right type."""
    types = {
        "format": int, "data_sha256": str, "settings": dict, "domain_names": list, "model": dict,
    }  # fmt: skip
    return (
        isinstance(state, dict)
        and all(isinstance(state.get(name), expected) for name, expected in types.items())
        and state["format"] in READABLE
        and all(isinstance(value, torch.Tensor) for value in state["model"].values())
    )


def load_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load the weights of a checkpoint; Unusable where they are of another model."""
    try:
        model.load_state_dict(state["model"])
    except Exception as error:  # names, shapes, types
        raise misfit(path, error) from None


def misfit(path: Path, error: Exception) -> Unusable:
    """The error for a checkpoint that cannot be loaded into this run."""
    reason = " ".join(str(error).split())[:200]
    return Unusable(f"{path} does not fit this run ({type(error).__name__}: {reason})")
