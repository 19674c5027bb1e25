"""Train SyNCRec, or either of its tasks alone: dataset folder -> run folder.

    python main.py --data_name amazon --strd_ym 202312
    torchrun --nproc_per_node 2 main.py --data_name amazon --strd_ym 202312

The best checkpoint on validation is reloaded, and the test split is scored once, at the end.

Any number of processes trains the same model, and --resume may go on with another number. Where
one of them dies, the others say so in a line and end; torchrun, which ends with status 1, sees it
within a tenth of a second and gives them 30 seconds at most. SIGTERM or SIGINT to torchrun ends all
after the step that they are in, with last.pt written. How gloo and NCCL connect is set by their own
environment variables and torchrun's flags.
"""

import dataclasses
import gc
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from src.config.cli import as_json, build_parser, config_defaults, from_namespace
from src.config.settings import MAY_GROW, RUN_ONLY, SCORING, Settings, check_settings
from src.dataset.store.folder import TRAIN, VALID, Dataset
from src.dataset.store.verify import check_events
from src.evaluation.evaluator import asked_protocols, evaluate_run, run_protocols
from src.evaluation.metrics import METRICS
from src.io.errors import UserError, run_command
from src.io.files import TEMPORARY, write_json
from src.io.locking import hold_lock
from src.runs.checkpoints import FAULT, FORMER, LAST, has_checkpoint, newest_checkpoint
from src.runs.records import read_config, read_environment, read_results
from src.runs.warm_start import (
    check_former,
    former_state,
    init_line,
    init_record,
    initial_state,
    open_former,
)
from src.training.memory import named_when_full, smaller_batch, smaller_ranking, smaller_tables
from src.training.tensorboard import view_folder
from trainers import Trainer
from utils import (
    METRICS_COLUMNS,
    ROOT,
    Process,
    Table,
    best_models,
    environment,
    model_parts,
    open_data,
    prepare,
    seed_everything,
    start_process,
)

RESERVED = ("candidates", "logs")  # folders beside the runs


class Command(NamedTuple):
    """What a command line asks for."""

    settings: Settings
    evaluate: Path | None = None  # a run folder
    replay: Path | None = None  # a checkpoint in one


def parse_command(arguments: list[str] | None = None) -> Command:
    """The command of a command line.

    `--config FILE`, or the run of the other two, gives other defaults; flags win.
    """
    parser = build_parser(Settings, __doc__.splitlines()[0])
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--config", metavar="FILE", type=Path, help="settings as a JSON file")
    files.add_argument(
        "--evaluate", metavar="RUN", type=Path,
        help="score a finished run folder again, without training; with the flags of evaluation",
    )  # fmt: skip
    files.add_argument(
        "--replay", metavar="FILE", type=Path,
        help="compute the step that a checkpoint of a run folder stands before, such as fault.pt, "
        "and print its losses and gradients; nothing is updated or written",
    )  # fmt: skip
    first, _ = parser.parse_known_args(arguments)
    if first.evaluate and not (first.evaluate / "results.json").is_file():
        raise UserError(f"--evaluate {first.evaluate} holds no finished run (no results.json)")
    former = first.evaluate or (first.replay and folder_of(first.replay))
    file = former / "config.json" if former else first.config
    defaults = config_defaults(Settings, file) if file else {}
    parser.set_defaults(**defaults)
    settings = from_namespace(Settings, parser.parse_args(arguments))
    check_settings(settings)
    settings = _with_whole_paths(settings)
    run_protocols(settings)  # refuses unknown ones
    if former:
        what = "--evaluate scores" if first.evaluate else "--replay computes a step of"
        _check_same_run(settings, defaults, what)
    if settings.select_metric not in METRICS:
        raise UserError(
            f"--select_metric {settings.select_metric} is unknown; give one of {', '.join(METRICS)}"
        )
    return Command(settings, first.evaluate, first.replay)


def folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in, as its own or one of a domain's model."""
    for folder in (checkpoint.parent, *checkpoint.resolve().parents[2:3]):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"--replay {checkpoint} is not in a run folder (no config.json)")


def _with_whole_paths(settings: Settings) -> Settings:
    """The settings with whole paths: a run must be found again from any folder."""
    paths = {name: getattr(settings, name) for name in ("data_dir", "init_from")}
    whole = {name: os.path.realpath(path) for name, path in paths.items() if path}
    return dataclasses.replace(settings, **whole)


def _check_same_run(settings: Settings, before: dict, what: str) -> None:
    """Refuse a flag that would be about another training than the run's; `what` begins the line."""
    before = dataclasses.asdict(Settings()) | before
    for name, value in dataclasses.asdict(settings).items():
        if name not in RUN_ONLY | SCORING | {"data_dir"} and value != before[name]:
            raise UserError(
                f"{what} the run as it was trained, with --{name} {before[name]}; "
                f"drop --{name}, or train another run"
            )


def run_folder(settings: Settings, dataset: Dataset) -> Path:
    """runs/<data_name>/<run_name>/ of these settings."""
    name = settings.run_name or f"{settings.mode}-{settings.loss}-seed{settings.seed}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"--run_name {name!r}: use letters, digits, '.', '_' and '-'")
    if name in RESERVED:
        raise UserError(f"--run_name {name} is reserved; give another name")
    return ROOT / settings.runs_dir / str(dataset.card["data_name"]) / name


def open_run(settings: Settings, folder: Path, process: Process, dataset: Dataset) -> bool:
    """Make the run folder, or find the run in it; True when it is finished already.

    A folder of other settings or data is refused; `--overwrite` starts anew, `--resume` goes on
    with an unfinished run, or with a finished one that is to train longer.
    """
    check_targets(settings, dataset)
    replaced = settings.overwrite and (folder / "config.json").is_file()
    if not replaced and find_run(settings, folder, dataset.card["sha256"]):
        return True
    for part, own in model_parts(settings, dataset, folder):  # before anything is changed
        if not replaced:
            newest_checkpoint(own, settings, part)
        prepare(settings, part, process)
    taken = former_record(settings, dataset, folder)
    if replaced:
        _empty(folder)
    for left in folder.rglob(TEMPORARY):  # by a command that was killed
        left.unlink()
    (folder / "results.json").unlink(missing_ok=True)  # those of the shorter run
    saved = dataclasses.replace(settings, resume=False, overwrite=False)
    stood_on = environment(process.device, dataset.card["sha256"]) | taken
    write_json(folder / "environment.json", stood_on)
    write_json(folder / "config.json", as_json(saved))
    return False


def lock_run(folder: Path, held: ExitStack) -> None:
    """Make the run folder and lock it, until `held` or the process ends.

    UserError where another command works in it, or it cannot be made. A folder that is empty at
    the end of `held`, because the command was refused, is removed.
    """
    refusal = f"another command works in {folder} now; wait for it, or give another --run_name"
    try:
        held.enter_context(hold_lock(folder, refusal))
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); see --runs_dir") from None
    held.callback(_remove_empty, folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not empty, or another command has removed it
        folder.rmdir()


def _empty(folder: Path) -> None:
    """Remove all that a run folder holds. What a kill leaves is of one run and says of which: what
    it would be found finished by, or go on from, goes first, and its settings go last."""
    order = {"results.json": 0, LAST: 0, FORMER: 0, "environment.json": 2, "config.json": 3}
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in sorted(files, key=lambda path: order.get(path.name, 1)):
        path.unlink()
    for path in folder.iterdir():
        shutil.rmtree(path)


def former_record(settings: Settings, dataset: Dataset, folder: Path) -> dict:
    """What environment.json says of the run that `--init_from` names: {} without one.

    Every checkpoint that the run folder has is the run's own, and wins: where all are there, the
    former run is not needed, and what was written down before stays. UserError where it is needed
    and cannot be taken.
    """
    if not settings.init_from:
        return {}
    parts = model_parts(settings, dataset, folder)
    if settings.resume and all(has_checkpoint(own) for _, own in parts):
        return {"init_from": read_environment(folder).get("init_from")}
    former = open_former(Path(settings.init_from), open_data)
    check_former(former, settings, dataset, folder)
    for part, _ in parts:
        former_state(former, part)  # a torn checkpoint is found before anything is changed
    record = init_record(former, dataset)
    print(init_line(record), flush=True)
    return {"init_from": record}


def find_run(settings: Settings, folder: Path, data_sha256: str) -> bool:
    """Whether the folder holds this run, finished; UserError when it holds another one."""
    if not (folder / "config.json").is_file():
        if any(folder.rglob("*.pt")):
            raise UserError(
                f"{folder} holds checkpoints and no config.json that says of which run; "
                "remove it, or give another --run_name"
            )
        return False
    now = as_json(settings)
    before = read_config(folder)
    differ = [name for name in now if name not in RUN_ONLY and before[name] != now[name]]
    # a linear schedule was set out for its own epochs
    may_grow = MAY_GROW - ({"max_epochs"} if settings.lr_schedule == "linear" else set())
    longer = settings.resume and all(
        name in may_grow and now[name] > before[name] for name in differ
    )
    if differ and not longer:
        raise UserError(
            f"{folder} holds a run with --{differ[0]} {before[differ[0]]}, not "
            f"{now[differ[0]]}; give another --run_name, or --overwrite"
        )
    check_data(folder, data_sha256, "give another --run_name, or --overwrite")
    if (folder / "results.json").is_file() and not differ:
        return True
    if not settings.resume:
        raise UserError(f"{folder} holds an unfinished run; give --resume or --overwrite")
    return False


def check_data(folder: Path, data_sha256: str, way_out: str) -> None:
    """Refuse a run folder that stands on other data."""
    trained_on = read_environment(folder)
    if trained_on["data_sha256"] != data_sha256:
        raise UserError(
            f"{folder} holds a run on other data (sha256 {trained_on['data_sha256'][:12]}…, not "
            f"{data_sha256[:12]}…); {way_out}"
        )


def check_targets(settings: Settings, dataset: Dataset) -> None:
    """Refuse data without validation targets: there would be nothing to select by.

    With a model a domain each domain needs them, and training events.
    """
    names, counts = dataset.domain_names, dataset.split_counts
    if not counts[VALID].any():
        raise UserError(
            f"{dataset.folder} has no validation targets; users with more events are needed, or "
            "another --split of make_dataset.py"
        )
    needed = {VALID: "validation target to select its own model by", TRAIN: "training event"}
    for part, what in needed.items():
        if settings.mode == "sdsr_separate" and not counts[part].all():
            raise UserError(
                f"{dataset.folder}: domain {names[int(counts[part].argmin())]} has no {what}; "
                "leave it out with make_dataset.py --domains, or use --mode sdsr"
            )


def train(settings: Settings, dataset: Dataset, folder: Path, process: Process) -> None:
    """Train, then score validation and test with the best checkpoint; write the run folder."""
    fit_parts(settings, dataset, folder, process)
    gc.collect()  # an optimiser and its schedule hold each other, and with them tables of moments
    process.wait()  # best.pt is there for everybody
    score(settings, dataset, folder, process, keep=False)


def fit_parts(settings: Settings, dataset: Dataset, folder: Path, process: Process) -> None:
    """Train the run's models, one after the other; only their files are left."""
    view = view_folder(folder) if settings.tensorboard and process.leads else None
    former, done = None, []
    for part, part_folder in model_parts(settings, dataset, folder):
        if process.leads:
            part_folder.mkdir(parents=True, exist_ok=True)
        seed_everything(settings.seed + process.rank)  # dropout of its own for each process
        trainer = Trainer(settings, part, part_folder, process)
        if part is not dataset and process.leads:
            print(f"domain {part.domain_names[0]}: {len(trainer.loader.users)} users", flush=True)
        with named_when_full("in taking up the checkpoint", smaller_tables(settings)):
            resumed = settings.resume and trainer.resume()
        if settings.init_from and not resumed:
            former = former or open_former(Path(settings.init_from), open_data)
            state = initial_state(former, part, trainer.model.state_dict())
            if state is not None:
                trainer.start_from(state)
        trainer.fit(view and view / part_folder.relative_to(folder))
        done.append((part_folder, part.domain_names, trainer.progress.epoch))
    if len(done) > 1 and process.leads:
        merge_metrics(done, folder)


def replay(settings: Settings, dataset: Dataset, file: Path, process: Process) -> None:
    """`--replay`: print the losses and gradients of the step that a checkpoint stands before."""
    parts = model_parts(settings, dataset, folder_of(file))
    found = [(part, own) for part, own in parts if own.resolve() == file.parent.resolve()]
    if not found:
        raise UserError(f"--replay {file} lies where no model of the run has its checkpoints")
    trainer = Trainer(settings, *found[0], process)
    with named_when_full("in the step", smaller_batch(settings, trainer.forecast)):
        trainer.load(file)
        done = trainer.progress
        if process.leads:
            print(f"step {done.position + 1} of epoch {done.epoch + 1}")
        for line in trainer.replay():
            if process.leads:
                print(line)


def score(settings: Settings, dataset: Dataset, folder: Path, process: Process, keep: bool) -> None:
    """Rank with the best checkpoints; with `keep`, what the folder has of other protocols stays."""
    with named_when_full("in ranking", smaller_ranking(settings)):
        ensemble = best_models(settings, dataset, folder, process.device)
        evaluate_run(ensemble, settings, dataset, folder, process, keep)


def score_again(settings: Settings, dataset: Dataset, folder: Path, process: Process) -> None:
    """`--evaluate`: score a finished run with its own settings, but for those of scoring."""
    before = read_config(folder)
    check_data(folder, dataset.card["sha256"], "make that dataset again, or give its --data_dir")
    now = as_json(settings)
    keep = all(before[name] == now[name] for name in SCORING - RUN_ONLY)
    score(settings, dataset, folder, process, keep)
    if process.leads:
        write_json(folder / "config.json", before | {name: now[name] for name in SCORING})


def lacks_scores(settings: Settings, dataset: Dataset, folder: Path) -> bool:
    """Whether a finished run has not been scored under all that is asked for."""
    results = read_results(folder)
    return any(name not in results["test"] for name in asked_protocols(settings, dataset))


def merge_metrics(parts: list[tuple[Path, list[str], int]], folder: Path) -> None:
    """metrics.csv of the domains' own models, each (folder, names, epochs), in one table; their
    means are of one domain each."""

    def rows() -> Iterator[list[str]]:
        for own, names, epoch in parts:
            part = Table(own / "metrics.csv", METRICS_COLUMNS, epoch)
            yield from (row for row in part.kept() if row[4] in names)

    Table(folder / "metrics.csv", METRICS_COLUMNS).write(rows())


def results_table(results: dict, protocol: str = "full") -> str:
    """The test metrics of each path, a row a domain."""
    paths = results["test"][protocol]
    names = list(next(iter(paths.values())))
    width = max(len(name) for name in names)
    lines = [f"test, protocol {protocol}: NDCG@10 / HR@10"]
    lines.append("  ".join([" " * width, f"{'n':>6}", *(f"{path:>15}" for path in paths)]))
    for name in names:
        rows = [metrics[name] for metrics in paths.values()]
        cells = [
            f"{row['ndcg@10']:.4f} / {row['hr@10']:.4f}".rjust(15) if row["n"] else f"{'–':>15}"
            for row in rows
        ]
        lines.append("  ".join([name.ljust(width), f"{rows[0]['n']:6d}", *cells]))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Train, or find the run finished, and print its table. Raises UserError for mistakes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as after Ctrl-C
    settings, evaluated, checkpoint = parse_command(arguments)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    process = start_process(settings.device, settings.deterministic)
    dataset = open_data(settings)
    check_events(dataset)
    with process.needing_others():
        if checkpoint:
            replay(settings, dataset, checkpoint, process)
        else:
            run = find_or_train(settings, dataset, evaluated, process)
            if process.leads:
                print_results(dataset, run)


def find_or_train(
    settings: Settings, dataset: Dataset, evaluated: Path | None, process: Process
) -> Path:
    """Score the run folder `evaluated` again, or find the settings' own finished, or train it."""
    run = evaluated or run_folder(settings, dataset)
    with ExitStack() as held:
        process.agree(lambda: lock_run(run, held))
        if evaluated:
            score_again(settings, dataset, run, process)
            return run
        finished = process.agree(lambda: open_run(settings, run, process, dataset))
        if not finished:
            train(settings, dataset, run, process)
        elif process.leads:
            print(f"finished already: {run}")
        if finished and process.agree(lambda: lacks_scores(settings, dataset, run)):
            score_again(settings, dataset, run, process)
        if process.leads:
            for path in (*run.rglob(FORMER), *run.rglob(FAULT)):  # each takes as much as last.pt
                path.unlink()
    return run


def print_results(dataset: Dataset, run: Path) -> None:
    """The table of a run that has been scored."""
    if "generated" in dataset.card.get("notes", {}):
        print("NOTE: the log is generated, not real behaviour")
    print(results_table(read_results(run)))
    print(f"run folder: {run}")


if __name__ == "__main__":
    run_command(main)
