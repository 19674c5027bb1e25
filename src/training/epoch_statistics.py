"""The sums of a training epoch and, if it measures losses, of its validation; and the rows of the
run's tables made from them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from src.dataset.batching.batch import Batch
from src.interfaces import StepLosses
from src.objective.step_losses import domain_sums

Rows = Iterator[tuple]


def loss_sums(losses: StepLosses, batch: Batch) -> dict[str, Tensor]:
    """The sums of the trained targets' losses in each domain, {path: [D]}."""
    return {
        path: domain_sums(
            values if batch.trained is None else values * batch.trained, batch.domain_counts
        )
        for path, values in losses.by_path.items()
    }


class EpochStatistics:
    """Sums over an epoch's steps, kept on the device and read once per epoch: no step waits. The
    targets that are held out may be those of the validation after them.

    Losses and counts cover this process's targets until `reduce`; the rest covers whole steps.
    """

    def __init__(
        self, paths: tuple[str, ...], domains: int, device: torch.device, dtype: torch.dtype
    ):
        zeros = torch.zeros(domains, device=device, dtype=dtype)
        self.losses = {path: zeros.clone() for path in paths}
        self.counts = torch.zeros(domains, dtype=torch.int64, device=device)
        self.shown: dict[str, Tensor] = {}  # sums of what the auxiliary terms show
        self.steps = zeros.new_zeros(())
        self.gap_sums = zeros.new_zeros(2, domains)  # Σ φ·n, Σ n
        self.weights = torch.ones_like(zeros)  # w of the coming step
        self.transfer: list[Tensor] = []  # for each step φ, s after it and γ [3, D]
        # of targets that are held out: Σ losses of each path, Σ (l_single − l_cross)², number
        self.held_out = zeros.new_zeros(len(paths) + 2, domains)

    def add(self, losses: StepLosses, batch: Batch, batches_of_step: int) -> dict[str, Tensor]:
        """Add the losses of one batch of a step; returns their sums by domain, {path: [D]}."""
        sums = loss_sums(losses, batch)
        for path, values in sums.items():
            self.losses[path] += values
        self.counts += batch.trained_counts
        if batch.trained is not None:
            held_out = 1 - batch.trained
            self.add_held_out(list(losses.by_path.values()), batch.domain_counts, held_out)
        for name, value in losses.shown.items():
            total = self.shown.get(name, torch.zeros_like(value.detach()))
            self.shown[name] = total + value.detach() / batches_of_step
        self.steps += 1 / batches_of_step
        return sums

    def add_held_out(
        self, by_path: list[Tensor], counts: Tensor, share: Tensor | float = 1.0
    ) -> None:
        """Add the losses of targets that are held out: of each path [n], in the order of their
        domains, of which each has counts [D]; `share` [n] is 0 for those that are not."""
        gap = by_path[-1] - by_path[0]  # 0 with one path
        for total, values in zip(
            self.held_out, (*by_path, gap.square(), torch.ones_like(gap)), strict=True
        ):
            total += domain_sums(values * share, counts)

    def add_transfer(
        self, gap_sums: Tensor, counts: Tensor, transfer: tuple[Tensor, ...], weights: Tensor
    ) -> None:
        """Add a step's Σ (l_single − l_cross) and n of each domain, its (φ, s after it, γ), and the
        weights of the next step, each [D]."""
        self.gap_sums += torch.stack([gap_sums, counts])
        self.transfer.append(torch.stack(transfer))
        self.weights = weights

    def reduce(self, add_up: Callable[[Tensor], Tensor]) -> None:
        """Sum over processes, in place."""
        for values in (*self.losses.values(), self.counts, self.held_out):
            add_up(values)

    def held_out_means(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Of the targets that are held out, over the epoch: the mean loss {path: [D]} in nats, NaN
        for a domain without one; the standard error [D] of the mean of l_single − l_cross, infinite
        for fewer than two targets, 0 with one path; and their number [D]. To be called after
        `reduce`."""
        *sums, squares, counts = self.held_out
        gap = (sums[-1] - sums[0]) / counts
        variance = (squares / counts - gap.square()).clamp(min=0)
        error = torch.where(counts > 1, (variance / (counts - 1)).sqrt(), torch.inf)
        losses = {path: total / counts for path, total in zip(self.losses, sums, strict=True)}
        return losses, error, counts

    # ------------------------------------------------------------------------ checkpoints

    def state(self, gather: Callable[[Tensor], list[Tensor]]) -> dict[str, Any]:
        """What a checkpoint within the epoch keeps; `gather` collects a tensor of every process."""
        transfer = torch.stack(self.transfer) if self.transfer else self.gap_sums.new_zeros(0)
        return {
            "losses": {path: torch.stack(gather(sums)) for path, sums in self.losses.items()},
            "counts": torch.stack(gather(self.counts)),  # [P, D]
            "shown": dict(self.shown),
            "steps": self.steps,
            "gap_sums": self.gap_sums,
            "weights": self.weights,
            "transfer": transfer,
            "held_out": torch.stack(gather(self.held_out)),  # [P, paths + 2, D]
        }

    def load(self, state: dict[str, Any], rank: int, processes: int) -> None:
        """Restore a `state`. With as many processes as then, each gets its sums back; otherwise the
        first gets the total, and only the rounding of the epoch's sums may differ."""

        def share(parts: Tensor) -> Tensor:  # [P, …] -> […]
            return parts[rank] if len(parts) == processes else parts.sum(0) * (rank == 0)

        losses = dict(state["losses"])  # of a tensor, torch would take a path for an index
        for path, sums in self.losses.items():
            sums.copy_(share(losses[path]))
        self.counts.copy_(share(state["counts"]))
        if "held_out" in state:  # else the checkpoint is older
            self.held_out.copy_(share(state["held_out"]))
        for name in ("steps", "gap_sums", "weights"):
            getattr(self, name).copy_(state[name])
        device, domains = self.counts.device, len(self.counts)
        self.shown = {name: value.to(device).view(()) for name, value in state["shown"].items()}
        self.transfer = list(state["transfer"].to(device).view(-1, 3, domains))

    # ------------------------------------------------------------------------ rows of tables

    def loss_rows(self, names: list[str]) -> Iterator[tuple[str, str, str, float]]:
        """(path, domain, metric, value): the epoch's mean losses, in nats per target."""
        counts = self.counts.tolist()
        for path, sums in self.losses.items():
            by_domain = sums.tolist()
            for name, loss, count in zip(names, by_domain, counts, strict=True):
                if count:
                    yield path, name, "loss", loss / count
            yield path, "users", "loss", sum(by_domain) / sum(counts)
        for name, total in self.shown.items():
            yield next(iter(self.losses)), "macro", name, float(total) / float(self.steps)

    def held_out_rows(self, names: list[str]) -> Iterator[tuple[str, str, str, float]]:
        """(path, domain, metric, value): the epoch's mean losses of the targets that are held out,
        in nats, and under the first path the standard error of the gap."""
        losses, error, _ = self.held_out_means()
        columns = [(path, "loss", values) for path, values in losses.items()]
        for path, metric, values in (*columns, (next(iter(losses)), "gap_error", error)):
            for name, value in zip(names, values.tolist(), strict=True):
                if math.isfinite(value):  # else the domain has no or only one target
                    yield path, name, metric, value

    def transfer_rows(self, epoch: int, names: list[str]) -> Rows:
        """For each domain the epoch's mean φ, s after it, the last step's γ and the next w."""
        gaps = (self.gap_sums[0] / self.gap_sums[1]).tolist()
        _, state, gamma = self.transfer[-1].tolist()
        for name, *values in zip(names, gaps, state, gamma, self.weights.tolist(), strict=True):
            yield (epoch, name, *values)

    def transfer_step_rows(self, epoch: int, last_step: int, names: list[str]) -> Rows:
        """φ, s after it and γ of every step; `last_step` is the number of the epoch's last step."""
        first = last_step - len(self.transfer) + 1
        for step, parts in enumerate(torch.stack(self.transfer).tolist(), first):
            for name, *values in zip(names, *parts, strict=True):
                yield (epoch, step, name, *values)


def epoch_rows(
    done: tuple[int, int],
    statistics: EpochStatistics | None,
    results: dict[str, dict],
    names: list[str],
) -> Rows:
    """The rows of metrics.csv after (epoch, step): the losses of an epoch, if there was one, those
    on held-out events, where they are measured, and the validation `results` of each path."""
    for path, domain, metric, value in statistics.loss_rows(names) if statistics else ():
        yield (*done, "train", path, domain, metric, value)
    for path, domain, metric, value in statistics.held_out_rows(names) if statistics else ():
        yield (*done, "held_out", path, domain, metric, value)
    for path, by_domain in results.items():
        for domain, metrics in by_domain.items():
            for metric, value in metrics.items():
                yield (*done, "valid", path, domain, metric, value)
