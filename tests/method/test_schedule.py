"""The learning rate, with warm-up in steps or in epochs, and the patience, in both too."""

import pytest

from src.config.settings import Settings
from src.training.optimizer import lr_share
from src.training.progress import Progress

STEPS = 8  # per epoch


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"warmup_steps": 4}, {0: 0.25, 1: 0.5, 3: 1.0, 100: 1.0}),
        ({"warmup_steps": 0}, {0: 1.0}),
        ({"warmup_steps": 4, "warmup_epochs": 2.0}, {0: 1 / 16, 7: 0.5, 15: 1.0, 16: 1.0}),
        ({"warmup_epochs": 0.01}, {0: 1.0}),
        (
            {"warmup_epochs": 1.0, "lr_schedule": "linear", "max_epochs": 2},
            {0: 1 / 8, 4: 5 / 8 * 0.75, 8: 0.5, 12: 0.25, 16: 0.0},
        ),
    ],
)
def test_the_share_of_the_learning_rate(settings, shares):
    actual = {step: lr_share(step, Settings(**settings), STEPS) for step in shares}
    assert actual == pytest.approx(shares)


@pytest.mark.parametrize(
    ("settings", "best_step", "finished"),
    [
        ({"patience_steps": 16}, 16, True),
        ({"patience_steps": 17}, 16, False),
        ({"patience_steps": 16, "patience_epochs": 3}, 16, False),
        ({"patience_steps": 1000, "patience_epochs": 2}, 16, True),
        ({"patience_epochs": 2}, 24, False),
        ({"patience_epochs": 2, "min_steps": 33}, 16, False),
        ({"patience_epochs": 2, "max_epochs": 4}, 32, True),
    ],
)
def test_patience_in_epochs_replaces_that_in_steps(settings, best_step, finished):
    progress = Progress(epoch=4, step=4 * STEPS, best=0.1, best_step=best_step)
    assert progress.finished(Settings(**settings)) == finished
