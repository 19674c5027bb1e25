"""The commands as processes that are watched, killed and started again, and what they leave.

Each process is forked from one that has imported all there is (multiprocessing's fork server), so
that a life costs no start of Python; what runs in it is the command itself. Nothing of the product
is changed but from outside: some functions tell the watcher when they are entered and left.
"""

import functools
import itertools
import multiprocessing
import os
import pkgutil
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from src.io.errors import UserError, run_command
from src.io.files import TEMPORARY
from src.io.paths import ROOT
from src.runs.checkpoints import BEST, FORMER, LAST, load_checkpoint

PHASES = {  # the function that a phase is spent in
    "data": ("src.dataset.make", "make_dataset"),
    "train": ("trainers:Trainer", "train_step"),
    "validation": ("trainers:Trainer", "validate"),
    "save": ("src.runs.checkpoints", "write_atomically"),
    "score": ("runner", "score"),
}
KILLED = -signal.SIGKILL  # the exit status
BETWEEN = "between"  # in none of them
NOT_COMPARED = {"config.json", "environment.json"}  # they name the run's folder and command
TINY = (
    "--hidden=8", "--layers=1", "--heads=2", "--max_len=8", "--experts_cross=2", "--dropout=0.3",
    "--eval_users=32", "--sampled_negatives=6", "--warmup_steps=5", "--threads=1", "--device=cpu",
    "--run_name=run",
)  # fmt: skip
FORKS = multiprocessing.get_context("forkserver")


# ------------------------------------------------------------------------ log and flags


def data_flags(raw: Path, out: Path) -> list[str]:
    """The flags of make_dataset.py."""
    return [
        "--data_name=tiny", "--strd_ym=202312", f"--raw_dir={raw}", f"--out_dir={out}",
        "--threads=1",
    ]  # fmt: skip


def run_flags(data: Path, runs: Path, *more: str) -> list[str]:
    """The flags of main.py for a tiny run with all components, which goes on where it can."""
    return [f"--data_dir={data}", f"--runs_dir={runs}", *TINY, "--resume", *more]


def folder_in(runs: Path) -> Path:
    """Where that run is."""
    return runs / "tiny" / "run"


# ------------------------------------------------------------------------ a life


class Event(NamedTuple):
    """A phase is entered or left, at a time of the machine's clock."""

    phase: str
    entered: bool
    at: float


class Aim(NamedTuple):
    """When to kill: where a phase begins for the nth time, or so many seconds after."""

    phase: str
    nth: int
    delay: float = 0.0


class Ended(NamedTuple):
    """How a life ended."""

    status: int  # exit status; -9 when it was killed
    events: list[Event]
    output: str  # standard output and error
    left: list[Path]  # shared memory that it had when it was killed, and that is still there

    @property
    def killed_in(self) -> str:
        """The phase that it was in at its end."""
        return self.events[-1].phase if self.events and self.events[-1].entered else BETWEEN


def live(
    command: Callable[[list[str]], None],
    arguments: list[str],
    log: Path,
    aim: Aim | None = None,
    prepare: Callable[[], None] | None = None,
) -> Ended:
    """Run a command, such as main.main, in a new process, to its end or until it is killed.

    `prepare` runs in that process before it. Both are functions of modules, so that the process
    finds them.
    """
    _start_server()
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_live, args=(command, arguments, log, sender, aim, prepare))
    process.start()
    sender.close()
    events: list[Event] = []
    shared: list[Path] = []
    waiting = aim.nth if aim else 0
    for event in _received(receiver):
        events.append(event)
        if waiting and event.entered and event.phase == aim.phase:
            waiting -= 1
            if not waiting:
                time.sleep(max(0.0, event.at + aim.delay - time.monotonic()))
                shared = _shared_memory(process.pid)
                process.kill()
    process.join()
    left = [path for path in shared if path.exists()]
    ended = Ended(process.exitcode, events, log.read_text(), left)
    process.close()
    receiver.close()
    return ended


def _shared_memory(process: int) -> list[Path]:
    """The blocks of shared memory with a name that a process has, where Linux tells them."""
    maps = Path(f"/proc/{process}/maps")
    try:
        lines = maps.read_text().splitlines()
    except OSError:  # it has just ended, or this is another system
        return []
    return [Path(line.split()[-1]) for line in lines if "/dev/shm/" in line.split()[-1]]


@functools.cache
def _start_server() -> None:
    """Start the process that all others are forked from; it imports this module once."""
    FORKS.set_forkserver_preload(
        [__name__, "runner", "src.dataset.make", "torch._dynamo"]
    )  # imported late by torch
    before = os.environ.get("PYTHONPATH")
    # the server looks for modules there alone
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [before])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _received(receiver: Connection) -> Iterator[Event]:
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            return


def _live(
    command: Callable[[list[str]], None],
    arguments: list[str],
    log: Path,
    sender: Connection,
    aim: Aim | None,
    prepare: Callable[[], None] | None,
) -> None:
    """What the process does."""
    # locks without names, as in a command that is started plainly: a kill leaves none behind
    multiprocessing.set_start_method("fork", force=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.argv = [f"{command.__module__}.py", *arguments]
    for phase, (owner_name, name) in PHASES.items():
        owner = pkgutil.resolve_name(owner_name)
        stop = aim.nth if aim and aim.phase == phase and not aim.delay else 0
        setattr(owner, name, _told(phase, getattr(owner, name), sender, stop))
    if prepare:
        prepare()
    run_command(functools.partial(command, arguments))


def _told(phase: str, function: Callable, sender: Connection, stop: int) -> Callable:
    """The function, which says when it is entered and left; entered for the time number `stop`, it
    does not go on, and is killed there."""
    times = itertools.count(1)

    @functools.wraps(function)
    def telling(*arguments, **named):
        sender.send(Event(phase, True, time.monotonic()))
        if next(times) == stop:
            signal.pause()
        try:
            return function(*arguments, **named)
        finally:
            sender.send(Event(phase, False, time.monotonic()))

    return telling


def slow_renames(pause: float = 0.02) -> None:
    """Wait before each renaming, so that a kill meets the moment between two of them."""
    rename = Path.replace

    def slowly(path: Path, target: Path) -> Path:
        time.sleep(pause)
        return rename(path, target)

    Path.replace = slowly


# ------------------------------------------------------------------------ what is left


def differences(actual: Path, expected: Path) -> list[str]:
    """What differs between two run folders, except the files that name their location: checkpoints
    tensor by tensor, bit by bit, and all else byte by byte."""
    files = [_files(folder) for folder in (actual, expected)]
    different = [f"{name} is in one alone" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        if name.endswith(".pt"):
            states = (load_checkpoint(folder / name) for folder in
                      (actual, expected))  # fmt: skip
            different += [f"{name}: {part}" for part in unequal_parts(*states)]
        elif (actual / name).read_bytes() != (expected / name).read_bytes():
            different.append(name)
    return different


def _files(folder: Path) -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return names - NOT_COMPARED


def unequal_parts(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two nested values are not the same, bit for bit."""
    if type(first) is not type(second):
        return [where]
    if isinstance(first, torch.Tensor):
        return [] if same_bits(first, second) else [where]
    if isinstance(first, (list, tuple)):
        first, second = dict(enumerate(first)), dict(enumerate(second))
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [where]
        pairs = ((key, first[key], second[key]) for key in first)
        return [part for key, *pair in pairs for part in unequal_parts(*pair, f"{where}/{key}")]
    return [] if first == second else [where]


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are the same, NaN and the sign of zero included."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return first.cpu().contiguous().numpy().tobytes() == second.cpu().contiguous().numpy().tobytes()


def faults_after_a_kill(folder: Path, expected: Path) -> list[str]:
    """What cannot be read in a run folder that a kill left; `expected` is the whole run's."""
    faults = []
    for name in (LAST, FORMER, BEST):
        try:
            if (folder / name).is_file():
                load_checkpoint(folder / name)
        except UserError as error:
            faults.append(str(error))
    for path in folder.glob("*.csv"):  # the rows of the epochs so far
        if not (expected / path.name).read_bytes().startswith(path.read_bytes()):
            faults.append(f"{path.name} is no beginning of the whole run's")
    for name in ("results.json", "ranks.parquet"):
        path = folder / name
        if path.is_file() and path.read_bytes() != (expected / name).read_bytes():
            faults.append(f"{name} differs")
    return faults


def newest_step(folder: Path) -> int:
    """The optimiser steps behind the newest checkpoint; 0 without one."""
    for name in (LAST, FORMER):
        if (folder / name).is_file():
            return load_checkpoint(folder / name)["step"]
    return 0


def warnings_in(output: str) -> int:
    """How many checkpoints a command named as torn or foreign."""
    return len(re.findall(r"^warning: ", output, re.MULTILINE))


def left_over(folder: Path) -> list[str]:
    """Unfinished files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(TEMPORARY))
