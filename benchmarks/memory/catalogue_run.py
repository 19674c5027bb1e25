"""A whole run at a million items: log, dataset, training that is interrupted and resumed, scores.

    python benchmarks/memory/catalogue_run.py --json > results/speed/catalogue_run.json
    python benchmarks/memory/catalogue_run.py --items 10000 --events 30000 --users 6400 --hidden 64

Generates a Parquet log in a temporary folder, in which every item occurs; the other events fall on
few items. Then the commands, as a user would run them, in processes of their own: make_dataset.py
with a split in time, main.py with `--loss bce --sparse_items` for one epoch (64,000 users, 128 a
batch: 500 steps), which gets SIGTERM once it has written two checkpoints, and main.py with
`--resume`, which trains the rest and ranks validation and test among all items of the domain.
For each command its seconds and the most memory it held; the folder is removed at the end.
"""

import argparse
import csv
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import machine, make_parser, print_result, say, start, timed
from src.io.errors import EXIT_INTERRUPTED, UserError, run_command

SHARES = (0.5, 0.3, 0.2)  # of the items, by domain
FIRST_SECOND, SECONDS = 1_600_000_000, 100_000_000  # of the log


def generate(items: int, events: int, users: int, path: Path) -> None:
    """Write a log of `events` events: each item once, the others by popularity."""
    rng = np.random.default_rng(0)
    popular = (items * rng.random(events - items) ** 4).astype(np.int64)
    chosen = np.concatenate([rng.permutation(items), popular])
    ends = (np.cumsum(SHARES) * items).round().astype(np.int64)
    # the items of a domain are spread over the popularities
    domain = np.searchsorted(ends, rng.permutation(items), side="right")[chosen]
    table = pa.table(
        {
            "user_id": pa.array(rng.integers(users, size=events)).cast(pa.string()),
            "item_id": pa.array(chosen).cast(pa.string()),
            "domain": pa.DictionaryArray.from_arrays(
                domain.astype(np.int32), ["first", "second", "third"]
            ).cast(pa.string()),
            "unix_time": FIRST_SECOND + rng.integers(SECONDS, size=events),
        }
    )
    pq.write_table(table, path)


def step_of(name: str, *arguments: Any) -> dict[str, Any]:
    """Run a command of the benchmark, as `timed`: its seconds, peak memory and last line."""
    say(f"{name}: python {' '.join(arguments[0])}")
    ended = timed(*arguments)
    say(f"{name}: {ended.seconds:.1f} s, {ended.peak_mib:,.0f} MiB; {ended.last_line}")
    return ended._asdict()


def run_all(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The log and the three commands."""
    log, data, runs = work / "log", work / "dataset", work / "runs"
    log.mkdir()
    generate(options.items, options.events, options.users, log / "events.parquet")
    threads = f"--threads={options.threads}"
    dataset = step_of(
        "dataset",
        ["make_dataset.py", "--data_name=catalogue", "--strd_ym=203012", f"--raw_dir={log}",
         f"--out_dir={data}", "--split=temporal", f"--valid_share={options.held_out}",
         f"--test_share={options.held_out}", threads],
    )  # fmt: skip
    flags = [
        "main.py", f"--data_dir={data}", f"--runs_dir={runs}", "--run_name=run", "--loss=bce",
        "--sparse_items", f"--hidden={options.hidden}", "--layers=1",
        f"--batch_size={options.batch}", "--max_epochs=1",
        f"--save_every_steps={options.save_every}", "--protocol=full", threads,
        f"--device={options.device}",
    ]  # fmt: skip
    folder = runs / "catalogue" / "run"
    second = folder / "former.pt"  # there as soon as a second checkpoint is
    began = step_of("interrupted", flags, EXIT_INTERRUPTED, second.is_file)
    checkpoint = (folder / "last.pt").stat().st_size / 2**20
    ended = step_of("resumed", [*flags, "--resume"])
    card = json.loads((data / "data_card.json").read_text())
    test = json.loads((folder / "results.json").read_text())["test"]["full"]
    return {
        "items": card["items"], "events": card["events"], "users": card["users"],
        "valid_targets": card["split"]["valid_events"],
        "test_targets": card["split"]["test_events"],
        "steps": last_step(folder), "interrupted_after": interrupted_after(began["last_line"]),
        "checkpoint_mib": checkpoint, "log_mib": (log / "events.parquet").stat().st_size / 2**20,
        "commands": {"dataset": dataset, "interrupted": began, "resumed": ended},
        "test_ndcg@10": {path: means["macro"]["ndcg@10"] for path, means in test.items()},
    }  # fmt: skip


def interrupted_after(line: str) -> int:
    """The step that the last line of an interrupted run names."""
    match = re.search(r"after step (\d+) of epoch", line)
    if match is None:
        raise UserError(f"the interrupted run ended with another line: {line}")
    return int(match[1])


def last_step(folder: Path) -> int:
    """The optimiser steps of a run."""
    with (folder / "metrics.csv").open(newline="") as file:
        return max(int(row["step"]) for row in csv.DictReader(file))


def main(arguments: list[str] | None = None) -> None:
    """Run and print."""
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--items", type=int, default=1_000_000, help="catalogue size (1000000)")
    parser.add_argument("--events", type=int, default=1_200_000, help="events (1200000)")
    parser.add_argument("--users", type=int, default=64_000, help="users (64000)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (256)")
    parser.add_argument("--batch", type=int, default=128, help="users in a batch (128)")
    parser.add_argument("--save_every", type=int, default=125, help="steps a checkpoint (125)")
    parser.add_argument(
        "--held_out", type=float, default=0.002, help="share of the events in each split (.002)"
    )
    parser.add_argument("--work_dir", help="folder for the log, the dataset and the run")
    options = parser.parse_args(arguments)
    if options.events < options.items:
        raise UserError(f"--events {options.events} are too few: each of the --items has one")
    process = start(options)
    with tempfile.TemporaryDirectory(dir=options.work_dir) as work:
        figures = run_all(options, Path(work))
    for done in figures["commands"].values():
        del done["last_line"]  # it names a temporary folder
    result = {**figures, "hidden": options.hidden, "batch": options.batch, **machine(process)}
    rows = [["command", "seconds", "peak memory, MiB"]]
    rows += [
        [name, f"{done['seconds']:.1f}", f"{done['peak_mib']:,.0f}"]
        for name, done in figures["commands"].items()
    ]
    print_result(result, rows, options.json)


if __name__ == "__main__":
    run_command(main)
