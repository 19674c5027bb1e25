"""Compare every value that the checkout computes with those of an earlier commit.

    python benchmarks/robustness/golden.py [--json] [--base COMMIT]

The commit, in a temporary `git worktree`, and the checkout make the same datasets and train the
same six short runs side by side, with one thread each. Compared are the content hash of every
dataset and, for every run, each tensor of best.pt (bit for bit: weights, optimiser, LC-NTG and
random states) and each cell of metrics.csv, transfer.csv, results.json and ranks.parquet. Every
value of the commit must be there and equal; keys and columns that the checkout adds are ignored.

Exit status: 0 if all values are equal, 1 with one line per difference, 2 if the comparison can't be
made. `--json` prints one object as the last line.
"""

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[2]
BASE = "85ba73b"  # the last commit before the modules moved

# {commit and reason: {pattern of "run/file:cell": largest |base - checkout| that is allowed}}.
# math.inf allows every change, also of a text or a missing value.
EXCEPTIONS: dict[str, dict[str, float]] = {
    "random streams: seed + rank of one run was the seed of another": {
        "two_processes/best.pt:random*": math.inf,
    },
    "lists of the best items: of equal scores torch took any, now the lower item comes first": {
        f"*/results.json:test/full/{path}/*/{metric}@10": math.inf
        for path in ("popularity", "markov")
        for metric in ("coverage", "popularity")
    },
}
# {pattern (re) of a tensor's name in the base's best.pt: its name in the checkout's}
RENAMED_TENSORS: dict[str, str] = {r"^model/gap_state$": "lc_ntg"}
# {flag of the base's commands: the checkout's flag}
RENAMED_FLAGS: dict[str, str] = {}
# flags of the checkout's runs that choose what the base had no flag for
NEW_FLAGS = ("--positions=start", "--gap=training")

ABXI = ROOT.parent / "shared" / "data" / "abxi"
LOG = "{log}"  # in a flag: the folder of the base's bundled log, which both sides read
BUNDLED = ("--data_name=amazon", "--strd_ym=202312", f"--raw_dir={LOG}")
DATASETS = {
    "leave_one_out": BUNDLED,  # the runs train on this one
    "per_domain": (*BUNDLED, "--split=leave_one_out_per_domain"),
    "temporal": (*BUNDLED, "--split=temporal"),
    "abxi": (
        "--data_name=abxi", "--strd_ym=201407", f"--raw_dir={ABXI}", "--min_user_events=5",
        "--min_item_events=5",
    ),
}  # fmt: skip
# Dropout everywhere, so that random streams are compared too; a warm-up and a rate that move the
# weights far from their start in two epochs of 32 steps.
SHORT = (
    "--hidden=16", "--layers=2", "--heads=2", "--dropout=0.3", "--attention_dropout=0.1",
    "--max_len=30", "--batch_size=64", "--max_epochs=2", "--warmup_steps=10", "--lr=0.005",
    "--seed=42", "--device=cpu", "--threads=1",
)  # fmt: skip
RUNS = {
    "syncrec-ce": ("--mode=syncrec", "--loss=ce"),
    "syncrec-bce-sparse": ("--mode=syncrec", "--loss=bce", "--sparse_items"),
    "sasrec": (
        "--mode=cdsr", "--experts_cross=1", "--experts_single=0", "--gate=none", "--no-towers",
    ),
    "sdsr_separate": ("--mode=sdsr_separate",),
    "grad_accum": ("--grad_accum=2",),
    # without dropout: a process's random stream is no longer that of the next seed
    "two_processes": ("--precision=float64", "--dropout=0", "--attention_dropout=0"),
}  # fmt: skip
PROCESSES = {"two_processes": 2}
TABLE_KEYS = {
    "metrics.csv": ("epoch", "step", "split", "path", "domain", "metric"),
    "transfer.csv": ("epoch", "domain"),
    "ranks.parquet": ("split", "protocol", "path", "user_id", "domain", "item_id"),
}
FILES = ("best.pt", "results.json", *TABLE_KEYS)
LINES_PER_FILE = 20  # differences that are printed; the others are counted
ABSENT = "absent"


class Difference(NamedTuple):
    """A value of the base that the checkout doesn't reproduce."""

    run: str
    file: str
    cell: str
    base: Any
    checkout: Any

    def __str__(self) -> str:
        base, checkout = shown(self.base, self.checkout), shown(self.checkout, self.base)
        return f"{self.run}  {self.file}  {self.cell}  base {base}  checkout {checkout}"


@dataclass
class Comparison:
    """What was compared so far, and what came of it."""

    values: Counter = field(default_factory=Counter)  # {(run, file name): number}
    differences: list[Difference] = field(default_factory=list)
    allowed: dict[str, list[float]] = field(default_factory=dict)  # {exception: sizes}

    def add(self, run: str, file: str, base: dict[str, Any], checkout: dict[str, Any]) -> None:
        """Compare the values {cell: value} of a file."""
        self.values[run, Path(file).name] += len(base)
        for cell, value in base.items():
            other = checkout.get(cell, ABSENT)
            if same(value, other):
                continue
            size = distance(value, other)
            if reason := exception_for(f"{run}/{file}:{cell}", size):
                self.allowed.setdefault(reason, []).append(size)
            else:
                self.differences.append(Difference(run, file, cell, value, other))


# ------------------------------------------------------------------------ values


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; tensors are compared bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return (
            (one.dtype, one.shape) == (other.dtype, other.shape)
            and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
        )  # fmt: skip
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return False
    return one == other or (one != one and other != other)  # NaN


def distance(one: Any, other: Any) -> float:
    """The largest |one - other|; inf where they can't be subtracted."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape:
            return math.inf
        size = (one.double() - other.double()).abs().max().item()
        return math.inf if math.isnan(size) else size
    try:
        size = abs(one - other)
    except TypeError:
        return math.inf
    return math.inf if math.isnan(size) else size


def shown(value: Any, other: Any) -> str:
    """A value as printed; of a tensor, its first element that differs from `other`'s."""
    if not isinstance(value, torch.Tensor):
        return str(value)
    described = f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    if not isinstance(other, torch.Tensor) or value.shape != other.shape:
        return described
    differ = (value != other).flatten().nonzero().flatten()
    if not len(differ):
        return described
    place = int(differ[0])
    return f"{value.flatten()[place].item()!r} at {place} ({len(differ)} of {value.numel()} differ)"


def exception_for(comparison: str, size: float) -> str | None:
    """The exception that allows a difference of this size in "run/file:cell"."""
    for reason, tolerances in EXCEPTIONS.items():
        for pattern, tolerance in tolerances.items():
            if fnmatchcase(comparison, pattern) and size <= tolerance:
                return reason
    return None


def read_values(path: Path) -> dict[str, Any]:
    """{cell: value} of a file of a run folder."""
    if path.name == "best.pt":
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {cell: value for cell, value in leaves(state) if isinstance(value, torch.Tensor)}
    if path.suffix == ".json":
        return dict(leaves(json.loads(path.read_text())))
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    else:
        table = pd.read_parquet(path)
    return dict(cells(table, TABLE_KEYS[path.name]))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every (name, value) that nested dicts and lists hold."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, f"{name}/{key}" if name else str(key))
    else:
        yield name, value


def cells(table: pd.DataFrame, key: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Every (key and column, value) of a table; texts that are numbers become numbers."""
    labels, times = [], Counter()
    for row in zip(*(table[column].astype(str) for column in key), strict=True):
        label = " ".join(row)
        times[label] += 1
        labels.append(label if times[label] == 1 else f"{label} #{times[label]}")
    for column in table.columns.difference(key, sort=False):
        for label, value in zip(labels, table[column].tolist(), strict=True):
            yield f"{label} {column}", number(value)


def number(value: Any) -> Any:
    """A text as the number that it is, else as it was."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# ------------------------------------------------------------------------ both sides


@dataclass(frozen=True)
class Side:
    """One of the two checkouts, and the folder that its datasets and runs go to."""

    name: str
    root: Path
    out: Path
    log: Path  # the base's bundled log

    def data(self, dataset: str) -> Path:
        return self.out / "data" / dataset

    def run(self, name: str) -> Path:
        return self.out / "runs" / "amazon" / name

    def command(self, name: str) -> list[str]:
        """The command line of a dataset or a run."""
        if name in DATASETS:
            words = [
                "make_dataset.py",
                *(word.replace(LOG, str(self.log)) for word in DATASETS[name]),
                f"--out_dir={self.data(name)}",
                "--threads=1",
            ]
        else:
            words = [
                "main.py", f"--data_dir={self.data('leave_one_out')}",
                f"--runs_dir={self.out / 'runs'}", f"--run_name={name}", *SHORT, *RUNS[name],
            ]  # fmt: skip
        if self.name == "checkout":
            words = [renamed(word) for word in words]
            words += NEW_FLAGS if name in RUNS else ()
        if name in PROCESSES:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            words = [*launcher, f"--nproc_per_node={PROCESSES[name]}", *words]
        return [sys.executable, *words]


def renamed(word: str) -> str:
    """A flag of the base as the checkout calls it."""
    flag, equals, value = word.partition("=")
    return f"{RENAMED_FLAGS.get(flag, flag)}{equals}{value}"


def run_both(sides: list[Side], name: str) -> list[tuple[int, str]]:
    """Run a command on both sides at once; (exit status, last line of output) of each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)  # each side imports its own code
    processes = []
    try:
        for side in sides:
            with (side.out / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    side.command(name), cwd=side.root, env=environment, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
            processes.append(process)
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return [
        (status, last_line(side.out / f"{name}.log"))
        for side, status in zip(sides, statuses, strict=True)
    ]


def last_line(log: Path) -> str:
    """The error that a command's output tells, else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(process \d+: )?(error: |\w*Error\b)", line)]
    return (errors or lines or [""])[-1].strip()


def ended(sides: list[Side], name: str, comparison: Comparison) -> bool:
    """Run a command on both sides; whether both ended well. A fault of the checkout is noted."""
    (status, line), (other_status, other_line) = run_both(sides, name)
    # At 85ba73b a process of several may abort at its very end, when all has been written
    written = name in PROCESSES and (sides[0].run(name) / "results.json").is_file()
    if status and not written:
        fail(f"{name} of the base ended with status {status}: {line}")
    if other_status:
        outcome = f"{other_status}: {other_line}"
        comparison.differences.append(Difference(name, "command", "exit status", 0, outcome))
    return not other_status


def compare_dataset(sides: list[Side], name: str, comparison: Comparison) -> None:
    """The content hash of a dataset that both sides have made."""
    base, checkout = (
        {"sha256": json.loads((side.data(name) / "data_card.json").read_text())["sha256"]}
        for side in sides
    )
    comparison.add(name, "data_card.json", base, checkout)


def compare_run(sides: list[Side], name: str, comparison: Comparison) -> None:
    """Every file of a run that both sides have trained."""
    base, checkout = (side.run(name) for side in sides)
    paths = sorted(path for path in base.rglob("*") if path.name in FILES)
    lacking = set(FILES) - {"transfer.csv"} - {path.name for path in paths}
    if lacking:
        fail(f"{name} of the base wrote no {min(lacking)}")
    for path in paths:
        file = str(path.relative_to(base))
        values = read_values(path)
        if path.name == "best.pt":
            values = {renamed_tensor(cell): value for cell, value in values.items()}
        other = checkout / file
        comparison.add(name, file, values, read_values(other) if other.is_file() else {})


def renamed_tensor(name: str) -> str:
    """A tensor of the base's best.pt as the checkout calls it."""
    for pattern, new in RENAMED_TENSORS.items():
        name = re.sub(pattern, new, name)
    return name


def compare(base_root: Path, out: Path) -> tuple[Comparison, dict[str, float], list[str]]:
    """Run everything on both sides; the comparison, seconds of each command, what was skipped."""
    log = base_root / "src" / "dataset" / "raw" / "amazon"
    sides = [
        Side("base", base_root, out / "base", log),
        Side("checkout", ROOT, out / "checkout", log),
    ]
    for side in sides:
        side.out.mkdir()
    comparison, seconds, skipped = Comparison(), {}, []
    for name in (*DATASETS, *RUNS):
        if name == "abxi" and not ABXI.is_dir():
            print(f"abxi is skipped: {ABXI} is not there", flush=True)
            skipped.append(name)
            continue
        began = time.monotonic()
        if ended(sides, name, comparison):
            (compare_dataset if name in DATASETS else compare_run)(sides, name, comparison)
        seconds[name] = round(time.monotonic() - began, 1)
        differ = sum(difference.run == name for difference in comparison.differences)
        print(f"{name}: {differ} differences, {seconds[name]} s", file=sys.stderr, flush=True)
    return comparison, seconds, skipped


# ------------------------------------------------------------------------ worktree and report


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A temporary worktree of a commit of this repository."""
    made = git("worktree", "add", "--quiet", "--detach", str(folder), commit)
    if made.returncode:
        fail(f"no worktree of {commit}: {made.stderr.strip().splitlines()[-1]}")
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)


def commit_of(name: str) -> str:
    """The whole hash of a commit."""
    parsed = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if parsed.returncode:
        fail(f"--base {name} is no commit of this repository; a shallow clone needs git fetch")
    return parsed.stdout.strip()


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def print_differences(differences: list[Difference]) -> None:
    """One line per difference; of each file, the first ones."""
    printed = Counter()
    for difference in differences:
        printed[difference[:2]] += 1
        if printed[difference[:2]] <= LINES_PER_FILE:
            print(difference)
    for (run, file), number_of in printed.items():
        if number_of > LINES_PER_FILE:
            print(f"{run}  {file}  {number_of - LINES_PER_FILE} more differences")


def print_summary(comparison: Comparison, seconds: dict[str, float]) -> None:
    """A table of how many values were compared, one row per dataset and run."""
    columns = ("data_card.json", *FILES)
    width = max(map(len, seconds))
    print("values compared, all equal".ljust(width), "", sep="\n")
    print(" " * width, *(f"{name:>14}" for name in columns), f"{'seconds':>8}")
    for name, spent in seconds.items():
        counts = (comparison.values[name, column] or "" for column in columns)
        print(name.ljust(width), *(f"{count:>14}" for count in counts), f"{spent:>8}")


def main() -> None:
    """Compare; exit status 1 where a value differs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the worktree is removed then too
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--base", default=BASE, metavar="COMMIT", help=f"default: {BASE}")
    parser.add_argument("--json", action="store_true", help="print one JSON object as last line")
    asked = parser.parse_args()
    began, base = time.monotonic(), commit_of(asked.base)
    with tempfile.TemporaryDirectory() as folder, worktree(base, Path(folder) / "code") as root:
        comparison, seconds, skipped = compare(root, Path(folder))
    for reason, sizes in comparison.allowed.items():
        print(f"exception: {reason}: {len(sizes)} values, by {max(sizes):.3g} at most")
    if comparison.differences:
        print_differences(comparison.differences)
    else:
        print_summary(comparison, seconds)
    if asked.json:
        result = {
            "base": base,
            "values": comparison.values.total(),
            "differences": len(comparison.differences),
            "exceptions": {reason: len(sizes) for reason, sizes in comparison.allowed.items()},
            "skipped": skipped,
            "seconds": round(time.monotonic() - began, 1),
        }
        print(json.dumps(result))
    sys.exit(bool(comparison.differences))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
