"""The hand-written kernels against plain autograd code (`--kernels fused` and `plain`).

    python benchmarks/speed/kernels.py                                # H 64 and 512, both types
    python benchmarks/speed/kernels.py --hidden 64 --dtype float32 --batch 32 --json

Three parts, each with the same weights, batch and dropout masks on both sides:

- step: a whole training step, optimiser included (the setting of step.py, with `--loss ce`);
- encoder: forward and backward pass of CDSR's experts on the cross view;
- softmax: forward and backward pass of the softmax loss of all targets.

Both sides of all parts alternate within each round. `gain` is the time of plain over that of fused,
the median over the rounds, and `cpu_gain` the same of the CPU time of all threads, which other work
on the machine blurs less. Memory is measured in separate processes of two passes each: for a step
the most that the process held, for the other parts how far the peak rose above their inputs.
`saved` is the share of plain's memory that fused does without. A kernel `pays` where it gains at
least 1.15 × in time, or saves at least 20 % of the memory.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    PRECISIONS,
    alone,
    clocked,
    interleaved,
    machine,
    make_parser,
    peak_mib,
    print_result,
    say,
    seconds,
    spread,
    start,
)
from src.io.errors import run_command
from src.nn.experts import view_tiles
from src.nn.softmax_loss import softmax_loss
from src.training.processes import Process
from tests.support.step_benches import (
    DOMAIN_EVENTS,
    DOMAIN_ITEMS,
    Bench,
    generated_dataset,
    make_bench,
    paper_settings,
    training_lengths,
)

KERNELS = ("plain", "fused")
PARTS = ("step", "encoder", "softmax")
LEAST_GAIN, LEAST_SAVED = 1.15, 0.20  # for less than both, plain code would be the default
ALONE_PASSES = 2  # the second step has the optimiser's state from the start


def kernel_bench(kernels: str, hidden: int, dtype: str, batch: int, process: Process) -> Bench:
    """The trainer and its batch."""
    settings = paper_settings(
        hidden=hidden, loss="ce", batch_size=batch, precision=PRECISIONS[dtype], kernels=kernels
    )
    dataset = generated_dataset(training_lengths(batch), DOMAIN_EVENTS, DOMAIN_ITEMS)
    return make_bench(settings, dataset, process)


def encoder_pass(bench: Bench) -> Callable[[], None]:
    """Forward and backward pass of the experts that CDSR owns, on the cross view."""
    experts, view = bench.trainer.model.experts["cross"], bench.batch.cross
    device, hidden = bench.batch.targets.device, bench.trainer.settings.hidden
    x = torch.randn(len(view.inputs), hidden, device=device, requires_grad=True)  # [M, H]
    share = torch.rand(len(x), experts.stack, device=device, requires_grad=True)  # [M, K]
    bf16 = bench.trainer.settings.precision == "bf16"

    def run() -> None:
        x.grad = share.grad = None
        experts.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = experts(x, share, view_tiles(view, x))  # [M, H]
        output.sum().backward()

    return run


def softmax_pass(bench: Bench) -> Callable[[], None]:
    """Forward and backward pass of the softmax loss of all targets."""
    table, targets = bench.trainer.model.item_table, bench.batch.targets
    settings = bench.trainer.settings
    hidden = torch.randn(len(targets), settings.hidden, device=targets.device, requires_grad=True)
    coefficients = torch.rand(len(targets), device=targets.device) / len(targets)  # [N]
    target_ends = [0, *itertools.accumulate(bench.batch.counts)]
    item_starts = [int(start) for start in bench.trainer.dataset.item_starts]
    spans = [
        (slice(*rows), slice(*items))
        for rows, items in zip(
            itertools.pairwise(target_ends), itertools.pairwise(item_starts), strict=True
        )
        if rows[0] < rows[1]
    ]

    def run() -> None:
        hidden.grad = table.grad = None
        with torch.autocast(hidden.device.type, torch.bfloat16, settings.precision == "bf16"):
            objective, _ = softmax_loss(
                hidden, table, targets, spans, coefficients, settings.kernels
            )
        objective.backward()

    return run


def part_of(part: str, bench: Bench) -> Callable[[], None]:
    """What one pass of a part does."""
    if part == "step":
        return bench.step
    return encoder_pass(bench) if part == "encoder" else softmax_pass(bench)


def run_alone(asked: argparse.Namespace, process: Process) -> dict[str, float]:
    """A few passes of one part with one of the kernels in this process, and their memory."""
    kernels, part = asked.alone.split("/")
    bench = kernel_bench(kernels, asked.hidden[0], asked.dtype[0], asked.batch, process)
    run = part_of(part, bench)
    before = 0.0 if part == "step" else peak_mib(process.device)
    for _ in range(ALONE_PASSES):
        seconds(run, process.device)
    return {"mib": peak_mib(process.device) - before}


def measure_alone(
    asked: argparse.Namespace, kernels: str, part: str, hidden: int, dtype: str
) -> float:
    """The memory of a part in a separate process, in MiB."""
    passes = alone(
        __file__, f"--alone={kernels}/{part}", f"--hidden={hidden}",
        f"--dtype={dtype}", f"--batch={asked.batch}", f"--threads={asked.threads}",
        f"--device={asked.device}",
    )  # fmt: skip
    return passes["mib"]


def measure(
    asked: argparse.Namespace, hidden: int, dtype: str, process: Process
) -> list[dict[str, Any]]:
    """Memory, then interleaved times, of every part at one size and type."""
    say(f"H {hidden}, {dtype}")
    sides = list(itertools.product(PARTS, KERNELS))
    memory = {side: measure_alone(asked, side[1], side[0], hidden, dtype) for side in sides}
    benches = {name: kernel_bench(name, hidden, dtype, asked.batch, process) for name in KERNELS}

    runs = {side: clocked(part_of(side[0], benches[side[1]]), process.device) for side in sides}
    times = interleaved(runs, asked.rounds)
    return [
        {"hidden": hidden, "dtype": dtype, "part": part, "tokens": benches["fused"].tokens}
        | comparison({name: times[part, name] for name in KERNELS},
                     {name: memory[part, name] for name in KERNELS})
        for part in PARTS
    ]  # fmt: skip


def comparison(
    times: dict[str, list[tuple[float, float]]], mib: dict[str, float]
) -> dict[str, Any]:
    """Plain against fused: (wall, CPU) seconds of each round, and memory."""
    rounds = {name: [wall for wall, _ in pairs] for name, pairs in times.items()}
    cpu = {name: [used for _, used in pairs] for name, pairs in times.items()}

    def gains(by_name: dict[str, list[float]]) -> list[float]:
        return [plain / fused for plain, fused in zip(*by_name.values(), strict=True)]

    gain, saved = median(gains(rounds)), 1.0 - mib["fused"] / mib["plain"]
    return {
        "seconds": {name: median(values) for name, values in rounds.items()},
        "gain": gain, "gains": gains(rounds), "cpu_gain": median(gains(cpu)),
        "mib": mib, "saved": saved,
        "pays": gain >= LEAST_GAIN or saved >= LEAST_SAVED, "rounds": rounds,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 512], help="hidden sizes")
    parser.add_argument(
        "--dtype", nargs="+", choices=PRECISIONS, default=list(PRECISIONS),
        help="types of the matrix multiplications",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    process = start(asked)
    if asked.alone:
        print(json.dumps(run_alone(asked, process)))
        return
    cases = [
        case
        for hidden, dtype in itertools.product(asked.hidden, asked.dtype)
        for case in measure(asked, hidden, dtype, process)
    ]
    result = {"batch": asked.batch, "loss": "ce", "cases": cases, **machine(process)}
    rows = [["H", "type", "part", "plain, s", "fused, s", "gain", "CPU gain", "plain, MiB",
             "fused, MiB", "saved", "pays"]]  # fmt: skip
    for case in cases:
        times, mib = case["rounds"], case["mib"]
        rows.append([
            case["hidden"], case["dtype"], case["part"], spread(times["plain"], 3),
            spread(times["fused"], 3), spread(case["gains"], 3), f"{case['cpu_gain']:.2f}",
            f"{mib['plain']:,.0f}", f"{mib['fused']:,.0f}", f"{case['saved']:.0%}",
            "yes" if case["pays"] else "no",
        ])  # fmt: skip
    print_result(result, rows, asked.json)


if __name__ == "__main__":
    run_command(main)
