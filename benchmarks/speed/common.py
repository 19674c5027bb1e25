"""Clocks, memory, command lines and printing for the benchmarks."""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from src.config.cli import OneLineParser
from src.io.errors import UserError
from src.io.paths import ROOT
from src.training.processes import Process
from utils import start_process

PRECISIONS = {"float32": "float32", "bfloat16": "bf16"}  # torch's name of a type, and ours

# ------------------------------------------------------------------------ clocks and memory


def seconds(run: Callable[[], Any], device: torch.device | None = None) -> float:
    """Wall time of one call; a GPU's queue is empty before it and after."""
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def clocked(run: Callable[[], Any], device: torch.device) -> Callable[[], tuple[float, float]]:
    """A function that calls `run`: its wall seconds, and the CPU seconds of all threads."""

    def timed_run() -> tuple[float, float]:
        before = time.process_time()
        return seconds(run, device), time.process_time() - before

    return timed_run


def interleaved(
    runs: dict[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """What each of `runs` returns in every round, the rounds of warm-up left out.

    One after the other within a round, so that a slow spell of the machine meets them all.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            value = run()
            if number >= warm_up:
                found[name].append(value)
        say(f"round {number - warm_up + 1} of {rounds}" if number >= warm_up else "warm-up done")
    return found


class MatmulPeak:
    """The matrix product [tokens, inner] x [inner, outer] into a buffer that is there already.

    Calling it gives GFLOP/s over enough products to last `least` seconds, so that its own clock
    does not blur it.
    """

    def __init__(
        self, tokens: int, inner: int, outer: int, dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu", least: float = 0.1,
    ):  # fmt: skip
        self.device = torch.device(device)
        self.a = torch.randn(tokens, inner, device=self.device).to(dtype)
        self.b = torch.randn(inner, outer, device=self.device).to(dtype)
        self.out = torch.empty(tokens, outer, dtype=dtype, device=self.device)
        self.gflop = 2e-9 * tokens * inner * outer
        self._repeat(2)  # threads, code and pages are there
        once = seconds(lambda: self._repeat(2), self.device) / 2
        self.times = max(1, math.ceil(least / once))

    def _repeat(self, times: int) -> None:
        for _ in range(times):
            torch.mm(self.a, self.b, out=self.out)

    def __call__(self) -> float:
        return self.times * self.gflop / seconds(lambda: self._repeat(self.times), self.device)


def matmul_peak(
    tokens: int, inner: int, outer: int, dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu", rounds: int = 5,
) -> float:  # fmt: skip
    """GFLOP/s of the product [tokens, inner] x [inner, outer], the median of some rounds."""
    product = MatmulPeak(tokens, inner, outer, dtype, device)
    return statistics.median(product() for _ in range(rounds))


def peak_mib(device: torch.device | None = None) -> float:
    """The most memory that this process has held so far, in MiB: resident, or on its GPU."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # the kernel's figure for this program alone; getrusage's begins with the parent's
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# ------------------------------------------------------------------------ other processes

POLL_S = 0.02


class Ended(NamedTuple):
    """What a command took, and the last line of its output."""

    seconds: float
    peak_mib: float  # the most memory that it held
    last_line: str


def timed(
    command: Sequence[Any], status: int = 0, stop_when: Callable[[], bool] | None = None
) -> Ended:
    """Run `python COMMAND` in a process of its own; UserError for another exit status.

    With `stop_when` it gets SIGTERM as soon as that is true.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        while stop_when and process.poll() is None:
            if stop_when():
                process.terminate()
                break
            time.sleep(POLL_S)
        if process.returncode is not None:  # reaped by poll: nothing is known of its memory
            raise UserError(f"{command[0]} ended before it could be interrupted")
        _, ended, usage = os.wait4(process.pid, 0)  # the memory of this child alone
        process.returncode = os.waitstatus_to_exitcode(ended)
        passed = time.perf_counter() - began
        output.seek(0)
        lines = output.read().strip().splitlines() or [""]
    if process.returncode != status:
        raise UserError(f"{command[0]} ended with status {process.returncode}: {lines[-1]}")
    return Ended(passed, usage.ru_maxrss / 2**10, lines[-1])


def alone(script: str, *flags: str) -> dict[str, Any]:
    """The JSON object that a benchmark script prints in a process of its own, which so has a peak
    of memory of its own. UserError where it fails."""
    say(f"{Path(script).name} {flags[0]}, in a separate process")
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise UserError(f"{Path(script).name} {' '.join(flags)} failed: {reason}")
    return json.loads(done.stdout)


# ------------------------------------------------------------------------ command lines


def make_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the flags that the training benchmarks share."""
    parser = OneLineParser(description=description.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"timed rounds ({rounds})")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return parser


def start(arguments: argparse.Namespace) -> Process:
    """Take up threads and device."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return start_process(arguments.device)


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Median, least and greatest of what the rounds gave."""
    parts = (statistics.median(values), min(values), max(values))
    middle, least, most = (f"{value:.{digits}g}" for value in parts)
    return f"{middle} ({least} to {most})"


def machine(process: Process) -> dict[str, Any]:
    """What the figures were measured on, for the JSON object."""
    gpu = process.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(process.device) if gpu else "cpu",
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def print_result(result: dict[str, Any], rows: Sequence[Sequence[Any]], as_json: bool) -> None:
    """One JSON object on standard output, or a table whose first row is its head."""
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        parts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        print("  ".join(parts).rstrip())
