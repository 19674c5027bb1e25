"""Two cores: two runs at once, a run with two threads, and two processes that share a run.

    python benchmarks/speed/at_once.py                      # H 64 and 128, float32
    python benchmarks/speed/at_once.py --hidden 64 --json

A step is that of step.py (`--loss`, by default ce). Of each way the wall time of a few steps is
taken, one way after the other within a round:

- `one`: one process with one thread;
- `two_runs`: two such processes, each with a run of its own, at the same time;
- `two_threads`: one process with two threads;
- `two_processes`: two processes with one thread each, as under torchrun: each has half of the
  batch's users, and the gradients are summed.

`scale` is the work of two runs at once over that of one in the same time, 2 at best; `threads` and
`processes` are the time of `one` over that of the two ways to share one step.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
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
from src.io.errors import UserError, run_command
from src.io.paths import ROOT

STEPS = 4  # in a row, so that processes that start together overlap nearly all of the time
RATIOS = {"scale": "two_runs", "threads": "two_threads", "processes": "two_processes"}

# Each line on standard input asks for some steps; a line is printed when they are done.
WORKER = """
import sys, torch
from tests.support import step_benches as benches
from utils import start_process
hidden, loss, batch, threads, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(threads)
process = start_process("cpu")
settings = benches.paper_settings(hidden=int(hidden), loss=loss, batch_size=batch)
lengths = benches.training_lengths(batch)
dataset = benches.generated_dataset(lengths, benches.DOMAIN_EVENTS, benches.DOMAIN_ITEMS)
trainer = benches.make_bench(settings, dataset, process).trainer
(step,) = trainer.loader.steps(epoch=1)  # this process's part of the one batch
print("ready", flush=True)
for _ in sys.stdin:
    for _ in range(steps):
        trainer.train_step(step)
    print("done", flush=True)
"""


class Group:
    """Processes that step at the same time."""

    def __init__(self, count: int, flags: list[Any], together: bool = False):
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, *map(str, flags)], cwd=ROOT, bufsize=1, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            )
            for environment in _environments(count, together)
        ]  # fmt: skip
        self._wait()

    def step(self) -> None:
        """Some steps of each."""
        for process in self.processes:
            assert process.stdin
            process.stdin.write("steps\n")
        self._wait()

    def close(self) -> None:
        """End them, all at once: those of one run wait for each other."""
        for process in self.processes:
            assert process.stdin
            process.stdin.close()
        for process in self.processes:
            process.wait()

    def _wait(self) -> None:
        for process in self.processes:
            assert process.stdout
            if not process.stdout.readline():
                raise UserError(f"a process ended with status {process.wait()}; its error is above")


def _environments(count: int, together: bool) -> list[dict[str, str]]:
    """Of each process; `together` those that torchrun would give."""
    if not together:
        return [dict(os.environ)] * count
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    return [os.environ | run | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(count)]


def _step_s(group: Group) -> float:
    return seconds(group.step) / STEPS


def measure(hidden: int, loss: str, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds for a step of each way in every round, and the ratios."""
    flags = [hidden, loss, batch]
    groups = {
        "one": Group(1, [*flags, 1, STEPS]),
        "two_runs": Group(2, [*flags, 1, STEPS]),
        "two_threads": Group(1, [*flags, 2, STEPS]),
        "two_processes": Group(2, [*flags, 1, STEPS], together=True),
    }
    ways: dict[str, Callable[[], float]] = {
        name: partial(_step_s, group) for name, group in groups.items()
    }
    times = interleaved(ways, rounds)
    for group in groups.values():
        group.close()
    ratios = {
        name: [
            one / other * (2 if other_name == "two_runs" else 1)
            for one, other in zip(times["one"], times[other_name], strict=True)
        ]
        for name, other_name in RATIOS.items()
    }
    middle = {name: median(values) for name, values in ratios.items()}
    return {"hidden": hidden} | middle | {"rounds": {"seconds": times} | ratios}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128], help="hidden sizes")
    parser.add_argument("--loss", default="ce", help="the loss (ce)")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    asked = parser.parse_args(arguments)
    process = start(asked)
    cases = []
    for hidden in asked.hidden:
        say(f"H {hidden}")
        cases.append(measure(hidden, asked.loss, asked.batch, asked.rounds))
    rows = [["H", "one, s", "two runs, s", "scale", "two threads", "two processes"]]
    for case in cases:
        rounds = case["rounds"]
        times = rounds["seconds"]
        rows.append([
            case["hidden"], spread(times["one"], 3), spread(times["two_runs"], 3),
            *(spread(rounds[name], 3) for name in RATIOS),
        ])  # fmt: skip
    result = {"loss": asked.loss, "batch": asked.batch, "cases": cases}
    print_result(result | machine(process), rows, asked.json)


if __name__ == "__main__":
    run_command(main)
