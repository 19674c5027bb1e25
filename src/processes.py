"""The processes of a run: what they tell each other, and how they end together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from src.errors import OtherEnded, UserError


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

        The own rows keep their gradient, times the processes, because `average_gradients` averages
        what must be added; the rows of others are values.
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

    def share(self, model: nn.Module) -> None:
        """Give the model of every process the weights and buffers of the first one's."""
        if self.processes > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def average_gradients(self, model: nn.Module) -> None:
        """Give every process the mean of the gradients of all.

        A parameter that no process used, such as the tower of an absent domain, keeps no gradient,
        so that the optimiser skips it as it does in a single process. DistributedDataParallel
        warns of this or of its absence, and keeps gloo's threads alive until the process ends.
        """
        if self.processes == 1:
            return
        parameters = [own for own in model.parameters() if own.requires_grad]
        used = parameters[0].new_tensor([own.grad is not None for own in parameters])
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters]
        flat = torch.cat([*(own.flatten() for own in gradients), used])
        dist.all_reduce(flat.mul_(1 / self.processes))
        *means, used = flat.split([*(own.numel() for own in gradients), len(used)])
        for parameter, mean, share in zip(parameters, means, used.tolist(), strict=True):
            if share:
                parameter.grad.copy_(mean.view_as(parameter))
            else:
                parameter.grad = None

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
