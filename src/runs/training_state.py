"""Everything that a run needs to go on, taken from a trainer and given back to it."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.evaluation.targets import split_targets
from src.io.errors import UserError
from src.runs.checkpoints import (
    LAST,
    Unusable,
    header,
    load_weights,
    misfit,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from src.runs.tables import METRICS_COLUMNS, Table, print_epoch
from src.training.epoch_statistics import epoch_rows
from src.training.progress import Progress
from src.training.random_state import random_state, restore_all


def state_of(trainer, random: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """One dict with everything that the run needs to go on, of all processes.

    `random` are this process's random states, if not those of now.
    """
    random = random or random_state(trainer.process.device)
    progress, process = trainer.progress, trainer.process
    within = trainer.statistics.state(process.gather) if progress.position else None
    return {
        **header(trainer.settings, trainer.dataset),
        "model": trainer.model.state_dict(),
        **{name: part.state_dict() for name, part in _steppers(trainer)},
        "lc_ntg": trainer.gap.state if len(trainer.paths) == 2 else None,
        "weighting": trainer.weighting.state_dict(),
        **vars(progress),
        "sums": within,
        "random": {name: process.stack(state) for name, state in random.items()},
    }


def save(trainer, path: Path, random: dict[str, Tensor] | None = None) -> None:
    """Write the `state_of` a trainer; all processes call it together."""
    state = state_of(trainer, random)
    trainer.process.agree(lambda: write_checkpoint(path, state))


def load(trainer, path: Path) -> None:
    """Go on from a checkpoint; UserError for one that is missing, torn, or of another run."""
    restore(trainer, read_checkpoint(path, trainer.settings, trainer.dataset), path)


def resume(trainer) -> bool:
    """Go on from the newest good checkpoint of the folder; False where there is none at all.

    UserError where there are some and none is good.
    """
    path, fault = newest_checkpoint(
        trainer.folder, trainer.settings, trainer.dataset,
        lambda state, path: restore(trainer, state, path),
    )  # fmt: skip
    if fault and trainer.process.leads:
        print(f"warning: {fault}", file=sys.stderr, flush=True)
        # else the next one written would make it former.pt, in place of the good one
        (trainer.folder / LAST).unlink(missing_ok=True)
    return path is not None


def restore(trainer, state: dict[str, Any], path: Path) -> None:
    """Put a trainer into a `state_of` its run, read from `path` (Unusable where it does not fit).

    With another number of processes than then, the random states of those that are new are drawn
    from the seed and the step.
    """
    load_weights(trainer.model, state, path)
    try:
        for name, part in _steppers(trainer):
            part.load_state_dict(state[name])
        for optimizer in trainer.optimizers.values():
            _check_moments(optimizer)
        gap_state = state["lc_ntg"]
        if gap_state is not None:
            trainer.gap.state.copy_(gap_state)
        trainer.weighting.load_state_dict(state.get("weighting", {}))
        trainer.progress = Progress(
            epoch=int(state["epoch"]), step=int(state["step"]), best=float(state["best"]),
            best_step=int(state["best_step"]), position=int(state.get("position", 0)),
        )  # fmt: skip
        trainer.statistics = trainer.new_statistics()
        if trainer.progress.position:
            process = trainer.process
            trainer.statistics.load(state["sums"], process.rank, process.processes)
        key = (trainer.settings.seed, trainer.progress.step)
        restore_all(state["random"], trainer.process, key)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise misfit(path, error) from None
    except UserError as error:
        raise Unusable(f"{path}: {error}") from None


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """ValueError unless an optimiser's moments have the shapes of their parameters; loading does
    not look, and the next step would fail."""
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != parameter.shape:
                raise ValueError(f"moments {list(state[name].shape)} of {list(parameter.shape)}")


def fresh_states(trainer) -> dict[str, dict[str, Tensor]]:
    """What a run starts with: the weights, LC-NTG's state, and the loss weighting's own."""
    return {
        "model": trainer.model.state_dict(),
        "lc_ntg": {"state": trainer.gap.state},
        "weighting": trainer.weighting.state_dict(),
    }


def start_from(trainer, states: dict[str, dict[str, Tensor]]) -> None:
    """Take over the `fresh_states` that a former run leaves; what they are worth here is epoch 0 of
    metrics.csv."""
    trainer.model.load_state_dict(states["model"])
    trainer.gap.state.copy_(states["lc_ntg"]["state"])
    trainer.weighting.load_state_dict(states["weighting"])
    results = trainer.validate(split_targets(trainer.dataset, "valid"))
    if trainer.process.leads:
        names = trainer.dataset.domain_names
        rows = epoch_rows((0, 0), None, results, names)
        Table(trainer.folder / "metrics.csv", METRICS_COLUMNS).write(rows)
        print_epoch(trainer.progress, None, results, names, trainer.settings)


def _steppers(trainer):
    """The optimisers and schedulers by their names in a checkpoint."""
    yield from trainer.optimizers.items()
    yield from trainer.schedulers.items()
