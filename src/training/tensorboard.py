"""TensorBoard's view of a run while it trains: the scalars of metrics.csv and transfer.csv.

The package `tensorboard` is no requirement of the project: without it a run only says so.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

MISSING = "--tensorboard: the package tensorboard is not installed; pip install tensorboard"


def view_folder(run: Path) -> Path | None:
    """Where a run folder's view goes; None, and one line on the console, without the package."""
    if find_spec("tensorboard") is None:
        print(MISSING, flush=True)
        return None
    return run / "tensorboard"


class LiveView:
    """Writes the rows of the run's tables as scalars over the optimiser steps, epoch by epoch."""

    def __init__(self, folder: Path | None, done: int = 0):
        """With folder None nothing is written. `done` steps stay; what an interrupted run wrote
        after them is taken out of the view."""
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
        """The rows of metrics.csv and transfer.csv of the epoch that ended with `step`; a group of
        charts for each metric, a chart for each domain."""
        if self.writer is None:
            return
        for _, _, split, path, domain, metric, value in metrics:
            self.writer.add_scalar(f"{split} {path} {metric}/{domain}", value, step)
        for _, domain, *values in transfer:
            for name, value in zip(transfer_columns[2:], values, strict=True):
                self.writer.add_scalar(f"transfer {name}/{domain}", value, step)
        self.writer.flush()

    def close(self) -> None:
        """Write what is left and end the writer's thread."""
        if self.writer is not None:
            self.writer.close()
