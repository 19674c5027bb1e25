"""Checkpoints: written whole, and read back whole, of this version, of this dataset and model.

A checkpoint is one dict in the zip format of `torch.save`, which keeps a CRC-32 of each record.
`torch.load` does not look at them; reading one back here does.
"""

import dataclasses
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.dataset.store.folder import Dataset
from src.io.errors import UserError
from src.io.files import write_atomically
from src.runs.checkpoint_fit import misfit_line, unlike
from src.training.memory import is_out_of_memory
from src.config.settings import MAY_GROW, RUN_ONLY, SCORING, Settings
from src.io.json_schema import repr_short

CHECKPOINT_FORMAT = 1
MODEL_SETTINGS = (
    "mode", "loss", "sdsr_context", "hidden", "layers", "heads", "max_len", "experts_cross",
    "experts_single", "share_experts", "gate", "towers", "target_domain_query",
)  # fmt: skip
PLACE = {"data_name", "strd_ym", "variant", "data_dir"}  # the dataset is known by its hash
BEST = "best.pt"  # the best validation
LAST, FORMER = "last.pt", "former.pt"  # what --resume goes on from: the newest, the one before it
FAULT = "fault.pt"  # before the step that was not finite


@dataclass
class Progress:
    """How far the run is; saved with every checkpoint."""

    epoch: int = 0  # epochs done
    step: int = 0  # optimiser steps done
    best: float = -math.inf  # best validation metric
    best_step: int = 0
    position: int = 0  # optimiser steps done of the epoch after those

    def finished(self, settings: Settings) -> bool:
        """Whether the epochs are done, or the patience is over after the minimum of steps."""
        if self.position:  # an epoch that has begun is done, and validated, before that is asked
            return False
        if self.epoch >= settings.max_epochs:
            return True
        waited = self.step - self.best_step
        return (
            self.epoch > 0 and self.step >= settings.min_steps and waited >= settings.patience_steps
        )

    def note(self, value: float) -> bool:
        """Remember a validation metric of now; True when it is the best so far."""
        if value <= self.best:
            return False
        self.best, self.best_step = value, self.step
        return True

    def __str__(self) -> str:
        within = f"step {self.position} of epoch {self.epoch + 1}"
        return within if self.position else f"epoch {self.epoch}"


def model_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a checkpoint must agree with."""
    return {name: getattr(settings, name) for name in MODEL_SETTINGS}


def run_settings(settings: Settings) -> dict[str, Any]:
    """The settings that tell one run from another; they are in a checkpoint."""
    free = RUN_ONLY | SCORING | MAY_GROW | PLACE
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in free}


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the last.pt that stood there becomes former.pt.

    UserError where the disk is full or read-only: what stood there before still does.
    """
    former = path.with_name(FORMER) if path.name == LAST else None

    def write(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer says no more of a full disk
            if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
                raise
            raise OSError(f"{str(error).splitlines()[0]}; is the disk full?") from None

    write_atomically(path, write, former)


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
    check: Callable[[dict[str, Any], Path], None] | None = None,
) -> tuple[dict[str, Any] | None, str]:
    """The newest good checkpoint of a run, and a line about a newer one that is not; (None, "")
    where there is none at all.

    With `check` a good one also passes it, and raises Unusable otherwise; without, the checkpoint
    is only looked at, and stays mapped. UserError where there are some and none is good: it names
    the newest.
    """
    faults: list[str] = []
    for path in (folder / LAST, folder / FORMER):
        if not path.is_file():
            continue
        try:
            state = read_checkpoint(path, settings, dataset, mapped=check is None)
            _check_run(path, state, settings)
            if check:
                check(state, path)
        except Unusable as error:
            faults.append(error.fault)
            continue
        return state, f"{faults[0]}; going on from {path.name}" if faults else ""
    if faults:
        raise UserError(f"{faults[0]}; no other checkpoint to go on from, so give --overwrite")
    return None, ""


def read_checkpoint(
    path: Path, settings: Settings, dataset: Dataset, mapped: bool = False
) -> dict[str, Any]:
    """A checkpoint's dict; nothing in it can run code. `mapped` as in `load_checkpoint`.

    Raises Unusable for a checkpoint that is torn, of another dataset or model, and UserError where
    it cannot be read.
    """
    state = load_checkpoint(path, mapped)
    if state["data_sha256"] != dataset.card["sha256"]:
        raise Unusable(
            f"{path} was trained on another dataset (sha256 {state['data_sha256'][:12]}…, "
            f"not {dataset.card['sha256'][:12]}…)"
        )
    before, wanted = state["settings"], model_settings(settings)
    differ = next((name for name in wanted if before.get(name) != wanted[name]), None)
    if differ:
        raise Unusable(
            f"{path} is of another model: --{differ} was {before.get(differ)}, now {wanted[differ]}"
        )
    return state


def _check_run(path: Path, state: dict[str, Any], settings: Settings) -> None:
    """Refuse a checkpoint of another run; one of an older version names fewer settings."""
    before = state["settings"]
    for name, value in run_settings(settings).items():
        if before.get(name, value) != value:
            raise Unusable(f"{path} is of another run: --{name} was {before[name]}, now {value}")


def load_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint's dict, of whatever dataset and model, on the CPU.

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
        raise Unusable(f"{path} is no checkpoint of this version")
    return state


def _is_checkpoint(state: Any) -> bool:
    """Whether it is a dict with the fields of this version, each of its kind."""
    kinds = {
        "format": int,
        "data_sha256": str,
        "settings": dict,
        "domain_names": list,
        "model": dict,
    }
    return (
        isinstance(state, dict)
        and all(isinstance(state.get(name), kind) for name, kind in kinds.items())
        and state["format"] == CHECKPOINT_FORMAT
        and all(isinstance(value, str | int | float) for value in state["settings"].values())
        and all(isinstance(value, torch.Tensor) for value in state["model"].values())
    )


def check_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Refuse the weights of another model (Unusable)."""
    own, found = model.state_dict(), state["model"]
    fault = unlike(found, own, "model")
    other = sorted(map(str, found.keys() - own.keys()))
    if fault or other:
        raise Unusable(misfit_line(path, fault or f"model has {repr_short(other[0])}"))
