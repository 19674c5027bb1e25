"""What a run's memory goes to, told before it begins; and running out of it, told in one line."""

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

TILE = 32  # a short sequence shares a tile of attention of so many slots
MARGIN = 3.0  # standard deviations above the mean: a batch of more tokens is rare


@dataclass(frozen=True)
class Forecast:
    """Bytes that a training step holds at its peak in one process, by what holds them."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    users: int  # of a batch
    tokens: int  # targets of a batch, each a token in each view

    @property
    def tables(self) -> int:
        """What is held whatever the batch."""
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
    """What a training step will hold in each process.

    Parameters and optimiser are exact. Activations are counted from what the model keeps of a
    target, for a batch of `MARGIN` standard deviations more targets than the mean; for equal
    batches the peak of torch's tensors lies within a quarter (tests/runs/test_memory.py). Left
    out: the program itself, some 300 MiB, what the C library keeps of freed tensors (up to two
    fifths more on a CPU, docs/performance.md), and evaluation.

    Parameters
    ----------
    parameters: numbers that the model has, the item table's among them.
    item_rows: V + 1.
    lengths: [users] targets of each user's window.
    """
    recommender = load(MODELS[settings.model].path)
    byte = 8 if settings.precision == "float64" else 4
    table = item_rows * settings.hidden
    gradients = parameters - table * settings.sparse_items
    if settings.loss == "ce":
        gradients += 2 * table  # those of inputs and of scores, before they are added up
    if processes > 1:
        gradients += parameters  # DistributedDataParallel's buckets
    users = max(1, math.ceil(settings.batch_size / processes))
    tokens = _targets(lengths, users, settings.batch_by)
    tile = max(TILE, float((lengths**2).sum() / max(1, lengths.sum())))
    return Forecast(
        parameters=byte * parameters,
        gradients=byte * gradients,
        optimizer=byte * 2 * parameters,
        activations=int(tokens * recommender.activation_bytes(settings, tile)),
        users=users,
        tokens=tokens,
    )


def _targets(lengths: np.ndarray, users: int, batch_by: str) -> int:
    """Targets of a batch that hardly any batch is above."""
    if batch_by == "length":
        return int(np.sort(lengths)[-users:].sum())
    expected = users * lengths.mean() + MARGIN * math.sqrt(users) * lengths.std()
    return int(min(expected, users * lengths.max()))


# ------------------------------------------------------------------------ what there is


def memory_limit(device: torch.device) -> tuple[float, float]:
    """Bytes that can be had now, and bytes that the device has at most; infinity where unknown."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return float(free), float(total)
    free, total = _system_memory()
    group = _group_limit()
    if group is None:
        return free, total
    return min(free, group[0] - group[1]), min(total, group[0])


def _system_memory() -> tuple[float, float]:
    """What Linux says is available, and what there is with swap."""
    status = Path("/proc/meminfo")
    if not status.is_file():
        return math.inf, math.inf
    lines = (line.split() for line in status.read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return kib["MemAvailable"] * 2**10, (kib["MemTotal"] + kib.get("SwapTotal", 0)) * 2**10


def _group_limit() -> tuple[float, float] | None:
    """Limit and use of the control group, as containers have one."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (folder / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
    except OSError:
        return None
    return None if limit == "max" else (float(limit), float(used))


def check_tables(settings: Settings, parameters: int, device: torch.device) -> None:
    """UserError where parameters and optimiser state, which are no estimate, are larger than all
    memory of the device."""
    _, total = memory_limit(device)
    needed = 3 * parameters * (8 if settings.precision == "float64" else 4)  # and two moments
    if needed > total:
        raise UserError(
            f"parameters and optimiser take {size(needed)}, and the {device.type} has "
            f"{size(total)}; {smaller_tables(settings)}"
        )


def tell(found: Forecast, settings: Settings, device: torch.device) -> None:
    """One line on what memory a step needs, and a warning where it may not be there."""
    print(found, flush=True)
    if short := shortage(found, settings, device):
        print(f"warning: {short}", file=sys.stderr, flush=True)


def shortage(found: Forecast, settings: Settings, device: torch.device) -> str | None:
    """A line where a step is likely to need more than can be had now, with what would fit."""
    free, _ = memory_limit(device)
    if device.type == "cpu":
        free /= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes of this machine
    if found.total <= free:
        return None
    needed = f"a step may need {size(found.total)}, and {size(free)} can be had now"
    return f"{needed}; {smaller_batch(settings, found, free)}"


# ------------------------------------------------------------------------ running out of it


@contextmanager
def named_when_full(what: str, advice: str) -> Iterator[None]:
    """Turn running out of memory into a UserError: what was being done, and what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory {what}; {advice}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is torch's error of a GPU or of the CPU, or Python's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory")
    return any(words in str(error) for words in said)


def smaller_ranking(settings: Settings) -> str:
    """Which flag to lower, and to what, for ranking to need less."""
    return f"give --eval_users {max(1, settings.eval_users // 2)}, with --resume or --evaluate"


def smaller_batch(settings: Settings, found: Forecast, room: float = math.inf) -> str:
    """Which flag to lower, and to what, for a step to need less.

    The largest part of the batch that `room` bytes take; the model, where most of the memory is
    its own, or the batch cannot be parted.
    """
    whole = settings.batch_size
    # the same users a step; a batch has a user for each process
    parts = [part for part in range(2, whole + 1) if whole % part == 0 and found.users >= part]
    fitting = [part for part in parts if found.tables + found.activations / part <= room]
    if not parts or found.tables > min(room, found.activations):
        return smaller_tables(settings)
    part = (fitting or parts[-1:])[0]
    return f"give a new run --batch_size {whole // part} --grad_accum {settings.grad_accum * part}"


def smaller_tables(settings: Settings) -> str:
    """Which flag to lower, and to what, for the model and its optimiser to need less."""
    return f"give a new run --hidden {max(settings.heads, settings.hidden // 2)}"


def size(count: float) -> str:
    """Bytes for a person."""
    if math.isinf(count):
        return "unlimited memory"
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
