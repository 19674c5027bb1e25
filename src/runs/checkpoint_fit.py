"""Whether a checkpoint's dict fits the run that takes it up, held against what the run itself has.

Loading a state into a module or an optimiser checks a part of it and fails in many ways, or only
at the next step; this looks at all of it before anything is changed.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.training.epoch_statistics import EpochSums
from src.training.non_finite import PATHS
from src.io.json_schema import MAX_COUNT, repr_short

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam, AdamW and SparseAdam keep of a parameter
OPTIONS = {"params", "lr", "betas", "eps", "weight_decay"}  # what none of them fills in by itself
OF_PROCESSES = ("losses", "counts")  # sums of an epoch that are stacked by process


@dataclass(frozen=True)
class Own:
    """What a run has that a checkpoint of it must fit, besides the weights."""

    optimizers: dict[str, torch.optim.Optimizer]
    schedulers: dict[str, torch.optim.lr_scheduler.LRScheduler]
    sums: EpochSums
    random: dict[str, Tensor]  # by device type
    steps: int  # of an epoch


def misfit_line(source: Path, fault: str) -> str:
    """What is said of a checkpoint that is whole and not of this run."""
    return f"{source} does not fit this run ({fault})"


def state_misfit(state: dict[str, Any], own: Own) -> str:
    """Where a checkpoint's dict is not one of the run, its weights apart; empty where it is."""
    position = state.get("position", 0)
    fixed = {"epoch": 0, "step": 0, "best": 0.0, "best_step": 0}
    fixed |= {
        name: _known(one.state_dict(), state.get(name), {"last_epoch", "base_lrs", "lr_lambdas"})
        for name, one in own.schedulers.items()
    }
    faults = [
        *(optimizer_misfit(state.get(name), one, name) for name, one in own.optimizers.items()),
        unlike(state, fixed, "the state"),
        unlike(position, 0, "position"),
        random_misfit(state.get("random"), own.random),
    ]
    if not any(faults):
        # each is of a function, which keeps nothing
        kept = (
            name
            for name in own.schedulers
            if set(map(type, state[name]["lr_lambdas"])) != {type(None)}
        )
        faults += [f"{name}.lr_lambdas is not empty" for name in kept]
    if not any(faults) and position > own.steps:
        faults.append(f"position {position} is beyond the epoch")
    if position:
        faults.append(sums_misfit(state.get("sums"), own.sums.state(lambda one: [one])))
    return next(filter(None, faults), "")


def unlike(found: Any, own: Any, place: str) -> str:
    """Where `found` is not of the structure of `own`; empty where it is.

    Tensors are of one shape and kind, dicts have all keys, lists are of one length, numbers are
    numbers and not NaN; None in `own` stands for anything, and further keys are not looked at.
    """
    if isinstance(own, Tensor):
        return _unlike_tensor(found, own, place)
    if isinstance(own, dict):
        if not isinstance(found, dict):
            return f"{place} is {_kind(found)}"
        missing = next((name for name in own if name not in found), None)
        if missing is not None:
            return f"{place} has no {missing}"
        parts = ((found[name], value, f"{place}.{name}") for name, value in own.items())
    elif isinstance(own, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(own):
            return f"{place} is {_kind(found)}"
        parts = ((one, value, place) for one, value in zip(found, own, strict=True))
    else:
        return _unlike_value(found, own, place)
    return next(filter(None, (unlike(*part) for part in parts)), "")


def _known(own: dict[str, Any], found: Any, needed: set[str]) -> dict[str, Any]:
    """Of `own` what is needed, and what `found` has too: other versions of torch keep more or less
    of an optimiser, and fill in the rest."""
    has = found if isinstance(found, dict) else {}
    return {name: value for name, value in own.items() if name in needed or name in has}


def _unlike_tensor(found: Any, own: Tensor, place: str) -> str:
    if not isinstance(found, Tensor):
        return f"{place} is {_kind(found)}"
    if found.shape != own.shape:
        return f"{place} is {list(found.shape)}, not {list(own.shape)}"
    kinds = (found.is_floating_point(), found.is_complex(), found.layout)
    if kinds != (own.is_floating_point(), own.is_complex(), own.layout):
        return f"{place} is {found.dtype} {found.layout}, not {own.dtype} {own.layout}"
    return ""


def _unlike_value(found: Any, own: Any, place: str) -> str:
    if own is None:
        return ""
    if isinstance(own, float):
        fits = type(found) in (int, float) and not math.isnan(found)
    elif isinstance(own, int) and not isinstance(own, bool):
        fits = type(found) is int and 0 <= found <= MAX_COUNT
    else:
        fits = type(found) is type(own)
    return "" if fits else f"{place} is {_kind(found)}"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else repr_short(value)


def optimizer_misfit(state: Any, optimizer: torch.optim.Optimizer, name: str) -> str:
    """Where an optimiser's state is not that of its parameters; empty where it is."""
    own = optimizer.state_dict()["param_groups"]
    if fault := unlike(state, {"param_groups": [None] * len(own), "state": {}}, name):
        return fault
    for group, found in zip(own, state["param_groups"], strict=True):
        place = f"{name}.param_groups"
        if fault := unlike(found, _known(group, found, OPTIONS), place):
            return fault
        if found["params"] != group["params"]:
            return f"{place} is of other parameters"
        for option, value in group.items():
            if type(value) in (bool, type(None)) and found.get(option, value) is not value:
                return f"{place}.{option} is {_kind(found[option])}"
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for number, moments in state["state"].items():
        place = f"{name}.state.{repr_short(number)}"
        if type(number) is not int or not 0 <= number < len(parameters):
            return f"{place} is of no parameter"
        if not isinstance(moments, dict) or not moments.keys() >= MOMENTS:
            return f"{place} lacks moments"
        parameter = parameters[number].detach()
        if fault := unlike(moments, dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter), place):
            return fault
        step = moments["step"]
        if unlike(step, torch.zeros(()), place) and unlike(step, 0, place):
            return f"{place}.step is {_kind(step)}"
    return ""


def sums_misfit(state: Any, own: dict[str, Any]) -> str:
    """Where the sums of an epoch's part are not as `own`, those of one process; empty where they
    are. Some are stacked by process, of which there may have been another number."""
    if fault := unlike(state, dict.fromkeys(own), "sums"):
        return fault
    for name, value in own.items():
        found, place = state[name], f"sums.{name}"
        if name == "gammas":
            value = value.new_zeros(
                len(found) if isinstance(found, Tensor) else 0, *value.shape[1:]
            )
        if name in OF_PROCESSES:
            if not isinstance(found, Tensor) or not found.dim() or not len(found):
                return f"{place} is {_kind(found)}"
            found, value = found[0], value[0]
        if isinstance(value, Tensor) and (fault := unlike(found, value, place)):
            return fault
    if not isinstance(state["paths"], list) or not set(map(str, state["paths"])) <= set(PATHS):
        return "sums.paths names no paths"
    return ""


def random_misfit(states: Any, own: dict[str, Tensor]) -> str:
    """Where the random states, [P, bytes] by device type, are none of this machine's kind; empty
    where they are. A device type that is missing is no fault."""
    if not isinstance(states, dict) or "cpu" not in states:
        return f"random is {_kind(states)}"
    for kind, value in own.items():
        found = states.get(kind, value)
        if not isinstance(found, Tensor) or found.dim() not in (1, 2) or not len(found):
            return f"random.{kind} is {_kind(found)}"
        if found.shape[-1:] != value.shape or found.dtype != torch.uint8:
            return f"random.{kind} is {list(found.shape)} {found.dtype}"
    return ""
