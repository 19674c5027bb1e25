"""What a run shows of its progress: a line before it, a bar for all of its steps, its pace."""

import time

import torch
from tqdm import tqdm

from src.config.settings import Settings
from src.training.optimizer import lr_share
from src.training.processes import Process
from src.training.progress import Progress


class RunClock:
    """Measures a run from the first step that this command trains: validations count, what was
    trained before it was resumed does not."""

    def __init__(self, settings: Settings, steps_per_epoch: int):
        self.settings, self.steps_per_epoch = settings, steps_per_epoch
        self.total = settings.max_epochs * steps_per_epoch
        self.began: tuple[float, int] | None = None  # (time in s, steps done then)
        self.epoch_began = 0.0

    def bar(self, progress: Progress, shown: bool) -> tqdm:
        """A bar for the steps of the whole run, at an epoch that begins or goes on, silent where
        the output is no terminal. The caller closes it."""
        self.epoch_began = time.monotonic()
        self.began = self.began or (self.epoch_began, progress.step)
        left = self.left(progress)
        return tqdm(
            total=self.total,
            initial=progress.step,
            desc=f"epoch {progress.epoch + 1} of {self.settings.max_epochs}",
            unit="step",
            postfix=f"at most {left} left" if left else None,
            bar_format="{desc} |{bar}| step {n_fmt} of {total_fmt}, {rate_fmt}{postfix}",
            disable=None if shown else True,
            leave=False,
        )

    def left(self, progress: Progress) -> str:
        """The time that all remaining epochs take at the pace so far, as minutes:seconds; empty
        where it is unknown or nothing remains. The run may stop earlier."""
        began, first = self.began or (0.0, progress.step)
        done, remaining = progress.step - first, self.total - progress.step
        if not done or not remaining:
            return ""
        return tqdm.format_interval((time.monotonic() - began) / done * remaining)

    def pace(self, progress: Progress) -> str:
        """Learning rate of the last step, seconds of the epoch, and the time left, for the line of
        an epoch that has ended."""
        share = lr_share(progress.step - 1, self.settings, self.steps_per_epoch)
        pace = f"lr {self.settings.lr * share:.2g}  {time.monotonic() - self.epoch_began:.1f} s"
        left = self.left(progress)
        return f"{pace}, at most {left} left" if left else pace


def print_start(
    settings: Settings, process: Process, users: int, targets: int, valid: int, steps: int
) -> None:
    """One line about what begins: where it runs, how much there is, what `*` means."""
    device = process.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(process.device)
    elif (threads := torch.get_num_threads()) > 1:
        device = f"{device} ({threads} threads)"
    if process.processes > 1:
        device = f"{process.processes} processes, each on {device}"
    print(
        f"training on {device}: {users:,} users, {targets:,} targets in {steps:,} "
        f"step{'s' * (steps > 1)} per epoch, at most {settings.max_epochs:,} "
        f"epoch{'s' * (settings.max_epochs > 1)}; {valid:,} validation targets; * marks the best "
        f"{settings.select_metric} ({settings.select_average}) of the {settings.paths[0]} path so "
        "far",
        flush=True,
    )
