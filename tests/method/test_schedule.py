"""The learning rate: warm-up in steps or in epochs, then constant or linear to 0."""

import pytest

from src.config.settings import Settings
from src.training.optimizer import lr_share

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
