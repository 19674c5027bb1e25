"""Memory of the device: an estimate before training, and advice when it runs out."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.config.names import MODELS, load
from src.config.settings import Settings
from src.io.errors import UserError
from src.training.torch_errors import is_out_of_memory

TILE = 32  # least slots of an attention tile; short sequences share one
MARGIN = 3.0  # standard deviations above the mean: a batch of more targets is rare


@dataclass(frozen=True)
class Forecast:
    """Bytes that a training step needs at its peak in one process, by purpose."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    users: int  # of a process in a batch
    tokens: int  # their targets, each a token in each view
    processes: int = 1  # each takes at least one user of a batch

    @property
    def tables(self) -> int:
        """Bytes that do not depend on the batch."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.tables + self.activations

    def __str__(self) -> str:
        return (
            f"memory of a step, about: parameters {size(self.parameters)}, gradients "
            f"{size(self.gradients)}, optimiser {size(self.optimizer)}, activations "
            f"{size(self.activations)} ({self.users} users, {self.tokens} targets); in all "
            f"{size(self.total)}"
        )


def forecast(
    settings: Settings, parameters: int, item_rows: int, lengths: np.ndarray, processes: int = 1
) -> Forecast:
    """Estimate the memory of a training step in each process.

    Parameters and optimiser are exact. Activations are estimated per target, for a batch with
    `MARGIN` standard deviations more targets than the mean; for equal batches the estimate is
    within a quarter of the peak of torch's tensors (tests/runs/test_memory.py). Not included: the
    program itself, some 300 MiB, freed memory that the C library keeps (up to two fifths more on a
    CPU, docs/performance.md), and evaluation.

    Parameters
    ----------
    parameters: number of parameters of the model, the item table included.
    item_rows: V + 1.
    lengths: [users] targets of each user's window.
    """
    recommender = load(MODELS[settings.model].path)
    byte = 8 if settings.precision == "float64" else 4
    table = item_rows * settings.hidden
    gradients = parameters - table * settings.sparse_items
    if settings.loss == "ce":
        gradients += 2 * table  # those of inputs and of scores, before they are summed
    if processes > 1:
        gradients += parameters  # DistributedDataParallel's buckets
    negatives = 2 * byte * settings.drawn_negatives * settings.hidden  # their rows and gradients
    users = max(1, math.ceil(settings.batch_size / processes))
    tokens = _targets(lengths, users, settings.batch_by)
    tile = max(TILE, float((lengths**2).sum() / max(1, lengths.sum())))
    return Forecast(
        parameters=byte * parameters,
        gradients=byte * gradients,
        optimizer=byte * 2 * parameters,
        activations=int(tokens * (recommender.activation_bytes(settings, tile) + negatives)),
        users=users,
        tokens=tokens,
        processes=processes,
    )


def _targets(lengths: np.ndarray, users: int, batch_by: str) -> int:
    """Targets that few batches exceed."""
    if batch_by == "length":
        return int(np.sort(lengths)[-users:].sum())
    expected = users * lengths.mean() + MARGIN * math.sqrt(users) * lengths.std()
    return int(min(expected, users * lengths.max()))


# ------------------------------------------------------------------------ the device's memory


def memory_limit(device: torch.device) -> tuple[float, float]:
    """(available, total) bytes of the device; infinite where unknown."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return float(free), float(total)
    system, container = _system_memory(), _container_memory()
    return min(system[0], container[0]), min(system[1], container[1])


def _system_memory() -> tuple[float, float]:
    """(available, total with swap) bytes, as Linux reports them."""
    status = Path("/proc/meminfo")
    if not status.is_file():
        return math.inf, math.inf
    lines = (line.split() for line in status.read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return kib["MemAvailable"] * 2**10, (kib["MemTotal"] + kib.get("SwapTotal", 0)) * 2**10


def _container_memory() -> tuple[float, float]:
    """(available, total) bytes of this process's control group."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            float((folder / name).read_text().strip().replace("max", "inf"))
            for name in ("memory.max", "memory.current")
        )
    except OSError:
        return math.inf, math.inf
    return limit - used, limit


def check_tables(settings: Settings, parameters: int, device: torch.device) -> None:
    """UserError where parameters and optimiser state, known exactly, exceed the device's memory."""
    _, total = memory_limit(device)
    needed = 3 * parameters * (8 if settings.precision == "float64" else 4)  # and two moments
    if needed > total:
        raise UserError(
            f"parameters and optimiser take {size(needed)}, but the {device.type} has only "
            f"{size(total)}; {smaller_tables(settings)}"
        )


def print_forecast(estimate: Forecast, settings: Settings, device: torch.device) -> None:
    """Print the estimate, and a warning where memory may not suffice."""
    print(estimate, flush=True)
    if warning := shortage(estimate, settings, device):
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def shortage(estimate: Forecast, settings: Settings, device: torch.device) -> str | None:
    """A line where a step probably needs more memory than is available, with flags that fit."""
    free, _ = memory_limit(device)
    if device.type == "cpu":
        free /= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes of this machine
    if estimate.total <= free:
        return None
    needed = f"a step may need {size(estimate.total)}, but only {size(free)} are available"
    return f"{needed}; {smaller_batch(settings, estimate, free)}"


# ------------------------------------------------------------------------ out of memory


@contextmanager
def advise_when_full(what: str, advice: str) -> Iterator[None]:
    """Turn running out of memory into a UserError: what was being done, and what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory while {what}; {advice}") from None


def smaller_ranking(settings: Settings) -> str:
    """The flag and value that halve the memory of ranking."""
    return f"give --eval_users {max(1, settings.eval_users // 2)}, with --resume or --evaluate"


def smaller_batch(settings: Settings, estimate: Forecast, room: float = math.inf) -> str:
    """The flags and values that make a step fit in `room` bytes: its batch halved, more than once
    if needed, or a smaller model where the model needs most of the memory."""
    most, parts = settings.batch_size // estimate.processes, 2
    while estimate.tables + estimate.activations / parts > room and 2 * parts <= most:
        parts *= 2
    if parts > most or estimate.tables > min(room, estimate.activations):
        return smaller_tables(settings)
    batch_size, grad_accum = settings.batch_size // parts, settings.grad_accum * parts
    return f"start a new run with --batch_size {batch_size} --grad_accum {grad_accum}"


def smaller_tables(settings: Settings) -> str:
    """The flag and value that halve the memory of the model and its optimiser."""
    return f"start a new run with --hidden {max(settings.heads, settings.hidden // 2)}"


def size(count: float) -> str:
    """Bytes in MiB or GiB."""
    if math.isinf(count):
        return "unlimited memory"
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
