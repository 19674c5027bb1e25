"""How busy a GPU is in a training step: kernel launches, busy time, wall time.

    python benchmarks/speed/gpu_profile.py --hidden 64 --dtype bfloat16 --json

At a small hidden size a step is many short kernels, and a host that launches them too slowly leaves
the GPU idle between them ("launch-bound"). `busy_share` is the time in which at least one kernel or
copy ran, read from torch's profiler, over the wall time of a step without the profiler, which slows
the host. A share near 1 means that the step is as fast as its kernels are.
"""

import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    PRECISIONS,
    machine,
    make_parser,
    print_result,
    say,
    seconds,
    spread,
    start,
)
from benchmarks.speed.step import necessary_gflop, step_bench
from src.io.errors import UserError, run_command
from src.training.processes import Process
from tests.support.step_benches import Bench

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of the profiler's trace
LONGEST_NAMED = 12


def busy_microseconds(spans: Iterable[tuple[float, float]]) -> float:
    """The time covered by at least one of the (start, duration) spans; streams may overlap."""
    busy, covered = 0.0, float("-inf")
    for first, duration in sorted(spans):
        end = first + duration
        busy += max(0.0, end - max(first, covered))
        covered = max(covered, end)
    return busy


def summarise_trace(trace: dict[str, Any], steps: int) -> dict[str, Any]:
    """Launches and busy seconds a step, and the kernels that take the most of it.

    `trace` is the profiler's in Chrome's format: `traceEvents` with ts and dur in microseconds.
    """
    events = [event for event in trace["traceEvents"] if event.get("cat") in ON_GPU]
    by_name: Counter[str] = Counter()
    for event in events:
        by_name[event["name"]] += event["dur"]
    busy = busy_microseconds((event["ts"], event["dur"]) for event in events)
    return {
        "launches": sum(event["cat"] == "kernel" for event in events) / steps,
        "copies": sum(event["cat"] != "kernel" for event in events) / steps,
        "busy_s": busy * 1e-6 / steps,
        "longest": [
            {"kernel": name[:120], "s": time * 1e-6 / steps}
            for name, time in by_name.most_common(LONGEST_NAMED)
        ],
    }


def profiled(bench: Bench, steps: int, process: Process) -> dict[str, Any]:
    """The trace of some steps, summarised."""

    def run() -> None:
        for _ in range(steps):
            bench.step()

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        seconds(run, process.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        return summarise_trace(json.loads(path.read_text()), steps)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=20)
    parser.add_argument("--hidden", type=int, default=64, help="hidden size (64)")
    parser.add_argument("--dtype", choices=PRECISIONS, default="bfloat16", help="matrix products")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    parser.add_argument("--loss", choices=("bce", "ce"), default="bce", help="step loss (bce)")
    parser.set_defaults(device="cuda")
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    if process.device.type != "cuda":
        raise UserError(f"--device {parsed.device} is no GPU; this benchmark counts its kernels")
    bench = step_bench(parsed, process)
    for _ in range(5):
        bench.step()
    say(f"{parsed.rounds} steps without the profiler, then with it")
    walls = [seconds(bench.step, process.device) for _ in range(parsed.rounds)]

    def queue() -> None:  # as in training, where nothing waits for the end of a step
        for _ in range(parsed.rounds):
            bench.step()

    wall = seconds(queue, process.device) / parsed.rounds
    result = {
        "hidden": parsed.hidden, "dtype": parsed.dtype, "loss": parsed.loss,
        "batch": parsed.batch, "tokens": bench.tokens,
        "step_s": wall, "waited_step_s": statistics.median(walls), "rounds": walls,
        **profiled(bench, parsed.rounds, process), **machine(process),
    }  # fmt: skip
    result["busy_share"] = result["busy_s"] / wall
    settings = bench.trainer.settings
    result["necessary_gflop"] = necessary_gflop(settings, bench.batch.counts, bench.item_counts)
    rows = [
        [f"H {parsed.hidden} {parsed.dtype} {parsed.loss}, {bench.tokens} targets", "a step"],
        ["wall time in a queue of steps, s", f"{wall:.4g}"],
        ["wall time, each step waited for, s", spread(walls)],
        ["busy, s", f"{result['busy_s']:.4g}"],
        ["busy share of the wall time", f"{result['busy_share']:.1%}"],
        ["kernel launches", f"{result['launches']:.0f}"],
        ["copies and clears", f"{result['copies']:.0f}"],
    ]
    rows += [[entry["kernel"][:70], f"{entry['s']:.3g}"] for entry in result["longest"]]
    print_result(result, rows, parsed.json)


if __name__ == "__main__":
    run_command(main)
