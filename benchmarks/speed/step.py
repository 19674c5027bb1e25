"""One training step: the packed model against the padded loop oracle, and against the hardware.

    python benchmarks/speed/step.py                                 # the paper's setting, H 512
    python benchmarks/speed/step.py --hidden 64 --dtype bfloat16 --json
    python benchmarks/speed/step.py --device cuda --batch 2048 --dtype bfloat16

Both do the same step (tests/support/padded_model.py) from the same weights on the same
batch, one after the other within each round. The setting is configs/paper.json with
`--gate token`: 4 + 1 experts, 2 layers, dropout 0.5, LC-NTG and SC-MIM, on five domains; the
lengths are those of a real sample.

Necessary work, in FLOP (a multiply-add is two), for N real targets; padding, attention's products
of two tokens, gates, norms, SC-MIM and the optimiser do not count:

- experts: a token costs 24·H² a layer forward (queries, keys and values 6, output 2, feed-forward
  16). Each view reads all K experts, 2·K passes; where the view's task owns the expert (every
  expert once; always without the stop-gradient) the way back costs twice that again. For 4 + 1
  experts of 2 layers: (10 + 2·5)·2·24·H² = 20·48·H² a target;
- towers: 4·H² forward a target and view, times 3;
- scores: `bce` two inner products, 4·H a target and view; `ce` 2·H·V_d; times 3.

`share_of_peak` is that work over the step's time, as a share of the product [N, H] x [H, 4H] in the
same type, measured in the same rounds. Times are medians over the rounds; memory is the most that a
process of its own held that ran two such steps, on a GPU what was allocated there.
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    PRECISIONS,
    MatmulPeak,
    alone,
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
from src.config.settings import Settings
from src.io.errors import UserError, run_command
from src.training.processes import Process
from tests.support.padded_model import PaddedTrainer, pad
from tests.support.step_benches import (
    DOMAIN_EVENTS,
    DOMAIN_ITEMS,
    Bench,
    generated_dataset,
    make_bench,
    paper_settings,
    training_lengths,
)

CHILD_STEPS = 2  # the second has the optimiser's state from the start


def necessary_gflop(settings: Settings, counts: Sequence[int], items: Sequence[int]) -> float:
    """The work that no implementation of a step can leave out, in GFLOP; see above.

    `counts` and `items` are the targets and the items of each domain.
    """
    hidden, targets, views = settings.hidden, sum(counts), 2
    trained = settings.experts if settings.stop_gradient else views * settings.experts
    passes = views * settings.experts + 2 * trained
    experts = passes * settings.layers * 24 * hidden**2 * targets
    towers = 3 * views * 4 * hidden**2 * targets if settings.towers else 0
    if settings.loss == "ce":
        scored = sum(count * size for count, size in zip(counts, items, strict=True))
    else:
        scored = 2 * targets
    return 1e-9 * (experts + towers + 3 * views * 2 * hidden * scored)


def step_settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the benchmarked step."""
    return paper_settings(
        hidden=arguments.hidden,
        loss=arguments.loss,
        batch_size=arguments.batch,
        precision=PRECISIONS[arguments.dtype],
    )


def step_bench(arguments: argparse.Namespace, process: Process) -> Bench:
    """The trainer and its batch."""
    dataset = generated_dataset(training_lengths(arguments.batch), DOMAIN_EVENTS, DOMAIN_ITEMS)
    return make_bench(step_settings(arguments), dataset, process)


def oracle_step(bench: Bench) -> Callable[[], object]:
    """The oracle's step on a copy of the weights and the same batch."""
    trainer = bench.trainer
    padded = pad(trainer.dataset, bench.windows, bench.batch, trainer.settings.max_len)
    oracle = PaddedTrainer(trainer.model)
    return lambda: oracle.train_step(padded)


def fits(run: Callable[[], object]) -> bool:
    """Whether a step finds the memory that it needs, on a GPU."""
    try:
        run()
    except torch.OutOfMemoryError as error:
        say(f"the oracle does not fit beside the packed model: {str(error).splitlines()[0]}")
        return False
    return True


def run_alone(arguments: argparse.Namespace, process: Process) -> dict[str, Any]:
    """What a process of its own does: a few steps of one path, and its peak."""
    bench = step_bench(arguments, process)
    run = bench.step
    if arguments.alone == "oracle":
        run = oracle_step(bench)
        del bench  # the oracle has weights of its own
        gc.collect()
    for _ in range(CHILD_STEPS):
        seconds(run, process.device)
    return {"peak_mib": peak_mib(process.device)}


def measure_alone(arguments: argparse.Namespace, path: str) -> float | None:
    """Peak memory of a path in a process of its own, in MiB; None where that broke off."""
    try:
        steps = alone(
            __file__, f"--alone={path}", "--json", f"--hidden={arguments.hidden}",
        f"--dtype={arguments.dtype}", f"--batch={arguments.batch}", f"--loss={arguments.loss}",
        f"--device={arguments.device}", f"--threads={arguments.threads}",
        )  # fmt: skip
    except UserError as error:
        say(str(error))
        return None
    return steps["peak_mib"]


def measure(arguments: argparse.Namespace, process: Process) -> dict[str, Any]:
    """Memory of both paths, then their times interleaved with the matrix product's."""
    fast_peak = measure_alone(arguments, "fast")
    oracle_peak = None if arguments.skip_oracle else measure_alone(arguments, "oracle")
    bench = step_bench(arguments, process)
    settings, dtype = bench.trainer.settings, getattr(torch, arguments.dtype)
    hidden, device = settings.hidden, process.device
    runs = {
        "peak": MatmulPeak(bench.tokens, hidden, 4 * hidden, dtype, device),
        "fast": lambda: seconds(bench.step, device),
    }
    slow = oracle_step(bench) if oracle_peak is not None else None
    if slow is not None and fits(slow):
        runs["oracle"] = lambda: seconds(slow, device)
    rounds = arguments.rounds or (3 if hidden >= 256 and device.type == "cpu" else 10)
    found = interleaved(runs, rounds)
    gflop = necessary_gflop(settings, bench.batch.counts, bench.item_counts)
    step_s = statistics.median(found["fast"])
    oracle_s = statistics.median(found["oracle"]) if "oracle" in found else None
    peak = statistics.median(found["peak"])
    return {
        "hidden": hidden, "dtype": arguments.dtype, "tokens": bench.tokens,
        "step_s": step_s, "oracle_s": oracle_s,
        "speedup": oracle_s / step_s if oracle_s else None,
        "necessary_gflop": gflop, "peak_gflops": peak, "share_of_peak": gflop / step_s / peak,
        "peak_mib": fast_peak, "oracle_peak_mib": oracle_peak,
        "tokens_per_s": bench.tokens / step_s, "loss": settings.loss, "batch": arguments.batch,
        "rounds": found, **machine(process),
    }  # fmt: skip


def table(result: dict[str, Any]) -> list[list[str]]:
    """The figures as rows of a table."""
    rounds = result["rounds"]

    def per_second(times: list[float], amount: float) -> str:
        return spread([amount / time for time in times])

    def mib(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f}"

    gflop, tokens = result["necessary_gflop"], result["tokens"]
    oracle = rounds.get("oracle")
    speedup = "–" if oracle is None else f"{result['speedup']:.2f}"
    none = "–"
    return [
        [f"H {result['hidden']} {result['dtype']} {result['loss']}, {tokens} targets",
         "packed", "oracle"],
        ["step, s: median (least to greatest)", spread(rounds["fast"]),
         spread(oracle) if oracle else none],
        ["targets/s", per_second(rounds["fast"], tokens),
         per_second(oracle, tokens) if oracle else none],
        ["necessary GFLOP/s", per_second(rounds["fast"], gflop),
         per_second(oracle, gflop) if oracle else none],
        ["share of the matrix product's peak", f"{result['share_of_peak']:.1%}",
         f"{gflop / result['oracle_s'] / result['peak_gflops']:.1%}" if oracle else none],
        ["matrix product, GFLOP/s", spread(rounds["peak"]), ""],
        ["peak memory, MiB", mib(result["peak_mib"]), mib(result["oracle_peak_mib"])],
        ["oracle's time / packed", speedup, ""],
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=0)
    parser.add_argument("--hidden", type=int, default=512, help="hidden size (512)")
    parser.add_argument("--dtype", choices=PRECISIONS, default="float32", help="matrix products")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    parser.add_argument("--loss", choices=("bce", "ce"), default="bce", help="step loss (bce)")
    parser.add_argument("--skip_oracle", action="store_true", help="the packed path alone")
    parser.add_argument("--alone", choices=("fast", "oracle"), help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    if parsed.alone:
        print(json.dumps(run_alone(parsed, process)))
        return
    result = measure(parsed, process)
    print_result(result, table(result), parsed.json)


if __name__ == "__main__":
    run_command(main)
