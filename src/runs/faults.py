"""What a run does when something is not finite: name it, save the state before it, replay it."""

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

ADVICE = "lower --lr or set --clip_norm"


def of_step(
    trainer, losses: list[StepLosses], step_batches: list[Batch], random: dict[str, Tensor]
) -> NotFinite:
    """Name what is not finite in the coming step, and save the state that it starts from; `random`
    are the random states before it."""
    step = next(trainer.loader.shares(trainer.progress.epoch, trainer.progress.position))
    users = [shares[trainer.process.rank] for shares in step]
    names = trainer.dataset.domain_names, trainer.dataset.user_ids
    fault = describe_fault(losses, step_batches, users, trainer.model, names)
    faults = [other for other in trainer.process.gather_objects(fault) if other]
    return _before_step(trainer, f"{first_fault(faults)} is not finite", random)


def of_anomaly(trainer, anomaly: Anomaly, random: dict[str, Tensor]) -> NotFinite:
    """The same for a NaN that a backward function has made."""
    if trainer.process.processes > 1:  # the others wait for its gradients
        anomaly.agreed = False
        return anomaly
    return _before_step(trainer, str(anomaly), random)


def of_validation(trainer, error: NotFinite) -> NotFinite:
    """The same for a score of the validation."""
    return NotFinite(f"{error}; {_save(trainer)}")


def replay(trainer, checkpoint: Path) -> Iterator[str]:
    """Compute the step that a checkpoint stands before, and update nothing: lines about its losses
    and gradients. Where the epoch is over, the validation."""
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


def _before_step(trainer, what: str, random: dict[str, Tensor]) -> NotFinite:
    done = trainer.progress
    return NotFinite(
        f"step {done.position + 1} of epoch {done.epoch + 1}: {what}; {_save(trainer, random)}; "
        f"{ADVICE}"
    )


def _save(trainer, random: dict[str, Tensor] | None = None) -> str:
    """Save the state before a fault, and say where; a full disk must not hide the fault."""
    path = trainer.folder / FAULT
    try:
        training_state.save(trainer, path, random)
    except UserError as error:
        return f"the state before it could not be saved: {error}"
    return f"the state before it is in {path}, for --replay"
