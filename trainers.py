"""The training loop: step, epoch, validation, checkpoint, resume, processes."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from models import SyNCRec
from src.checkpoint import CHECKPOINT_FORMAT, model_settings, read_checkpoint
from src.dataset import batches, sampler
from src.dataset.batches import Batch
from src.dataset.folder import Dataset
from src.encoding import Ensemble
from src.epoch import EpochSums, epoch_rows
from src.errors import UserError
from src.evaluation.metrics import summarise
from src.files import write_atomically
from src.liveview import LiveView
from src.losses import lc_ntg_update, lc_ntg_weights, mean_coefficients
from src.ranking import Plan
from src.scoring import score_paths
from src.settings import Settings
from src.targets import Targets, split_targets
from utils import METRICS_COLUMNS, TRANSFER_COLUMNS, TRANSFER_STEP_COLUMNS, Process, Table


@dataclasses.dataclass
class Progress:
    """How far the run is; saved with every checkpoint."""

    epoch: int = 0  # epochs done
    step: int = 0  # optimiser steps done
    best: float = -math.inf  # best validation metric
    best_step: int = 0


class Trainer:
    """Trains one model on one dataset and keeps its run folder.

    Parameters
    ----------
    settings: the run's settings.
    dataset: what to train on; `mode sdsr_separate` passes one domain at a time.
    folder: where last.pt, best.pt and the tables go.
    """

    def __init__(self, settings: Settings, dataset: Dataset, folder: Path, process: Process):
        if settings.sparse_items and process.processes > 1:
            raise UserError(
                "--sparse_items runs in one process: sparse gradients are not shared; drop it, or "
                "start without torchrun"
            )
        self.settings, self.dataset, self.folder, self.process = settings, dataset, folder, process
        self.progress = Progress()
        self.model = SyNCRec(settings, dataset.item_starts.tolist()).to(process.device)
        self.network = _wrap(self.model, process)
        self.optimizers = _optimizers(self.model, settings)
        self.training, self.train_ends = batches.training_part(dataset)
        has_events = self.train_ends - self.training.offsets[:-1] > 0
        self.users = np.flatnonzero(has_events)
        self.lengths = None
        if settings.batch_by == "length":
            self.lengths = batches.window_lengths(
                self.training, self.train_ends, settings.max_len, settings.sdsr_context
            )
        if len(self.users) == 0:
            raise UserError(
                f"{dataset.folder} has no training events; loosen the filters or change the split"
            )
        if min(len(self.users), settings.batch_size) < process.processes:
            raise UserError(
                f"{process.processes} processes share batches of --batch_size "
                f"{settings.batch_size} among {len(self.users)} users; start fewer"
            )
        self.steps_per_epoch = math.ceil(
            len(self.users) / (settings.batch_size * settings.grad_accum)
        )
        self.schedulers = {
            name.replace("optimizer", "scheduler"): torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: lr_share(step, settings, self.steps_per_epoch)
            )
            for name, optimizer in self.optimizers.items()
        }

    # ---------------------------------------------------------------- the whole run

    def fit(self, view_folder: Path | None = None) -> None:
        """Train until the patience or the epochs run out; best.pt holds the best validation.

        With `view_folder` the rows of the tables go there too, for TensorBoard. Raises UserError
        when the loss stops being finite.
        """
        last = self.progress.epoch  # rows of epoch 0 are those of `start_from`
        metrics = Table(self.folder / "metrics.csv", METRICS_COLUMNS, last)
        transfer = Table(self.folder / "transfer.csv", TRANSFER_COLUMNS, last)
        steps = Table(self.folder / "transfer_steps.csv", TRANSFER_STEP_COLUMNS, last)
        view = LiveView(view_folder, self.progress.step)
        valid = split_targets(self.dataset, "valid")
        while not self.finished():
            epoch = self.train_epoch()
            results = self.validate(valid)
            improved = self._note_validation(results)
            if self.process.leads:
                done, names = self.progress, self.dataset.domain_names
                metric_rows = list(epoch_rows((done.epoch, done.step), epoch, results, names))
                transfer_rows = []
                metrics.write(metric_rows)
                if epoch.gammas:
                    transfer_rows = list(epoch.transfer_rows(done.epoch, names))
                    transfer.write(transfer_rows)
                    steps.write(epoch.transfer_step_rows(done.epoch, done.step, names))
                # best.pt first: a run that stops between the two trains this epoch again
                if improved:
                    self.save(self.folder / "best.pt")
                self.save(self.folder / "last.pt")
                self._say(epoch, results)
                view.write(done.step, metric_rows, transfer_rows, TRANSFER_COLUMNS)
        view.close()

    def finished(self) -> bool:
        """Whether the epochs are done, or the patience is over after the minimum of steps."""
        settings, progress = self.settings, self.progress
        if progress.epoch >= settings.max_epochs:
            return True
        waited = progress.step - progress.best_step
        return (
            progress.epoch > 0
            and progress.step >= settings.min_steps
            and waited >= settings.patience_steps
        )

    # ---------------------------------------------------------------- one epoch, one step

    def train_epoch(self) -> EpochSums:
        """One pass over the users; the order depends on seed and epoch alone."""
        self.model.train()
        epoch = EpochSums(
            len(self.dataset.domain_names),
            self.process.device,
            with_mim=self.settings.mode == "syncrec" and self.settings.sc_mim,
        )
        with tqdm(
            total=self.steps_per_epoch,
            desc=f"epoch {self.progress.epoch + 1}",
            disable=None if self.process.leads else True,
            leave=False,
        ) as bar:
            for step_batches in batches.one_ahead(self._steps()):
                self.train_step(step_batches, epoch)
                bar.update()
        self.progress.epoch += 1
        epoch.reduce(self.process.sum)
        if not (torch.isfinite(epoch.losses).all() and torch.isfinite(epoch.mim).all()):
            raise UserError(
                f"the training loss of epoch {self.progress.epoch} is not finite: "
                "lower --lr or set --clip_norm"
            )
        return epoch

    def _steps(self, first: int = 0) -> Iterator[list[Batch]]:
        """The batches of each optimiser step of the coming epoch, from its step `first` on."""
        settings = self.settings
        gathered: list[Batch] = []
        for users in sampler.epoch_batches(
            self.users,
            settings.batch_size,
            settings.seed,
            self.progress.epoch,
            self.process.rank,
            self.process.processes,
            lengths=self.lengths,
            start=first * settings.grad_accum,
        ):
            gathered.append(self._batch(users))
            if len(gathered) == settings.grad_accum:
                yield gathered
                gathered = []
        if gathered:
            yield gathered

    def _batch(self, users: np.ndarray) -> Batch:
        settings = self.settings
        events = batches.context_windows(
            self.training, users, self.train_ends[users], settings.max_len, settings.sdsr_context
        )
        batch = batches.build_batch(self.training, events, settings.seed, self.progress.epoch)
        return batch.to(self.process.device)

    def train_step(self, step_batches: list[Batch], epoch: EpochSums) -> None:
        """One optimiser step over its batches; every mean is over the step's targets, not a
        batch's or a process's."""
        settings, process = self.settings, self.process
        counts = self.process.sum(sum(batch.domain_counts for batch in step_batches)).float()
        gamma, weights = self._domain_weights()
        by_domain = self._coefficients(counts, weights)
        self.model.zero_grad(set_to_none=True)
        gaps = torch.zeros_like(counts)
        for number, batch in enumerate(step_batches, 1):
            coefficients = {
                task: values.repeat_interleave(batch.domain_counts, output_size=len(batch.targets))
                for task, values in by_domain.items()
            }
            with self._no_sync(last=number == len(step_batches)):
                with torch.autocast(
                    process.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
                ):
                    losses = self.network(batch, coefficients)
                mim = settings.lambda_mim * losses.mim / len(step_batches)
                (losses.objective + mim).backward()
            gaps += epoch.add(losses, batch, len(step_batches))
        if settings.clip_norm:
            clip_gradients(self.model.parameters(), settings.clip_norm)
        for part in (*self.optimizers.values(), *self.schedulers.values()):
            part.step()
        self.progress.step += 1
        if settings.mode == "syncrec":
            self._update_gap_state(process.sum(gaps), counts, gamma, epoch)

    def _coefficients(self, counts: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """What L_cross + λ_single · L_single multiplies the loss of a target by: [D] for each task.

        The denominators are the step's, over all its batches and processes. Times the processes,
        because DistributedDataParallel averages what must be added.
        """
        settings, processes = self.settings, self.process.processes
        share = settings.lambda_single if settings.runs_cross else 1.0
        single = (share * processes / counts.sum()).expand(len(counts))
        cross = processes * mean_coefficients(counts, weights)
        return {task: {"single": single, "cross": cross}[task] for task in settings.paths}

    def _domain_weights(self) -> tuple[Tensor, Tensor]:
        """γ and w of the step, from the state that the step before left; 1 without LC-NTG."""
        settings = self.settings
        domains = len(self.dataset.domain_names)
        if settings.mode != "syncrec":
            uniform = torch.ones(domains, device=self.process.device)
            return uniform / domains, uniform
        gamma, weights = lc_ntg_weights(
            self.model.gap_state, settings.lc_ntg_tau, settings.lc_ntg_floor
        )
        return gamma, weights if settings.lc_ntg else torch.ones_like(weights)

    def _update_gap_state(
        self, gaps: Tensor, counts: Tensor, gamma: Tensor, epoch: EpochSums
    ) -> None:
        settings = self.settings
        beta = settings.lc_ntg_beta or 1.0 - settings.lc_ntg_alpha
        state, gap = lc_ntg_update(self.model.gap_state, gaps, counts, settings.lc_ntg_alpha, beta)
        self.model.gap_state.copy_(state)
        epoch.add_transfer(gaps, counts, gap, state, gamma, self._domain_weights()[1])

    def _no_sync(self, last: bool):
        """Gradients of all but the last batch of a step are added up before they are shared."""
        if last or self.network is self.model:
            return nullcontext()
        return self.network.no_sync()

    # ---------------------------------------------------------------- evaluation

    def validate(self, targets: Targets) -> dict[str, dict[str, dict[str, float]]]:
        """{path: {domain, macro, users: metrics}} of the model on a split, under `full`."""
        self.model.eval()
        settings, dataset = self.settings, self.dataset
        plan = Plan(dataset, targets, ("full",), {}, self.process.device)
        ensemble = Ensemble([self.model])
        scores = score_paths(ensemble, settings, plan, self.process, baselines={}, lists=False)
        found = {}
        for path, own in scores.items():
            ranks = own.ranks["full"]
            found[path] = summarise(
                ranks.better, ranks.tied, targets.domains, dataset.domain_names, settings.ties
            )
        return found

    def _note_validation(self, results: dict[str, dict]) -> bool:
        """Remember the validation metric of the first path; True when it is the best so far."""
        value = results[self.settings.paths[0]][self.settings.select_average][
            self.settings.select_metric
        ]
        if value <= self.progress.best:
            return False
        self.progress.best, self.progress.best_step = value, self.progress.step
        return True

    # ---------------------------------------------------------------- files

    def save(self, path: Path) -> None:
        """Write one dict with everything that the run needs to go on."""
        state = {
            "format": CHECKPOINT_FORMAT,
            "data_sha256": self.dataset.card["sha256"],
            "settings": model_settings(self.settings),
            "domain_names": self.dataset.domain_names,
            "model": self.model.state_dict(),
            **{name: part.state_dict() for name, part in self._steppers()},
            "lc_ntg": getattr(self.model, "gap_state", None),
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "best": self.progress.best,
            "best_step": self.progress.best_step,
            "random": {"cpu": torch.get_rng_state()},
        }
        if self.process.device.type == "cuda":
            state["random"]["cuda"] = torch.cuda.get_rng_state(self.process.device)
        write_atomically(path, lambda temporary: torch.save(state, temporary))

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a former run; what they are worth here is epoch 0 of metrics.csv."""
        self.model.load_state_dict(state)
        results = self.validate(split_targets(self.dataset, "valid"))
        if self.process.leads:
            rows = epoch_rows((0, 0), None, results, self.dataset.domain_names)
            Table(self.folder / "metrics.csv", METRICS_COLUMNS).write(rows)
            self._say(None, results)

    def load(self, path: Path, weights_only: bool = False) -> None:
        """Take up a checkpoint: the weights alone, or all of the run.

        Raises UserError for a checkpoint that is missing, torn, of another dataset or model.
        """
        state = read_checkpoint(path, self.settings, self.dataset, self.process.device)
        self.model.load_state_dict(state["model"])
        if weights_only:
            return
        for name, part in self._steppers():
            part.load_state_dict(state[name])
        self.progress = Progress(state["epoch"], state["step"], state["best"], state["best_step"])
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if self.process.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.process.device)

    def _steppers(self) -> Iterator[tuple[str, Any]]:
        """The optimisers and schedulers by their names in a checkpoint."""
        yield from self.optimizers.items()
        yield from self.schedulers.items()

    def _say(self, epoch: EpochSums | None, results: dict[str, dict]) -> None:
        """One line an epoch."""
        metric, average = self.settings.select_metric, self.settings.select_average
        parts = [f"epoch {self.progress.epoch:3d}  step {self.progress.step:6d}"]
        parts += [
            f"{path} loss {value:.4f}"
            for path, domain, name, value in (
                epoch.loss_rows(self.dataset.domain_names) if epoch else ()
            )
            if domain == "users" and name == "loss"
        ]
        parts += [
            f"{path} {metric} {summary[average][metric]:.4f}" for path, summary in results.items()
        ]
        best = "  *" if epoch and self.progress.best_step == self.progress.step else ""
        print("  ".join(parts) + best, flush=True)


def _wrap(model: nn.Module, process: Process) -> nn.Module:
    """The model as the steps call it; gradients are shared where there are several processes."""
    if process.processes == 1:
        return model
    devices = [process.device] if process.device.type == "cuda" else None
    # A domain that is absent from a batch leaves its tower and gate without a gradient.
    return DistributedDataParallel(
        model, device_ids=devices, find_unused_parameters=True, broadcast_buffers=False
    )


def _optimizers(model: SyNCRec, settings: Settings) -> dict[str, torch.optim.Optimizer]:
    """The optimiser; with `sparse_items` another one for the rows of the item table."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    dense = [p for p in model.parameters() if not (settings.sparse_items and p is model.item_table)]
    found = {
        "optimizer": kind(dense, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    }
    if settings.sparse_items:
        found["item_optimizer"] = torch.optim.SparseAdam([model.item_table], lr=settings.lr)
    return found


def clip_gradients(parameters: Iterable[nn.Parameter], bound: float) -> None:
    """Scale all gradients so that their common norm is at most `bound`; sparse ones too, which
    torch's own clipping does not take."""
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row drawn twice counts by its sum
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (bound / (norm + 1e-6)).clamp(max=1.0))


def lr_share(step: int, settings: Settings, steps_per_epoch: int) -> float:
    """The share of --lr that step number `step` (from 0) is taken with."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.lr_schedule == "constant":
        return warm
    return warm * max(0.0, 1.0 - step / (settings.max_epochs * steps_per_epoch))
