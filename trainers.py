"""The training loop: steps, epochs, validation, early stopping.

It knows recommenders and loss weightings only through src/interfaces.py. Checkpoints, the diagnosis
of divergence and the tables are called in one line each and live in src/runs.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from src.config.modes import PATHS
from src.config.settings import Settings
from src.dataset.batching.batch import Batch
from src.dataset.batching.loader import Loader
from src.dataset.batching.prefetch import prefetch
from src.dataset.store.folder import Dataset
from src.evaluation.path_scores import Results, Visit, score_validation
from src.evaluation.queries import Ensemble
from src.evaluation.target_losses import TargetLosses
from src.evaluation.targets import Targets, split_targets
from src.interfaces import StepLosses
from src.io.errors import NotFinite
from src.objective.lc_ntg import NegativeTransferGap
from src.objective.step_losses import mean_coefficients
from src.objective.weighting import weighting_class
from src.runs import divergence, training_state
from src.runs.checkpoints import BEST, LAST, write_checkpoint
from src.runs.models import count_parameters, new_model
from src.runs.tables import RunTables, print_epoch
from src.training import device_memory
from src.training.coalition_losses import coalition_losses
from src.training.domain_gradients import combined_gradients
from src.training.epoch_statistics import EpochStatistics
from src.training.losses_after import sums_after_step
from src.training.non_finite import Anomaly, named_anomalies
from src.training.optimizer import clip_gradients, gradient_values, make_optimizers, make_schedulers
from src.training.processes import Process
from src.training.progress import Progress
from src.training.random_state import random_state
from src.training.run_clock import RunClock, print_start
from src.training.signals import Interrupted, StopSignals


class Trainer:
    """Trains one model on one dataset; last.pt, best.pt and the tables go to `folder`. A mode with
    one model per domain has one Trainer per domain."""

    def __init__(self, settings: Settings, dataset: Dataset, folder: Path, process: Process):
        self.settings, self.dataset, self.folder, self.process = settings, dataset, folder, process
        self.paths = settings.paths
        self.loader = Loader(
            dataset, process.device, process.rank, process.processes,
            batch_size=settings.batch_size, max_len=settings.max_len, seed=settings.seed,
            grad_accum=settings.grad_accum, batch_by=settings.batch_by,
            context=settings.sdsr_context, share_mim_counts=settings.compares_views,
            held_out=weighting_class(settings).held_out, times=settings.reads_time,
            negatives=settings.drawn_negatives,
        )  # fmt: skip
        lengths = self.loader.window_lengths()
        self.forecast = device_memory.forecast(
            settings, count_parameters(settings, dataset), dataset.item_rows, lengths,
            process.processes,
        )  # fmt: skip
        self.clock = RunClock(settings, self.loader.steps_per_epoch)
        self.sizes = len(lengths), int(lengths.sum())  # training users, their targets
        advice = device_memory.smaller_tables(settings)
        with device_memory.advise_when_full("making the model", advice):
            self.model = new_model(settings, dataset, process.device)
        self.dtype = self.model.item_table.dtype
        self.network = process.wrap(self.model)
        domains = len(dataset.domain_names)
        self.gap = NegativeTransferGap(settings, domains, process.device, self.dtype)
        self.weighting = weighting_class(settings)(settings, self.gap)
        self.optimizers = make_optimizers(self.model, settings, self.model.item_table)
        self.schedulers = make_schedulers(self.optimizers, settings, self.loader.steps_per_epoch)
        self.progress, self.signals = Progress(), StopSignals()
        self.statistics = self.new_statistics()

    # ------------------------------------------------------------------------ one step

    def train_step(self, step_batches: list[Batch]) -> bool:
        """One optimiser step over its batches; True when a signal asks to stop after it.

        Every mean is over the targets of the whole step: all its batches, all processes. Where a
        loss or a gradient is not finite, nothing is updated and NotFinite is raised.
        """
        before = random_state(self.process.device)
        counts = self.count_targets(step_batches)  # n_d [D]
        weights = self.weighting.weights()  # w_d [D], from the steps before
        # ∂/∂θ of  Σ_t w_d·l_cross[t] / Σ_d w_d·n_d  +  λ_single · mean l_single  +  Σ λ·auxiliary
        coefficients = self.coefficients(counts, weights)
        try:
            losses = self.gradients(step_batches, coefficients)
        except Anomaly as anomaly:
            raise divergence.in_backward(self, anomaly, before) from None
        values = gradient_values(self.model.parameters())
        norm = nn.utils.get_total_norm(values)
        terms = [term for batch in losses for term in (batch.objective, *batch.auxiliary.values())]
        finite = torch.isfinite(torch.stack(terms).detach().sum() + norm)  # read back once per step
        stop, faulty = self.process.any(self.signals.received is not None, ~finite)
        if faulty:
            raise divergence.in_step(self, losses, step_batches, before)
        if self.settings.clip_norm:
            clip_gradients(values, norm, self.settings.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        for scheduler in self.schedulers.values():
            scheduler.step()
        self.progress.step += 1
        self.progress.position += 1
        self._update_weighting(losses, step_batches, counts, before)
        return stop

    def count_targets(self, step_batches: list[Batch]) -> Tensor:
        """n_d [D]: the step's targets of each domain, over all its batches and processes."""
        counts = self.process.sum(
            torch.stack([batch.trained_counts for batch in step_batches]).sum(0)
        )
        return counts.to(self.dtype)

    def coefficients(self, counts: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """The coefficient of a target's loss in the objective, {path: [D]}.

        The denominators are those of the whole step. Multiplied by the number of processes, because
        DistributedDataParallel averages what must be summed.
        """
        by_path = {}
        for path in self.paths:
            share = 1.0 if path == self.paths[0] else self.settings.lambda_single
            share *= self.process.processes
            if PATHS[path].weighted:
                by_path[path] = share * mean_coefficients(counts, weights)
            else:
                by_path[path] = (share / counts.sum().clamp(min=1)).expand(len(counts))
        return by_path

    def gradients(
        self, step_batches: list[Batch], coefficients: dict[str, Tensor]
    ) -> list[StepLosses]:
        """Set the gradients to those of the objective; returns the losses of each batch."""
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
            if batch.trained is not None:
                by_target = {path: values * batch.trained for path, values in by_target.items()}
            gather = partial(process.gather_groups, sizes=batch.mim_sizes)
            with (
                process.synchronised(self.network, number == len(step_batches)),
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
        self,
        losses: list[StepLosses],
        step_batches: list[Batch],
        counts: Tensor,
        random: dict[str, Tensor],
    ) -> None:
        """φ of the step, then s and γ; and the update of the weighting from the step's losses, and
        those after it. The step began in the random states `random`."""
        sums = [  # of each batch {path: [D]}
            self.statistics.add(batch_losses, batch, len(step_batches))
            for batch_losses, batch in zip(losses, step_batches, strict=True)
        ]
        if self.weighting.needs_losses:
            self.weighting.update(self._domain_means(sums, counts), counts)
        if self.weighting.needs_losses_after:
            after = sums_after_step(self, step_batches, random)
            self.weighting.update_after(self._domain_means(after, counts), counts)
        if len(self.paths) == 2:
            cross, single = self.paths
            gap_sums = sum(batch[single] - batch[cross] for batch in sums)
            gap_sums = self.process.sum(torch.as_tensor(gap_sums))
            gap, gamma = gap_sums / counts, self.gap.gamma  # φ_d: mean of l_single − l_cross
            self.gap.update(gap, counts)  # s_d ← α·s_d + β·φ_d
            transfer = (gap, self.gap.state, gamma)
            self.statistics.add_transfer(gap_sums, counts, transfer, self.weighting.weights())

    def _domain_means(self, sums: list[dict[str, Tensor]], counts: Tensor) -> dict[str, Tensor]:
        """The mean losses of a step, {path: [D]}, from the sums of each batch of this process."""
        totals = {path: torch.as_tensor(sum(batch[path] for batch in sums)) for path in self.paths}
        return {path: self.process.sum(total) / counts for path, total in totals.items()}

    # ------------------------------------------------------------------------ epochs

    def fit(self, tensorboard: Path | None = None) -> None:
        """Train until patience or epochs run out; best.pt holds the best validation.

        With `tensorboard` the tables' rows go to that folder too. Raises NotFinite when a loss, a
        gradient or a score is not finite, and Interrupted after a SIGINT or SIGTERM, once last.pt
        is written.
        """
        with self.signals:
            tables = RunTables(self.folder, self.dataset.domain_names, self.progress, tensorboard)
            targets = split_targets(self.dataset, "valid")
            if self.process.leads and not self.progress.finished(self.settings):
                device_memory.print_forecast(self.forecast, self.settings, self.process.device)
                amounts = *self.sizes, len(targets.events), self.loader.steps_per_epoch
                print_start(self.settings, self.process, *amounts)
            while not self.progress.finished(self.settings):
                self._fit_epoch(tables, targets)
                self._stop_if_asked()
            tables.view.close()
            self._stop_if_asked()

    def _fit_epoch(self, tables: RunTables, targets: Targets) -> None:
        """Train, validate, record the best; write checkpoints and rows of the tables."""
        advice = device_memory.smaller_batch(self.settings, self.forecast)
        with device_memory.advise_when_full(f"training epoch {self.progress.epoch + 1}", advice):
            self.train_steps()
        advice = device_memory.smaller_ranking(self.settings)
        with (
            device_memory.advise_when_full("ranking the validation targets", advice),
            self.signals.ending(self._saved()),
        ):
            try:
                results = self.validate_epoch(targets)
            except NotFinite as error:  # raised by all processes
                raise divergence.in_validation(self, error) from None
        statistics, selected = self.end_epoch(), results[self.paths[0]]  # the first path selects
        settings = self.settings
        improved = self.progress.note(selected[settings.select_average][settings.select_metric])
        state = training_state.state_of(self)

        def write() -> None:
            rows = tables.write(self.progress, statistics, results)
            # best.pt first: a run that stops between the two repeats this epoch
            if improved:
                write_checkpoint(self.folder / BEST, state)
            write_checkpoint(self.folder / LAST, state)
            pace = self.clock.pace(self.progress)
            print_epoch(self.progress, statistics, results, tables.names, settings, pace)
            tables.show(self.progress, *rows)

        self.process.agree(write)

    def train_epoch(self) -> EpochStatistics:
        """One pass over the users, or the rest of it; seed and epoch alone decide the order."""
        self.train_steps()
        return self.end_epoch()

    def train_steps(self) -> None:
        """The remaining steps of the epoch; last.pt is written before the validation."""
        self.model.train()
        every = self.settings.save_every_steps
        with self.clock.bar(self.progress, self.process.leads) as bar:
            for step_batches in prefetch(self.steps()):
                stop = self.train_step(step_batches)
                bar.update()
                due = every and self.progress.step % every == 0
                if stop or due or self.progress.position == self.loader.steps_per_epoch:
                    training_state.save(self, self.folder / LAST)
                if stop:
                    self._stop_if_asked()

    def steps(self) -> Iterator[list[Batch]]:
        """The batches of the epoch's remaining optimiser steps."""
        return self.loader.steps(self.progress.epoch, self.progress.position)

    def end_epoch(self) -> EpochStatistics:
        """The sums of the epoch's steps over all processes; begins the next epoch."""
        statistics, self.statistics = self.statistics, self.new_statistics()
        self.progress.epoch += 1
        self.progress.position = 0
        statistics.reduce(self.process.sum)
        if self.weighting.held_out or self.weighting.on_validation:
            self.weighting.update_held_out(*statistics.held_out_means())
        if number := self.weighting.coalition_targets:
            self.weighting.update_coalitions(coalition_losses(self, number))
        self.weighting.end_epoch()
        statistics.weights = self.weighting.weights()  # of the next step
        return statistics

    def new_statistics(self) -> EpochStatistics:
        """Empty sums of an epoch."""
        domains = len(self.dataset.domain_names)
        return EpochStatistics(self.paths, domains, self.process.device, self.dtype)

    def _stop_if_asked(self) -> None:
        if self.process.any(self.signals.received is not None)[0]:
            name = self.signals.received or "a signal to another process"
            raise Interrupted(f"{name}; {self._saved()}")

    def _saved(self) -> str:
        return f"{self.folder / LAST} is saved after {self.progress}; continue with --resume"

    def validate_epoch(self, targets: Targets) -> Results:
        """`validate` after the last step of an epoch, whose held-out targets these are for a
        weighting that measures on them."""
        if not self.weighting.on_validation:
            return self.validate(targets)
        losses = TargetLosses(self.settings, self.dataset, targets, self.process.device)
        results = self.validate(targets, losses.read)
        self.statistics.add_held_out(*losses.of_known_items())
        return results

    def validate(self, targets: Targets, visit: Visit | None = None) -> Results:
        """The metrics of the model on a split, under `full`; `visit` may read more."""
        self.model.eval()
        ensemble = Ensemble([self.model])
        return score_validation(ensemble, self.settings, self.dataset, targets, self.process, visit)
