"""Checkpoints: written whole, and read back whole, of this version, run and dataset.

A checkpoint is one dict in the zip format of `torch.save`, which keeps a CRC-32 of each record.
`torch.load` does not look at them; reading one back here does.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.config.identity import identity, identity_hash
from src.config.settings import Settings
from src.dataset.store.folder import Dataset
from src.io.errors import UserError
from src.io.files import write_atomically
from src.training.memory import is_out_of_memory

FORMAT = 2
READABLE = (1, 2)  # 1 kept LC-NTG's state among the weights, and no hash of the run
BEST = "best.pt"  # the best validation
LAST, FORMER = "last.pt", "former.pt"  # what --resume goes on from: the newest, the one before it
FAULT = "fault.pt"  # before the step that was not finite


def header(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of the run that it belongs to."""
    return {
        "format": FORMAT,
        "identity": identity_hash(settings),
        "data_sha256": dataset.card["sha256"],
        "settings": identity(settings),
        "domain_names": dataset.domain_names,
    }


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the last.pt that stood there becomes former.pt.

    UserError where the disk is full or read-only: what stood there before still does.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a full disk is then an OSError
            torch.save(state, file)

    write_atomically(path, write, path.with_name(FORMER) if path.name == LAST else None)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something to go on from, good or not."""
    return any((folder / name).is_file() for name in (LAST, FORMER))


class Unusable(UserError):
    """A checkpoint that is torn, or of another run."""

    def __init__(self, fault: str):
        super().__init__(f"{fault}; train again")
        self.fault = fault


def newest_checkpoint(
    folder: Path,
    settings: Settings,
    dataset: Dataset,
    load: Callable[[dict[str, Any], Path], None] | None = None,
) -> tuple[Path | None, str]:
    """The newest good checkpoint of a run, and a line about a newer one that is not; (None, "")
    where there is none at all.

    With `load` a good one is also loaded by it, which raises Unusable where it does not fit;
    without, it is only looked at, and stays mapped. UserError where there are some and none is
    good: it names the newest.
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

    Raises Unusable for a checkpoint that is torn, or of another dataset or run, and UserError where
    it cannot be read.
    """
    state = load_checkpoint(path, mapped)
    if state["data_sha256"] != dataset.card["sha256"]:
        raise Unusable(
            f"{path} was trained on another dataset (sha256 {state['data_sha256'][:12]}…, "
            f"not {dataset.card['sha256'][:12]}…)"
        )
    if state.get("identity") != identity_hash(settings):
        before = state["settings"]  # a setting that came after the run is not in it
        for name, value in identity(settings).items():
            if before.get(name, value) != value:
                raise Unusable(
                    f"{path} is of another run: --{name} was {before[name]}, now {value}"
                )
        if state["format"] == FORMAT:
            raise Unusable(f"{path} is of another run")
    return state


def load_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint's dict, of whatever dataset and run, on the CPU.

    With `mapped` the tensors stay in the file until they are read: for those who want some of them,
    once. With a large catalogue the moments alone are two more tables in memory. Raises Unusable
    where it is torn, UserError where it is missing or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; train first")
    try:
        with zipfile.ZipFile(path) as records:
            damaged = records.testzip()
        state = None
        if not damaged:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:  # a disk or a network that fails; the file may be good
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a torn file fails in many ways: zip, pickle, storage
        if is_out_of_memory(error):
            raise
        raise Unusable(f"{path} is torn ({type(error).__name__})") from None
    if damaged:
        raise Unusable(f"{path} is torn (its record {damaged} was changed)")
    if not _is_checkpoint(state):
        raise Unusable(f"{path} is not a checkpoint of this version")
    if state["format"] == 1:
        state["model"].pop("gap_state", None)  # also under the key lc_ntg
        state["settings"].pop("lc_ntg_beta", None)  # 0.0 stood for 1 − α
    return state


def _is_checkpoint(state: Any) -> bool:
    """Whether it is a dict with the fields of a readable version, each of its type."""
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
    """Load the weights of a checkpoint; Unusable where they are those of another model."""
    try:
        model.load_state_dict(state["model"])
    except Exception as error:  # names, shapes, types
        raise misfit(path, error) from None


def misfit(path: Path, error: Exception) -> Unusable:
    """A checkpoint of this run's name that cannot be loaded into it."""
    reason = " ".join(str(error).split())[:200]
    return Unusable(f"{path} does not fit this run ({type(error).__name__}: {reason})")
