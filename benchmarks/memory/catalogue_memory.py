"""The memory of one part of the work at one catalogue size, in a separate process.

    python benchmarks/memory/catalogue_memory.py --part train --items 1000000

`train` are steps with one negative and `--sparse_items`, `ce` steps with the softmax over each
domain and dense Adam, `eval` is the trainer's validation under `full`, `empty` nothing at all: what
Python, torch and the imports take. Freed memory is given back to the system at once, where a run
keeps it for the next step (`utils.keep_freed_memory`), unless `--keep_freed` is given: kept memory
lies in pieces, and how well they fit differs from process to process.

One JSON object: the peak, the bytes of the tables (item weights, their dense gradient and the
optimiser's moments; exact, from the tensors), and the times.
"""

import argparse
import ctypes
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import alone, make_parser, peak_mib, seconds, start
from src.dataset.store.folder import TRAIN, VALID, Dataset
from src.evaluation.targets import split_targets
from src.io.errors import run_command
from src.training.processes import Process
from tests.support.step_benches import (
    DOMAIN_EVENTS,
    Bench,
    generated_dataset,
    make_bench,
    paper_settings,
    split_evenly,
    training_lengths,
)
from trainers import Trainer

SETTINGS = {
    "train": {"loss": "bce", "sparse_items": True},
    "ce": {"loss": "ce", "sparse_items": False},
    "eval": {"loss": "bce", "sparse_items": True},
}
PARTS = ("empty", *SETTINGS)
EVAL_USERS = 4  # times the users of a batch: each has one validation target
MIB = 2**20


def catalogue_dataset(items: int, users: int) -> Dataset:
    """A generated log of `users` with as many events each, whatever the number of items."""
    counts = split_evenly(items, len(DOMAIN_EVENTS))
    return generated_dataset(training_lengths(users), DOMAIN_EVENTS, counts)


def catalogue_bench(
    part: str, items: int, hidden: int, batch: int, process: Process, **changes: Any
) -> Bench:
    """A trainer for a part of the work, and one batch."""
    changes = SETTINGS[part] | changes
    settings = paper_settings(hidden=hidden, batch_size=batch, **changes)
    return make_bench(settings, catalogue_dataset(items, batch), process)


def give_freed_memory_back() -> None:
    """Undo `utils.keep_freed_memory`: a block of 64 KiB or more is a map of its own (glibc; else
    nothing), so that the peak is what the work needs."""
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 2**16)
        mallopt(trim_threshold, 2**16)


def item_tables(trainer: Trainer) -> list[Tensor]:
    """The tensors with a row for each item: weights, a dense gradient, the moments."""
    weights = trainer.model.item_table
    tables = [weights]
    if weights.grad is not None and not weights.grad.is_sparse:
        tables.append(weights.grad)
    for optimizer in trainer.optimizers.values():
        state = optimizer.state.get(weights, {})
        moments = (part for part in state.values() if isinstance(part, Tensor))
        tables += [part for part in moments if part.shape == weights.shape]
    return tables


def held(trainer: Trainer, process: Process, times: list[float]) -> dict[str, Any]:
    """The peak, and what of it are tables."""
    tables = item_tables(trainer)
    return {
        "peak_mib": peak_mib(process.device),
        "tables": len(tables),
        "tables_mib": sum(table.nbytes for table in tables) / MIB,
        "times": times,
    }


def train(parsed: argparse.Namespace, process: Process) -> dict[str, Any]:
    """Training steps; the first one is not timed."""
    bench = catalogue_bench(parsed.part, parsed.items, parsed.hidden, parsed.batch, process)
    bench.step()
    for table in item_tables(bench.trainer):
        table.detach().add_(0)  # moments that were never written take no memory yet
    times = [seconds(bench.step, process.device) for _ in range(parsed.rounds)]
    return held(bench.trainer, process, times)


def validate(parsed: argparse.Namespace, process: Process) -> dict[str, Any]:
    """Validations of a model with fresh weights; the last event of every user is a target."""
    dataset = catalogue_dataset(parsed.items, EVAL_USERS * parsed.batch)
    split = np.full(len(dataset.items), TRAIN, dtype=np.int8)
    split[dataset.offsets[1:] - 1] = VALID
    settings = paper_settings(hidden=parsed.hidden, batch_size=parsed.batch, **SETTINGS["eval"])
    bench = make_bench(settings, dataclasses.replace(dataset, split=split), process)
    targets = split_targets(bench.trainer.dataset, "valid")

    def run() -> float:
        return seconds(lambda: bench.trainer.validate(targets), process.device)

    run()
    figures = held(bench.trainer, process, [run() for _ in range(parsed.rounds)])
    return figures | {"targets": len(targets.events)}


def measure_alone(parsed: argparse.Namespace, part: str, items: int, rounds: int) -> dict[str, Any]:
    """What a process of its own says of a part at a size; `parsed` has the other flags."""
    return alone(
        __file__, f"--part={part}", f"--items={items}", f"--hidden={parsed.hidden}",
        f"--batch={parsed.batch}", f"--rounds={rounds}", f"--threads={parsed.threads}",
        f"--device={parsed.device}",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--part", choices=PARTS, default="train", help="what to run (train)")
    parser.add_argument("--items", type=int, default=1_000_000, help="catalogue size (1000000)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (256)")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    parser.add_argument("--keep_freed", action="store_true", help="keep freed memory, as runs do")
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    if not parsed.keep_freed:
        give_freed_memory_back()
    if parsed.part == "empty":
        figures = {"peak_mib": peak_mib(process.device)}
    else:
        figures = (validate if parsed.part == "eval" else train)(parsed, process)
    print(json.dumps(figures, allow_nan=False))


if __name__ == "__main__":
    run_command(main)
