"""Random weights, dynamic weight average and FAMO: by hand and against their definitions."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest

from src.io.errors import UserError
from src.objective.dwa import DynamicWeightAverage
from src.objective.famo import FAMO
from src.objective.random_weights import RandomWeights
from src.training.epoch_statistics import loss_sums
from src.training.losses_after import sums_after_step
from src.training.random_state import random_state
from tests.support.weightings import CPU, SIZES, gap_of, make_trainer, settings_of


def float64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------ random weights


def random_weights(seed: int, steps: int) -> torch.Tensor:
    """[steps, 3] the weights of the first steps."""
    settings = settings_of("random", seed=seed)
    weighting, rows = RandomWeights(settings, gap_of(settings, 3)), []
    for _ in range(steps):
        rows.append(weighting.weights())
        weighting.update({}, torch.ones(3))
    return torch.stack(rows)


def test_random_weights_are_a_softmax_of_normal_draws():
    weights = random_weights(0, 2000)
    torch.testing.assert_close(weights.mean(1), torch.ones(2000, dtype=torch.float64))
    logs = weights.log()
    for one, other in ((0, 1), (1, 2)):  # the logarithm of a ratio is a difference of two draws
        difference = (logs[:, one] - logs[:, other]) / math.sqrt(2)
        assert kstest(difference, "norm").pvalue > 0.01
        assert abs(torch.corrcoef(torch.stack([difference[1:], difference[:-1]]))[0, 1]) < 0.1


def test_random_weights_depend_on_seed_and_step_alone():
    weights = random_weights(0, 5)
    torch.manual_seed(1)
    assert torch.equal(random_weights(0, 5), weights)
    others = torch.cat([weights, random_weights(1, 5)])
    assert len(others.unique(dim=0)) == 10  # no two steps and no two seeds share a draw


# ------------------------------------------------------------------------ dynamic weight average


def test_dynamic_weight_average_traced_by_hand():
    settings = settings_of("dwa")
    weighting = DynamicWeightAverage(settings, gap_of(settings, 3))

    def epoch(*steps) -> torch.Tensor:
        """Each step's losses and targets of the domains; the weights of the next epoch."""
        before = weighting.weights()
        for losses, counts in steps:
            weighting.update({"single": torch.ones(3), "cross": float64(*losses)}, float64(*counts))
            assert torch.equal(weighting.weights(), before)
        weighting.end_epoch()
        return weighting.weights()

    nan = math.nan
    # L = (4 + 3 · 2) / 4 = 2.5, 2 and none
    first = epoch(((4, 2, nan), (1, 3, 0)), ((2, 2, nan), (3, 1, 0)))
    assert first.tolist() == [1, 1, 1]
    # r = 2 / 2.5, 2 / 2 and none yet, as if the loss had stayed the same
    second = epoch(((2, 2, 5), (2, 2, 2)))
    torch.testing.assert_close(second, 3 * float64(0.8 / 2, 1 / 2, 1 / 2).softmax(0))
    # r = 1 / 2, the former 1 where there is no target, and 4 / 5
    third = epoch(((1, nan, 4), (1, 0, 9)))
    torch.testing.assert_close(third, 3 * float64(0.5 / 2, 1 / 2, 0.8 / 2).softmax(0))


def test_the_temperature_of_the_dynamic_weight_average_must_be_positive():
    with pytest.raises(UserError, match=r"--dwa_temperature must lie in \[0.001, 1000\], not 0"):
        settings_of("dwa", dwa_temperature=0.0)


def test_the_epochs_of_a_run_are_those_of_the_dynamic_weight_average(tmp_path):
    trainer = make_trainer(tmp_path, "dwa", max_epochs=3)
    trainer.fit()
    table = pd.read_csv(tmp_path / "metrics.csv")
    table = table[(table.split == "train") & (table.path == "cross") & (table.metric == "loss")]
    losses = table.pivot_table(index="epoch", columns="domain", values="value")
    losses = losses[list(trainer.dataset.domain_names)].to_numpy()
    expected = len(SIZES) * torch.from_numpy(losses[2] / losses[1] / 2).softmax(0)
    torch.testing.assert_close(trainer.weighting.weights(), expected)
    transfer = pd.read_csv(tmp_path / "transfer.csv").set_index(["epoch", "domain"]).weight
    expected = len(SIZES) * torch.from_numpy(losses[1] / losses[0] / 2).softmax(0)  # of epoch 3
    assert transfer[2][trainer.dataset.domain_names].tolist() == pytest.approx(expected.tolist())


# ------------------------------------------------------------------------ FAMO


def famo_step(weighting: FAMO, before: tuple, after: tuple, counts: tuple) -> None:
    weighting.update({"single": torch.ones(3), "cross": float64(*before)}, float64(*counts))
    weighting.update_after({"single": torch.ones(3), "cross": float64(*after)}, float64(*counts))


def test_the_first_steps_of_famo_by_hand():
    settings = settings_of("famo")
    weighting = FAMO(settings, gap_of(settings, 3))
    assert weighting.weights().tolist() == [1, 1, 1]
    nan = math.nan
    famo_step(weighting, (4, 2, nan), (2, 2, nan), (5, 1, 0))
    # the loss of the first domain is halved, the second stays: Adam's first step is its rate
    torch.testing.assert_close(weighting.logits, float64(-0.025, 0.025, 0))
    expected = float64(-0.025, 0.025, 0).exp() / float64(4, 2, 3)  # 3: the mean of the others
    torch.testing.assert_close(weighting.weights(), expected / expected.mean())
    famo_step(weighting, (nan, 1, 8), (nan, 1, 4), (0, 1, 2))
    assert weighting.logits[0].item() == pytest.approx(-0.025)
    assert weighting.logits[1] > 0.025
    assert weighting.logits[2].item() == pytest.approx(-0.025)
    torch.testing.assert_close(weighting.mean, float64(4, 0.9 * 2 + 0.1 * 1, 8))


def test_famo_is_adam_on_the_fall_of_the_log_losses():
    settings = settings_of("famo", famo_lr=0.1, famo_decay=0.01)
    weighting = FAMO(settings, gap_of(settings, 3))
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.1, weight_decay=0.01)
    rng = np.random.default_rng(0)
    for _ in range(20):
        before, after = torch.from_numpy(rng.uniform(1, 9, size=(2, 3)))
        famo_step(weighting, before.tolist(), after.tolist(), (1, 2, 3))
        adam.zero_grad()
        (logits.softmax(0) @ (before.log() - after.log())).backward()
        adam.step()
    torch.testing.assert_close(weighting.logits, logits.detach(), rtol=1e-6, atol=1e-7)
    assert weighting.logits.abs().max() > 0.1


def test_famo_refuses_rates_out_of_bounds():
    with pytest.raises(UserError, match=r"--famo_lr must lie in \[0, 1\], not -1"):
        settings_of("famo", famo_lr=-1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grad_accum": 2, "attention_dropout": 0.2},
        {"kernels": "plain", "share_experts": True},
        {"precision": "bf16"},
        {"loss": "bce", "sparse_items": True},
        {"model": "gru4rec", "mode": "cdsr"},
        {"model": "bert4rec", "mode": "cdsr"},
        {"model": "autocdsr", "mode": "cdsr"},
    ],
    ids=["default", "batches", "plain", "bf16", "sparse", "gru4rec", "bert4rec", "autocdsr"],
)
def test_losses_after_a_step_have_its_targets_and_dropout_masks(changes, tmp_path):
    """Under unchanged weights they are its losses; after the step they are lower."""
    trainer = make_trainer(tmp_path, "famo", dropout=0.3, lr=0.01, **changes)
    trainer.model.train()
    step_batches, random = next(trainer.steps()), random_state(CPU)
    counts = trainer.count_targets(step_batches)
    losses = trainer.gradients(
        step_batches, trainer.coefficients(counts, trainer.weighting.weights())
    )
    expected = [loss_sums(*pair) for pair in zip(losses, step_batches, strict=True)]
    current = torch.get_rng_state()
    same = sums_after_step(trainer, step_batches, random)
    assert torch.equal(torch.get_rng_state(), current)
    for one, other in zip(same, expected, strict=True):
        for path, values in other.items():
            torch.testing.assert_close(one[path], values)
    for optimizer in trainer.optimizers.values():
        optimizer.step()
    after = sums_after_step(trainer, step_batches, random)
    assert not any(values.requires_grad for batch in after for values in batch.values())
    for path in trainer.paths:
        assert sum(batch[path].sum() for batch in after) < sum(
            batch[path].sum() for batch in expected
        )


def test_famo_weighs_by_the_losses_before_and_after_each_step(tmp_path):
    """Losses of the model before and after a step, computed here, give the same weights."""
    trainer = make_trainer(tmp_path, "famo", lr=0.01)
    trainer.model.train()  # without dropout
    step_batches = next(trainer.steps())
    counts = trainer.count_targets(step_batches)

    def losses() -> torch.Tensor:
        (batch,) = step_batches
        return loss_sums(trainer.model(batch), batch)["cross"] / counts

    before = losses()
    trainer.train_step(step_batches)
    after = losses()
    expected = FAMO(trainer.settings, gap_of(trainer.settings, len(SIZES)))
    expected.update({"cross": before}, counts)
    expected.update_after({"cross": after}, counts)
    assert expected.logits.abs().min() > 0.02  # near Adam's first step, its rate
    torch.testing.assert_close(trainer.weighting.logits, expected.logits)
    torch.testing.assert_close(trainer.weighting.weights(), expected.weights())
