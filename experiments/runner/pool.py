"""Processes of a queue: started on free slots, measured, stopped so that they can go on later."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.io.errors import UserError, plain
from src.io.files import write_json
from src.io.json_schema import MapOf, read_json
from src.io.paths import ROOT
from src.training.signals import StopSignals

POLL_S = 0.1
LAST_LINES = 3  # of the output of a command that failed
MIB = 2**20 if sys.platform == "darwin" else 2**10  # units of ru_maxrss in a MiB


@dataclass
class Running:
    """A command that runs; its output is appended to `log`."""

    what: Any  # what the caller runs
    process: subprocess.Popen
    log: Path
    slot: str
    began: float
    stopped: bool = False  # asked to end before it is done
    status: int = 0  # once it has ended
    seconds: float = 0.0  # of this and of earlier attempts
    memory: float = 0.0  # MiB, the peak of all attempts

    def stop(self) -> None:
        """Ask a command to save and end."""
        self.stopped = True
        self.process.send_signal(signal.SIGTERM)


class Pool:
    """At most one command per slot; a slot is the device that its commands use. Within its context
    a signal is met in `pause` alone, and no command outlives an error."""

    def __init__(self, slots: list[str], threads: int):
        self.slots, self.threads, self.running = slots, threads, list[Running]()
        self.signals = StopSignals()

    def __enter__(self) -> "Pool":
        self.signals.__enter__()
        return self

    def __exit__(self, *_) -> None:
        try:
            self.stop()
        finally:
            self.signals.__exit__()

    def pause(self) -> None:
        """Wait a moment; KeyboardInterrupt after a SIGINT or SIGTERM."""
        time.sleep(POLL_S)
        if self.signals.received:
            raise KeyboardInterrupt(self.signals.received)

    @property
    def free(self) -> list[str]:
        """The slots without a command."""
        free = list(self.slots)
        for one in self.running:
            free.remove(one.slot)
        return free

    def start(self, what: Any, command: list[str], log: Path, slot: str) -> Running:
        """Run a Python command with flags, its output appended to `log`.

        In a session of its own, so that a Ctrl-C reaches it once, from here.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        with log.open("a", encoding="utf-8") as output:
            print(f"== {' '.join(map(plain, command))}", file=output, flush=True)
            process = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, env=environment, cwd=ROOT,
            )  # fmt: skip
        one = Running(what, process, log, slot, time.monotonic())
        self.running.append(one)
        return one

    def ended(self) -> list[Running]:
        """The commands that have ended since the last call, measured."""
        ended = [one for one in self.running if self._measured(one, os.WNOHANG)]
        self.running = [one for one in self.running if one not in ended]
        return ended

    def call(self, what: Any, command: list[str], log: Path) -> Running:
        """Run a command to its end, alone."""
        one = self.start(what, command, log, self.slots[0])
        while one not in self.ended():
            self.pause()
        return one

    def stop(self) -> None:
        """Ask all commands to save and end, and wait for them."""
        stopping, self.running = self.running, []
        for one in stopping:
            one.stop()
        for one in stopping:
            self._measured(one, 0)
        if stopping:
            count = f"{len(stopping)} command{'s' * (len(stopping) > 1)}"
            print(f"stopped {count}; the same call goes on", flush=True)

    def _measured(self, one: Running, how: int) -> bool:
        """Whether the command has ended; then its status and cost are known, and stored."""
        pid, status, usage = os.wait4(one.process.pid, how)
        if not pid:
            return False
        one.status = one.process.returncode = os.waitstatus_to_exitcode(status)
        former = read_cost(one.log)
        one.seconds = former["seconds"] + time.monotonic() - one.began
        one.memory = max(former["peak_memory_mib"], _peak_memory(usage))
        write_json(_cost_file(one.log), {"seconds": one.seconds, "peak_memory_mib": one.memory})
        return True


def _peak_memory(usage: resource.struct_rusage) -> float:
    """MiB of memory that a command had resident at most."""
    return round(usage.ru_maxrss / MIB, 1)


def _cost_file(log: Path) -> Path:
    return log.with_suffix(".cost.json")


def read_cost(log: Path) -> dict[str, float]:
    """{"seconds", "peak_memory_mib"} of all attempts so far of the command with this log."""
    try:
        return read_json(_cost_file(log), "the cost of a run", MapOf(float))
    except UserError:  # there was none
        return {"seconds": 0.0, "peak_memory_mib": 0.0}


def last_lines(log: Path, count: int = LAST_LINES) -> str:
    """The last lines of a command's output, on one line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    spoken = [line for line in lines if line.strip() and not line.startswith("== ")]
    return " | ".join(plain(line)[:300] for line in spoken[-count:])


def status_words(status: int) -> str:
    """The exit status of a process, for people."""
    if status >= 0:
        return f"exit status {status}"
    return f"killed by {signal.Signals(-status).name}"
