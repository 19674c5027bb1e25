"""A large catalogue: no table of items is held twice, and a sparse step makes none."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import runner
from src.runs.checkpoints import load_checkpoint
from src.training.processes import Process
from tests.support import step_benches
from tests.support.command_runs import train

CPU = torch.device("cpu")
SPARSE = ("--loss=bce", "--sparse_items")


def is_mapped(path: Path) -> bool:
    """Whether this process has a file mapped into its memory."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("no /proc here, which says what is mapped")
    return str(path) in maps.read_text()


def test_a_mapped_checkpoint_has_the_same_content_and_stays_on_the_disk(data, tmp_path):
    path = train(data, tmp_path, "run", *SPARSE) / "best.pt"
    whole = load_checkpoint(path)
    assert not is_mapped(path)
    mapped = load_checkpoint(path, mapped=True)
    assert is_mapped(path)
    assert whole.keys() == mapped.keys()
    assert all(torch.equal(value, mapped["model"][name]) for name, value in whole["model"].items())


def test_the_moments_are_gone_when_a_run_is_scored(data, tmp_path, monkeypatch):
    made, alive = [], []

    class Noted(runner.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.extend(weakref.ref(part) for part in self.optimizers.values())

    def score(*arguments, **flags):
        alive.extend(part() is not None for part in made)
        scored(*arguments, **flags)

    scored = runner.score
    monkeypatch.setattr(runner, "Trainer", Noted)
    monkeypatch.setattr(runner, "score", score)
    gc.disable()  # it may come by chance
    try:
        train(data, tmp_path, "run", *SPARSE)
    finally:
        gc.enable()
    assert alive == [False, False]


@pytest.mark.parametrize("sparse", [True, False])
def test_a_sparse_step_makes_no_table_of_items(sparse, tmp_path):
    """A dense one makes the gradient, and so shows that a table would be seen."""
    settings = {"loss": "bce", "sparse_items": sparse}
    lengths = np.full(4, 5)
    dataset = step_benches.generated_dataset(lengths, step_benches.DOMAIN_EVENTS, [20_000] * 5)
    bench = step_benches.make_bench(
        step_benches.paper_settings(hidden=16, batch_size=4, **settings), dataset, Process(CPU)
    )
    bench.step()  # the moments of the optimiser are there
    bench.trainer.model.zero_grad(set_to_none=True)
    taken = step_benches.bytes_held(bench.step, tmp_path)
    size = bench.trainer.model.item_table.nbytes
    assert taken < size / 4 if sparse else taken >= size
