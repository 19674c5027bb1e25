"""Live curves of a run in TensorBoard: the scalars of metrics.csv and transfer.csv.

The package `tensorboard` is optional: without it a run prints one line and continues.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

MISSING = "--tensorboard: the package tensorboard is not installed; pip install tensorboard"


def view_folder(run: Path) -> Path | None:
    """The folder of a run's event files; None, and one line on the console, without the package."""
    if find_spec("tensorboard") is None:
        print(MISSING, flush=True)
        return None
    return run / "tensorboard"


class LiveView:
    """Writes the rows of the run's tables as scalars over the optimiser steps, epoch by epoch."""

    def __init__(self, folder: Path | None, done: int = 0):
        """With folder None nothing is written. The first `done` steps stay; what an interrupted run
        wrote after them is removed from the view."""
        self.writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # needs the package

            self.writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def write(
        self,
        step: int,
        metrics: Iterable[tuple],
        transfer: Iterable[tuple],
        transfer_columns: tuple[str, ...],
    ) -> None:
        """Write the rows of metrics.csv and transfer.csv of the epoch that ended with `step`: one
        group of charts per metric, one chart per domain."""
        if self.writer is None:
            return
        for _, _, split, path, domain, metric, value in metrics:
            self.writer.add_scalar(f"{split} {path} {metric}/{domain}", value, step)
        for _, domain, *values in transfer:
            for name, value in zip(transfer_columns[2:], values, strict=True):
                self.writer.add_scalar(f"transfer {name}/{domain}", value, step)
        self.writer.flush()

    def close(self) -> None:
        """Flush, and stop the writer's thread."""
        if self.writer is not None:
            self.writer.close()
