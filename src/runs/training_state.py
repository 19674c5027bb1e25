"""The complete state of a trainer: saved in checkpoints, and restored from them."""

import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

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
from src.training.optimizer import lr_share, make_optimizers, make_schedulers
from src.training.progress import Progress
from src.training.random_state import random_state, restore_all
from src.training.torch_errors import is_out_of_memory
from src.training.trainer import TrainerProtocol


def state_of(trainer: TrainerProtocol, random: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """One dict with everything needed to continue the run, of all processes.

    `random` are this process's random states, by default the current ones.
    """
    random = random or random_state(trainer.process.device)
    progress, process = trainer.progress, trainer.process
    sums = trainer.statistics.state(process.gather) if progress.position else None
    return {
        **header(trainer.settings, trainer.dataset),
        "model": trainer.model.state_dict(),
        **{name: part.state_dict() for name, part in _steppers(trainer).items()},
        "lc_ntg": trainer.gap.state if len(trainer.paths) == 2 else None,
        "weighting": trainer.weighting.state_dict(),
        **vars(progress),
        "sums": sums,
        "random": {name: process.stack(state) for name, state in random.items()},
    }


def save(trainer: TrainerProtocol, path: Path, random: dict[str, Tensor] | None = None) -> None:
    """Write the state of a trainer; all processes call it together."""
    state = state_of(trainer, random)
    trainer.process.agree(lambda: write_checkpoint(path, state))


def load(trainer: TrainerProtocol, path: Path) -> None:
    """Continue from a checkpoint; UserError if it is missing, damaged or of another run."""
    restore(trainer, read_checkpoint(path, trainer.settings, trainer.dataset), path)


def resume(trainer: TrainerProtocol) -> bool:
    """Continue from the newest valid checkpoint of the folder; False where there is none.

    UserError where there are checkpoints but none is valid.
    """
    path, fault = newest_checkpoint(
        trainer.folder, trainer.settings, trainer.dataset,
        lambda state, path: restore(trainer, state, path),
    )  # fmt: skip
    if fault and trainer.process.leads:
        print(f"warning: {fault}", file=sys.stderr, flush=True)
        # or the next checkpoint would make it former.pt, in place of the valid one
        (trainer.folder / LAST).unlink(missing_ok=True)
    return path is not None


def restore(trainer: TrainerProtocol, state: dict[str, Any], path: Path) -> None:
    """Restore the state read from `path` (Unusable where it does not fit).

    With more processes than before, the additional ones are seeded from the seed and the step.
    """
    load_weights(trainer.model, state, path)
    try:
        for name, part in _steppers(trainer).items():
            part.load_state_dict(state[name])
        trainer.progress = Progress(
            epoch=int(state["epoch"]), step=int(state["step"]), best=float(state["best"]),
            best_step=int(state["best_step"]), position=int(state.get("position", 0)),
        )  # fmt: skip
        _check_progress(trainer)
        _check_steppers(trainer)
        gap_state = state["lc_ntg"]
        if gap_state is not None:
            trainer.gap.state.copy_(gap_state)
        trainer.weighting.load_state_dict(state.get("weighting", {}))
        trainer.statistics = trainer.new_statistics()
        if trainer.progress.position:
            process = trainer.process
            trainer.statistics.load(state["sums"], process.rank, process.processes)
        key = (trainer.settings.seed, trainer.progress.step)
        restore_all(state["random"], trainer.process, key)
    except UserError as error:
        raise Unusable(f"{path}: {error}") from None
    except Exception as error:  # an edited checkpoint fails in many ways
        if is_out_of_memory(error):
            raise
        raise misfit(path, error) from None


def _check_progress(trainer: TrainerProtocol) -> None:
    """ValueError for a step that the run does not have."""
    progress, steps = trainer.progress, trainer.loader.steps_per_epoch
    if (
        not 0 <= progress.epoch <= trainer.settings.max_epochs
        or not 0 <= progress.position <= steps
        or progress.step != progress.epoch * steps + progress.position
    ):
        raise ValueError(f"no step {progress.step} in epoch {progress.epoch + 1}")


def _check_steppers(trainer: TrainerProtocol) -> None:
    """ValueError unless optimisers and schedules are those of the settings at the run's step, and
    moments have the shapes of their parameters. torch loads anything else and fails later."""
    settings, steps = trainer.settings, trainer.loader.steps_per_epoch
    step = trainer.progress.step
    lr = settings.lr * lr_share(step, settings, steps)
    optimizers = make_optimizers(trainer.model, settings, trainer.model.item_table)
    schedulers = make_schedulers(optimizers, settings, steps)
    for name, new in optimizers.items():
        groups = (part.state_dict()["param_groups"][0] for part in (trainer.optimizers[name], new))
        loaded, expected = groups
        _check_entries(name, loaded, expected | {"lr": lr})
    for name, new_schedule in schedulers.items():
        moved = {"last_epoch": step, "_step_count": step + 1, "_last_lr": [lr]}
        loaded = trainer.schedulers[name].state_dict()
        _check_entries(name, loaded, new_schedule.state_dict() | moved)
    for optimizer in trainer.optimizers.values():
        for parameter, state in optimizer.state.items():
            float(state["step"])  # raises unless it is a number
            for name in ("exp_avg", "exp_avg_sq"):
                moment = state[name]
                if moment.shape != parameter.shape or moment.is_sparse:
                    raise ValueError(f"moments {list(moment.shape)} of {list(parameter.shape)}")


def _check_entries(name: str, loaded: dict[str, Any], expected: dict[str, Any]) -> None:
    """ValueError where a loaded state lacks an entry, or has another value or type."""
    wrong = [
        entry
        for entry, value in expected.items()
        if loaded.get(entry) != value or type(loaded.get(entry)) is not type(value)
    ]
    if wrong:
        raise ValueError(f"{name} has another {wrong[0]}")


def fresh_states(trainer: TrainerProtocol) -> dict[str, dict[str, Tensor]]:
    """The initial states of a run: of the model, LC-NTG and the loss weighting."""
    return {
        "model": trainer.model.state_dict(),
        "lc_ntg": {"state": trainer.gap.state},
        "weighting": trainer.weighting.state_dict(),
    }


def start_from(trainer: TrainerProtocol, states: dict[str, dict[str, Tensor]]) -> None:
    """Start from states carried over from a former run; their validation metrics are epoch 0 of
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


def _steppers(trainer: TrainerProtocol) -> dict[str, Optimizer | LRScheduler]:
    """{name in a checkpoint: optimiser or scheduler}."""
    return {**trainer.optimizers, **trainer.schedulers}
