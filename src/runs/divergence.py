"""A loss, gradient or score that is not finite: report it, save the state before it, replay it."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from src.dataset.batching.batch import Batch
from src.evaluation.targets import split_targets
from src.interfaces import StepLosses
from src.io.errors import NotFinite, UserError
from src.runs import training_state
from src.runs.checkpoints import FAULT
from src.training.non_finite import Anomaly, describe_fault, first_fault, report_step
from src.training.trainer import TrainerProtocol

ADVICE = "lower --lr or set --clip_norm"


def in_step(
    trainer: TrainerProtocol,
    losses: list[StepLosses],
    step_batches: list[Batch],
    random: dict[str, Tensor],
) -> NotFinite:
    """The error that names what is not finite in the current step; saves the state that the step
    started from, with the random states `random`."""
    step = next(trainer.loader.shares(trainer.progress.epoch, trainer.progress.position))
    users = [shares[trainer.process.rank] for shares in step]
    names = trainer.dataset.domain_names, trainer.dataset.user_ids
    fault = describe_fault(losses, step_batches, users, trainer.model, names)
    faults = [other for other in trainer.process.gather_objects(fault) if other]
    return _before_step(trainer, f"{first_fault(faults)} is not finite", random)


def in_backward(trainer: TrainerProtocol, anomaly: Anomaly, random: dict[str, Tensor]) -> NotFinite:
    """The same for a NaN that a backward function returned."""
    if trainer.process.processes > 1:  # the others wait for its gradients
        anomaly.agreed = False
        return anomaly
    return _before_step(trainer, str(anomaly), random)


def in_validation(trainer: TrainerProtocol, error: NotFinite) -> NotFinite:
    """The same for a validation score."""
    return NotFinite(f"{error}; {_save(trainer)}")


def replay(trainer: TrainerProtocol, checkpoint: Path) -> Iterator[str]:
    """Compute the step that follows a checkpoint, without updating anything: lines about its losses
    and gradients. Where the epoch's steps are done, the validation."""
    training_state.load(trainer, checkpoint)
    progress = trainer.progress
    yield f"step {progress.position + 1} of epoch {progress.epoch + 1}"
    trainer.model.train()
    step_batches = next(trainer.steps(), None)
    if step_batches is None:
        trainer.validate(split_targets(trainer.dataset, "valid"))
        yield "every score of the validation is finite"
        return
    counts = trainer.count_targets(step_batches)
    coefficients = trainer.coefficients(counts, trainer.weighting.weights())
    losses = trainer.gradients(step_batches, coefficients)
    yield from report_step(losses, step_batches, trainer.dataset.domain_names, trainer.model)


def _before_step(trainer: TrainerProtocol, what: str, random: dict[str, Tensor]) -> NotFinite:
    done = trainer.progress
    return NotFinite(
        f"step {done.position + 1} of epoch {done.epoch + 1}: {what}; {_save(trainer, random)}; "
        f"{ADVICE}"
    )


def _save(trainer: TrainerProtocol, random: dict[str, Tensor] | None = None) -> str:
    """Save the state before a fault; where it is. A full disk must not hide the fault."""
    path = trainer.folder / FAULT
    try:
        training_state.save(trainer, path, random)
    except UserError as error:
        return f"the state before it could not be saved: {error}"
    return f"the state before it is in {path}, for --replay"
