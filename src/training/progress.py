"""How far a run is, and when it stops."""

import math
from dataclasses import dataclass

from src.config.settings import TrainingSettings


@dataclass
class Progress:
    """How far the run is; saved with every checkpoint."""

    epoch: int = 0  # epochs done
    step: int = 0  # optimiser steps done
    best: float = -math.inf  # best validation metric
    best_step: int = 0
    position: int = 0  # optimiser steps done of the current epoch

    def finished(self, settings: TrainingSettings) -> bool:
        """Whether all epochs are done, or patience ran out after the minimum number of steps."""
        if self.position:  # an epoch that has begun is completed and validated first
            return False
        if self.epoch >= settings.max_epochs:
            return True
        if self.epoch == 0 or self.step < settings.min_steps:
            return False
        patience = settings.patience_steps
        if settings.patience_epochs:  # every epoch has as many steps
            patience = settings.patience_epochs * (self.step // self.epoch)
        return self.step - self.best_step >= patience

    def note(self, value: float) -> bool:
        """Record the current validation metric; True when it is the best so far."""
        if value <= self.best:
            return False
        self.best, self.best_step = value, self.step
        return True

    def __str__(self) -> str:
        within = f"step {self.position} of epoch {self.epoch + 1}"
        return within if self.position else f"epoch {self.epoch}"
