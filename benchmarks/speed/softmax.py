"""The softmax loss over a catalogue: ours against torch's fused linear cross-entropy.

    python benchmarks/speed/softmax.py
    python benchmarks/speed/softmax.py --items 14228 --targets 3037 --dtype bfloat16 --json

`ours` is the fused `softmax_loss` (src/nn/kernels/softmax_loss.py); kernels.py compares it with
plain code. torch's `linear_cross_entropy`, in its chunked form, takes no weight per target, so it
is measured twice: `torch none` returns one loss per target, which are then weighted, as a training
step needs them; `torch sum` has one weight for all, its fastest form. It is told to hold the logits
of `--rows` targets; with 0 it chooses itself, here slower.

Measured are forward and backward pass of one domain of `--items` items, with the gradients of
outputs and table. Times are interleaved; `cpu_seconds` are those of all threads, which other work
on the machine blurs less. `added_mib` is how far the peak of a separate process rose above the
inputs, including the gradient of the table (`table_mib`). `difference` is between the table's
gradient and that of `ours`, relative to the largest entry; for `torch sum`, ours has equal weights
too.

Where torch has no chunked form (it came with 2.13), `ours` is measured alone.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    alone,
    clocked,
    interleaved,
    machine,
    make_parser,
    peak_mib,
    print_result,
    spread,
    start,
)
from src.io.errors import run_command
from src.nn.kernels.softmax_loss import softmax_loss
from src.training.processes import Process

VARIANTS = ("ours", "torch none", "torch sum")
ALONE_PASSES = 2


class Inputs(NamedTuple):
    """What a loss is computed from."""

    hidden: Tensor  # [N, H]
    table: Tensor  # [V + 1, H]
    targets: Tensor  # [N] rows of the table
    coefficients: Tensor  # [N]


def make_inputs(targets: int, items: int, hidden: int, device: torch.device) -> Inputs:
    """Random ones, in float32."""
    torch.manual_seed(0)
    table = torch.empty(items + 1, hidden, device=device).normal_(std=0.02)
    return Inputs(
        torch.randn(targets, hidden, device=device).requires_grad_(),
        table.requires_grad_(),
        torch.randint(1, items + 1, (targets,), device=device),
        torch.rand(targets, device=device) / targets,
    )


def has_torchs() -> bool:
    """Whether this torch has the fused loss in its chunked form."""
    return hasattr(torch.nn, "LinearCrossEntropyOptions")


def objective(variant: str, given: Inputs, bf16: bool, rows: int) -> Tensor:
    """The objective of a variant, with a gradient.

    `bf16`: the products' type. `rows`: the targets whose logits torch's holds, 0: its own choice.
    """
    hidden, table, targets, coefficients = given
    if variant == "ours":
        spans = [(slice(0, len(targets)), slice(1, len(table)))]
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=bf16):
            return softmax_loss(hidden, table, targets, spans, coefficients)[0]
    weights, reduction = table[1:], variant.removeprefix("torch ")
    if bf16:  # it ignores autocast
        hidden, weights = hidden.bfloat16(), weights.bfloat16()
    chosen = {"batch_chunk_size": rows, "chunking_method": None} if rows else {}
    options = torch.nn.LinearCrossEntropyOptions(**chosen)
    loss = F.linear_cross_entropy(
        hidden, weights, targets - 1, reduction=reduction, options=options
    )
    return (loss * coefficients).sum() if reduction == "none" else loss / len(targets)


def one_pass(variant: str, given: Inputs, asked: argparse.Namespace) -> None:
    """Forward and backward pass, with fresh gradients."""
    given.hidden.grad = given.table.grad = None
    objective(variant, given, asked.dtype == "bfloat16", asked.rows).backward()


def difference(variant: str, given: Inputs, asked: argparse.Namespace) -> float:
    """How far the gradient of the table is from ours, relative to its largest entry."""
    if variant == "torch sum":
        given = given._replace(
            coefficients=torch.full_like(given.coefficients, 1 / len(given.targets))
        )
    gradients = []
    for name in ("ours", variant):
        one_pass(name, given, asked)
        gradients.append(given.table.grad)
    ours, theirs = gradients
    return float((theirs - ours).abs().max() / ours.abs().max())


def run_alone(asked: argparse.Namespace, process: Process) -> dict[str, float]:
    """A few passes of a variant in this process, and how far the peak rose."""
    given = make_inputs(asked.targets, asked.items[0], asked.hidden, process.device)
    before = peak_mib(process.device)
    for _ in range(ALONE_PASSES):
        one_pass(asked.alone, given, asked)
    return {"added_mib": peak_mib(process.device) - before}


def measure_alone(asked: argparse.Namespace, variant: str, items: int) -> float:
    """`added_mib` of a variant."""
    passes = alone(
        __file__, f"--alone={variant}", f"--items={items}",
        f"--targets={asked.targets}", f"--hidden={asked.hidden}", f"--dtype={asked.dtype}",
        f"--threads={asked.threads}", f"--device={asked.device}", f"--rows={asked.rows}",
    )  # fmt: skip
    return passes["added_mib"]


def measure(asked: argparse.Namespace, items: int, process: Process) -> dict[str, Any]:
    """Memory, times and differences of all variants with a catalogue of `items`."""
    variants = VARIANTS if has_torchs() else VARIANTS[:1]
    added = {variant: measure_alone(asked, variant, items) for variant in variants}
    given = make_inputs(asked.targets, items, asked.hidden, process.device)
    differences = {variant: difference(variant, given, asked) for variant in variants[1:]}

    runs = {
        variant: clocked(partial(one_pass, variant, given, asked), process.device)
        for variant in variants
    }
    both = interleaved(runs, asked.rounds)
    rounds, cpu = (
        {variant: [clocks[clock] for clocks in times] for variant, times in both.items()}
        for clock in range(2)
    )
    return {
        "items": items,
        "seconds": {variant: median(times) for variant, times in rounds.items()},
        "cpu_seconds": {variant: median(times) for variant, times in cpu.items()},
        "added_mib": added,
        "table_mib": given.table.nbytes / 2**20,
        "difference": differences,
        "rounds": rounds,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument(
        "--items", type=int, nargs="+", default=[14_228, 1_000_000], help="catalogue sizes"
    )
    parser.add_argument("--targets", type=int, default=1024, help="targets (1024)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (256)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="matrix products"
    )
    parser.add_argument("--rows", type=int, default=64, help="logits that torch's holds (64)")
    parser.add_argument("--alone", choices=VARIANTS, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    process = start(asked)
    if asked.alone:
        print(json.dumps(run_alone(asked, process)))
        return
    sizes = [measure(asked, items, process) for items in asked.items]
    result = {
        "targets": asked.targets, "hidden": asked.hidden, "dtype": asked.dtype,
        "rows": asked.rows, "sizes": sizes, **machine(process),
    }  # fmt: skip
    rows = [["items", "loss", "s: median (range)", "CPU s", "added, MiB", "difference"]]
    for size in sizes:
        for variant, times in size["rounds"].items():
            apart = size["difference"].get(variant, 0.0)
            figures = f"{size['cpu_seconds'][variant]:.3g}", f"{size['added_mib'][variant]:,.0f}"
            rows.append([size["items"], variant, spread(times), *figures, f"{apart:.1e}"])
    print_result(result, rows, asked.json)


if __name__ == "__main__":
    run_command(main)
