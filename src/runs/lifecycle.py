"""The life of a run folder: name, lock, open or create, empty, clean up.

Two commands never work in one folder, a folder belongs to one run, and however a command ends,
nothing is left that could be mistaken for another run's.
"""

import dataclasses
import re
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from src.config.cli import as_json
from src.config.identity import difference, in_words, longer
from src.config.settings import Settings, run_settings
from src.dataset.store.folder import TRAIN, VALID, Dataset
from src.evaluation.targets import check_macro
from src.io.errors import UserError
from src.io.files import TEMPORARY, check_output, write_json
from src.io.locking import hold_lock
from src.io.paths import ROOT
from src.objective.weighting import weighting_class
from src.runs.checkpoints import (
    FAULT,
    FORMER,
    LAST,
    check_continuable,
    has_checkpoint,
    newest_checkpoint,
)
from src.runs.models import count_parameters, model_parts
from src.runs.records import environment, read_environment
from src.runs.warm_start import (
    check_former,
    former_state,
    init_line,
    init_record,
    open_former,
)
from src.training.coalition_losses import MOST_DOMAINS
from src.training.device_memory import check_tables
from src.training.processes import Process

RESERVED = ("candidates", "logs")  # other folders beside the runs


def run_folder(settings: Settings, dataset: Dataset) -> Path:
    """RUNS_DIR/<data_name>/<run_name>/ for these settings."""
    name = settings.run_name or f"{settings.subject}-{settings.loss}-seed{settings.seed}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"--run_name {name!r}: use letters, digits, '.', '_' and '-'")
    if name in RESERVED:
        raise UserError(f"--run_name {name} is reserved; give another name")
    runs = Path(settings.runs_dir) if settings.runs_dir else ROOT / "runs"
    return runs / str(dataset.card["data_name"]) / name


# ------------------------------------------------------------------------ the lock


def lock_run(folder: Path, held: ExitStack) -> None:
    """Create the run folder and lock it until `held` or the process ends.

    UserError where another command works in it, or it cannot be created. A folder that is empty at
    the end of `held`, because the command was refused, is removed.
    """
    refusal = f"another command is working in {folder}; wait for it, or give another --run_name"
    check_output(folder, "--runs_dir", folder=True)
    try:
        held.enter_context(hold_lock(folder, refusal))
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be created ({error.strerror}); give another --runs_dir"
        ) from None
    held.callback(_remove_empty, folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not empty, or another command has removed it
        folder.rmdir()


# ------------------------------------------------------------------------ open or create


def open_run(settings: Settings, folder: Path, process: Process, dataset: Dataset) -> bool:
    """Open the run folder, or create its files; True when the run is already finished.

    A folder of other settings or data is refused; `--overwrite` replaces it, `--resume` continues
    an unfinished run, or a finished one that is to train longer.
    """
    check_trainable(settings, dataset, process)
    replaced = settings.overwrite and (folder / "config.json").is_file()
    if not replaced and find_run(settings, folder, dataset.card["sha256"]):
        return True
    if not replaced:
        _check_checkpoints(settings, dataset, folder)  # before anything is changed
    init_from = _init_from_record(settings, dataset, folder)
    if replaced:
        _empty(folder)
    for leftover in folder.rglob(TEMPORARY):  # of a command that was killed
        leftover.unlink()
    (folder / "results.json").unlink(missing_ok=True)  # those of the shorter run
    saved = dataclasses.replace(settings, resume=False, overwrite=False)
    record = environment(process.device, dataset.card["sha256"]) | init_from
    write_json(folder / "environment.json", record)
    write_json(folder / "config.json", as_json(saved))
    return False


def _check_checkpoints(settings: Settings, dataset: Dataset, folder: Path) -> None:
    """UserError where a run cannot be continued from its checkpoints; a line where it has none yet.

    A run whose replacement was killed may have lost any of them and is trained again.
    """
    if not (folder / "config.json").is_file():
        return
    finished, emptied = (folder / "results.json").is_file(), run_settings(folder).overwrite
    parts = model_parts(settings, dataset, folder)
    for part, part_folder in parts:
        newest_checkpoint(part_folder, settings, part)
        if not emptied:
            check_continuable(part_folder, finished)
    if not any(has_checkpoint(part_folder) for _, part_folder in parts):
        print(f"{folder} has no checkpoint yet: training from the start", flush=True)


def find_run(settings: Settings, folder: Path, data_sha256: str) -> bool:
    """Whether the folder holds this run, finished; UserError when it holds another one."""
    if not (folder / "config.json").is_file():
        if any(folder.rglob("*.pt")):
            raise UserError(
                f"{folder} holds checkpoints but no config.json; remove the folder, or give "
                "another --run_name"
            )
        return False
    before = run_settings(folder)
    if name := difference(before, settings, resume=settings.resume):
        raise UserError(
            f"{folder} holds a run {in_words(name, before, settings)}; give another --run_name, or "
            "--overwrite"
        )
    check_data(folder, data_sha256, "give another --run_name, or --overwrite")
    if (folder / "results.json").is_file() and not longer(before, settings):
        return True
    if not settings.resume:
        raise UserError(f"{folder} holds an unfinished run; give --resume or --overwrite")
    return False


def check_data(folder: Path, data_sha256: str, remedy: str) -> None:
    """Refuse a run on other data (UserError)."""
    trained_on = read_environment(folder)["data_sha256"]
    if trained_on != data_sha256:
        raise UserError(
            f"{folder} holds a run on other data (sha256 {trained_on[:12]}…, not "
            f"{data_sha256[:12]}…); {remedy}"
        )


def check_trainable(settings: Settings, dataset: Dataset, process: Process) -> None:
    """UserError where the run cannot be trained, before anything is created.

    Checkpoints are selected on validation targets, so there must be some; with one model per domain
    each domain needs them, and training events.
    """
    if settings.sparse_items and process.processes > 1:
        raise UserError(
            "--sparse_items needs a single process, because sparse gradients are not shared; drop "
            "it, or start without torchrun"
        )
    if settings.batch_size < process.processes:
        raise UserError(
            f"--batch_size {settings.batch_size} is less than one user for each of the "
            f"{process.processes} processes; start fewer, or give a larger one"
        )
    check_macro(dataset, settings.min_domain_targets)
    names, counts = dataset.domain_names, dataset.split_counts
    if weighting_class(settings).coalition_targets and len(names) > MOST_DOMAINS:
        raise UserError(
            f"--weighting {settings.weighting} takes 2^D passes over D domains: at most "
            f"{MOST_DOMAINS}, not {len(names)}; give another --weighting, or a dataset of fewer "
            "--domains"
        )
    if not counts[VALID].any():
        raise UserError(
            f"{dataset.folder} has no validation targets; loosen the filters or change the split "
            "of make_dataset.py"
        )
    if not counts[TRAIN].any():
        raise UserError(
            f"{dataset.folder} has no training events; loosen the filters or change the split"
        )
    needed = {VALID: "validation target to select its own model by", TRAIN: "training event"}
    for part, what in needed.items():
        if settings.per_domain and not counts[part].all():
            raise UserError(
                f"{dataset.folder}: domain {names[int(counts[part].argmin())]} has no {what}; "
                "leave it out with make_dataset.py --domains, or train one model for all domains"
            )
    check_tables(settings, count_parameters(settings, dataset), process.device)


# ------------------------------------------------------------------------ a former run


def _init_from_record(settings: Settings, dataset: Dataset, folder: Path) -> dict:
    """The entry of environment.json about the run of `--init_from`; {} without one.

    A resumed run continues from its own checkpoints: where it has all of them, the former run is
    not needed, and the entry stays. UserError where the former run is needed but cannot be used.
    """
    if not settings.init_from:
        return {}
    parts = model_parts(settings, dataset, folder)
    if settings.resume and all(has_checkpoint(part_folder) for _, part_folder in parts):
        return {"init_from": read_environment(folder).get("init_from")}
    former = open_former(Path(settings.init_from))
    check_former(former, settings, dataset, folder)
    for part, _ in parts:
        former_state(former, part)  # detects a damaged checkpoint before anything changes
    record = init_record(former, dataset)
    print(init_line(record), flush=True)
    return {"init_from": record}


# ------------------------------------------------------------------------ empty, clean up


def _empty(folder: Path) -> None:
    """Remove the content of a run folder: results and checkpoints first, settings last, so that
    after a kill in between the folder is an unfinished run with its settings, marked as one whose
    checkpoints were being removed."""
    with suppress(UserError):  # a damaged config.json
        marked = dataclasses.replace(run_settings(folder), overwrite=True)
        write_json(folder / "config.json", as_json(marked))
    order = {"results.json": -1, LAST: 0, FORMER: 0, "environment.json": 2, "config.json": 3}
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in sorted(files, key=lambda path: order.get(path.name, 1)):
        path.unlink()
    for path in folder.iterdir():
        shutil.rmtree(path)


def clean_up(folder: Path) -> None:
    """Remove what a finished run no longer needs; each file is as large as last.pt."""
    for path in (*folder.rglob(FORMER), *folder.rglob(FAULT)):
        path.unlink()
