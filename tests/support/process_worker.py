"""Runs of main.py one after the other in the processes of one launch, which takes longer than a
tiny run; on request one of them meets a fault.

    python -m torch.distributed.run --nproc_per_node=2 tests/support/process_worker.py RUNS.json

RUNS.json is a list of [flags of main.py, fault], a fault being null or what `meets` takes.
"""

# ruff: noqa: E402

import gc

gc.disable()  # until all is imported, as in a command

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runner import find_or_train
from src.dataset.store.folder import open_named
from src.io.errors import run_command
from src.runs.command import parse_command
from src.training.signals import Interrupted
from trainers import Trainer
from utils import start_process

gc.freeze()
gc.enable()


@contextmanager
def meets(rank: int, step: int, what: str) -> Iterator[None]:
    """Have process `rank` meet a fault once `step` optimiser steps are done.

    `what` is a signal's name, with "torchrun " before it if it goes to that; or "nan": the weights
    of this process alone are not finite in the validation after.
    """
    train_step, validate = Trainer.train_step, Trainer.validate

    def faulty_step(trainer, *given):
        if what != "nan" and (trainer.process.rank, trainer.progress.step) == (rank, step):
            target, name = (os.getpid, os.getppid)["torchrun" in what], what.split()[-1]
            os.kill(target(), signal.Signals[name])
        return train_step(trainer, *given)

    def faulty_validation(trainer, *given):
        if what == "nan" and trainer.process.rank == rank and trainer.progress.step >= step:
            with torch.no_grad():
                trainer.model.item_table.fill_(torch.nan)
        return validate(trainer, *given)

    Trainer.train_step, Trainer.validate = faulty_step, faulty_validation
    try:
        yield
    finally:
        Trainer.train_step, Trainer.validate = train_step, validate


def main() -> None:
    """All runs of the file; one that its fault interrupts is left for the next to go on with."""
    torch.set_num_threads(1)
    runs = json.loads(Path(sys.argv[1]).read_text())
    process = start_process("cpu")
    with process.needing_others():
        for flags, fault in runs:
            settings = parse_command(flags, "").settings
            goes_on = suppress(Interrupted) if len(runs) > 1 else nullcontext()
            with goes_on, meets(*fault) if fault else nullcontext():
                find_or_train(settings, open_named(settings), None, process)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as main.py does
    run_command(main)
