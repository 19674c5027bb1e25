"""Naming what is not finite in a training step: which term, of which domain and users, or which
parameter's gradient; and a step that is computed again to be looked at."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from src.io.errors import NotFinite

NAMED = 3  # users that a line names


class Anomaly(NotFinite):
    """A backward function has made a NaN; the text says which."""


@contextmanager
def named_anomalies(wanted: bool) -> Iterator[None]:
    """Have torch look for NaN in what every backward function returns: it prints where in the
    forward pass the function comes from, and `Anomaly` is raised."""
    if not wanted:
        yield
        return
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    except RuntimeError as error:
        if "nan values" not in str(error):
            raise
        raise Anomaly(str(error).rstrip(".")) from None


def describe_fault(
    losses: list, step_batches: list, shares: list, model: nn.Module, names: tuple[list, list]
) -> str | None:
    """The first thing that is not finite in this process's part of a step; None where all is.

    Parameters
    ----------
    losses: the StepLosses (src/interfaces.py) of the step's batches.
    step_batches: these.
    shares: the users of each batch, by their numbers.
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


def _of_targets(path: str, wrong: Tensor, batch, share, domains: list, users: list) -> str:
    """The loss of the `wrong` targets [N] of a view: their first domain, and its users."""
    domain_of = torch.arange(len(batch.counts)).repeat_interleave(batch.domain_counts.cpu())
    wrong, view = wrong.cpu(), batch.cross  # a sequence of that view is a user
    domain = int(domain_of[wrong][0])
    own = wrong & (domain_of == domain)
    rows = view.sequence_ids[view.target_slots].cpu()[own].unique().tolist()
    shown = ", ".join(str(users[int(share[row])]) for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"the {path} loss of {domains[domain]} (users {shown}{more})"


def report_step(losses: list, step_batches: list, domains: list, model: nn.Module) -> Iterator[str]:
    """Lines about a step: each loss by domain, and the gradients by parameter."""
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


def first_fault(told: list[str]) -> str:
    """Of what the processes describe, the one to name: a loss before the gradients that follow from
    it. Where all of them are finite, it is the sum behind their norm that overflows."""
    return min(
        told,
        key=lambda part: part.startswith("the gradient"),
        default="the norm of all gradients",
    )


def named_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """The gradients that are there, by parameter; of sparse ones the values."""
    for name, parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            yield name, gradient._values() if gradient.is_sparse else gradient


def _line(what: str, values: Tensor, unit: str, norm: bool = False) -> str:
    wrong = int((~torch.isfinite(values)).sum())
    size = f"norm {values.norm():.4g}" if norm else f"mean {values.mean():.4g}"
    bad = f", {wrong} of {values.numel()} {unit} NOT FINITE" if wrong else ""
    return f"{what}: {size}{bad}"
