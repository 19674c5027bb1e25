"""What one training epoch adds up, and the rows of the run's tables that come of it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from src.dataset.batching.batch import Batch
from src.objective.step_losses import domain_sums

OWN = ("losses", "counts")  # of this process's targets; all else is of the whole batch


class EpochSums:
    """What an epoch adds up, on the device: reading it once an epoch keeps steps free of waits."""

    def __init__(
        self,
        domains: int,
        device: torch.device,
        with_mim: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        self.with_mim = with_mim
        kind = {"device": device, "dtype": dtype}
        self.losses = torch.zeros(2, domains, **kind)  # single, cross
        self.counts = torch.zeros(domains, dtype=torch.int64, device=device)
        self.mim = torch.zeros(3, **kind)  # loss, bound, steps
        self.gaps = torch.zeros(2, domains, **kind)  # sums of the gap, targets
        self.weights = torch.zeros(domains, **kind)
        self.steps = 0  # that LC-NTG took
        self.gammas = torch.zeros(16, 3, domains, **kind)  # φ, s, γ of each of them, and room
        self.paths: set[str] = set()

    def state(self, gather: Callable[[Tensor], list[Tensor]]) -> dict[str, Any]:
        """What a checkpoint within the epoch keeps; `gather` brings together what each process
        has of its own."""
        return {
            **{name: torch.stack(gather(getattr(self, name))) for name in OWN},
            "mim": self.mim,
            "gaps": self.gaps,
            "weights": self.weights,
            "gammas": self.gammas[: self.steps].clone(),  # without the room
            "paths": sorted(self.paths),
        }

    def load(self, state: dict[str, Any], rank: int, processes: int) -> None:
        """Go on from a `state`. With as many processes as then, each has its own sums again; with
        others the first has them all, and only the rounding of the epoch's sum may differ."""
        for name in OWN:
            parts = state[name]
            own = parts[rank] if len(parts) == processes else parts.sum(0) * (rank == 0)
            getattr(self, name).copy_(own)
        for name in ("mim", "gaps", "weights"):
            getattr(self, name).copy_(state[name])
        self.steps = len(state["gammas"])
        self.gammas = self._with_room(state["gammas"].to(self.gammas.device))
        self.paths = set(state["paths"])

    def add(self, losses, batch: Batch, batches_of_step: int) -> Tensor:
        """Add the StepLosses (models.py) of one batch of a step; returns the sums of the gap
        l_single − l_cross by domain [D], where both tasks are trained."""
        sums = torch.zeros_like(self.losses)
        for row, (path, values) in enumerate((("single", losses.single), ("cross", losses.cross))):
            if values is not None:
                sums[row] = domain_sums(values, batch.domain_counts)
                self.paths.add(path)
        self.losses += sums
        self.counts += batch.domain_counts
        step = torch.stack([losses.mim.detach(), losses.mim_bound, torch.ones_like(losses.mim)])
        self.mim += step / batches_of_step
        return sums[0] - sums[1]

    def add_transfer(
        self, gaps: Tensor, counts: Tensor, gap: Tensor, state: Tensor, gamma: Tensor, w: Tensor
    ) -> None:
        """Add what LC-NTG did in a step: each [D], in the order of `transfer.csv`."""
        self.gaps += torch.stack([gaps, counts])
        self.weights = w
        if self.steps == len(self.gammas):
            self.gammas = self._with_room(self.gammas)
        self.gammas[self.steps] = torch.stack([gap, state, gamma])
        self.steps += 1

    def _with_room(self, gammas: Tensor) -> Tensor:
        return torch.cat([gammas, self.gammas.new_zeros(max(16, len(gammas)), *gammas.shape[1:])])

    def reduce(self, add_up: Callable[[Tensor], Tensor]) -> None:
        """Add up over processes, in place."""
        for name in OWN:
            add_up(getattr(self, name))

    def loss_rows(self, names: list[str]) -> Iterator[tuple[str, str, str, float]]:
        """(path, domain, metric, value): the epoch's mean losses, in nats per target."""
        counts = self.counts.tolist()
        for path, sums in zip(("single", "cross"), self.losses.tolist(), strict=True):
            if path not in self.paths:
                continue
            for name, loss, count in zip(names, sums, counts, strict=True):
                if count:
                    yield path, name, "loss", loss / count
            yield path, "users", "loss", sum(sums) / sum(counts)
        if self.with_mim:
            loss, bound, steps = self.mim.tolist()
            yield "cross", "macro", "mim_loss", loss / steps
            yield "cross", "macro", "mim_bound", bound / steps

    def transfer_rows(self, epoch: int, names: list[str]) -> Iterator[tuple]:
        """The epoch's mean φ of each domain, s after it, the last step's γ and the next w."""
        gaps = (self.gaps[0] / self.gaps[1]).tolist()
        _, state, gamma = (part.tolist() for part in self.gammas[self.steps - 1])
        rows = zip(names, gaps, state, gamma, self.weights.tolist(), strict=True)
        for name, *values in rows:
            yield (epoch, name, *values)

    def transfer_step_rows(self, epoch: int, last_step: int, names: list[str]) -> Iterator[tuple]:
        """φ, s after it and γ of every step; `last_step` is the number of the epoch's last."""
        first = last_step - self.steps + 1
        for step, parts in enumerate(self.gammas[: self.steps].tolist(), first):
            for name, *values in zip(names, *parts, strict=True):
                yield (epoch, step, name, *values)


def epoch_line(
    done: tuple[int, int],
    epoch: EpochSums | None,
    results: dict[str, dict],
    names: list[str],
    shown: tuple[str, str],
) -> str:
    """What is said after (epoch, step): the losses of an epoch, if there was one, and of each path
    of the validation `results` what is `shown`, a mean and a metric."""
    average, metric = shown
    parts = [f"epoch {done[0]:3d}  step {done[1]:6d}"]
    parts += [
        f"{path} loss {value:.4f}"
        for path, domain, name, value in (epoch.loss_rows(names) if epoch else ())
        if domain == "users" and name == "loss"
    ]
    parts += [f"{path} {metric} {found[average][metric]:.4f}" for path, found in results.items()]
    return "  ".join(parts)


def epoch_rows(
    done: tuple[int, int], epoch: EpochSums | None, results: dict[str, dict], names: list[str]
) -> Iterator[tuple]:
    """The rows of metrics.csv after (epoch, step): the losses of an epoch, if there was one, and
    the validation `results` of each path."""
    for path, domain, metric, value in epoch.loss_rows(names) if epoch else ():
        yield (*done, "train", path, domain, metric, value)
    for path, by_domain in results.items():
        for domain, metrics in by_domain.items():
            for metric, value in metrics.items():
                yield (*done, "valid", path, domain, metric, value)
