"""What main.py does: train a run, score it, score it again, or replay one of its steps."""

import dataclasses
import gc
from contextlib import ExitStack
from pathlib import Path

import torch

from src.config.cli import as_json
from src.config.identity import scored_otherwise
from src.config.settings import Settings, run_settings
from src.dataset.store.folder import Dataset, open_named
from src.dataset.store.verify import check_events
from src.evaluation.targets import check_macro
from src.io.errors import UserError
from src.io.files import write_json
from src.runs import divergence, lifecycle, training_state
from src.runs.command import Command, folder_of
from src.runs.evaluate import evaluate_run, missing_results, results_table
from src.runs.models import best_models, model_parts
from src.runs.records import read_results
from src.runs.tables import merge_metrics
from src.runs.warm_start import initial_state, open_former
from src.training.convergence import ending_lines, warn_of_short_training
from src.training.device_memory import (
    advise_when_full,
    smaller_batch,
    smaller_ranking,
    smaller_tables,
)
from src.training.processes import Process
from src.training.random_state import seed_everything
from src.training.tensorboard import view_folder
from trainers import Trainer
from utils import start_process

NOTHING_SHARED = (
    "no user is active in two domains, so nothing can be transferred: either there is one domain "
    "(--domain_col of make_dataset.py), or users have other ids in each"
)


def run(command: Command) -> None:
    """Do what a command line asks for, and print the results. Raises UserError for mistakes."""
    settings, evaluated, checkpoint = command
    if settings.threads:
        torch.set_num_threads(settings.threads)
    process = start_process(settings.device, settings.deterministic)
    dataset = open_named(settings)
    check_events(dataset)
    with process.needing_others():
        if checkpoint:
            replay(settings, dataset, checkpoint, process)
        else:
            folder, trained = find_or_train(settings, dataset, evaluated, process)
            if process.leads:
                if "generated" in dataset.card.get("notes", {}):
                    print("NOTE: the log is generated, not real behaviour")
                print(results_table(read_results(folder)))
                for line in ending_lines(folder, settings) if trained else ():
                    print(line)
                print(f"run folder: {folder}")


def train(settings: Settings, dataset: Dataset, folder: Path, process: Process) -> None:
    """Train the run's models one after the other and write their files."""
    view = view_folder(folder) if settings.tensorboard and process.leads else None
    former, trained = None, []
    for part, part_folder in model_parts(settings, dataset, folder):
        if process.leads:
            part_folder.mkdir(parents=True, exist_ok=True)
        seed_everything(settings.seed, process.rank)  # each process has its own dropout
        trainer = Trainer(settings, part, part_folder, process)
        if part is not dataset and process.leads:
            print(f"domain {part.domain_names[0]}: {len(trainer.loader.users)} users", flush=True)
        with advise_when_full("reading the checkpoint", smaller_tables(settings)):
            resumed = settings.resume and training_state.resume(trainer)
        if settings.init_from and not resumed:
            former = former or open_former(Path(settings.init_from))
            fresh = training_state.fresh_states(trainer)
            if states := initial_state(former, part, fresh, trainer.model):
                training_state.start_from(trainer, states)
        if process.leads and not trainer.progress.finished(settings):
            domain = "" if part is dataset else part.domain_names[0]
            warn_of_short_training(settings, trainer.loader.steps_per_epoch, domain)
        trainer.fit(view and view / part_folder.relative_to(folder))
        trained.append((part_folder, part.domain_names, trainer.progress.epoch))
    if trained[0][0] != folder and process.leads:
        merge_metrics(trained, folder)


def replay(settings: Settings, dataset: Dataset, checkpoint: Path, process: Process) -> None:
    """`--replay`: print the losses and gradients of the step that follows a checkpoint."""
    parts = model_parts(settings, dataset, folder_of(checkpoint))
    same_folder = [part for part in parts if part[1].resolve() == checkpoint.parent.resolve()]
    if not same_folder:
        folders = " or ".join(str(part_folder) for _, part_folder in parts)
        raise UserError(f"--replay {checkpoint} is not in {folders}; give a checkpoint from there")
    trainer = Trainer(settings, *same_folder[0], process)
    with advise_when_full("computing the step", smaller_batch(settings, trainer.forecast)):
        for line in divergence.replay(trainer, checkpoint):
            if process.leads:
                print(line)


def score(settings: Settings, dataset: Dataset, folder: Path, process: Process, keep: bool) -> None:
    """Rank with the best checkpoints; `keep` keeps the folder's results of other protocols."""
    with advise_when_full("ranking", smaller_ranking(settings)):
        ensemble = best_models(settings, dataset, folder, process.device)
        evaluate_run(ensemble, settings, dataset, folder, process, keep)


def score_again(settings: Settings, dataset: Dataset, folder: Path, process: Process) -> None:
    """Score a finished run with other scoring settings, or under more protocols."""
    lifecycle.check_data(
        folder, dataset.card["sha256"], "make that dataset again, or give its --data_dir"
    )
    check_macro(dataset, settings.min_domain_targets)
    before = run_settings(folder)
    others = scored_otherwise(before, settings)
    if others and process.leads:
        print(f"--{', --'.join(others)} changed: scoring again replaces the earlier results")
    score(settings, dataset, folder, process, keep=not others)
    if process.leads:
        changed = {name: getattr(settings, name) for name in others}
        write_json(folder / "config.json", as_json(dataclasses.replace(before, **changed)))


def find_or_train(
    settings: Settings, dataset: Dataset, evaluated: Path | None, process: Process
) -> tuple[Path, bool]:
    """Score the run folder `evaluated` again, or train the run of the settings unless it is
    finished; returns the run folder and whether it was trained."""
    run = evaluated or lifecycle.run_folder(settings, dataset)
    with ExitStack() as held:
        process.agree(lambda: lifecycle.lock_run(run, held))
        if evaluated:
            score_again(settings, dataset, run, process)
            return run, False
        finished = process.agree(lambda: lifecycle.open_run(settings, run, process, dataset))
        if not finished:
            if process.leads and not dataset.shares_users():
                print(f"NOTE: {NOTHING_SHARED}", flush=True)
            train(settings, dataset, run, process)
            gc.collect()  # optimisers and schedulers are reference cycles that hold large tensors
            process.wait()  # for best.pt
            score(settings, dataset, run, process, keep=False)
        else:
            if process.leads:
                print(f"finished already: {run}")
            missing = process.agree(lambda: missing_results(settings, dataset, run))
            if missing and process.leads:
                print(f"scoring it again: no results yet of the protocols {', '.join(missing)}")
            if missing or process.agree(lambda: scored_otherwise(run_settings(run), settings)):
                score_again(settings, dataset, run, process)
        if process.leads:
            lifecycle.clean_up(run)
    return run, not finished
