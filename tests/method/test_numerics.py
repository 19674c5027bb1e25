"""Other ways to compute the same steps: plain code, deterministic, bf16, compiled."""

import csv
import shutil

import pytest
import torch

from tests.support.command_runs import make_data, train
from tests.support.step_benches import small_bench
from utils import start_process

STEPS = 6
FUSED = {"_ExpertMixtureBackward", "_SoftmaxLossBackward"}  # their nodes in the graph
NUMBERS = {"dtype": torch.float32, "users": 30, "hidden": 16, "layers": 1, "noise": 0.0, "lr": 3e-3}


def summed_losses(bench) -> torch.Tensor:
    """[paths] the losses of all targets that were trained on, added up."""
    return torch.stack([sums.sum() for sums in bench.trainer.statistics.losses.values()])


def losses_and_weights(**changes) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mean loss of each task before each step, and the weights after the last."""
    bench = small_bench(**(NUMBERS | changes))
    losses = []
    for _ in range(STEPS):
        before = summed_losses(bench)
        bench.step()
        losses.append((summed_losses(bench) - before) / bench.tokens)
    return torch.stack(losses), dict(bench.trainer.model.named_parameters())


@pytest.mark.parametrize(("kernels", "hand_written"), [("plain", set()), ("fused", FUSED)])
def test_the_setting_selects_the_kernels(kernels, hand_written):
    bench = small_bench(kernels=kernels, loss="ce")
    waiting, nodes = [bench.trainer.model(bench.batch).objective.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    assert {node.name() for node in nodes} & FUSED == hand_written


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [pytest.param("float32", 1e-5, marks=pytest.mark.nightly), ("float64", 1e-10)],
)
def test_a_run_with_plain_kernels_is_the_run(precision, tolerance, tmp_path):
    """The losses of an epoch of ten steps, with dropout and both views."""
    data, losses = make_data(tmp_path), []
    for kernels in ("plain", "fused"):
        options = (
            f"--kernels={kernels}", f"--precision={precision}", "--batch_size=5", "--lr=0.01",
            "--warmup_steps=0", "--attention_dropout=0.2", "--layers=2",
        )  # fmt: skip
        run = train(data, tmp_path, kernels, *options)
        with (run / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
        losses.append(torch.tensor([float(row["value"]) for row in rows], dtype=torch.float64))
    assert len(losses[0]) > 6  # each domain in each view
    torch.testing.assert_close(*losses, rtol=tolerance, atol=tolerance)


@pytest.mark.nightly  # the compiler takes half a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_are_the_steps_within_float32_rounding():
    plain = losses_and_weights(mode="sdsr", experts_cross=1, experts_single=0)
    compiled = losses_and_weights(mode="sdsr", experts_cross=1, experts_single=0, compile=True)
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-5, atol=1e-5)
    for name, weight in plain[1].items():
        # Adam divides by the size of a gradient: where that is rounding, so is the direction
        assert (compiled[1][name] - weight).abs().mean() < 1e-5, name


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_bf16_steps_follow_the_float32_steps_within_a_hundredth(loss):
    exact, _ = losses_and_weights(loss=loss)
    rough, _ = losses_and_weights(loss=loss, precision="bf16")
    assert exact[-1].sum() < 0.98 * exact[0].sum()  # the steps do learn
    assert 0 < ((rough - exact) / exact).abs().max() < 0.01


def test_deterministic_runs_are_the_runs(tmp_path):
    data = make_data(tmp_path)
    tables = []
    for name, more in (("plain", ()), ("checked", ("--deterministic",))):
        try:
            run = train(data, tmp_path, name, "--max_epochs=2", *more)
            assert torch.are_deterministic_algorithms_enabled() == bool(more)
        finally:
            torch.use_deterministic_algorithms(False)
        tables.append([(run / file).read_bytes() for file in ("metrics.csv", "transfer_steps.csv")])
    assert tables[0] == tables[1]


def test_deterministic_refuses_what_may_differ():
    zeros, twice = torch.zeros(3), torch.tensor([0, 0])
    zeros.put_(twice, torch.ones(2))
    try:
        start_process("cpu", deterministic=True)
        with pytest.raises(RuntimeError, match="deterministic"):
            zeros.put_(twice, torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(False)
