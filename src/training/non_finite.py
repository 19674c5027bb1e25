"""Find what is not finite in a training step: which term, of which domain and users, or which
parameter's gradient; and report the losses and gradients of a replayed step."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from src.dataset.batching.batch import Batch
from src.interfaces import StepLosses
from src.io.errors import NotFinite
from src.training.torch_errors import is_anomaly

MAX_NAMED = 3  # users that a message names


class Anomaly(NotFinite):
    """A backward function returned NaN; the text names it."""


@contextmanager
def named_anomalies(wanted: bool) -> Iterator[None]:
    """Check the results of every backward function for NaN: torch prints the traceback of its
    forward pass, and `Anomaly` is raised."""
    if not wanted:
        yield
        return
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    except RuntimeError as error:
        if not is_anomaly(error):
            raise
        raise Anomaly(str(error).rstrip(".")) from None


def describe_fault(
    losses: list[StepLosses],
    step_batches: list[Batch],
    shares: list,
    model: nn.Module,
    names: tuple[Sequence, Sequence],
) -> str | None:
    """The first term or gradient that is not finite in this process's part of a step, or None.

    Parameters
    ----------
    losses, step_batches: of the step.
    shares: the dense ids of each batch's users.
    names: of the domains, and of the users.
    """
    domains, users = names
    for batch_losses, batch, share in zip(losses, step_batches, shares, strict=True):
        for path, values in batch_losses.by_path.items():
            if not torch.isfinite(values).all():
                return _of_targets(path, ~torch.isfinite(values), batch, share, domains, users)
    for batch_losses in losses:
        for term, value in batch_losses.auxiliary.items():
            if not torch.isfinite(value):
                return f"the {term}"
    if not all(bool(torch.isfinite(batch_losses.objective)) for batch_losses in losses):
        return "the weighted sum of the losses"
    for name, gradient in named_gradients(model.named_parameters()):
        if not torch.isfinite(gradient).all():
            return f"the gradient of {name}"
    return None


def _of_targets(
    path: str, wrong: Tensor, batch: Batch, share: Sequence, domains: Sequence, users: Sequence
) -> str:
    """The loss of the `wrong` targets [N] of a view: their first domain, and its users."""
    domain_of = torch.arange(len(batch.counts)).repeat_interleave(batch.domain_counts.cpu())
    wrong, view = wrong.cpu(), batch.cross  # a sequence of that view is a user
    domain = int(domain_of[wrong][0])
    wrong_here = wrong & (domain_of == domain)
    rows = view.sequence_ids[view.target_slots].cpu()[wrong_here].unique().tolist()
    shown = ", ".join(str(users[int(share[row])]) for row in rows[:MAX_NAMED])
    more = f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else ""
    return f"the {path} loss of {domains[domain]} (users {shown}{more})"


def report_step(
    losses: list[StepLosses], step_batches: list[Batch], domains: list[str], model: nn.Module
) -> Iterator[str]:
    """Lines about a step: the losses of each domain, and the gradient of each parameter."""
    for number, (batch_losses, batch) in enumerate(zip(losses, step_batches, strict=True), 1):
        which = f"batch {number} of {len(losses)}: " if len(losses) > 1 else ""
        for path, values in batch_losses.by_path.items():
            for name, part in zip(domains, values.split(batch.counts), strict=True):
                if len(part):
                    yield which + _line(f"{path} loss of {name}", part, "targets")
        for term, value in batch_losses.auxiliary.items():
            yield which + _line(term, value.detach()[None], "values")
    for name, gradient in named_gradients(model.named_parameters()):
        yield _line(f"gradient of {name}", gradient, "numbers", norm=True)


def first_fault(faults: list[str]) -> str:
    """Of the processes' faults the one to report: a loss rather than a gradient that follows from
    it. Where there is none, all gradients are finite and their norm overflows."""
    return min(
        faults,
        key=lambda part: part.startswith("the gradient"),
        default="the norm of all gradients",
    )


def named_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """(parameter's name, gradient) of all gradients; of a sparse one its values."""
    for name, parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            yield name, gradient._values() if gradient.is_sparse else gradient


def _line(what: str, values: Tensor, unit: str, norm: bool = False) -> str:
    wrong = int((~torch.isfinite(values)).sum())
    size = f"norm {values.norm():.4g}" if norm else f"mean {values.mean():.4g}"
    bad = f", {wrong} of {values.numel()} {unit} NOT FINITE" if wrong else ""
    return f"{what}: {size}{bad}"
