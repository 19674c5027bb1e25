"""The training step of this checkout against that of another commit, in one run.

    python benchmarks/speed/step_commits.py --base 85ba73b                 # H 64 and 512, float32
    python benchmarks/speed/step_commits.py --base HEAD~1 --hidden 64 --dtype float32 bfloat16

The other commit is checked out into a temporary `git worktree`. Each side keeps a process with a
trainer and one batch (the setting of step.py), and they take one step in turn, the first of each
round alternating. `ratio` is this checkout's time over the other commit's, the median over the
rounds; `cpu_ratio` the same of the CPU time of all threads, which other work on the machine blurs
less. `--json` prints one JSON object.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.robustness.golden import commit_of, worktree
from benchmarks.speed.common import (
    PRECISIONS,
    machine,
    make_parser,
    print_result,
    say,
    spread,
    start,
)
from src.io.errors import UserError, run_command
from src.io.paths import ROOT

# Runs in the root of either side. A line on standard input asks for a step, and its wall and CPU
# seconds are the answer.
WORKER = """
import sys, time, torch
try:
    from tests.support import step_benches as benches
except ImportError:  # before the benches moved to the tests
    from benchmarks import common as benches
from utils import start_process
hidden, precision, loss, batch, threads = sys.argv[1:]
torch.set_num_threads(int(threads) or torch.get_num_threads())
settings = benches.paper_settings(
    hidden=int(hidden), loss=loss, batch_size=int(batch), precision=precision
)
lengths = benches.training_lengths(int(batch))
dataset = benches.generated_dataset(lengths, benches.DOMAIN_EVENTS, benches.DOMAIN_ITEMS)
bench = benches.make_bench(settings, dataset, start_process("cpu"))
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    bench.step()
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


class Side:
    """A process that steps the trainer of one of the two commits."""

    def __init__(self, root: Path, *flags: object):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, flags)],
            cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def step(self) -> tuple[float, float]:
        """Wall and CPU seconds of one step."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("step\n")
        answer = self.process.stdout.readline().split()
        if len(answer) != 2:
            raise UserError(f"the step of {self.process.args} failed; its error stands above")
        return float(answer[0]), float(answer[1])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare(roots: dict[str, Path], rounds: int, *flags: object) -> dict[str, Any]:
    """Interleaved steps of both commits at one size and type."""
    sides = {name: Side(root, *flags) for name, root in roots.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(rounds + 2):  # two of warm-up: the second has the optimiser's state
        order = list(sides) if number % 2 else list(reversed(sides))
        for name in order:
            times[name].append(sides[name].step())
    for side in sides.values():
        side.close()
    wall, cpu = ({name: [t[part] for t in ts[2:]] for name, ts in times.items()} for part in (0, 1))

    def ratios(by_name: dict[str, list[float]]) -> list[float]:
        return [new / old for old, new in zip(by_name["base"], by_name["checkout"], strict=True)]

    return {
        "rounds": wall, "ratio": median(ratios(wall)), "ratios": ratios(wall),
        "cpu_ratio": median(ratios(cpu)),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=15)
    parser.add_argument("--base", default="HEAD", help="the commit to compare with (HEAD)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 512], help="hidden sizes")
    parser.add_argument(
        "--dtype", nargs="+", choices=PRECISIONS, default=["float32"],
        help="types of the matrix multiplications",
    )  # fmt: skip
    parser.add_argument("--loss", default="ce", help="the loss (ce)")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    asked = parser.parse_args(arguments)
    process, base = start(asked), commit_of(asked.base)
    cases = []
    with tempfile.TemporaryDirectory() as folder, worktree(base, Path(folder) / "code") as root:
        roots = {"base": root, "checkout": ROOT}
        for hidden, dtype in itertools.product(asked.hidden, asked.dtype):
            say(f"H {hidden}, {dtype}")
            flags = (hidden, PRECISIONS[dtype], asked.loss, asked.batch, asked.threads)
            cases.append({"hidden": hidden, "dtype": dtype} | compare(roots, asked.rounds, *flags))
    rows = [["H", "type", "base, s", "checkout, s", "ratio", "CPU ratio"]]
    for case in cases:
        times = case["rounds"]
        rows.append([
            case["hidden"], case["dtype"], spread(times["base"], 3), spread(times["checkout"], 3),
            spread(case["ratios"], 3), f"{case['cpu_ratio']:.3f}",
        ])  # fmt: skip
    result = {"base": base, "batch": asked.batch, "loss": asked.loss, "cases": cases}
    print_result(result | machine(process), rows, asked.json)


if __name__ == "__main__":
    run_command(main)
