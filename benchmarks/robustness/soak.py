"""Two thousand steps with faults: what was promised saved is there, nothing leaks, memory is flat.

    python benchmarks/robustness/soak.py                                     # 2,000 steps, a table
    python benchmarks/robustness/soak.py --steps 2000 --json >results/soak.json

The same tiny run, of whole epochs of 40 steps, is trained three times:

- steady: in one process, and nothing happens;
- faulty: at random steps the disk is full (no file may grow beyond a bound, RLIMIT_FSIZE) or a
  number of the step becomes NaN (a gradient, or the loss of one target); the command must end
  with status 2 and one line that names it, and is resumed *in the same process*;
- killed: at random moments it is ended by SIGKILL, and resumed in a new process.

After every fault the newest checkpoint must hold what was promised: the steps up to the last
multiple of --save_every_steps, or the last end of an epoch. Both runs must end as the steady one,
bit for bit.

`memory` is read at every step of the first two, in bytes: what is resident, and what the C library
has given out of its heap (glibc; null elsewhere), which leaves out how full its pages are. The
slope is that of a line through the means of 20 blocks of steps after the warm-up; the degrees of
freedom of its 95 % interval are those of the blocks less what the residuals of neighbours share
(n (1 - r) / (1 + r), r their correlation). `left` is what the faulty process has more of at its end
than after its first fault: open files, threads, child processes, shared memory; and `orphans` are
blocks of shared memory of a killed process that are still there. The exit status is 1 where a
promise is broken, something is left, or what is resident grows, by its whole interval, by more than
MOST_GROWTH bytes a step. Linux alone tells all this.
"""

import contextlib
import ctypes
import gc
import io
import json
import math
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import main as train
import make_dataset
from benchmarks.speed.common import print_result, say
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.runs.checkpoints import FAULT, load_checkpoint
from tests.support import watched
from tests.support.command_runs import make_log
from tests.support.watched import Aim
from trainers import Trainer

USERS, BATCH = 200, 5
STEPS_PER_EPOCH = USERS // BATCH
SAVE_EVERY = 7
MEAN_GAP = 80  # steps from a fault to the next
FILE_BOUNDS = (20_000, 50_000)  # bytes; a checkpoint has more
WARM_UP = 0.25  # of the steps
BLOCKS = 20
MOST_GROWTH = 256  # bytes a step: 25 MB in 100,000 steps
KINDS = ("full disk", "NaN gradient", "NaN loss")


class Fault(NamedTuple):
    """What happens in a step, which is counted from 1."""

    step: int
    kind: str
    chance: float  # from 0 to 1: how much of the disk is left, which gradient it is


# ------------------------------------------------------------------------ promises and memory


def promised(done: int) -> int:
    """The steps that must be saved when so many are done."""
    return max(done // every * every for every in (SAVE_EVERY, STEPS_PER_EPOCH))


def slope(values: np.ndarray, blocks: int = BLOCKS) -> tuple[float, float, float]:
    """The slope of [n] values by their number, and the ends of its 95 % interval."""
    size = len(values) // blocks
    means = values[len(values) - size * blocks :].reshape(blocks, size).mean(1)
    x = (np.arange(blocks) - (blocks - 1) / 2) * size
    rise = float(x @ means / (x @ x))
    left = means - means.mean() - rise * x
    squares = float(left @ left)
    if squares == 0:
        return rise, rise, rise
    shared = min(max(0.0, float(left[1:] @ left[:-1]) / squares), 0.99)
    freedom = max(1.0, blocks * (1 - shared) / (1 + shared) - 2)
    width = stats.t.ppf(0.975, freedom) * math.sqrt(squares / freedom / float(x @ x))
    return rise, rise - width, rise + width


def flatness(samples: list[list[int]]) -> dict[str, Any]:
    """What is resident and what is given out after the warm-up, and the slope of each."""
    columns = np.array(samples[int(WARM_UP * len(samples)) :], dtype=np.float64).T
    result: dict[str, Any] = {"steps": columns.shape[1]}
    for name, values in zip(("resident", "given_out"), columns, strict=True):
        rise, *interval = slope(values)
        result[name] = {
            "first_mib": values[0] / 2**20,
            "last_mib": values[-1] / 2**20,
            "bytes_per_step": rise,
            "interval": interval,
        }
    return result if columns[1].any() else result | {"given_out": None}


# ------------------------------------------------------------------------ within one process


class HeapFigures(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    )  # fmt: skip


class Memory:
    """What this process holds at each step, in room made beforehand, so that it takes no more."""

    def __init__(self, most: int):
        self.samples = np.ones((most, 2), dtype=np.int64)  # written to: the pages are there
        self.taken = 0
        self.heap = getattr(ctypes.CDLL(None), "mallinfo2", None)
        if self.heap:
            self.heap.restype = HeapFigures

    def look(self) -> None:
        """Take a sample."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        figures = self.heap() if self.heap else HeapFigures()
        given_out = figures.uordblks + figures.hblkhd
        self.samples[self.taken] = pages * resource.getpagesize(), given_out
        self.taken += 1


def holdings() -> dict[str, int]:
    """How many of each this process has, what nobody refers to left out."""
    gc.collect()
    children = Path("/proc/self/task").glob("*/children")
    return {
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "processes": sum(len(path.read_text().split()) for path in children),
        "shared_memory": Path("/proc/self/maps").read_text().count("/dev/shm/"),
    }


def run_long(arguments: list[str]) -> None:
    """Run main.py's command until it is through, with faults, all in this process.

    `arguments` are a file of faults, a file for what was seen, the most steps that will be taken,
    the run folder, and the flags.
    """
    plan, report, most, folder, *flags = arguments
    waiting = [Fault(*fault) for fault in json.loads(Path(plan).read_text())]
    happened: list[Fault] = []
    memory = Memory(int(most))
    seen: dict[str, Any] = {"faults": [], "holdings": []}
    Trainer.gradients = _with_faults(Trainer.gradients, waiting, happened, memory)
    while line := _failure(flags):
        _limit_files(None)
        seen["faults"].append(_judge(happened[-1], line, Path(folder)))
        seen["holdings"].append(holdings())
    seen["holdings"].append(holdings())
    seen["samples"] = memory.samples[: memory.taken].tolist()
    Path(report).write_text(json.dumps(seen))


def _failure(flags: list[str]) -> str:
    """The line and status that the command ends with; "" when it is through."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            run_command(partial(train.main, flags))
    except SystemExit as ended:
        return f"{ended.code} {errors.getvalue()}"
    return ""


def _with_faults(gradients, waiting: list[Fault], happened: list[Fault], memory: Memory):
    """Trainer.gradients, in which the faults happen, and after which memory is looked at."""

    def faulty(trainer: Trainer, step_batches: list, by_domain: dict) -> list:
        losses = gradients(trainer, step_batches, by_domain)
        if waiting and waiting[0].step == trainer.progress.step + 1:
            happened.append(waiting.pop(0))
            _happen(happened[-1], trainer, losses)
        memory.look()
        return losses

    return faulty


def _limit_files(bound: int | None) -> None:
    """Let no file grow beyond so many bytes; None: as far as the system lets it."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if bound is None else bound, most))


def _happen(fault: Fault, trainer: Trainer, losses: list) -> None:
    if fault.kind == "full disk":
        low, high = FILE_BOUNDS
        _limit_files(int(low + fault.chance * (high - low)))
    elif fault.kind == "NaN gradient":
        gradients = [part.grad for part in trainer.model.parameters() if part.grad is not None]
        gradients[int(fault.chance * len(gradients))].view(-1)[0] = math.nan
    else:
        cross = losses[0].by_path["cross"].clone()
        cross[int(fault.chance * len(cross))] = math.nan
        by_path = losses[0].by_path | {"cross": cross}
        losses[0] = losses[0]._replace(by_path=by_path, objective=cross.sum())


def _judge(fault: Fault, line: str, folder: Path) -> dict[str, Any]:
    """Whether a fault was reported as promised, and what was saved."""
    done = fault.step - 1
    wanted = {
        "full disk": "cannot be written",
        "NaN gradient": "the gradient of ",
        "NaN loss": "the cross loss of ",
    }[fault.kind]
    named = line.startswith("2 error: ") and line.count("\n") == 1 and wanted in line
    if fault.kind != "full disk":
        epoch, position = divmod(done, STEPS_PER_EPOCH)
        named &= f"step {position + 1} of epoch {epoch + 1}: " in line
        named &= load_checkpoint(folder / FAULT)["step"] == done
    saved = watched.newest_step(folder)
    return {
        "kind": fault.kind, "step": fault.step, "named": named, "line": line,
        "kept": saved >= promised(done), "lost": done - saved,
    }  # fmt: skip


# ------------------------------------------------------------------------ the three runs


class Place(NamedTuple):
    """Where a soak happens, and for how long."""

    folder: Path
    steps: int
    chance: random.Random

    def flags(self, name: str) -> list[str]:
        """Of the run of that name; it goes on where it can."""
        return watched.run_flags(
            self.folder / "data", self.folder / name, f"--batch_size={BATCH}",
            f"--max_epochs={self.steps // STEPS_PER_EPOCH}", f"--save_every_steps={SAVE_EVERY}",
            f"--patience_steps={self.steps}", "--protocol=full",
        )  # fmt: skip

    def gaps(self) -> Iterator[int]:
        """The steps from a fault to the next; a full disk is met in between."""
        while True:
            yield self.chance.randint(SAVE_EVERY + 1, 2 * MEAN_GAP)

    def run_long(self, name: str, faults: list[Fault]) -> dict[str, Any]:
        """What was seen in the process that trained the run of that name."""
        plan, report = self.folder / f"{name}.plan", self.folder / f"{name}.json"
        plan.write_text(json.dumps(faults))
        folder = watched.folder_in(self.folder / name)
        most = self.steps + len(faults) * STEPS_PER_EPOCH
        words = [str(plan), str(report), str(most), str(folder), *self.flags(name)]
        ended = watched.live(run_long, words, self.folder / f"{name}.txt")
        if ended.status:
            raise UserError(f"the {name} run ended with {ended.status}: {ended.output}")
        return json.loads(report.read_text())

    def faults(self) -> list[Fault]:
        """Random ones, of all kinds alike."""
        faults, step = [], 0
        for gap in self.gaps():
            step += gap
            if step > self.steps:
                return faults
            kind = KINDS[len(faults) % len(KINDS)]
            faults.append(Fault(step, kind, self.chance.random()))
        return faults

    def run_killed(self) -> list[dict[str, Any]]:
        """What the kills of that run met."""
        kills, folder = [], watched.folder_in(self.folder / "killed")
        for gap in self.gaps():
            before = watched.newest_step(folder)
            aim = Aim("train", gap, self.chance.uniform(0, 0.02))
            ended = watched.live(train.main, self.flags("killed"), self.folder / "killed.txt", aim)
            if not ended.status:
                return kills
            if ended.status != watched.KILLED:
                raise UserError(f"the killed run ended with {ended.status}: {ended.output}")
            steps = sum(event.phase == "train" and event.entered for event in ended.events)
            done = before + steps - 1  # what follows a step is done when the next one is entered
            saved = watched.newest_step(folder)
            kills.append(
                {"kind": "kill", "step": done + 1, "named": True, "line": ended.output,
                 "kept": saved >= promised(done), "lost": done - saved,
                 "left": list(map(str, ended.left))}
            )  # fmt: skip
        return kills


def measure(steps: int, seed: int) -> dict[str, Any]:
    """Train three times, and compare."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), steps, random.Random(seed))
        raw = make_log(place.folder / "raw", users=USERS)
        log = place.folder / "data.txt"
        watched.live(make_dataset.main, watched.data_flags(raw, place.folder / "data"), log)
        steady = place.run_long("steady", [])
        say(f"steady: {len(steady['samples'])} steps")
        faulty = place.run_long("faulty", place.faults())
        say(f"faulty: {len(faulty['faults'])} faults")
        faults = faulty["faults"] + place.run_killed()
        say(f"killed: {len(faults) - len(faulty['faults'])} kills")
        runs = [watched.folder_in(place.folder / name) for name in ("steady", "faulty", "killed")]
        (runs[1] / FAULT).unlink(missing_ok=True)  # the record of its last NaN
        different = {run.parts[-3]: watched.differences(run, runs[0]) for run in runs[1:]}
    first, last = faulty["holdings"][0], faulty["holdings"][-1]
    left = {name: last[name] - first[name] for name in last}
    left["orphans"] = sum(len(fault.get("left", ())) for fault in faults)
    return {
        "steps": len(steady["samples"]),
        "faults": {kind: sum(f["kind"] == kind for f in faults) for kind in (*KINDS, "kill")},
        "named": sum(fault["named"] for fault in faults),
        "kept": sum(fault["kept"] for fault in faults),
        "most_steps_lost": max(fault["lost"] for fault in faults),
        "different": different,
        "identical": not any(different.values()),
        "memory": {"steady": flatness(steady["samples"]), "faulty": flatness(faulty["samples"])},
        "left": left,
        "wrong": [fault for fault in faults if not (fault["named"] and fault["kept"])],
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
    }


def holds(result: dict[str, Any]) -> bool:
    """Whether all is as promised."""
    flat = all(part["resident"]["interval"][0] <= MOST_GROWTH for part in result["memory"].values())
    return result["identical"] and not result["wrong"] and not any(result["left"].values()) and flat


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object or a table; exit status 1 where something does not hold."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=2000, help="of each run (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    options = parser.parse_args(arguments)
    if options.steps < 3 * MEAN_GAP:
        raise UserError(f"--steps must be at least {3 * MEAN_GAP}, not {options.steps}")
    if not Path("/proc/self/statm").is_file():
        raise UserError("this machine has no /proc to read memory from; take one with Linux")
    result = measure(options.steps, options.seed)
    print_result(result, [("what", "value"), *result.items()], options.json)
    if not holds(result):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
