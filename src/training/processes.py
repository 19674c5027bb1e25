"""The processes of a run: how they communicate, and how they stop together."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from src.io.errors import OtherEnded, UserError
from src.training.torch_errors import is_lost_process, short_text


@dataclass(frozen=True)
class Process:
    """This process, its rank among those of the run, and its device."""

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

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensor of every process, of the same shape in all, by rank."""
        if self.processes == 1:
            return [tensor]
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.processes)]
        dist.all_gather(parts, tensor)
        return parts

    def stack(self, tensor: torch.Tensor) -> torch.Tensor:
        """`gather` of a CPU tensor, stacked: […] -> [P, …]."""
        return torch.stack(self.gather(tensor.to(self.device))).cpu()

    def gather_objects(self, value: Any) -> list[Any]:
        """A small value of every process, by rank."""
        if self.processes == 1:
            return [value]
        values: list[Any] = [None] * self.processes
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            dist.barrier()

    def gather_groups(self, rows: torch.Tensor, sizes: list[list[int]]) -> list[torch.Tensor]:
        """The rows of all processes by group: `rows` [n, …] are this process's, group after group,
        and `sizes` [P][G] how many rows each process has of each group.

        This process's rows keep their gradient, times the number of processes, because
        DistributedDataParallel averages what must be summed; the others' have no gradient.
        """
        if self.processes == 1:
            return list(rows.split(sizes[0]))
        values = rows.detach()
        padded = values.new_zeros(max(map(sum, sizes)), *rows.shape[1:])
        padded[: len(rows)] = values
        parts = self.gather(padded)
        parts[self.rank] = values + self.processes * (rows - values)
        groups = [
            part[: sum(counts)].split(counts) for part, counts in zip(parts, sizes, strict=True)
        ]
        return [torch.cat(group) for group in zip(*groups, strict=True)]

    def any(self, *flags: bool | torch.Tensor) -> list[bool]:
        """For each flag whether it is true in any process."""
        if self.processes == 1:
            return list(map(bool, flags))
        counts = torch.tensor(flags, dtype=torch.int32, device=self.device)
        return [count > 0 for count in self.sum(counts).tolist()]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as training steps call it: its gradients are averaged over all processes."""
        if self.processes == 1:
            return model
        for parameter in model.parameters():
            if parameter.requires_grad:  # buckets hold gradients in the parameters' own layout
                parameter.register_hook(_contiguous)
        devices = [self.device] if self.device.type == "cuda" else None
        # a domain that is absent from a batch leaves its tower and gate without a gradient
        shared = _WithUnused(model)
        return DistributedDataParallel(shared, device_ids=devices, find_unused_parameters=True)

    def synchronised(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around the passes of a batch: gradients are added up in each process, and shared with the
        others after the `last` batch of a step."""
        if last or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        return network.no_sync()

    def agree(self, decide: Callable[[], Any]) -> Any:
        """Let the leading process decide or do something; all get its result or its UserError."""
        if self.processes == 1:
            return decide()
        message: list[Any] = [None]
        if self.leads:
            try:
                message = [decide()]
            except UserError as error:
                message = [error]
        dist.broadcast_object_list(message, device=self.device)
        if isinstance(message[0], UserError):
            raise _agreed(message[0])
        return message[0]

    def together(self, work: Callable[[], Any]) -> Any:
        """Each process's result of its share of the work; a UserError of one is raised by all, so
        that none waits for it."""
        if self.processes == 1:
            return work()
        result, fault = None, None
        try:
            result = work()
        except UserError as error:
            fault = error
        faults = [other for other in self.gather_objects(fault) if other]
        if faults:
            raise _agreed(faults[0])
        return result

    @contextmanager
    def needing_others(self) -> Iterator[None]:
        """Ends when all processes have left it; OtherEnded where torch fails because one died."""
        try:
            yield
            if self.processes > 1:
                dist.barrier()
                dist.destroy_process_group()
        except RuntimeError as error:
            if self.processes == 1 or not is_lost_process(error):
                raise
            raise OtherEnded(
                "another process has ended; its message or torchrun's report names the cause; "
                f"continue from the last checkpoint with --resume ({short_text(error)})"
            ) from error


class _WithUnused(nn.Module):
    """A model and a parameter that no step uses. With find_unused_parameters
    DistributedDataParallel warns where the first step uses all of them; whether later steps do
    depends on the domains of their batches."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        parameter = next(model.parameters())
        self.unused = nn.Parameter(torch.zeros(1, dtype=parameter.dtype, device=parameter.device))

    def forward(self, *inputs: Any) -> Any:
        return self.model(*inputs)


def _contiguous(gradient: torch.Tensor | None) -> torch.Tensor | None:
    """A dense gradient with the strides of a new tensor of its shape; None of a pass that does not
    reach the parameter."""
    if gradient is None or gradient.is_sparse:
        return gradient
    return gradient.reshape(-1).view(gradient.shape)


def _agreed(error: UserError) -> UserError:
    error.agreed = True
    return error
