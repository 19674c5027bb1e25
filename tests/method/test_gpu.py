"""What only a GPU can show: the same losses there, steps that wait once, bf16 within its rounding.

The comparisons run on the CPU too, where they hold the bounds to what float32 and bf16 allow.
"""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from models import MIM_LOSS
from src.config.names import COUNT_MODELS, PROTOCOLS
from src.config.settings import Settings
from src.dataset.batching.packing import build_batch
from src.evaluation.path_scores import fit_count_models, score_paths
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan
from src.evaluation.targets import drawn_candidates, split_targets
from src.runs import training_state
from src.training.processes import Process
from src.training.random_state import seed_everything
from tests.support.builders import make_model
from tests.support.padded_model import PaddedSyNCRec, PaddedTrainer, weight_pairs
from tests.support.ranked_data import DRAWN, random_dataset
from tests.support.step_benches import padded_batch, small_bench
from trainers import Trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def coefficients(bench):
    ones = torch.ones(bench.tokens, device=bench.batch.targets.device)
    return {"single": ones, "cross": ones}


def scaled(tensor, like):
    """Gradients grow with the number of targets; their rounding with them."""
    return tensor / max(1.0, like.abs().max().item())


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.parametrize("device", DEVICES)
def test_in_float32_the_model_is_the_padded_oracle(device, loss):
    bench = small_bench(device=device, dtype=torch.float32, users=40, hidden=32, loss=loss)
    model = bench.trainer.model
    padded = PaddedSyNCRec.of(model)
    fast = model(bench.batch, coefficients(bench))
    slow = padded(padded_batch(bench), coefficients(bench))
    for parts, expected in ((fast.by_path, slow.by_path), (fast.auxiliary, slow.auxiliary)):
        assert parts.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(parts[name], value, rtol=2e-5, atol=2e-5, msg=name)
    for losses in (fast, slow):
        (losses.objective + losses.auxiliary[MIM_LOSS]).backward()
    for parameter, form, weight in weight_pairs(model, padded):
        torch.testing.assert_close(
            scaled(form(parameter.grad), weight.grad), scaled(weight.grad, weight.grad),
            rtol=2e-5, atol=2e-5,
        )  # fmt: skip


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.parametrize("device", DEVICES)
def test_bf16_stays_within_its_rounding_of_float32(device, loss):
    bench = small_bench(
        device=device, dtype=torch.float32, users=40, hidden=64, loss=loss, noise=0.1
    )
    model = bench.trainer.model
    with torch.no_grad():
        exact = model(bench.batch)
        with torch.autocast(device, torch.bfloat16):
            rough = model(bench.batch)
    for task in ("single", "cross"):
        expected, got = exact.by_path[task], rough.by_path[task]
        assert expected.std() > 0.1  # the targets do differ
        # bf16 keeps 8 bits; scores are of the order of 1, and their errors have no direction
        assert 0 < (got - expected).abs().max() < 0.08
        assert (got - expected).mean().abs() < 0.003


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("device", DEVICES)
def test_training_lowers_the_losses_as_the_oracles_training_does(device, precision):
    bench = small_bench(
        device=device, dtype=torch.float32, users=10, hidden=32, experts_cross=1,
        precision=precision, noise=0.0, lr=3e-3,
    )  # fmt: skip
    slow, padded = PaddedTrainer(bench.trainer.model), padded_batch(bench)
    for _ in range(20):
        bench.step()
        expected = slow.train_step(padded)
    with torch.no_grad():
        got = bench.trainer.model(bench.batch)
        expected = slow.network(padded, coefficients(bench))
    for task in ("single", "cross"):
        loss = got.by_path[task].mean()
        assert loss < 1.3  # 2 ln 2 = 1.386 before
        torch.testing.assert_close(loss, expected.by_path[task].mean(), rtol=0.02, atol=0.02)


@needs_gpu
def test_a_split_is_ranked_as_on_the_cpu(tmp_path):
    """By every protocol and path, the baselines too; but for scores that rounding may swap."""
    dataset = random_dataset(np.random.default_rng(0), (60, 5, 90), users=40)
    targets = split_targets(dataset, "test")
    drawn = drawn_candidates(dataset, targets, DRAWN, 10, 0, tmp_path)
    model = make_model(dataset, dtype=torch.float32).eval()
    scores = {}
    for device in ("cpu", "cuda"):
        process = Process(torch.device(device))
        plan = Plan(dataset, targets, PROTOCOLS, drawn, process.device)
        ensemble = Ensemble([model.to(device)])
        baselines = fit_count_models(dataset, model.settings)
        scores[device] = score_paths(ensemble, model.settings, plan, process, baselines, lists=True)
    for path, expected in scores["cpu"].items():
        got, exact = scores["cuda"][path], path in COUNT_MODELS
        assert (got.lists["full"].sum() == expected.lists["full"].sum()) and got.lists["full"][
            0
        ] == 0
        for protocol, ranks in expected.ranks.items():
            counted = got.ranks[protocol]
            assert (counted.candidates == ranks.candidates).all()
            assert (counted.tied == ranks.tied).all()
            moved = abs(counted.better - ranks.better)
            assert moved.max() <= (0 if exact else 1) and (moved > 0).mean() < 0.02, (
                path,
                protocol,
            )


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_a_training_step_waits_for_the_gpu_once(loss, precision):
    """For whether all was finite; it is known before anything is updated."""
    bench = small_bench(
        device="cuda", dtype=torch.float32, users=40, hidden=64, loss=loss, precision=precision,
        dropout=0.5, clip_norm=1.0, warmup_steps=5,
    )  # fmt: skip
    trainer = bench.trainer
    for _ in range(3):
        bench.step()
    torch.cuda.synchronize()
    batch = build_batch(trainer.dataset, bench.windows, 1, 1)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            trainer.train_step([batch.to(trainer.process.device)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchronizing" in str(wait.message) for wait in waits) == 1
    assert trainer.progress.step == 4
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@needs_gpu
def test_a_batch_arrives_on_the_gpu_whole():
    bench = small_bench(device="cuda", dtype=torch.float32)
    for field in dataclasses.fields(bench.batch):
        value = getattr(bench.batch, field.name)
        if isinstance(value, torch.Tensor):
            assert value.is_cuda, field.name


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_goes_on_from_its_checkpoint_on_its_device(device, tmp_path):
    """With dropout, and LC-NTG's sums of a part of an epoch: the same numbers as without a stop."""
    dataset = random_dataset(np.random.default_rng(3), (20, 9, 15), users=30)
    settings = Settings(hidden=16, layers=1, max_len=12, batch_size=5, dropout=0.5)

    def new_trainer() -> Trainer:
        seed_everything(2)
        return Trainer(settings, dataset, tmp_path, Process(torch.device(device)))

    whole = new_trainer()
    for step in whole.loader.steps(0):
        whole.train_step(step)
        if whole.progress.position == 3:
            training_state.save(whole, tmp_path / "last.pt")
    again = new_trainer()
    training_state.load(again, tmp_path / "last.pt")
    for step in again.loader.steps(0, 3):
        again.train_step(step)
    bound = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-4, "atol": 1e-5}
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, msg=name, **bound)
    names = dataset.domain_names
    steps = whole.loader.steps_per_epoch
    rows = [list(one.end_epoch().transfer_step_rows(1, steps, names)) for one in (whole, again)]
    assert len(rows[0]) == steps * len(names)
    np.testing.assert_allclose(
        [row[3:] for row in rows[1]], [row[3:] for row in rows[0]], rtol=1e-4, atol=1e-5
    )
