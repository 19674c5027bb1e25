"""The same run twice on several threads is the same run, bit for bit, also after a stop."""

import signal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.io.errors import run_command
from src.training.random_state import random_state, restore_state
from tests.support.command_runs import make_data, train
from tests.support.step_benches import Bench, small_bench
from tests.support.watched import differences
from trainers import Trainer

REPETITIONS = 5
CPU = torch.device("cpu")
# what adds gradients of one row from many slots: each model, gate, loss and weighting
VARIANTS = {
    "token gate": {"gate": "token"},
    "sequence gate": {"gate": "sequence"},
    "plain kernels, sequence gate": {"gate": "sequence", "kernels": "plain", "loss": "ce"},
    "one task with a query": {"mode": "cdsr", "target_domain_query": True, "loss": "ce"},
    "shared expert": {"share_experts": True},
    "cross view per domain": {"cross_per_domain": True},
    "sparse items": {"loss": "bce", "sparse_items": True},
    "softmax over all items": {"loss": "ce", "softmax_items": "all"},
    "one gradient per domain": {"weighting": "pcgrad", "loss": "ce"},
    "bf16": {"precision": "bf16", "loss": "ce"},
    "GRU4Rec": {"model": "gru4rec", "mode": "cdsr", "loss": "ce"},
    "BERT4Rec": {"model": "bert4rec", "mode": "cdsr", "loss": "ce"},
    "CL4SRec": {"model": "cl4srec", "mode": "cdsr", "loss": "ce", "time_embedding": "interval"},
    "ABXI": {"model": "abxi", "mode": "cdsr", "loss": "ce"},
    "AutoCDSR": {"model": "autocdsr", "mode": "cdsr", "loss": "ce"},
    "each domain by itself": {"mode": "sdsr", "loss": "ce"},
    "no gate, two heads": {"gate": "none", "heads": 2, "attention_dropout": 0.1},
    "weights by the losses": {"weighting": "inverse_loss", "gate": "sequence"},
    "gradients across the tasks": {"stop_gradient": False, "towers": False},
    "time intervals": {"time_embedding": "interval", "loss": "ce"},
}


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def wide_bench(variant: str) -> Bench:
    """A step so large that torch shares it between its threads: from 32,768 numbers on."""
    sizes = {"dtype": torch.float32, "users": 40, "hidden": 64, "layers": 1, "dropout": 0.2}
    return small_bench(**(sizes | VARIANTS[variant]))


def gradients(bench: Bench, random: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of one step, always from the same weights and random states."""
    restore_state(random, CPU)
    trainer, batches = bench.trainer, [bench.batch]
    weights = trainer.weighting.weights()
    trainer.gradients(batches, trainer.coefficients(trainer.count_targets(batches), weights))
    parts = (parameter.grad for parameter in trainer.model.parameters())
    return [part.to_dense() if part.is_sparse else part.clone() for part in parts]


@pytest.mark.parametrize("variant", ["token gate", "sequence gate", "sparse items", "GRU4Rec"])
def test_a_step_on_two_threads_always_has_the_same_gradients(two_threads, variant):
    bench, random = wide_bench(variant), random_state(CPU)
    first = gradients(bench, random)
    for _ in range(REPETITIONS):
        for one, other in zip(first, gradients(bench, random), strict=True):
            assert torch.equal(one, other)


class _Accumulating(TorchDispatchMode):
    """Notes the tensors into which rows are added by index; several threads add in any order."""

    def __init__(self):
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = named or {}
        if "index_put" in str(function):
            accumulates = arguments[3] if len(arguments) > 3 else named.get("accumulate", False)
            if accumulates and arguments[0].is_floating_point():
                self.shapes.append(tuple(arguments[0].shape))
        return function(*arguments, **named)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_adds_rows_in_the_order_of_threads(variant):
    bench = wide_bench(variant)
    with _Accumulating() as accumulating:
        bench.step()
    assert accumulating.shapes == []


LARGE = ("--threads=2", "--hidden=64", "--batch_size=150", "--dropout=.2", "--protocol=full")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("log"), users=150)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--gate=sequence",), id="syncrec"),
        pytest.param(("--model=gru4rec", "--mode=cdsr"), id="gru4rec", marks=pytest.mark.nightly),
    ],
)
def test_two_runs_on_two_threads_are_one_run(two_threads, data, tmp_path, more):
    flags = (*LARGE, "--max_epochs=4", *more)
    folders = [train(data, tmp_path, name, *flags) for name in ("first", "second")]
    assert differences(*folders) == []


def test_a_run_on_two_threads_that_is_stopped_continues_bit_for_bit(two_threads, data, tmp_path):
    flags = (*LARGE, "--batch_size=75", "--max_epochs=3")
    whole = train(data, tmp_path, "whole", *flags)
    step, left = Trainer.train_step, [3]

    def stopped_step(trainer, *arguments):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "train_step", stopped_step)
        run_command(lambda: train(data, tmp_path, "parts", *flags))
    parts = train(data, tmp_path, "parts", *flags, "--resume")
    assert differences(parts, whole) == []
