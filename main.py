"""Train SyNCRec, or either of its tasks alone: dataset folder -> run folder.

    python main.py --data_name amazon --strd_ym 202312
    torchrun --nproc_per_node 2 main.py --data_name amazon --strd_ym 202312

The best checkpoint on validation is reloaded, and the test split is scored once, at the end.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from src import ranking
from src.arguments import as_json, build_parser, config_defaults, from_namespace, read_json
from src.checkpoint import read_checkpoint
from src.dataset.folder import VALID, Dataset
from src.errors import UserError, run_command
from src.evaluation.metrics import METRICS, summarise
from src.settings import Settings, check_settings
from trainers import Trainer
from utils import (
    METRICS_COLUMNS,
    ROOT,
    Process,
    Table,
    environment,
    model_parts,
    open_data,
    seed_everything,
    start_process,
    write_atomically,
    write_json,
)

RESERVED = ("candidates", "logs")  # folders beside the runs
# What a run may be found again without: it changes where and how, not the result.
RUN_ONLY = {"resume", "overwrite", "device", "threads", "compile", "runs_dir", "run_name"}


def parse_settings(arguments: list[str] | None = None) -> Settings:
    """The settings of the command line; `--config FILE` gives other defaults, flags win."""
    parser = build_parser(Settings, __doc__.splitlines()[0])
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings as a JSON file")
    first, _ = parser.parse_known_args(arguments)
    if first.config:
        parser.set_defaults(**config_defaults(Settings, first.config))
    settings = from_namespace(Settings, parser.parse_args(arguments))
    check_settings(settings)
    if settings.select_metric not in METRICS:
        raise UserError(
            f"--select_metric {settings.select_metric} is unknown; give one of {', '.join(METRICS)}"
        )
    if settings.data_dir:  # a run must be found again from any folder
        settings = dataclasses.replace(settings, data_dir=str(Path(settings.data_dir).resolve()))
    return settings


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
    if settings.overwrite and (folder / "config.json").is_file():
        shutil.rmtree(folder)
    if find_run(settings, folder, dataset.card["sha256"]):
        return True
    for checkpoint in sorted(folder.rglob("last.pt")):  # before anything is changed
        read_checkpoint(checkpoint, settings, dataset, torch.device("cpu"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); see --runs_dir") from None
    (folder / "results.json").unlink(missing_ok=True)  # those of the shorter run
    saved = dataclasses.replace(settings, resume=False, overwrite=False)
    write_json(folder / "environment.json", environment(process.device, dataset.card["sha256"]))
    write_json(folder / "config.json", as_json(saved))
    return False


def find_run(settings: Settings, folder: Path, data_sha256: str) -> bool:
    """Whether the folder holds this run, finished; UserError when it holds another one."""
    config = folder / "config.json"
    if not config.is_file():
        return False
    now = as_json(settings)
    # a setting that came after the run has the value that the run had without it
    before = as_json(Settings()) | read_json(config, "config.json of the run")
    differ = [name for name in now if name not in RUN_ONLY and before[name] != now[name]]
    # Only a longer run continues this one; a linear schedule was set out for its own epochs.
    may_grow = {"patience_steps", "min_steps"}
    may_grow |= {"max_epochs"} if settings.lr_schedule == "constant" else set()
    longer = settings.resume and all(
        name in may_grow and now[name] > before[name] for name in differ
    )
    if differ and not longer:
        raise UserError(
            f"{folder} holds a run with --{differ[0]} {before[differ[0]]}, not "
            f"{now[differ[0]]}; give another --run_name, or --overwrite"
        )
    trained_on = read_json(folder / "environment.json", "environment.json of the run")
    if trained_on["data_sha256"] != data_sha256:
        raise UserError(
            f"{folder} holds a run on other data (sha256 {trained_on['data_sha256'][:12]}…, not "
            f"{data_sha256[:12]}…); give another --run_name, or --overwrite"
        )
    if (folder / "results.json").is_file() and not differ:
        return True
    if not settings.resume:
        raise UserError(f"{folder} holds an unfinished run; give --resume or --overwrite")
    return False


def check_targets(settings: Settings, dataset: Dataset) -> None:
    """Refuse data without validation targets: there would be nothing to select by."""
    events = np.asarray(dataset.split) == VALID
    counts = np.bincount(dataset.domains[events], minlength=len(dataset.domain_names))
    if not counts.any():
        raise UserError(
            f"{dataset.folder} has no validation targets: every user has fewer than 3 events"
        )
    if settings.mode == "sdsr_separate" and not counts.all():
        name = dataset.domain_names[int(counts.argmin())]
        raise UserError(
            f"{dataset.folder}: domain {name} has no validation target to select its own model "
            "by; leave it out with make_dataset.py --domains, or use --mode sdsr"
        )


def train(settings: Settings, dataset: Dataset, folder: Path, process: Process) -> None:
    """Train, then score validation and test with the best checkpoint; write the run folder."""
    parts = model_parts(settings, dataset, folder)
    trainers = []
    for part, part_folder in parts:
        if process.leads:
            part_folder.mkdir(parents=True, exist_ok=True)
        seed_everything(settings.seed + process.rank)  # dropout of its own for each process
        trainer = Trainer(settings, part, part_folder, process)
        if settings.resume and (part_folder / "last.pt").is_file():
            trainer.load(part_folder / "last.pt")
        if len(parts) > 1 and process.leads:
            print(f"domain {part.domain_names[0]}: {len(trainer.users)} users", flush=True)
        trainer.fit()
        if process.processes > 1:
            dist.barrier()  # best.pt is there for everybody
        trainer.load(part_folder / "best.pt", weights_only=True)
        trainers.append(trainer)
    results, tables, baselines = {}, [], ranking.fit_baselines(dataset)
    for split in ("valid", "test"):
        results[split], rows = score_split(
            trainers, baselines, dataset, split, folder.parent / "candidates"
        )
        tables.extend(rows)
    if process.leads:
        if len(parts) > 1:
            merge_metrics(trainers, folder)
        ranks = pa.concat_tables(tables)
        write_atomically(folder / "ranks.parquet", lambda path: pq.write_table(ranks, path))
        write_json(folder / "results.json", results)


def score_split(
    trainers: list[Trainer], baselines: dict, dataset: Dataset, split: str, candidates: Path
) -> tuple[dict, list[pa.Table]]:
    """{protocol: {path: metrics}} and the rows of ranks.parquet, baselines included.

    Several trainers are the domains' own models; their targets together are the dataset's.
    `baselines` are fitted on the dataset; `candidates` is the folder of the stored negatives.
    """
    tables, lead = [], trainers[0]
    ranks: dict[tuple[str, str], list[tuple[ranking.Ranks, np.ndarray]]] = {}

    def note(found: dict[str, dict[str, ranking.Ranks]], domains: np.ndarray) -> None:
        for path, protocols in found.items():
            for protocol, part in protocols.items():
                ranks.setdefault((protocol, path), []).append((part, domains))

    targets = ranking.split_targets(dataset, split)
    negatives = split_negatives(lead.settings, dataset, targets, candidates)
    for number, trainer in enumerate(trainers):
        own_targets, own_negatives, own = targets, negatives, targets.domains
        if len(trainers) > 1:
            rows = np.flatnonzero(targets.domains == number)  # in the order of the whole
            own_targets, own = ranking.split_targets(trainer.dataset, split), targets.domains[rows]
            own_negatives = None if negatives is None else negatives[rows]
        found = trainer.rank(own_targets, own_negatives)
        tables.append(ranking.rank_rows(trainer.dataset, own_targets, found))
        note(found, own)
    base = baseline_ranks(baselines, dataset, targets, negatives)
    tables.append(ranking.rank_rows(dataset, targets, base))
    note(base, targets.domains)
    results: dict[str, dict] = {}
    for (protocol, path), parts in ranks.items():
        results.setdefault(protocol, {})[path] = summarise(
            np.concatenate([part.better for part, _ in parts]),
            np.concatenate([part.tied for part, _ in parts]),
            np.concatenate([domains for _, domains in parts]),
            dataset.domain_names,
            ties=lead.settings.ties,
        )
    return results, tables


def split_negatives(
    settings: Settings, dataset: Dataset, targets: ranking.Targets, folder: Path
) -> np.ndarray | None:
    """The stored negatives of a split's targets, the same for every model; None without them."""
    if not settings.sampled_negatives:
        return None
    return ranking.target_candidates(
        dataset, targets, settings.sampled_negatives, settings.candidate_seed, folder
    )


def baseline_ranks(
    baselines: dict, dataset: Dataset, targets: ranking.Targets, negatives: np.ndarray | None
) -> dict:
    """{path: {protocol: ranks}} of the fitted baselines."""
    rows = np.arange(len(targets.events))
    return {
        name: ranking.rank_targets(scorer, dataset, targets, negatives, rows)
        for name, scorer in ranking.baseline_scorers(baselines, targets).items()
    }


def merge_metrics(trainers: list[Trainer], folder: Path) -> None:
    """metrics.csv of the domains' own models in one table; their means are of one domain each."""
    merged = Table(folder / "metrics.csv", METRICS_COLUMNS)
    for trainer in trainers:
        part = Table(trainer.folder / "metrics.csv", METRICS_COLUMNS, trainer.progress.epoch)
        names = trainer.dataset.domain_names
        merged.rows.extend(row for row in part.rows if row[4] in names)
    merged.write([])


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
    settings = parse_settings(arguments)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    process = start_process(settings.device)
    dataset = open_data(settings)
    run = run_folder(settings, dataset)
    finished = process.agree(lambda: open_run(settings, run, process, dataset))
    if not finished:
        train(settings, dataset, run, process)
    elif process.leads:
        print(f"finished already: {run}")
    if process.leads:
        if "generated" in dataset.card.get("notes", {}):
            print("NOTE: the log is generated, not real behaviour")
        print(results_table(json.loads((run / "results.json").read_text())))
        print(f"run folder: {run}")
    if process.processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    run_command(main)
