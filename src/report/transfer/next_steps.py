"""What to do next: the runs that are missing, with their commands, and which path to serve."""

import os
import shlex
from pathlib import Path

import pandas as pd

from src.config.modes import BASELINE_MODES, BLEND, JOINT_MODE, SERVED
from src.report.finished_runs import Run, without_seed
from src.report.formatting import join_and, join_some
from src.report.seed_groups import SeedGroup
from src.report.training_ends import CANNOT_TELL
from src.report.transfer.data_sets import DataSet
from src.report.transfer.differences import (
    GAINED,
    HURT,
    WITHHELD,
    by_outcome,
    of_pair,
)

SEEDS = 3  # per model: fewer do not show how far two trainings of one model lie apart
LONGER = 2  # times as many epochs, or as much patience, where a model was not trained to the end
CONSTANT = "constant"

# (what to do, the command; empty: none)
Step = tuple[str, str]


def next_steps(data: DataSet, differences: pd.DataFrame) -> list[Step]:
    """The steps in the order in which they help."""
    return [
        *_missing_baseline(data),
        *_longer_training(data),
        *_missing_seeds(data),
        *_serving(data, differences),
    ]


def _command(run: Run, *flags: str) -> str:
    """main.py with the settings of a run and these flags."""
    config = shlex.quote(_shown(run.folder / "config.json"))
    return " ".join(["python main.py --config", config, *flags])


def _shown(path: Path) -> str:
    """A path relative to the current folder, if it lies below it."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else os.fspath(path)


def _stem(run: Run) -> str:
    """The name of a run without its seed."""
    return without_seed(run.name, run.seed) or run.name


def _missing_baseline(data: DataSet) -> list[Step]:
    """The forms of "on its own" that were not run."""
    steps = []
    for mode in BASELINE_MODES:
        if mode not in data.groups:
            run = data.groups[JOINT_MODE].runs[0]
            what = "one model per domain, which is what a team with separate services runs"
            if mode != BASELINE_MODES[0]:
                what = "the paired model, which shows what the other domains' events add"
            name = f"--run_name {shlex.quote(f'{mode}-seed{run.seed}')}"
            steps.append(
                (f"Train {what}, and add its folder:", _command(run, "--mode", mode, name))
            )
    return steps


def _longer_training(data: DataSet) -> list[Step]:
    """The models that were not trained to the end."""
    steps = []
    for group in data.groups.values():
        broken = [one for one in group.ends if one.fault]
        if not broken:
            continue
        run = broken[0].run
        flags = []
        if any(one.end.at_limit for one in broken):
            flags.append(f"--max_epochs {LONGER * run.config['max_epochs']}")
        if not all(one.end.at_limit for one in broken):
            unit = "patience_epochs" if run.config.get("patience_epochs") else "patience_steps"
            flags.append(f"--{unit} {LONGER * run.config[unit]}")
        other = []  # settings that make it another run
        if run.config["lr_schedule"] != CONSTANT:
            other.append(f"--lr_schedule {CONSTANT}")
        if any(one.end.warmed_too_long for one in broken):
            fewest = min(one.end.steps for one in group.ends)
            other.append(f"--warmup_steps {LONGER * fewest // 10}")
            if run.config.get("warmup_epochs"):
                other.append("--warmup_epochs 0")
        name = f"--run_name {shlex.quote(f'{_stem(run)}-longer-seed{run.seed}')}"
        again = name if other else "--resume"
        seeds = ", each seed" if len(group.runs) > 1 else ""
        what = data_title(data, group)
        steps.append(
            (
                f"Train {what} to the end{seeds}, and the others with the same settings:",
                _command(run, *flags, *other, again),
            )
        )
    return steps


def data_title(data: DataSet, group: SeedGroup) -> str:
    """The label of a group of the data set."""
    key = next(key for key, ranker in data.rankers.items() if ranker.group is group)
    return group.title if len(group.runs[0].paths) > 1 else data.phrase(key)


def _missing_seeds(data: DataSet) -> list[Step]:
    """The seeds that a model lacks beside the others', and of SEEDS in all."""
    every = sorted({run.seed for run in data.runs})
    while len(every) < SEEDS:
        every.append(every[-1] + 1)
    together: dict[
        tuple[Path, str, tuple[int, ...]], list[str]
    ] = {}  # models whose commands differ only in the name
    for group in data.groups.values():
        missing = tuple(seed for seed in every if seed not in {run.seed for run in group.runs})
        run = group.runs[0]
        key = run.folder.parent, run.name.removeprefix(_stem(run)), missing
        if missing:
            together.setdefault(key, []).append(_stem(run))
    return [
        (f"Train {join_and(names)} with the seeds that are missing:", _loop(*key, names=names))
        for key, names in together.items()
    ]


def _loop(parent: Path, suffix: str, seeds: tuple[int, ...], names: list[str]) -> str:
    """The command that trains these models with these seeds."""
    config = f'{shlex.quote(_shown(parent))}/"$name"{suffix}/config.json'
    return (
        f"for name in {' '.join(names)}; do for seed in {' '.join(map(str, seeds))}; do "
        f'python main.py --config {config} --seed "$seed" --run_name "$name-seed$seed"; done; done'
    )


def _serving(data: DataSet, differences: pd.DataFrame) -> list[Step]:
    """Which model to serve in each domain: on its own, unless another is significantly better."""
    own = data.baseline
    others = [key for key in (BLEND, SERVED, JOINT_MODE) if key in data.rankers]
    outcomes = {key: by_outcome(of_pair(differences, key, own)) for key in others}
    best: dict[str, tuple[float, str]] = {}  # {domain: (gain, key)}
    for key, rows in outcomes.items():
        for row in rows[GAINED]:
            best[row.domain] = max(best.get(row.domain, (0.0, own)), (row.difference, key))
    unknown = {row.domain for rows in outcomes.values() for row in rows[WITHHELD]} - best.keys()
    present = {row.domain for rows in outcomes[JOINT_MODE].values() for row in rows}
    known = [name for name in data.domains if name in present - unknown]
    tables = {  # a blend has the count models in it
        name: [] if best.get(name, (0.0, own))[1] == BLEND
        else _beaten_by_count_models(data, differences, name)
        for name in known
    }  # fmt: skip
    steps = []
    for key in (*others, own):
        domains = [
            name for name in known if not tables[name] and best.get(name, (0.0, own))[1] == key
        ]
        if domains:
            why = f"significantly better than {data.phrase(own)}"
            why = "no other is significantly better" if key == own else why
            what = f"Serve {join_some(domains, 8)} with {data.phrase(key)} ({why} on this test):"
            steps.append((what, _recommend(data, key, domains)))
    for name, winners in tables.items():
        if winners:
            what, which = "a look-up table, is", "that table"
            if len(winners) > 1:
                what, which = "look-up tables, are", "one of these tables"
            steps.append(
                (f"{name}: {join_and(winners)}, {what} significantly better than the trained "
                 f"models; train those further, or serve {which}.", "")
            )  # fmt: skip
    if unknown:
        names = [name for name in data.domains if name in unknown]
        where = join_some(names, 8)
        steps.append((f"Which model to serve in {where}: {CANNOT_TELL}.", ""))
    return steps


def _beaten_by_count_models(data: DataSet, differences: pd.DataFrame, domain: str) -> list[str]:
    """The count models that are significantly better in a domain than joined and on its own."""
    return [
        name
        for name in data.count_models
        if all(
            domain in [row.domain for row in by_outcome(of_pair(differences, key, name))[HURT]]
            for key in (JOINT_MODE, data.baseline)
        )
    ]


def _recommend(data: DataSet, key: str, domains: list[str]) -> str:
    run = shlex.quote(_shown(data.rankers[key].group.runs[0].folder))
    names = "" if domains == data.domains else f" --domains {shlex.join(domains)}"
    path = f" --serve_path {BLEND}" if key == BLEND else ""
    return f"python recommend.py --run {run} --k 10{path}{names} --out next-{key}.parquet"
