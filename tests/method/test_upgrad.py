"""UPGrad against a search over all sets of conflicts, and what it promises of every step."""

import itertools

import numpy as np
import pytest
import torch

from src.objective.upgrad import UPGrad
from tests.support.weightings import gap_of, make_trainer, settings_of


def upgrad(gradients: torch.Tensor) -> torch.Tensor:
    settings = settings_of("upgrad")
    return UPGrad(settings, gap_of(settings, len(gradients))).combine(gradients)


def nearest_without_conflict(gradients: np.ndarray, domain: int) -> np.ndarray:
    """The nearest x to a gradient with ⟨g_d, x⟩ ≥ 0 for all d. It is the projection onto the x
    with ⟨g_d, x⟩ = 0 for some set of domains: of all these the nearest one that is allowed."""
    allowed = []
    for size in range(len(gradients) + 1):
        for tight in itertools.combinations(range(len(gradients)), size):
            normals = gradients[list(tight)]
            x = gradients[domain] - np.linalg.pinv(normals) @ (normals @ gradients[domain])
            if (gradients @ x > -1e-9).all():
                allowed.append(x)
    return min(allowed, key=lambda x: np.linalg.norm(x - gradients[domain]))


@pytest.mark.parametrize("width", [2, 4, 9])
@pytest.mark.parametrize("seed", range(5))
def test_upgrad_is_its_definition(width, seed):
    gradients = np.random.default_rng(seed).normal(size=(4, width)) * [[1], [30], [0.01], [1]]
    assert (gradients @ gradients.T < 0).any()
    expected = sum(nearest_without_conflict(gradients, domain) for domain in range(4))
    assert not np.allclose(expected, gradients.sum(0))
    np.testing.assert_allclose(upgrad(torch.from_numpy(gradients)).numpy(), expected, atol=1e-9)


def test_the_step_lowers_no_domain_s_first_order_gain_below_zero():
    torch.manual_seed(0)
    for _ in range(50):
        gradients = torch.randn(6, 8) * 10 ** torch.empty(6, 1).uniform_(-3, 3)
        step = upgrad(gradients)
        cosines = gradients @ step / gradients.norm(dim=1) / step.norm()
        assert cosines.min() > -1e-4  # float32


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [1, 2], [1, 2]],
        [[1, 0], [1, 1], [0, 0]],
        [[0, 0], [0, 0], [0, 0]],
        [[3, 0], [0, 1e-9], [1, 1]],
    ],
    ids=["identical", "a domain without one", "none", "of lengths far apart"],
)
def test_gradients_without_conflict_are_added_as_uniform_weights_add_them(rows):
    gradients = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(upgrad(gradients), gradients.sum(0))


def test_opposite_gradients_stand_still_and_a_domain_without_one_changes_nothing():
    gradients = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(upgrad(gradients), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_stays_so(value):
    assert not upgrad(torch.tensor([[1.0, 0.0], [value, 1.0]])).isfinite().all()


def test_upgrad_changes_the_step(tmp_path):
    tables = []
    for weighting in ("uniform", "upgrad"):
        trainer = make_trainer(tmp_path, weighting)
        for step_batches in trainer.steps():
            trainer.train_step(step_batches)
        tables.append(trainer.model.item_table.detach().clone())
    assert not torch.allclose(*tables)
