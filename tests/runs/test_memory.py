"""Memory: a step needs what the printed estimate says, and running out of it is one line."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from src.config.names import MODELS
from src.config.settings import Settings, settings_class
from src.io.errors import UserError
from src.runs.models import count_parameters, new_model
from src.training import device_memory
from src.training.device_memory import check_tables, forecast, shortage, smaller_batch
from src.training.processes import Process
from tests.support import step_benches
from tests.support.command_runs import command, contents, flags, make_data, train

LENGTH = 40  # events of every user: equal batches have equal numbers of targets
ITEMS = (300, 200, 200, 100, 100)


def make_bench(**changes) -> step_benches.Bench:
    dataset = step_benches.generated_dataset(np.full(48, LENGTH), step_benches.DOMAIN_EVENTS, ITEMS)
    settings = step_benches.paper_settings(**({"hidden": 64, "batch_size": 48} | changes))
    return step_benches.make_bench(settings, dataset, Process(torch.device("cpu")))


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_counted_as_a_model_has_them(name):
    dataset = step_benches.generated_dataset(np.full(8, 6), step_benches.DOMAIN_EVENTS, ITEMS)
    settings = settings_class(name, "uniform")(model=name, weighting="uniform", hidden=8)
    model = new_model(settings, dataset, torch.device("cpu"))
    made = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(settings, dataset) == made


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "hidden": 128},
        {"loss": "ce"},
        {"loss": "bce", "sparse_items": True},
        *(
            pytest.param(more, marks=pytest.mark.nightly)
            for more in (
                {"mode": "cdsr"}, {"mode": "sdsr"}, {"layers": 4, "heads": 4},
                {"precision": "float64"}, {"stop_gradient": False},
                {"experts_cross": 1, "dropout": 0.0},
                {"mode": "cdsr", "time_embedding": "interval"},
                {"model": "sasrec", "mode": "cdsr", "layers": 4, "heads": 4},
                {"model": "bert4rec", "mode": "cdsr", "precision": "bf16", "hidden": 128},
                {"model": "cl4srec", "mode": "cdsr", "loss": "ce"},
                {"model": "cl4srec", "mode": "cdsr", "layers": 1, "dropout": 0.0},
                {"model": "mmoe", "mode": "cdsr"},
                {"model": "ple", "mode": "cdsr", "ple_layers": 4, "ple_own": 3},
                {"model": "abxi", "mode": "cdsr"},
            )
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_takes_what_was_forecast(changes, tmp_path):
    bench = make_bench(**changes)
    bench.step()  # the moments of the optimiser are there
    bench.trainer.model.zero_grad(set_to_none=True)
    estimate = bench.trainer.forecast
    assert estimate.tokens == bench.tokens == 48 * LENGTH
    taken = step_benches.bytes_held(bench.step, tmp_path)
    assert taken == pytest.approx(estimate.gradients + estimate.activations, rel=0.25)


@pytest.mark.parametrize("sparse", [True, False])
def test_parameters_and_optimiser_are_forecast_to_the_byte(sparse):
    bench = make_bench(loss="bce", sparse_items=sparse)
    bench.step()
    estimate, trainer = bench.trainer.forecast, bench.trainer
    held = list(trainer.model.parameters())
    assert estimate.parameters == sum(part.nbytes for part in held)
    moments = [
        value
        for optimizer in trainer.optimizers.values()
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.numel() > 1
    ]
    assert estimate.optimizer == sum(moment.nbytes for moment in moments)


def test_processes_share_the_batch_and_a_fuller_batch_is_allowed_for():
    settings, lengths = Settings(batch_size=10), np.array([10] * 50 + [30] * 50)
    one, two = (forecast(settings, 1000, 10, lengths, count) for count in (1, 2))
    assert (one.users, two.users) == (10, 5)
    assert one.tokens == 10 * 20 + int(3 * 10**0.5 * 10)  # 3 deviations of the sum of ten users
    assert two.tokens < one.tokens and two.activations < one.activations
    by_length = Settings(batch_size=10, batch_by="length")
    assert forecast(by_length, 1000, 10, lengths).tokens == 300  # the ten longest


# ---------------------------------------------------------------- what cannot fit, what may not


def test_tables_larger_than_all_memory_are_refused(tmp_path, capsys):
    """Their size is computed without allocating them."""
    data = make_data(tmp_path)
    capsys.readouterr()
    with pytest.raises(
        UserError,
        match=r"parameters and optimiser take .* GiB.*new run with --hidden 30000",
    ):
        train(data, tmp_path / "runs", "big", "--hidden=60000", "--layers=40", "--heads=1")


def test_a_step_that_may_not_fit_is_warned_of_with_a_batch_that_would(monkeypatch):
    settings = Settings(batch_size=64, grad_accum=2)
    estimate = forecast(settings, 1_000_000, 1000, np.full(100, 50))
    room = estimate.tables + estimate.activations * 0.3
    monkeypatch.setattr(device_memory, "memory_limit", lambda device: (room, 1e15))
    line = shortage(estimate, settings, torch.device("cpu"))
    assert line.endswith("start a new run with --batch_size 16 --grad_accum 8")
    monkeypatch.setattr(device_memory, "memory_limit", lambda device: (estimate.total, 1e15))
    assert shortage(estimate, settings, torch.device("cpu")) is None
    check_tables(settings, 1_000_000, torch.device("cpu"))


def test_the_advice_leaves_each_process_a_user():
    settings = Settings(batch_size=7)
    lengths = np.full(100, 50)
    two, four = (forecast(settings, 1000, 10, lengths, count) for count in (2, 4))
    assert "--batch_size 3 --grad_accum 2" in smaller_batch(settings, two)
    assert "--hidden 32" in smaller_batch(settings, four)  # a batch of 3 is refused there


def test_the_line_stands_before_the_first_epoch(tmp_path, capsys):
    data = make_data(tmp_path)
    capsys.readouterr()
    train(data, tmp_path / "runs", "run", "--warmup_steps=1")
    starts = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert starts.index("memory") < starts.index("epoch")


# ---------------------------------------------------------------- running out of it


LIMITED = """
import resource, sys
import main, runner
from src.io.errors import run_command
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (room, room))
run_command(lambda: main.main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (("--hidden=64", "--experts_cross=80"), "--batch_size 25 --grad_accum 2"),
        pytest.param(("--hidden=1024", "--heads=1"), "--hidden 512", marks=pytest.mark.nightly),
    ],
)
def test_running_out_of_memory_is_one_line_with_the_flag_to_lower(tmp_path, changes, advice):
    data, runs = make_data(tmp_path), tmp_path / "runs"
    given = flags(data, runs, "--run_name=run", "--layers=2", "--batch_size=50", *changes)
    done = command("-c", LIMITED, str(200 * 2**20), *given, check=False)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: out of memory while ")
    assert lines[0].endswith(advice)
    assert not {"last.pt", "best.pt"} & {Path(name).name for name in contents(runs)}
    assert not list(runs.rglob("*.tmp"))
