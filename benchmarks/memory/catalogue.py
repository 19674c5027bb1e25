"""A training step and an evaluation, by the size of the catalogue: time and memory.

    python benchmarks/memory/catalogue.py
    python benchmarks/memory/catalogue.py --items 10000 100000 --hidden 64 --memory ce --json

Time: with `--sparse_items` a step with one negative a target touches the rows of the batch's items
alone, so a hundred times the items should take it no longer; the Adam that updates every row at
every step stands beside it, unless `--skip_dense` or the memory forbid it (four tables: weights,
gradient, two moments). The users are the same, with as many events each; items are drawn uniformly,
so hardly one comes twice in a large catalogue. One step of each in every round; `ratio` is the
median of the largest catalogue over that of the smallest.

Memory (`catalogue_memory.py`), each figure of a process of its own: steps like those (`train`),
steps with the softmax and dense Adam (`ce`), a validation (`eval`). `peak_mib` is the most that a
process held, `tables_mib` what of it has a row for each item (exact), and `beyond_mib` the rest,
without what an empty process holds. `growth_mib` is how far that grew from the second largest
catalogue to the largest. Freed memory goes back to the system at once there; a run keeps it, and
then holds more, by how the pieces happen to fit. `ce`, which takes long, has one timed step.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.memory.catalogue_memory import SETTINGS, catalogue_bench, measure_alone
from benchmarks.speed.common import (
    interleaved,
    machine,
    make_parser,
    print_result,
    say,
    seconds,
    spread,
    start,
)
from src.io.errors import run_command
from src.training.device_memory import memory_limit
from src.training.processes import Process
from tests.support.step_benches import Bench

CPU = torch.device("cpu")
COPIES = {True: 3, False: 4}  # tables held: weights, two moments and, unless sparse, the gradient


def needed_bytes(items: int, hidden: int, sparse: bool) -> int:
    """What the item table of a model takes with its optimiser's state."""
    return COPIES[sparse] * 4 * items * hidden


def make_benches(options: argparse.Namespace, process: Process) -> dict[str, Bench]:
    """A bench for each size and kind of update, as far as the memory goes."""
    benches = {}
    for sparse in (True, False):
        for count in options.items:
            needed = 1.25 * needed_bytes(count, options.hidden, sparse)
            if not sparse and (options.skip_dense or needed > memory_limit(CPU)[0]):
                say(f"left out: {count} items with dense updates")
                continue
            bench = catalogue_bench(
                "train", count, options.hidden, options.batch, process, sparse_items=sparse
            )
            bench.step()  # its state is allocated before the next one asks what is left
            benches[f"{count} {'sparse' if sparse else 'dense'}"] = bench
    return benches


def time_steps(options: argparse.Namespace, process: Process) -> dict[str, Any]:
    """Seconds of a step at every size, with sparse updates and dense ones."""
    benches = make_benches(options, process)
    rounds = interleaved(
        {
            name: lambda step=bench.step: seconds(step, process.device)
            for name, bench in benches.items()
        },
        options.rounds,
    )
    medians = {name: median(times) for name, times in rounds.items()}
    steps = [medians[f"{count} sparse"] for count in options.items]
    return {
        "step_s": steps,
        "ratio": steps[-1] / steps[0],
        "dense_step_s": [medians.get(f"{count} dense") for count in options.items],
        "tokens": benches[f"{options.items[0]} sparse"].tokens,
        "rounds": rounds,
    }


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """What each part of the work holds at every size: keys as in the docstring, with the part's
    name before them unless it is `train`."""
    memory: dict[str, Any] = {}
    empty = measure_alone(options, "empty", 0, 0)["peak_mib"] if options.memory else None
    for part in options.memory:
        prefix = "" if part == "train" else f"{part}_"
        rounds = 1 if part == "ce" else options.rounds
        alone = [measure_alone(options, part, count, rounds) for count in options.items]
        beyond = [one["peak_mib"] - one["tables_mib"] - empty for one in alone]
        memory |= {
            f"{prefix}peak_mib": [one["peak_mib"] for one in alone],
            f"{prefix}tables_mib": [one["tables_mib"] for one in alone],
            f"{prefix}beyond_mib": beyond,
            f"{prefix}growth_mib": beyond[-1] - beyond[-2] if len(beyond) > 1 else None,
            f"{prefix}alone_s": [one["times"] for one in alone],
        }
        if part == "eval":
            memory["eval_targets"] = alone[0]["targets"]
    return {"empty_mib": empty, **memory}


def table(result: dict[str, Any]) -> list[list[str]]:
    """The figures as rows of a table."""
    rows = [["items", "what", "s: median (least to greatest)", "peak, MiB", "tables", "beyond"]]
    for name, times in result["rounds"].items():
        items, kind = name.split()
        rows.append([items, f"bce step, {kind}", spread(times), "", "", ""])
    for part in SETTINGS:
        prefix = "" if part == "train" else f"{part}_"
        if f"{prefix}peak_mib" not in result:
            continue
        for number, count in enumerate(result["items"]):
            figures = (result[f"{prefix}{key}_mib"][number] for key in ("peak", "tables", "beyond"))
            times = result[f"{prefix}alone_s"][number]
            memory = (f"{figure:,.0f}" for figure in figures)
            rows.append([count, f"{part}, alone", spread(times), *memory])
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument(
        "--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="catalogue sizes"
    )
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (256)")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    parser.add_argument("--skip_dense", action="store_true", help="time sparse updates alone")
    parser.add_argument(
        "--memory", nargs="*", choices=tuple(SETTINGS), default=["train", "eval"],
        help="whose memory is measured (train eval)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.items.sort()
    process = start(options)
    memory = measure_memory(options)  # first: the tables of the other part are not there yet
    result = {
        "items": options.items,
        **time_steps(options, process),
        **memory,
        "hidden": options.hidden,
        **machine(process),
    }
    print_result(result, table(result), options.json)


if __name__ == "__main__":
    run_command(main)
