"""A training step with one negative a target, by the size of the catalogue.

    python benchmarks/catalogue.py
    python benchmarks/catalogue.py --items 10000 100000 --hidden 64 --json

With `--sparse_items` a step touches the rows of the batch's items alone, so a hundred times the
items should take it no longer; the Adam that updates every row at every step stands beside it,
unless `--skip_dense` or the memory forbid it (four tables: weights, gradient, two moments).

The users are the same, with as many events each; items are drawn uniformly, so hardly one comes
twice in a large catalogue. One step of each in every round; `ratio` is the median of the largest
catalogue over that of the smallest.
"""

import os
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import (
    DOMAIN_EVENTS,
    generated_dataset,
    interleaved,
    machine,
    make_bench,
    make_parser,
    paper_settings,
    print_result,
    say,
    seconds,
    split_evenly,
    spread,
    start,
    training_lengths,
)
from src.errors import run_command

COPIES = {True: 3, False: 4}  # tables held: weights, two moments and, unless sparse, the gradient


def needed_bytes(items: int, hidden: int, sparse: bool) -> int:
    """What the item table of a model takes with its optimiser's state."""
    return COPIES[sparse] * 4 * items * hidden


def available_bytes() -> float:
    """Memory that is free or can be freed; without a way to know, no limit."""
    status = Path("/proc/meminfo")
    if not status.is_file():
        return float("inf")
    for line in status.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument(
        "--items", type=int, nargs="+", default=[10_000, 1_000_000], help="catalogue sizes"
    )
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (256)")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    parser.add_argument("--skip_dense", action="store_true", help="sparse updates alone")
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    lengths, sizes = training_lengths(parsed.batch), sorted(parsed.items)
    benches = {}
    for sparse in (True, False):
        for count in sizes:
            if not sparse and (
                parsed.skip_dense
                or 1.25 * needed_bytes(count, parsed.hidden, sparse) > available_bytes()
            ):
                say(f"left out: {count} items with dense updates")
                continue
            settings = paper_settings(
                hidden=parsed.hidden, batch_size=parsed.batch, loss="bce", sparse_items=sparse
            )
            items = split_evenly(count, len(DOMAIN_EVENTS))
            dataset = generated_dataset(lengths, DOMAIN_EVENTS, items)
            bench = make_bench(settings, dataset, process)
            bench.step()  # its state is allocated before the next one asks what is left
            benches[count, sparse] = bench
    found = interleaved(
        {
            f"{count} {'sparse' if sparse else 'dense'}": lambda step=bench.step: seconds(
                step, process.device
            )
            for (count, sparse), bench in benches.items()
        },
        parsed.rounds,
    )
    medians = {name: median(times) for name, times in found.items()}
    steps = [medians[f"{count} sparse"] for count in sizes]
    result = {
        "items": sizes,
        "step_s": steps,
        "ratio": steps[-1] / steps[0],
        "dense_step_s": [medians.get(f"{count} dense") for count in sizes],
        "hidden": parsed.hidden,
        "tokens": int(lengths.sum()),
        "rounds": found,
        **machine(process),
    }
    rows = [["items", "updates", "step, s: median (least to greatest)", "to the smallest"]]
    rows += [
        [*name.split(), spread(times), f"{medians[name] / steps[0]:.2f}"]
        for name, times in found.items()
    ]
    print_result(result, rows, parsed.json)


if __name__ == "__main__":
    run_command(main)
