"""The training loop: step, epoch, validation, checkpoint, resume, processes."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models import StepLosses
from src.checkpoint import (
    BEST,
    CHECKPOINT_FORMAT,
    FAULT,
    LAST,
    Progress,
    Unusable,
    check_weights,
    newest_checkpoint,
    read_checkpoint,
    run_settings,
    write_checkpoint,
)
from src.dataset.batches import Batch, one_ahead
from src.dataset.folder import Dataset
from src.encoding import Ensemble
from src.epoch import EpochSums, epoch_line, epoch_rows
from src.errors import NotFinite, UserError
from src.evaluation.metrics import summarise
from src.faults import Anomaly, describe_fault, first_fault, named_anomalies, report_step
from src.fitting import Own, misfit_line, state_misfit
from src.liveview import LiveView
from src.losses import lc_ntg_update, lc_ntg_weights, mean_coefficients
from src.memory import (
    named_when_full,
    smaller_batch,
    smaller_ranking,
    smaller_tables,
    tell,
)
from src.optim import clip_gradients, gradient_values, make_optimizers, make_schedulers
from src.ranking import Plan
from src.scoring import score_paths
from src.settings import Settings
from src.stopping import Interrupted, StopSignals
from src.targets import Targets, split_targets
from utils import (
    METRICS_COLUMNS,
    TRANSFER_COLUMNS,
    TRANSFER_STEP_COLUMNS,
    Process,
    Table,
    new_model,
    prepare,
    random_state,
    set_random_state,
)


class Trainer:
    """Trains one model on one dataset and keeps its run folder.

    Parameters
    ----------
    settings: the run's settings.
    dataset: what to train on; `mode sdsr_separate` passes one domain at a time.
    folder: where last.pt, best.pt and the tables go.
    """

    def __init__(self, settings: Settings, dataset: Dataset, folder: Path, process: Process):
        self.loader, self.forecast = prepare(settings, dataset, process)
        self.settings, self.dataset, self.folder, self.process = settings, dataset, folder, process
        self.progress = Progress()
        self.signals = StopSignals()
        with named_when_full("in making the model", smaller_tables(settings)):
            self.model = new_model(settings, dataset, process.device)
        self.dtype = self.model.item_table.dtype
        process.share(self.model)
        self.optimizers = make_optimizers(self.model, settings, self.model.item_table)
        self.schedulers = make_schedulers(self.optimizers, settings, self.loader.steps_per_epoch)
        self.sums = self._new_sums()

    # ---------------------------------------------------------------- the whole run

    def fit(self, view_folder: Path | None = None) -> None:
        """Train until the patience or the epochs run out; best.pt holds the best validation.

        With `view_folder` the rows of the tables go there too, for TensorBoard. Raises NotFinite
        when a loss, a gradient or a score is not finite, and Interrupted, once last.pt is written,
        after a SIGINT or SIGTERM.
        """
        with self.signals:
            self._fit(view_folder)

    def _fit(self, view_folder: Path | None) -> None:
        last = self.progress.epoch  # rows of epoch 0 are those of `start_from`
        tables = (
            Table(self.folder / "metrics.csv", METRICS_COLUMNS, last),
            Table(self.folder / "transfer.csv", TRANSFER_COLUMNS, last),
            Table(self.folder / "transfer_steps.csv", TRANSFER_STEP_COLUMNS, last),
        )
        view = LiveView(view_folder, self.progress.step)
        valid = split_targets(self.dataset, "valid")
        if self.process.leads and not self.progress.finished(self.settings):
            tell(self.forecast, self.settings, self.process.device)
        while not self.progress.finished(self.settings):
            with named_when_full(
                f"in epoch {self.progress.epoch + 1}", smaller_batch(self.settings, self.forecast)
            ):
                self._train_steps()
            with (
                named_when_full("in ranking validation", smaller_ranking(self.settings)),
                self.signals.ending(self._stands()),
            ):
                results = self._validate_or_dump(valid)
            epoch = self._end_epoch()
            improved = self.progress.note(self._select_value(results))
            state = self.state()
            self.process.agree(
                partial(self._write_epoch, tables, view, epoch, results, state, improved)
            )
            self._end_if_asked()
        view.close()
        self._end_if_asked()

    def _write_epoch(
        self,
        tables: tuple[Table, Table, Table],
        view: LiveView,
        epoch: EpochSums,
        results: dict[str, dict],
        state: dict[str, Any],
        improved: bool,
    ) -> None:
        """What an epoch leaves: rows of the tables, checkpoints, a line."""
        done, names = self.progress, self.dataset.domain_names
        metrics, transfer, steps = tables
        metric_rows = list(epoch_rows((done.epoch, done.step), epoch, results, names))
        transfer_rows = []
        metrics.write(metric_rows)
        if epoch.steps:
            transfer_rows = list(epoch.transfer_rows(done.epoch, names))
            transfer.write(transfer_rows)
            steps.write(epoch.transfer_step_rows(done.epoch, done.step, names))
        # best.pt first: a run that stops between the two trains this epoch again
        if improved:
            write_checkpoint(self.folder / BEST, state)
        write_checkpoint(self.folder / LAST, state)
        self._say(epoch, results)
        view.write(done.step, metric_rows, transfer_rows, TRANSFER_COLUMNS)

    # ---------------------------------------------------------------- one epoch, one step

    def train_epoch(self) -> EpochSums:
        """One pass over the users, or what a checkpoint left of it; the order depends on seed and
        epoch alone."""
        self._train_steps()
        return self._end_epoch()

    def _train_steps(self) -> None:
        """The steps that the epoch has left. last.pt is written after the last one too: whatever
        ends the validation that follows, they are done."""
        self.model.train()
        with tqdm(
            total=self.loader.steps_per_epoch,
            initial=self.progress.position,
            desc=f"epoch {self.progress.epoch + 1}",
            disable=None if self.process.leads else True,
            leave=False,
        ) as bar:
            for step_batches in one_ahead(self._steps()):
                stop = self.train_step(step_batches, self.sums)
                bar.update()
                if stop or self._saves_now():
                    self.save(self.folder / LAST)
                if stop:
                    self._interrupt()

    def _saves_now(self) -> bool:
        every, done = self.settings.save_every_steps, self.progress
        due = every and done.step % every == 0
        return bool(due) or done.position == self.loader.steps_per_epoch

    def _end_epoch(self) -> EpochSums:
        """What the epoch's steps add up to, over all processes; the next epoch begins."""
        epoch, self.sums = self.sums, self._new_sums()
        self.progress.epoch += 1
        self.progress.position = 0
        epoch.reduce(self.process.sum)
        return epoch

    def _new_sums(self) -> EpochSums:
        return EpochSums(
            len(self.dataset.domain_names),
            self.process.device,
            self.settings.compares_views,
            self.dtype,
        )

    def _steps(self) -> Iterator[list[Batch]]:
        """The batches of the optimiser steps that the coming epoch has left."""
        return self.loader.steps(self.progress.epoch, self.progress.position)

    def _end_if_asked(self) -> None:
        if self.process.any(self.signals.received is not None)[0]:
            self._interrupt()

    def _interrupt(self) -> None:
        name = self.signals.received or "a signal to another process"
        raise Interrupted(f"{name}; {self._stands()}")

    def _stands(self) -> str:
        return f"{self.folder / LAST} stands after {self.progress}, --resume goes on"

    def train_step(self, step_batches: list[Batch], epoch: EpochSums) -> bool:
        """One optimiser step over its batches; every mean is over the step's targets, not a
        batch's or a process's. True when a signal asks to stop after it.

        NotFinite, with nothing updated, where a loss or a gradient is not finite.
        """
        before = random_state(self.process.device)
        counts = self.process.sum(sum(batch.domain_counts for batch in step_batches))
        counts = counts.to(self.dtype)
        gamma, weights = self._domain_weights()
        try:
            losses = self.add_gradients(step_batches, self._coefficients(counts, weights))
        except Anomaly as anomaly:
            if self.process.processes > 1:  # the others wait for its gradients
                anomaly.agreed = False
                raise
            raise self._stopped(str(anomaly), before) from None
        values = gradient_values(self.model.parameters())
        norm = nn.utils.get_total_norm(values)
        terms = torch.stack([part for found in losses for part in (found.objective, found.mim)])
        finite = torch.isfinite(terms.detach().sum() + norm)  # the one number read back in a step
        stop, fault = self.process.any(self.signals.received is not None, not finite)
        if fault:
            raise self._fault(losses, step_batches, before)
        if self.settings.clip_norm:
            clip_gradients(values, norm, self.settings.clip_norm)
        for part in (*self.optimizers.values(), *self.schedulers.values()):
            part.step()
        self.progress.step += 1
        self.progress.position += 1
        gaps = sum(
            epoch.add(found, batch, len(step_batches))
            for found, batch in zip(losses, step_batches, strict=True)
        )
        if self.settings.mode == "syncrec":
            self._update_gap_state(self.process.sum(gaps), counts, gamma, epoch)
        return stop

    def add_gradients(
        self, step_batches: list[Batch], by_domain: dict[str, Tensor]
    ) -> list[StepLosses]:
        """The gradients of a step's batches, in place of those before; `by_domain` are the
        `_coefficients`."""
        settings, process = self.settings, self.process
        self.model.zero_grad(set_to_none=True)
        found = []
        for batch in step_batches:
            coefficients = {
                task: values.repeat_interleave(batch.domain_counts, output_size=len(batch.targets))
                for task, values in by_domain.items()
            }
            gather = partial(process.gather_groups, sizes=batch.mim_sizes)
            with named_anomalies(settings.detect_anomaly):
                with torch.autocast(
                    process.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
                ):
                    losses = self.model(batch, coefficients, gather)
                mim = settings.lambda_mim * losses.mim / len(step_batches)
                (losses.objective + mim).backward()
            found.append(losses)
        process.average_gradients(self.model)
        return found

    # ---------------------------------------------------------------- what is not finite

    def _fault(
        self, losses: list[StepLosses], step_batches: list[Batch], random: dict[str, Tensor]
    ) -> NotFinite:
        """Name what is not finite in the coming step, and save the state that it starts from."""
        step = next(self.loader.shares(self.progress.epoch, self.progress.position))
        own = [shares[self.process.rank] for shares in step]
        names = self.dataset.domain_names, self.dataset.user_ids
        found = describe_fault(losses, step_batches, own, self.model, names)
        told = [part for part in self.process.gather_objects(found) if part]
        return self._stopped(f"{first_fault(told)} is not finite", random)

    def _stopped(self, why: str, random: dict[str, Tensor]) -> NotFinite:
        """Save the state that the coming step starts from, and say why it is not taken."""
        done = self.progress
        return NotFinite(
            f"step {done.position + 1} of epoch {done.epoch + 1}: {why}; "
            f"{self._save_fault(random)}; lower --lr or set --clip_norm"
        )

    def _save_fault(self, random: dict[str, Tensor] | None = None) -> str:
        """Save the state before a fault, and say where; a full disk must not hide the fault."""
        path = self.folder / FAULT
        try:
            self.save(path, random)
        except UserError as error:
            return f"the state before it is not saved: {error}"
        return f"{path} has the state before it, for --replay"

    def _validate_or_dump(self, targets: Targets) -> dict[str, dict]:
        """The validation; where a score is not finite the state that it was of is saved."""
        try:
            return self.validate(targets)
        except NotFinite as error:  # of any process, in all of them
            raise NotFinite(f"{error}; {self._save_fault()}") from None

    def replay(self) -> Iterator[str]:
        """Compute the step that the loaded checkpoint stands before, and update nothing: lines
        about its losses and gradients. Where the epoch is over, the validation."""
        self.model.train()
        step_batches = next(self._steps(), None)
        if step_batches is None:
            self.validate(split_targets(self.dataset, "valid"))
            yield "every score of the validation is finite"
            return
        counts = self.process.sum(sum(batch.domain_counts for batch in step_batches))
        weights = self._domain_weights()[1]
        losses = self.add_gradients(
            step_batches, self._coefficients(counts.to(self.dtype), weights)
        )
        yield from report_step(losses, step_batches, self.dataset.domain_names, self.model)

    def _coefficients(self, counts: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """What L_cross + λ_single · L_single multiplies the loss of a target by: [D] for each task.

        The denominators are the step's, over all its batches and processes. Times the processes,
        because their gradients are averaged and must be added.
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
            uniform = torch.ones(domains, device=self.process.device, dtype=self.dtype)
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

    def _select_value(self, results: dict[str, dict]) -> float:
        """The validation metric that picks the best checkpoint: the first path's."""
        settings = self.settings
        return results[settings.paths[0]][settings.select_average][settings.select_metric]

    # ---------------------------------------------------------------- files

    def save(self, path: Path, random: dict[str, Tensor] | None = None) -> None:
        """Write a `state`; all processes call it together."""
        state = self.state(random)
        self.process.agree(lambda: write_checkpoint(path, state))

    def state(self, random: dict[str, Tensor] | None = None) -> dict[str, Any]:
        """One dict with everything that the run needs to go on, of all processes.

        `random` are this process's random states, if not those of now.
        """
        random = random or random_state(self.process.device)
        return {
            "format": CHECKPOINT_FORMAT,
            "data_sha256": self.dataset.card["sha256"],
            "settings": run_settings(self.settings),
            "domain_names": self.dataset.domain_names,
            "model": self.model.state_dict(),
            **{name: part.state_dict() for name, part in self._steppers()},
            "lc_ntg": getattr(self.model, "gap_state", None),
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "best": self.progress.best,
            "best_step": self.progress.best_step,
            "position": self.progress.position,
            "sums": self.sums.state(self.process.gather) if self.progress.position else None,
            "random": {kind: self.process.stack(own) for kind, own in random.items()},
        }

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a former run; what they are worth here is epoch 0 of metrics.csv."""
        self.model.load_state_dict(state)
        results = self.validate(split_targets(self.dataset, "valid"))
        if self.process.leads:
            rows = epoch_rows((0, 0), None, results, self.dataset.domain_names)
            Table(self.folder / "metrics.csv", METRICS_COLUMNS).write(rows)
            self._say(None, results)

    def load(self, path: Path) -> None:
        """Take up a checkpoint; UserError for one that is missing, torn, or of another run."""
        state = read_checkpoint(path, self.settings, self.dataset)
        self.check(state, path)
        self.go_on_from(state)

    def resume(self) -> bool:
        """Take up the newest good checkpoint of the folder; False where there is none at all.

        UserError where there are some and none is good.
        """
        found, fault = newest_checkpoint(self.folder, self.settings, self.dataset, self.check)
        if fault and self.process.leads:
            print(f"warning: {fault}", file=sys.stderr, flush=True)
            # else the next one written would make it former.pt, in place of the good one
            (self.folder / LAST).unlink(missing_ok=True)
        if found:
            self.go_on_from(found)
        return found is not None

    def check(self, state: dict[str, Any], path: Path) -> None:
        """Refuse the dict of a checkpoint that does not fit this run in every part (Unusable)."""
        random, steps = random_state(self.process.device), self.loader.steps_per_epoch
        own = Own(self.optimizers, self.schedulers, self._new_sums(), random, steps)
        if fault := state_misfit(state, own):
            raise Unusable(misfit_line(path, fault))
        check_weights(self.model, state, path)

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take up all that a `state` of this run had. With another number of processes than then,
        the random states of those that are new are drawn from the seed and the step."""
        self.model.load_state_dict(state["model"])
        for name, part in self._steppers():
            part.load_state_dict(state[name])
        self.progress = Progress(
            *(state[name] for name in ("epoch", "step", "best", "best_step")),
            state.get("position", 0),
        )
        self.sums = self._new_sums()
        if self.progress.position:
            self.sums.load(state["sums"], self.process.rank, self.process.processes)
        set_random_state(state["random"], self.process, (self.settings.seed, self.progress.step))

    def _steppers(self) -> Iterator[tuple[str, Any]]:
        """The optimisers and schedulers by their names in a checkpoint."""
        yield from self.optimizers.items()
        yield from self.schedulers.items()

    def _say(self, epoch: EpochSums | None, results: dict[str, dict]) -> None:
        """One line an epoch."""
        settings, done = self.settings, self.progress
        shown = settings.select_average, settings.select_metric
        line = epoch_line((done.epoch, done.step), epoch, results, self.dataset.domain_names, shown)
        print(line + ("  *" if epoch and done.best_step == done.step else ""), flush=True)
