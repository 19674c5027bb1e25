"""Many endings of tiny programs in several processes, by the code that ends main.py.

    python tests/support/process_endings.py [[["done", 2], ["lost", 3]], …]

Each inner list is a batch of endings, (what happens, number of processes), that take place side by
side. Prints, as JSON, how each ended: [what happened, exit statuses by rank, stderr].

The processes are forked from this one, which has imported torch, so that an ending costs a second
and not ten; each ending has a store that connects its processes, as torchrun's does. In every
process but the last a thread of gloo is just releasing a tensor, which takes it a while.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.io.errors import NotFinite, UserError, run_command
from src.training.processes import Process
from src.training.signals import Interrupted
from utils import start_process

ENDINGS = ("done", "mistake", "own mistake", "not finite", "interrupted", "lost", "defect")
RELEASE_S = 2.0  # that a thread of gloo still takes to release a tensor when its process ends
_ending = threading.Event()
_observed: list[weakref.ref] = []


def statuses(ending: str, processes: int) -> list[int]:
    """The exit statuses that docs/robustness.md states, by rank."""
    if ending in ("lost", "defect"):  # in the last process
        return [1] * (processes - 1) + [-signal.SIGKILL if ending == "lost" else 1]
    codes = {"done": 0, "mistake": 2, "own mistake": 2, "not finite": 2, "interrupted": 130}
    return [codes[ending]] * processes


def project_lines(errors: str) -> list[str]:
    """The lines on stderr that are the project's: not torch's, nor torchrun's report."""
    begin = ("error: ", "process ", "interrupted")
    return [line for line in errors.splitlines() if line.startswith(begin)]


def program(ending: str) -> None:
    """Two steps of training, and an ending."""
    process = start_process("cpu")
    last = process.rank == process.processes - 1
    with process.needing_others():
        model = torch.nn.Linear(4, 4)
        network = process.wrap(model)
        for _ in range(2):
            network(torch.ones(2, 4)).sum().backward()
        _occupy_a_thread(process, last)
        _end(ending, process, last)


def _occupy_a_thread(process: Process, last: bool) -> None:
    """Have a thread of gloo be the last to hold a tensor, whose release then calls Python."""
    tensor = torch.ones(1)
    if last:  # the others have let go of it before it is summed
        time.sleep(0.2)
        dist.all_reduce(tensor)
    else:
        _observed.append(weakref.ref(tensor, _release))
        dist.all_reduce(tensor, async_op=True)


def _release(_: weakref.ref) -> None:
    _ending.wait()
    time.sleep(RELEASE_S)


def _end(ending: str, process: Process, last: bool) -> None:
    process.any(last)
    _ending.set()
    if ending == "mistake":
        process.agree(lambda: _raise(UserError("a mistake")))
    if ending == "own mistake":
        process.together(lambda: _raise(UserError("a mistake")) if last else None)
    if ending == "not finite":
        raise NotFinite("a score is not finite")
    if ending == "interrupted":
        raise Interrupted("SIGTERM")
    if ending == "lost" and last:
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "defect" and last:
        raise ZeroDivisionError
    if ending in ("lost", "defect"):
        process.any(last)


def _raise(error: Exception) -> NoReturn:
    raise error


# ------------------------------------------------------------------------ forks


def start_store() -> tuple[int, int]:
    """A process that holds the store, and its port."""
    receiver, sender = os.pipe()
    holder = os.fork()
    if not holder:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(sender, f"{store.port}\n".encode())
        signal.pause()
    os.close(sender)
    with os.fdopen(receiver) as port:
        return holder, int(port.readline())


def start(ending: str, processes: int, port: int, errors: BinaryIO) -> list[int]:
    """Fork the processes of an ending; their process ids."""
    forks = []
    for rank in range(processes):
        forks.append(os.fork())
        if not forks[-1]:
            os.dup2(errors.fileno(), sys.stderr.fileno())
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }  # fmt: skip
            run_command(lambda: program(ending))
            sys.exit()
    return forks


def begin(ending: str, processes: int) -> Callable[[], list[Any]]:
    """Start the processes of an ending; a function that waits for it and returns its results."""
    holder, port = start_store()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - read once its writers have ended
    forks = start(ending, processes, port, errors)

    def wait() -> list[Any]:
        codes = [os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) for fork in forks]
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with errors:
            errors.seek(0)
            return [ending, codes, errors.read().decode(errors="replace")]

    return wait


def main() -> None:
    """All batches of endings, one after the other."""
    torch.set_num_threads(1)
    results = []
    for batch in json.loads(sys.argv[1]):
        waiting = [begin(*ending) for ending in batch]
        results += [wait() for wait in waiting]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
