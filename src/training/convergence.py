"""Was a model trained to the end? Asked before training, at its end, and by every report.

A model counts as not trained to the end if its warm-up took half of its steps or more, if
max_epochs ended it at its best epoch, or if the validation metric that selects its checkpoint still
rose by more than its standard error over the last quarter of its steps (LAST). The rise is the best
value of that quarter minus the best value before it: what the tested checkpoint would have lost
without the quarter.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.config.modes import MODES
from src.config.settings import Settings
from src.io.errors import UserError
from src.training.gaps import advice, gaps_at, validation_at
from src.training.optimizer import lr_share, warmup_steps

if TYPE_CHECKING:
    import pandas as pd

LAST = 0.25  # the share of a model's steps over which its metric must no longer rise
HALF = 0.5  # the share of a model's steps that warm-up or schedule may not take


@dataclass(frozen=True)
class TrainingEnd:
    """How the training of one model ended."""

    domain: str  # of a mode with one model per domain; empty for a model of all domains
    epochs: int
    steps: int
    best_epoch: int
    best_step: int
    rise: float  # of the selecting metric over the last quarter of the steps; NaN: nothing before
    warmup: int  # steps
    max_epochs: int

    @property
    def at_limit(self) -> bool:
        """Whether max_epochs ended the training, not the patience."""
        return self.epochs >= self.max_epochs

    @property
    def warmed_too_long(self) -> bool:
        """Whether the warm-up took half of the steps or more."""
        return bool(self.warmup) and self.warmup >= HALF * self.steps

    def why(self) -> str:
        """Why the training stopped and whether its best epoch was the last, for the console."""
        waited = self.steps - self.best_step
        cause = f"no better validation for {waited} steps"
        if self.at_limit:
            cause = f"--max_epochs {self.max_epochs} reached"
        best = f"the best epoch was {self.best_epoch}"
        if self.best_epoch == self.epochs:
            best = f"the best epoch was the last ({self.epochs}); more epochs may give a better one"
        return f"stopped after epoch {self.epochs} (step {self.steps}): {cause}; {best}"

    def fault(self, error: float) -> str:
        """Why the model was not trained to the end; empty if it was.

        error: the standard error of the selecting metric.
        """
        if self.warmed_too_long:
            return f"its warm-up of {self.warmup} steps took half or more of its {self.steps} steps"
        if self.at_limit and self.best_epoch == self.epochs:
            return f"--max_epochs {self.max_epochs} ended it at its best epoch"
        if math.isnan(self.rise):
            return f"no validation before the last quarter of its {self.steps} steps"
        if self.rise > error:
            return (
                f"its validation still rose by {self.rise:.4f} (standard error {error:.4f}) over "
                f"the last quarter of its {self.steps} steps"
            )
        return ""


def last_rise(steps: np.ndarray, values: np.ndarray) -> float:
    """How far the best value of the last quarter of the steps lies above the best one before it.

    steps, values: [n] of each validation. NaN if none lies before the last quarter.
    """
    late = steps > (1 - LAST) * steps.max()
    return math.nan if late.all() else float(values[late].max() - values[~late].max())


def training_ends(metrics: "pd.DataFrame", settings: Settings) -> list[TrainingEnd]:
    """How each model of a run ended, from its metrics.csv (epoch 0 may be there).

    Models whose validation the table lacks are left out.
    """
    mode, average = MODES[settings.mode], settings.select_average
    rows = metrics[
        (metrics.split == "valid")
        & (metrics.path == mode.paths[0])
        & (metrics.metric == settings.select_metric)
        & metrics.value.notna()
    ].sort_values("epoch", kind="stable")
    # the table of a mode with one model per domain has the domains' rows alone
    curves = rows.groupby("domain", sort=False) if mode.per_domain else ((average, rows),)
    ends = []
    for domain, curve in curves:
        curve = curve[curve.domain == domain]
        trained = curve[curve.epoch > 0]
        if trained.empty:
            continue
        best = trained.iloc[int(trained.value.to_numpy().argmax())]
        epochs, steps = int(trained.epoch.iloc[-1]), int(trained.step.iloc[-1])
        ends.append(
            TrainingEnd(
                domain=str(domain) if mode.per_domain else "",
                epochs=epochs,
                steps=steps,
                best_epoch=int(best.epoch),
                best_step=int(best.step),
                rise=last_rise(curve.step.to_numpy(), curve.value.to_numpy()),
                warmup=warmup_steps(settings, steps // epochs),
                max_epochs=settings.max_epochs,
            )
        )
    return ends


def ending_lines(folder: Path, settings: Settings) -> Iterator[str]:
    """One line per model of a finished run: why its training stopped; and the advice of its gaps
    (src/training/gaps.py), if its training was not cut off and they give one. None without
    metrics.csv."""
    import pandas as pd  # takes a quarter of a second to load, while nothing is trained yet

    try:
        metrics = pd.read_csv(
            folder / "metrics.csv", keep_default_na=False, na_values={"value": [""]}
        )
        ends = training_ends(metrics, settings)
        selection = settings.select_metric, settings.select_average
        # the single view learns faster, so only a model that had its time is judged
        judged = [end.best_epoch for end in ends if not end.fault(math.inf)]
        advised = [
            advice(gaps_at(metrics, epoch), validation_at(metrics, epoch, *selection))
            for epoch in judged
        ]
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {folder / 'metrics.csv'}: {reason}") from None
    for end in ends:
        yield f"domain {end.domain}: {end.why()}" if end.domain else end.why()
    yield from filter(None, advised)


def short_training(settings: Settings, steps_per_epoch: int) -> str:
    """What takes half of a model's steps or more: its warm-up, or its schedule; empty if neither.

    The steps are those of max_epochs: early stopping can only make them fewer.
    """
    steps = settings.max_epochs * steps_per_epoch
    warmup = warmup_steps(settings, steps_per_epoch)
    if warmup and warmup >= HALF * steps:
        return (
            f"the warm-up of {warmup} steps is half or more of the at most {steps} steps of this "
            f"model ({settings.max_epochs} epochs of {steps_per_epoch}); give at most "
            f"--warmup_steps {steps // 10}, or more --max_epochs"
        )
    sample = range(0, steps, max(1, steps // 1000))
    low = np.mean([lr_share(step, settings, steps_per_epoch) <= HALF for step in sample])
    if low >= HALF:
        return (
            f"--lr_schedule {settings.lr_schedule} and the warm-up of {warmup} steps keep "
            f"the learning rate at half of --lr or less in {100 * low:.0f} % of the at most "
            f"{steps} steps of this model: a validation curve that is flat at the end may be the "
            "schedule's; --lr_schedule constant shows whether the model is trained to the end"
        )
    return ""


def warn_of_short_training(settings: Settings, steps_per_epoch: int, domain: str = "") -> None:
    """Print the warning of `short_training`, if there is one, beside what the epochs print."""
    if fault := short_training(settings, steps_per_epoch):
        model = f"domain {domain}: " if domain else ""
        print(f"WARNING: {model}{fault}", flush=True)
