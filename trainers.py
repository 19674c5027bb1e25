"""The training loop: steps, epochs, validation, early stopping.

It knows recommenders and loss weightings through src/interfaces.py alone. Checkpoints, faults and
tables are called in one line each and live in src/runs.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from src.config.modes import PATHS
from src.config.settings import Settings
from src.dataset.batching.batch import Batch
from src.dataset.batching.loader import Loader
from src.dataset.batching.prefetch import prefetch
from src.dataset.store.folder import Dataset
from src.evaluation.path_scores import Results, score_validation
from src.evaluation.queries import Ensemble
from src.evaluation.targets import Targets, split_targets
from src.interfaces import StepLosses
from src.io.errors import NotFinite
from src.objective.lc_ntg import NegativeTransferGap
from src.objective.step_losses import mean_coefficients
from src.objective.weighting import make_weighting
from src.runs import faults, training_state
from src.runs.checkpoints import BEST, LAST, write_checkpoint
from src.runs.models import count_parameters, new_model
from src.runs.tables import RunTables, print_epoch
from src.training import memory
from src.training.domain_gradients import combined_gradients
from src.training.epoch_statistics import EpochStatistics
from src.training.held_out import held_out_losses
from src.training.non_finite import Anomaly, named_anomalies
from src.training.optimizer import clip_gradients, gradient_values, make_optimizers, make_schedulers
from src.training.processes import Process
from src.training.progress import Progress
from src.training.random_state import random_state
from src.training.signals import Interrupted, StopSignals


class Trainer:
    """Trains one model on one dataset and keeps its run folder.

    Parameters
    ----------
    settings: the run's settings.
    dataset: what to train on; a mode with one model per domain passes one domain at a time.
    folder: where last.pt, best.pt and the tables go.
    """

    def __init__(self, settings: Settings, dataset: Dataset, folder: Path, process: Process):
        self.settings, self.dataset, self.folder, self.process = settings, dataset, folder, process
        self.paths = settings.paths
        self.loader = Loader(
            dataset, process.device, process.rank, process.processes,
            batch_size=settings.batch_size, max_len=settings.max_len, seed=settings.seed,
            grad_accum=settings.grad_accum, batch_by=settings.batch_by,
            context=settings.sdsr_context, share_mim_counts=settings.compares_views,
        )  # fmt: skip
        self.forecast = memory.forecast(
            settings, count_parameters(settings, dataset), dataset.item_rows,
            self.loader.window_lengths(), process.processes,
        )  # fmt: skip
        with memory.named_when_full("in making the model", memory.smaller_tables(settings)):
            self.model = new_model(settings, dataset, process.device)
        self.dtype = self.model.item_table.dtype
        self.network = process.wrap(self.model)
        domains = len(dataset.domain_names)
        self.gap = NegativeTransferGap(settings, domains, process.device, self.dtype)
        self.weighting = make_weighting(settings, self.gap)
        self.optimizers = make_optimizers(self.model, settings, self.model.item_table)
        self.schedulers = make_schedulers(self.optimizers, settings, self.loader.steps_per_epoch)
        self.progress, self.signals = Progress(), StopSignals()
        self.statistics = self.new_statistics()

    # ------------------------------------------------------------------------ one step

    def train_step(self, step_batches: list[Batch]) -> bool:
        """One optimiser step over its batches; True when a signal asks to stop after it.

        Every mean is over the step's targets, not a batch's or a process's. NotFinite, with nothing
        updated, where a loss or a gradient is not finite.
        """
        before = random_state(self.process.device)
        counts = self.count_targets(step_batches)  # n_d [D]
        weights = self.weighting.weights()  # w_d [D], from what the step before left
        # ∂/∂θ of  Σ_t w_d·l_cross[t] / Σ_d w_d·n_d  +  λ_single · mean l_single  +  Σ λ·auxiliary
        coefficients = self.coefficients(counts, weights)
        try:
            losses = self.gradients(step_batches, coefficients)
        except Anomaly as anomaly:
            raise faults.of_anomaly(self, anomaly, before) from None
        values = gradient_values(self.model.parameters())
        norm = nn.utils.get_total_norm(values)
        terms = [term for batch in losses for term in (batch.objective, *batch.auxiliary.values())]
        finite = torch.isfinite(torch.stack(terms).detach().sum() + norm)  # read back once per step
        stop, faulty = self.process.any(self.signals.received is not None, ~finite)
        if faulty:
            raise faults.of_step(self, losses, step_batches, before)
        if self.settings.clip_norm:
            clip_gradients(values, norm, self.settings.clip_norm)
        for part in (*self.optimizers.values(), *self.schedulers.values()):
            part.step()
        self.progress.step += 1
        self.progress.position += 1
        self._update_weighting(losses, step_batches, counts)
        return stop

    def count_targets(self, step_batches: list[Batch]) -> Tensor:
        """n_d [D]: the step's targets of each domain, over all its batches and processes."""
        counts = self.process.sum(sum(batch.domain_counts for batch in step_batches))
        return counts.to(self.dtype)

    def coefficients(self, counts: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """What the objective multiplies the loss of a target by: {path: [D]}.

        The denominators are the step's. Times the processes, because DistributedDataParallel
        averages what must be added.
        """
        by_path = {}
        for path in self.paths:
            share = 1.0 if path == self.paths[0] else self.settings.lambda_single
            share *= self.process.processes
            if PATHS[path].weighted:
                by_path[path] = share * mean_coefficients(counts, weights)
            else:
                by_path[path] = (share / counts.sum()).expand(len(counts))
        return by_path

    def gradients(
        self, step_batches: list[Batch], coefficients: dict[str, Tensor]
    ) -> list[StepLosses]:
        """Put the gradients of the objective in place of those before; the losses of each batch."""
        if self.weighting.per_domain_gradients:
            return combined_gradients(self, step_batches, coefficients)
        return self.backward(step_batches, coefficients)

    def backward(
        self, step_batches: list[Batch], coefficients: dict[str, Tensor], auxiliary: bool = True
    ) -> list[StepLosses]:
        """Forward and backward pass of each batch of a step."""
        settings, process = self.settings, self.process
        self.model.zero_grad(set_to_none=True)
        step_losses = []
        for number, batch in enumerate(step_batches, 1):
            by_target = {
                path: values.repeat_interleave(batch.domain_counts, output_size=len(batch.targets))
                for path, values in coefficients.items()
            }
            gather = partial(process.gather_groups, sizes=batch.mim_sizes)
            # gradients of all but the last batch are added up before they are shared
            shared = number == len(step_batches) or self.network is self.model
            with (
                nullcontext() if shared else self.network.no_sync(),
                named_anomalies(settings.detect_anomaly),
            ):
                with torch.autocast(
                    process.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
                ):
                    losses = self.network(batch, by_target, gather)
                objective = losses.objective
                for term, value in losses.auxiliary.items() if auxiliary else ():
                    weight = self.model.auxiliary_weights[term]
                    objective = objective + weight * value / len(step_batches)
                objective.backward()
            step_losses.append(losses)
        return step_losses

    def _update_weighting(
        self, losses: list[StepLosses], step_batches: list[Batch], counts: Tensor
    ) -> None:
        """φ of the step, then s and γ; and what the weighting learns of the step's losses."""
        sums = [  # of each batch {path: [D]}
            self.statistics.add(batch_losses, batch, len(step_batches))
            for batch_losses, batch in zip(losses, step_batches, strict=True)
        ]
        if self.weighting.needs_losses:
            totals = {path: sum(batch[path] for batch in sums) for path in self.paths}
            means = {path: self.process.sum(total) / counts for path, total in totals.items()}
            self.weighting.update(means, counts)
        if len(self.paths) == 2:
            cross, single = self.paths
            gap_sums = self.process.sum(sum(batch[single] - batch[cross] for batch in sums))
            gap, gamma = gap_sums / counts, self.gap.gamma  # φ_d: mean of l_single − l_cross
            self.gap.update(gap, counts)  # s_d ← α·s_d + β·φ_d
            transfer = (gap, self.gap.state, gamma)
            self.statistics.add_transfer(gap_sums, counts, transfer, self.weighting.weights())

    # ------------------------------------------------------------------------ epochs

    def fit(self, tensorboard: Path | None = None) -> None:
        """Train until the patience or the epochs run out; best.pt holds the best validation.

        With `tensorboard` the tables' rows go to that folder too. Raises NotFinite when a loss, a
        gradient or a score is not finite, and Interrupted, once last.pt is written, after a SIGINT
        or SIGTERM.
        """
        with self.signals:
            tables = RunTables(self.folder, self.dataset.domain_names, self.progress, tensorboard)
            targets = split_targets(self.dataset, "valid")
            if self.process.leads and not self.progress.finished(self.settings):
                memory.tell(self.forecast, self.settings, self.process.device)
            while not self.progress.finished(self.settings):
                self._fit_epoch(tables, targets)
                self._end_if_asked()
            tables.close()
            self._end_if_asked()

    def _fit_epoch(self, tables: RunTables, targets: Targets) -> None:
        """Train, validate, remember the best; checkpoints and rows of the tables."""
        advice = memory.smaller_batch(self.settings, self.forecast)
        with memory.named_when_full(f"in epoch {self.progress.epoch + 1}", advice):
            self.train_steps()
        with (
            memory.named_when_full("in ranking validation", memory.smaller_ranking(self.settings)),
            self.signals.ending(self._saved()),
        ):
            try:
                results = self.validate(targets)
            except NotFinite as error:  # of any process, in all of them
                raise faults.of_validation(self, error) from None
            if self.weighting.needs_held_out:
                self.weighting.update_held_out(*held_out_losses(self, targets))
        statistics = self.end_epoch()
        improved = self.progress.note(self._selected(results))
        state = training_state.state_of(self)

        def write() -> None:
            rows = tables.write(self.progress, statistics, results)
            # best.pt first: a run that stops between the two trains this epoch again
            if improved:
                write_checkpoint(self.folder / BEST, state)
            write_checkpoint(self.folder / LAST, state)
            names = self.dataset.domain_names
            print_epoch(self.progress, statistics, results, names, self.settings)
            tables.show(self.progress, *rows)

        self.process.agree(write)

    def train_epoch(self) -> EpochStatistics:
        """One pass over the users, or what a checkpoint left of it; the order depends on seed and
        epoch alone."""
        self.train_steps()
        return self.end_epoch()

    def train_steps(self) -> None:
        """The steps that the epoch has left. last.pt is written after the last one too: whatever
        ends the validation that follows, they are done."""
        self.model.train()
        every = self.settings.save_every_steps
        with tqdm(
            total=self.loader.steps_per_epoch,
            initial=self.progress.position,
            desc=f"epoch {self.progress.epoch + 1}",
            disable=None if self.process.leads else True,
            leave=False,
        ) as bar:
            for step_batches in prefetch(self.steps()):
                stop = self.train_step(step_batches)
                bar.update()
                due = every and self.progress.step % every == 0
                if stop or due or self.progress.position == self.loader.steps_per_epoch:
                    training_state.save(self, self.folder / LAST)
                if stop:
                    self._interrupt()

    def steps(self) -> Iterator[list[Batch]]:
        """The batches of the optimiser steps that the coming epoch has left."""
        return self.loader.steps(self.progress.epoch, self.progress.position)

    def end_epoch(self) -> EpochStatistics:
        """What the epoch's steps add up to, over all processes; the next epoch begins."""
        statistics, self.statistics = self.statistics, self.new_statistics()
        self.progress.epoch += 1
        self.progress.position = 0
        statistics.reduce(self.process.sum)
        return statistics

    def new_statistics(self) -> EpochStatistics:
        """Of an epoch without a step."""
        domains = len(self.dataset.domain_names)
        return EpochStatistics(self.paths, domains, self.process.device, self.dtype)

    def _end_if_asked(self) -> None:
        if self.process.any(self.signals.received is not None)[0]:
            self._interrupt()

    def _interrupt(self) -> None:
        name = self.signals.received or "a signal to another process"
        raise Interrupted(f"{name}; {self._saved()}")

    def _saved(self) -> str:
        return f"{self.folder / LAST} is saved after {self.progress}; continue with --resume"

    # ------------------------------------------------------------------------ validation

    def validate(self, targets: Targets) -> Results:
        """The metrics of the model on a split, under `full`."""
        self.model.eval()
        ensemble = Ensemble([self.model])
        return score_validation(ensemble, self.settings, self.dataset, targets, self.process)

    def _selected(self, results: Results) -> float:
        """The validation metric that picks the best checkpoint: the first path's."""
        settings = self.settings
        return results[self.paths[0]][settings.select_average][settings.select_metric]
