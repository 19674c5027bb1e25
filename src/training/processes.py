"""The processes of a run: what they tell each other, and how they end together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from src.io.errors import OtherEnded, UserError


@dataclass(frozen=True)
class Process:
    """This process among those of the run, and its device."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.processes > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, own: torch.Tensor) -> list[torch.Tensor]:
        """A tensor of every process, of the same shape in all, in the order of the processes."""
        if self.processes == 1:
            return [own]
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.processes)]
        dist.all_gather(parts, own)
        return parts

    def stack(self, own: torch.Tensor) -> torch.Tensor:
        """The same of CPU tensors, [P, …]."""
        return torch.stack(self.gather(own.to(self.device))).cpu()

    def gather_objects(self, own: Any) -> list[Any]:
        """A small value of every process, in their order."""
        if self.processes == 1:
            return [own]
        told: list[Any] = [None] * self.processes
        dist.all_gather_object(told, own)
        return told

    def wait(self) -> None:
        """Until all processes are here."""
        if self.processes > 1:
            dist.barrier()

    def gather_groups(self, own: torch.Tensor, sizes: list[list[int]]) -> list[torch.Tensor]:
        """The rows of all processes, put together by group: own [n, …] lies group after group,
        `sizes` [P][G] says how many rows each process has of each.

        The own rows keep their gradient, times the processes, because DistributedDataParallel
        averages what must be added; the rows of others are values.
        """
        if self.processes == 1:
            return list(own.split(sizes[0]))
        padded = own.new_zeros(max(map(sum, sizes)), *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = self.gather(padded)
        parts[self.rank] = own.detach() + self.processes * (own - own.detach())
        groups = [
            part[: sum(counts)].split(counts) for part, counts in zip(parts, sizes, strict=True)
        ]
        return [torch.cat(group) for group in zip(*groups, strict=True)]

    def any(self, *asked: bool | torch.Tensor) -> list[bool]:
        """Whether any process says yes, to each question."""
        if self.processes == 1:
            return list(map(bool, asked))
        flags = torch.tensor(asked, dtype=torch.int32, device=self.device)
        return [count > 0 for count in self.sum(flags).tolist()]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as training steps call it: its gradients are those of all processes."""
        if self.processes == 1:
            return model
        for parameter in model.parameters():
            if parameter.requires_grad:  # buckets hold gradients in the parameters' own layout
                parameter.register_hook(_contiguous)
        devices = [self.device] if self.device.type == "cuda" else None
        # a domain that is absent from a batch leaves its tower and gate without a gradient
        shared = _WithUnused(model)
        return DistributedDataParallel(shared, device_ids=devices, find_unused_parameters=True)

    def agree(self, decide: Callable[[], Any]) -> Any:
        """What the leading process decides or does, for all of them; they all raise its
        UserError."""
        if self.processes == 1:
            return decide()
        told: list[Any] = [None]
        if self.leads:
            try:
                told = [decide()]
            except UserError as error:
                told = [error]
        dist.broadcast_object_list(told, device=self.device)
        if isinstance(told[0], UserError):
            raise _agreed(told[0])
        return told[0]

    def together(self, work: Callable[[], Any]) -> Any:
        """What each process makes of its own part; where one meets a UserError they all raise it,
        so that none waits for it."""
        if self.processes == 1:
            return work()
        made, fault = None, None
        try:
            made = work()
        except UserError as error:
            fault = error
        faults = [other for other in self.gather_objects(fault) if other]
        if faults:
            raise _agreed(faults[0])
        return made

    @contextmanager
    def needing_others(self) -> Iterator[None]:
        """Until all processes have left it; OtherEnded where torch fails because one has ended."""
        try:
            yield
            if self.processes > 1:
                dist.barrier()
                dist.destroy_process_group()
        except RuntimeError as error:
            if self.processes == 1 or not _lost_another(error):
                raise
            raise OtherEnded(
                "another process has ended; the cause is what it said, or in torchrun's report; "
                f"--resume goes on from the last checkpoint ({_short(error)})"
            ) from error


class _WithUnused(nn.Module):
    """A model and a parameter that no step uses. DistributedDataParallel warns when it is told to
    look for unused parameters and finds none in its first step; whether there are some in the
    others depends on which domains a batch has."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        parameter = next(model.parameters())
        self.unused = nn.Parameter(torch.zeros(1, dtype=parameter.dtype, device=parameter.device))

    def forward(self, *inputs: Any) -> Any:
        return self.model(*inputs)


def _contiguous(gradient: torch.Tensor) -> torch.Tensor:
    """A dense gradient with the strides that a fresh tensor of its shape has."""
    return gradient if gradient.is_sparse else gradient.reshape(-1).view(gradient.shape)


def _agreed(error: UserError) -> UserError:
    error.agreed = True
    return error


def _lost_another(error: RuntimeError) -> bool:
    """Whether it is about the connection to another process: gloo's errors have no type of their
    own, they begin with the place in its source."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _short(error: RuntimeError) -> str:
    """Torch's own words, without the place in its source and the advice."""
    return str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
