"""Launching runs of main.py in several processes, and comparing their run folders."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.support.command_runs import ROOT, flags

WORKER = ROOT / "tests" / "support" / "process_worker.py"
USERS = 71  # a prime, and one more than ten batches: each epoch's last batch has a single user
EXACT = (
    "--batch_size=7", "--max_epochs=5", "--precision=float64", "--dropout=0", "--warmup_steps=5",
    "--lr=0.01", "--sampled_negatives=0", "--protocol", "full",
)  # fmt: skip
TOLERANCE = 1e-8
NUMBERS = ("metrics.csv", "transfer.csv", "transfer_steps.csv")
SAME_BYTES = ("results.json", "ranks.parquet", "targets.parquet", "serving.json")


def exact(data: Path, runs: Path, name: str, *more: str) -> list[str]:
    """The flags of a float64 run without dropout; the later ones win."""
    return flags(data, runs, *EXACT, f"--run_name={name}", *more)


def launch(processes: int, script: Path, *words: Any) -> subprocess.CompletedProcess:
    """Run a script under torchrun."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         f"--nproc_per_node={processes}", script, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600,
    )  # fmt: skip


def launch_runs(processes: int, folder: Path, runs: list) -> subprocess.CompletedProcess:
    """Several runs in one launch: a list of (flags, fault or None), see process_worker.py."""
    path = folder / f"runs-{processes}.json"
    path.write_text(json.dumps(runs))
    return launch(processes, WORKER, path)


# ------------------------------------------------------------------------ side by side


def assert_same_run(one: Path, other: Path) -> None:
    """The same training and the same scores: numbers to TOLERANCE, ranks and results exactly."""
    first, second = (checkpoint_numbers(run / "last.pt") for run in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert difference(value, second[name]) <= TOLERANCE, name
    assert_same_files(one, other)


def assert_same_files(one: Path, other: Path) -> None:
    """The same tables, to TOLERANCE, and the same scores."""
    for path in (one / name for name in NUMBERS):
        assert path.is_file() == (other / path.name).is_file()
        if path.is_file():
            first, second = table(path), table(other / path.name)
            assert len(first) == len(second)
            for row, other_row in zip(first, second, strict=True):
                assert row[0] == other_row[0]
                assert difference(row[1], other_row[1]) <= TOLERANCE, (path.name, row)
    for name in SAME_BYTES:
        assert (one / name).is_file() == (other / name).is_file()
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def checkpoint_numbers(path: Path) -> dict[str, Any]:
    """All of a checkpoint but its settings and random states: {name: value}."""
    state = torch.load(path, weights_only=True)
    del state["random"], state["settings"], state["identity"]
    return dict(_leaves(state, ""))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from _leaves(part, f"{name}/{key}")
    else:
        yield name, value


def difference(first: Any, second: Any) -> float:
    """The largest between two tensors or numbers; of anything else 0 where they are equal."""
    if isinstance(first, torch.Tensor):
        assert first.shape == second.shape
        assert first.dtype == second.dtype
        gap = (first.double() - second.double()).abs()
        return float(torch.where(first == second, 0.0, gap).max()) if gap.numel() else 0.0
    if isinstance(first, float):
        same = first == second or (math.isnan(first) and math.isnan(second))
        return 0.0 if same else abs(first - second)
    return 0.0 if first == second else math.inf


def table(path: Path) -> list[tuple[list[str], torch.Tensor]]:
    """The rows of a table of a run: the words, and the numbers."""
    rows = []
    for row in csv.reader(path.open(newline="")):
        numbers = [float(cell) for cell in row if _is_number(cell)]
        words = [cell for cell in row if not _is_number(cell)]
        rows.append((words, torch.tensor(numbers, dtype=torch.float64).nan_to_num(nan=-1e9)))
    return rows


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
