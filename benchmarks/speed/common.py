"""What the benchmarks share: a generated log, a trainer on it, clocks, memory, printing.

The log is generated in memory from published facts of a real sample (the 500 users of the SyNCRec
release, five Amazon domains): how many events its users have, how the events fall on the domains,
and how many items those have. What it does not have is a meaning: items are drawn uniformly.
"""

import argparse
import dataclasses
import itertools
import json
import math
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.config.cli import OneLineParser, config_defaults
from src.config.settings import Settings
from src.dataset.batching.batch import Batch
from src.dataset.batching.packing import build_batch
from src.dataset.batching.windows import Windows, newest_events
from src.dataset.store.folder import TRAIN, Dataset
from src.io.paths import ROOT
from src.training.processes import Process
from src.training.random_state import seed_everything
from trainers import Trainer
from utils import start_process

# Users of the sample with 0, 1, … 49 events and with 50 or more
USERS_BY_EVENTS = (
    0, 0, 0, 0, 0, 2, 7, 6, 23, 15, 22, 23, 15, 17, 14, 11, 14, 9, 14, 19, 17, 14, 15, 15, 8, 11,
    9, 24, 6, 13, 7, 6, 9, 3, 2, 3, 4, 11, 1, 5, 4, 3, 5, 2, 3, 2, 1, 1, 7, 1, 77,
)  # fmt: skip
HELD_OUT = 2  # a user's validation and test event, which no training step sees
MAX_LEN = 50  # L of the paper's run: longer histories are cut, so 50 or more stay 50
DOMAIN_EVENTS = (4846, 4765, 2505, 2563, 1444)
DOMAIN_ITEMS = (4528, 4421, 2311, 2382, 1211)


# ------------------------------------------------------------------------ data and settings


def training_lengths(users: int) -> np.ndarray:
    """[users] training events of each, evenly spaced through the sample's distribution.

    No draw decides the mix: its mean is 23.7, the sample's, up to rounding at few users.
    """
    events = np.repeat(np.arange(len(USERS_BY_EVENTS)), USERS_BY_EVENTS)  # ascending
    lengths = np.where(events < MAX_LEN, events - HELD_OUT, MAX_LEN)
    return lengths[((np.arange(users) + 0.5) * len(lengths) / users).astype(np.int64)]


def generated_dataset(
    lengths: np.ndarray, shares: Sequence[float], items: Sequence[int], seed: int = 0
) -> Dataset:
    """A training log in memory, a function of its arguments alone.

    Parameters
    ----------
    lengths: [users] events of each user.
    shares: D numbers; each event falls on a domain in proportion to them, whatever the user's other
        events. Real users keep more to a domain, so this has more and shorter single views.
    items: D numbers of items; an event's item is drawn uniformly from its domain.
    """
    rng = np.random.default_rng(seed)
    events = int(lengths.sum())
    starts = np.concatenate([[1], 1 + np.cumsum(items)]).astype(np.int64)
    domains = rng.choice(len(shares), size=events, p=np.asarray(shares) / np.sum(shares))
    names = [f"domain{number}" for number in range(len(shares))]
    return Dataset(
        folder=Path("generated"),
        card={"data_name": "generated", "sha256": "", "domains": dict.fromkeys(names)},
        domain_names=names,
        item_starts=starts,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=rng.integers(starts[domains], starts[domains + 1]).astype(np.int32),
        domains=domains.astype(np.int16),
        times=np.arange(events, dtype=np.int64),
        split=np.full(events, TRAIN, dtype=np.int8),
    )


def split_evenly(total: int, parts: int) -> list[int]:
    """`total` as whole numbers that differ by one at most."""
    edges = [total * part // parts for part in range(parts + 1)]
    return [end - start for start, end in itertools.pairwise(edges)]


def paper_settings(**changes: Any) -> Settings:
    """configs/paper.json, with the gate of a token each (that of a whole sequence sees later
    positions) and `changes`."""
    paper = config_defaults(Settings, ROOT / "configs" / "paper.json")
    return Settings(**(paper | {"gate": "token"} | changes))


@dataclasses.dataclass
class Bench:
    """A trainer and one batch of its whole data, ready to be stepped."""

    trainer: Trainer
    windows: Windows
    batch: Batch

    @property
    def tokens(self) -> int:
        """Real targets of the batch; each is a token in each view."""
        return len(self.batch.targets)

    @property
    def item_counts(self) -> list[int]:
        """D numbers of items."""
        return np.diff(self.trainer.dataset.item_starts).tolist()

    def step(self) -> None:
        """The real thing: one training step of the trainer, optimiser included."""
        self.trainer.train_step([self.batch])


def make_bench(settings: Settings, dataset: Dataset, process: Process) -> Bench:
    """A trainer of these settings and one batch with every user of the dataset."""
    seed_everything(settings.seed)
    folder = Path(tempfile.gettempdir())  # nothing is saved
    trainer = Trainer(settings, dataset, folder, process)
    trainer.model.train()
    users = np.random.default_rng(settings.seed).permutation(dataset.users)
    windows = newest_events(dataset, users, trainer.loader.ends[users], settings.max_len)
    batch = build_batch(dataset, windows, settings.seed, 0).to(process.device)
    return Bench(trainer, windows, batch)


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
