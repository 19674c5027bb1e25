"""`--sparse_items`: the rows of a batch are updated as Adam would, all others stand still."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.config.settings import Settings
from src.io.errors import UserError
from src.runs import training_state
from src.runs.lifecycle import check_trainable
from src.training.optimizer import clip_gradients, gradient_values
from src.training.processes import Process
from tests.support.builders import make_dataset
from trainers import Trainer

SIZES = (6, 5)
USERS = [([1, 2, 7], [0, 0, 1]), ([2, 8, 3, 2], [0, 1, 0, 0]), ([4, 9, 10], [0, 1, 1])]


def make_trainer(folder: Path, *, sparse: bool, clip_norm: float = 0.0) -> Trainer:
    torch.manual_seed(0)
    settings = Settings(
        loss="bce", sparse_items=sparse, hidden=8, dropout=0.0, warmup_steps=0, lr=0.01,
        clip_norm=clip_norm,
    )  # fmt: skip
    trainer = Trainer(settings, make_dataset(USERS, SIZES), folder, Process(torch.device("cpu")))
    trainer.model.train()
    return trainer


def step(trainer: Trainer, users: list[int]) -> set[int]:
    """Train on some users; returns the rows of the item table that they need."""
    batch = trainer.loader.batch([np.array(users)], 0)
    trainer.train_step([batch])
    parts = (batch.cross.inputs, batch.single.inputs, batch.targets, batch.negatives.flatten())
    return set(torch.cat(parts).tolist())


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_the_first_step_is_adams(tmp_path, clip_norm):
    tables = []
    for sparse in (False, True):
        trainer = make_trainer(tmp_path, sparse=sparse, clip_norm=clip_norm)
        before = trainer.model.item_table.detach().clone()
        needed = step(trainer, [0, 1])
        tables.append(trainer.model.item_table.detach().clone())
        gradient = trainer.model.item_table.grad.to_dense()
        moved = {int(row) for row in (tables[-1] != before).any(1).nonzero()}
        assert moved <= needed
        assert len(moved) > 3
    # torch adds ε at another place in SparseAdam; it shows where a gradient is tiny
    plain = (gradient == 0) | (gradient.abs() > 1e-4)
    assert plain.sum() > 0.9 * plain.numel()
    dense, sparse = (table[plain] for table in tables)
    torch.testing.assert_close(dense, sparse, rtol=1e-5, atol=0.005 * trainer.settings.lr)


def test_the_rows_of_an_earlier_batch_stand_still(tmp_path):
    moved = {}
    for sparse in (False, True):
        trainer = make_trainer(tmp_path, sparse=sparse)
        first = step(trainer, [0])
        before = trainer.model.item_table.detach().clone()
        second = step(trainer, [2])
        moved[sparse] = (trainer.model.item_table.detach() != before).any(1)
        left = sorted((first - second) - {0})
        assert len(left) >= 1
    assert moved[False][left].any()  # Adam goes on by its momentum
    assert not moved[True][left].any()


def test_a_resumed_run_has_the_moments_of_the_items_too(tmp_path):
    whole = make_trainer(tmp_path, sparse=True)
    step(whole, [0, 1])
    training_state.save(whole, tmp_path / "last.pt")
    parts = make_trainer(tmp_path, sparse=True)
    training_state.load(parts, tmp_path / "last.pt")
    for trainer in (whole, parts):
        step(trainer, [1, 2])
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bound", [0.5, 1e6])
def test_gradients_are_clipped_by_their_common_norm_whatever_their_layout(bound):
    values = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]])
    dense, plain = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((5, 2), (3,)))
    dense.grad = torch.zeros(5, 2).index_add_(0, torch.tensor([4, 1, 4]), values)
    plain.grad = torch.tensor([1.0, 2.0, 2.0])
    sparse = torch.nn.Parameter(torch.zeros(5, 2))
    sparse.grad = torch.sparse_coo_tensor([[4, 1, 4]], values, (5, 2), check_invariants=True)
    other = torch.nn.Parameter(torch.zeros(3))
    other.grad = plain.grad.clone()
    torch.nn.utils.clip_grad_norm_([dense, plain], bound)
    values = gradient_values([sparse, other])
    clip_gradients(values, torch.nn.utils.get_total_norm(values), bound)
    torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)
    torch.testing.assert_close(other.grad, plain.grad)


def test_several_processes_are_refused():
    settings = Settings(loss="bce", sparse_items=True, hidden=8)
    process = Process(torch.device("cpu"), rank=0, processes=2)
    with pytest.raises(UserError, match="--sparse_items needs a single process"):
        check_trainable(settings, make_dataset(USERS, SIZES), process)
