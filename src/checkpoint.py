"""Checkpoints as they are read back: whole, of this version, of this dataset and model."""

from pathlib import Path
from typing import Any

import torch

from src.dataset.folder import Dataset
from src.errors import UserError
from src.settings import Settings

CHECKPOINT_FORMAT = 1
MODEL_SETTINGS = (
    "mode", "loss", "sdsr_context", "hidden", "layers", "heads", "max_len", "experts_cross",
    "experts_single", "share_experts", "gate", "towers", "target_domain_query",
)  # fmt: skip


def model_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a checkpoint must agree with."""
    return {name: getattr(settings, name) for name in MODEL_SETTINGS}


def read_checkpoint(
    path: Path, settings: Settings, dataset: Dataset, device: torch.device
) -> dict[str, Any]:
    """A checkpoint's dict; nothing in it can run code.

    Raises UserError for a checkpoint that is missing, torn, of another dataset or model.
    """
    state = load_checkpoint(path, device)
    if state["data_sha256"] != dataset.card["sha256"]:
        raise UserError(
            f"{path} was trained on another dataset (sha256 {state['data_sha256'][:12]}…, "
            f"not {dataset.card['sha256'][:12]}…); train again or open that dataset"
        )
    wanted = model_settings(settings)
    differ = [name for name in wanted if state["settings"].get(name) != wanted[name]]
    if differ:
        raise UserError(
            f"{path} is of another model: --{differ[0]} was "
            f"{state['settings'].get(differ[0])}, now {wanted[differ[0]]}"
        )
    return state


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's dict, of whatever dataset and model; UserError where it is missing or torn."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; train first")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a torn file fails in many ways: zip, pickle, storage
        raise UserError(f"{path} is torn ({type(error).__name__}); train again") from None
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is no checkpoint of this version; train again")
    return state
