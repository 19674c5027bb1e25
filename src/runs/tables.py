"""The CSV tables of a run folder: metrics.csv, transfer.csv and transfer_steps.csv."""

import csv
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from src.config.settings import EvaluationSettings
from src.io.errors import UserError
from src.io.files import write_atomically
from src.training.epoch_statistics import EpochStatistics, epoch_rows
from src.training.progress import Progress
from src.training.tensorboard import LiveView

METRICS_COLUMNS = ("epoch", "step", "split", "path", "domain", "metric", "value")
TRANSFER_COLUMNS = ("epoch", "domain", "phi", "s", "gamma", "weight")
TRANSFER_STEP_COLUMNS = ("epoch", "step", "domain", "phi", "s", "gamma")


class Table:
    """A CSV file of a run, whose first column is the epoch. Every `write` replaces the file
    atomically; no rows are held in memory."""

    def __init__(self, path: Path, columns: tuple[str, ...], last_epoch: int | None = None):
        """With `last_epoch`, keep the file's rows up to that epoch; otherwise start a new file."""
        self.path, self.columns, self.last_epoch = path, columns, last_epoch
        self.begun = False
        for _ in self.kept():  # detects a damaged file before an epoch is trained
            pass

    def kept(self) -> Iterator[list[str]]:
        """The rows that are kept; UserError where the file has other columns or is damaged."""
        if self.last_epoch is None or not self.path.is_file():
            return
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = csv.reader(file, strict=True)
                width = len(next(rows, ()))
                for number, row in enumerate(rows, 2):
                    epoch = row[0] if len(row) == len(self.columns) == width else ""
                    if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 10):
                        raise UserError(
                            f"{self.path} row {number} is damaged; rerun with --overwrite"
                        )
                    if int(epoch) <= self.last_epoch:
                        yield row
        except (OSError, ValueError, csv.Error) as error:  # damaged, or no text
            raise UserError(
                f"{self.path} cannot be read ({error}); rerun with --overwrite"
            ) from None

    def write(self, rows: Iterable[tuple | list[str]]) -> None:
        """Add rows and write the file."""
        write_atomically(self.path, lambda temporary: self._write(temporary, rows))
        self.begun = True

    def _write(self, temporary: Path, rows: Iterable[tuple | list[str]]) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self.begun:
                with self.path.open(newline="", encoding="utf-8") as before:
                    shutil.copyfileobj(before, file)
            else:
                writer.writerow(self.columns)
                writer.writerows(self.kept())
            writer.writerows(rows)


class RunTables:
    """The tables of a run folder and, on request, their curves in TensorBoard."""

    def __init__(
        self, folder: Path, names: list[str], progress: Progress, tensorboard: Path | None = None
    ):
        """Continue after the epochs of `progress`; `names` are the domains'."""
        self.names = names
        last = progress.epoch  # rows of epoch 0 are those of initial weights
        self.metrics = Table(folder / "metrics.csv", METRICS_COLUMNS, last)
        self.transfer = Table(folder / "transfer.csv", TRANSFER_COLUMNS, last)
        self.transfer_steps = Table(folder / "transfer_steps.csv", TRANSFER_STEP_COLUMNS, last)
        self.view = LiveView(tensorboard, progress.step)

    def write(
        self, progress: Progress, statistics: EpochStatistics, results: dict[str, dict]
    ) -> tuple[list[tuple], list[tuple]]:
        """Add an epoch's rows; returns those of metrics.csv and of transfer.csv."""
        epoch, step = progress.epoch, progress.step
        metrics = list(epoch_rows((epoch, step), statistics, results, self.names))
        self.metrics.write(metrics)
        if not statistics.transfer:
            return metrics, []
        transfer = list(statistics.transfer_rows(epoch, self.names))
        self.transfer.write(transfer)
        self.transfer_steps.write(statistics.transfer_step_rows(epoch, step, self.names))
        return metrics, transfer

    def show(self, progress: Progress, metrics: list[tuple], transfer: list[tuple]) -> None:
        """Send the rows of an epoch to TensorBoard."""
        self.view.write(progress.step, metrics, transfer, TRANSFER_COLUMNS)


def print_epoch(
    progress: Progress,
    statistics: EpochStatistics | None,
    results: dict[str, dict],
    names: list[str],
    settings: EvaluationSettings,
    pace: str = "",
) -> None:
    """One line per epoch on the console: its mean losses, if it was trained, one metric of each
    path's validation, and its `pace`; `*` marks the best so far."""
    average, metric = settings.select_average, settings.select_metric
    parts = [f"epoch {progress.epoch:3d}  step {progress.step:6d}"]
    for path, domain, name, value in statistics.loss_rows(names) if statistics else ():
        if domain == "users" and name == "loss":
            parts.append(f"{path} loss {value:.4f}")
    parts += [f"{path} {metric} {means[average][metric]:.4f}" for path, means in results.items()]
    if pace:
        parts.append(pace)
    if statistics and progress.best_step == progress.step:
        parts.append("*")
    print("  ".join(parts), flush=True)


def merge_metrics(parts: list[tuple[Path, list[str], int]], folder: Path) -> None:
    """One metrics.csv from those of the domains' separate models, each (folder, names, epochs);
    their means, each over one domain, are left out."""

    def rows() -> Iterator[list[str]]:
        for part_folder, names, epoch in parts:
            part = Table(part_folder / "metrics.csv", METRICS_COLUMNS, epoch)
            yield from (row for row in part.kept() if row[4] in names)

    Table(folder / "metrics.csv", METRICS_COLUMNS).write(rows())
