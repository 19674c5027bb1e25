"""A value that is not finite stops the run, is named, and the step before it can be replayed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from main import main
from src.config.settings import Settings
from src.io.errors import NotFinite
from src.runs import divergence, training_state
from src.training.processes import Process
from src.training.random_state import seed_everything
from tests.support.command_runs import contents, failing, make_data
from tests.support.command_runs import train as train_command
from tests.support.ranked_data import random_dataset
from trainers import Trainer

SIZES = (7, 5, 6)


def make_trainer(folder: Path, **changes) -> Trainer:
    defaults = {"hidden": 8, "layers": 1, "max_len": 8, "batch_size": 6, "experts_cross": 1}
    dataset = random_dataset(np.random.default_rng(5), SIZES, users=20)
    ids = {"user_ids": [f"u{n}" for n in range(20)], "item_ids": [f"i{n}" for n in range(18)]}
    vars(dataset).update(ids)  # read from the dataset's folder elsewhere; this one is in memory
    folder.mkdir(exist_ok=True)
    seed_everything(1)
    return Trainer(Settings(**(defaults | changes)), dataset, folder, Process(torch.device("cpu")))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def state_of(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=True)


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name].nan_to_num(9.0), other[name].nan_to_num(9.0)) for name in one)


def stopped(trainer: Trainer) -> str:
    """Train until what is not finite ends it: the message. Nothing of that step has happened."""
    steps = []

    def note(*_) -> None:  # runs before the step is counted
        steps.append({name: value.clone() for name, value in trainer.model.named_parameters()})

    note()
    hook = trainer.optimizers["optimizer"].register_step_post_hook(note)
    with pytest.raises(NotFinite) as error:
        trainer.train_epoch()
    hook.remove()
    assert trainer.progress.step == len(steps) - 1
    assert equal(steps[-1], weights(trainer))
    return str(error.value)


def users_with(trainer: Trainer, item: int) -> set[str]:
    """The ids of the users that have an item as a target of the first step."""
    data, ids = trainer.loader.training, set()
    for user in next(trainer.loader.shares(0))[0][0]:
        window = slice(int(data.offsets[user]), int(trainer.loader.ends[user]))
        if item in data.items[window][-trainer.settings.max_len :]:
            ids.add(str(trainer.dataset.user_ids[int(user)]))
    return ids


def test_a_loss_that_is_not_finite_is_named_with_its_domain_and_users(tmp_path):
    """The poisoned item is no input and no negative of the step: only its targets are affected."""
    trainer = make_trainer(tmp_path, loss="bce", mode="cdsr", max_len=2)
    batch = next(trainer.loader.steps(0))[0]
    others = set(batch.cross.inputs.tolist()) | set(batch.negatives.flatten().tolist())
    item = next(item for item in batch.targets.tolist() if item not in others)
    with torch.no_grad():
        trainer.model.item_table[item] = math.nan
    message = stopped(trainer)
    domain = int(np.searchsorted(trainer.dataset.item_starts, item, side="right")) - 1
    assert message.startswith("step 1 of epoch 1: ") and "is not finite" in message
    assert f"the cross loss of {trainer.dataset.domain_names[domain]} (users " in message
    named = set(message.split("(users ")[1].split(")")[0].split(", "))
    assert named == users_with(trainer, item)


@pytest.mark.parametrize(
    ("name", "poison", "message"),
    [
        ("tasks.cross.towers.first.weight", lambda g: g * math.nan,
         "the gradient of tasks.cross.towers.first.weight is not finite"),
        ("item_table", lambda g: g.index_fill(0, torch.tensor([2]), math.inf),
         "the gradient of item_table is not finite"),
        ("item_table", lambda g: torch.full_like(g, 1e30), "the norm of all gradients"),
    ],
)  # fmt: skip
def test_a_gradient_that_is_not_finite_is_named(name, poison, message, tmp_path):
    trainer = make_trainer(tmp_path)
    dict(trainer.model.named_parameters())[name].register_hook(poison)
    assert message in stopped(trainer)


def test_the_mutual_information_loss_and_the_weighted_sum_are_named(tmp_path):
    trainer = make_trainer(tmp_path / "mim")
    with torch.no_grad():
        trainer.model.critics.fill_(math.inf)
    assert "the mutual-information loss is not finite" in stopped(trainer)
    trainer = make_trainer(tmp_path / "weights", gap="training")
    trainer.gap.state.fill_(math.nan)
    assert "the weighted sum of the losses is not finite" in stopped(trainer)


@pytest.mark.parametrize("clip_norm", [0.0, 5.0])
def test_a_fault_within_an_epoch_is_computed_again_from_its_dump(clip_norm, tmp_path):
    trainer = make_trainer(tmp_path, dropout=0.5, clip_norm=clip_norm)
    seen = []
    trainer.model.critics.register_hook(
        lambda g: g * math.nan if trainer.progress.step == 2 else seen.append(g.clone())
    )
    assert stopped(trainer).startswith("step 3 of epoch 1: the gradient of critics")
    again = make_trainer(tmp_path, dropout=0.5, clip_norm=clip_norm)
    before = state_of(tmp_path / "fault.pt")
    assert (before["step"], before["position"]) == (2, 2)
    lines = list(divergence.replay(again, tmp_path / "fault.pt"))
    assert not any("NOT FINITE" in line for line in lines)  # the poison is gone, the step the same
    assert any(line.startswith("cross loss of domain0: mean ") for line in lines)
    assert (again.progress.step, again.progress.position) == (2, 2)
    assert equal(weights(again), before["model"])
    again = make_trainer(tmp_path, dropout=0.5, clip_norm=clip_norm)
    training_state.load(again, tmp_path / "fault.pt")
    again.train_epoch()  # and it can be gone on from
    whole = make_trainer(tmp_path, dropout=0.5, clip_norm=clip_norm)
    whole.train_epoch()
    assert equal(weights(again), weights(whole))


def test_a_score_that_is_not_finite_leaves_the_state_it_was_of(tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=2)

    def poison_the_last_step(*_) -> None:
        if trainer.progress.step == trainer.loader.steps_per_epoch - 1:
            with torch.no_grad():
                trainer.model.item_table[3] = math.nan

    trainer.optimizers["optimizer"].register_step_post_hook(poison_the_last_step)
    with pytest.raises(NotFinite, match=r"the score of item .* for user .*fault.pt"):
        trainer.fit()
    again = make_trainer(tmp_path, max_epochs=2)
    training_state.load(again, tmp_path / "fault.pt")
    assert next(again.steps(), None) is None  # the epoch is over, its validation is not
    with pytest.raises(NotFinite, match="the score of item"):
        list(divergence.replay(again, tmp_path / "fault.pt"))


def test_anomalies_are_named_by_the_function_that_made_them(tmp_path):
    trainer = make_trainer(tmp_path, detect_anomaly=True)
    with torch.no_grad():
        trainer.model.critics.fill_(math.inf)
    with pytest.warns(UserWarning, match="Error detected in"):
        assert "returned nan values" in stopped(trainer)
    assert (tmp_path / "fault.pt").is_file()


# ---------------------------------------------------------------- through the command


def test_a_diverging_run_ends_with_one_line_and_can_be_replayed(tmp_path, capsys):
    data, runs = make_data(tmp_path), tmp_path / "runs"
    given = ("--lr=1e30", "--clip_norm=0", "--warmup_steps=0", "--max_epochs=3")
    with pytest.raises(NotFinite, match=r"step 2 of epoch 1: the .* is not finite"):
        train_command(data, runs, "run", *given)
    fault = runs / "tiny" / "run" / "fault.pt"
    before = contents(runs)
    capsys.readouterr()
    main([f"--replay={fault}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 2 of epoch 1"
    assert any("NOT FINITE" in line for line in lines)
    assert contents(runs) == before  # nothing is written
    line = failing(capsys, runs, lambda: main([f"--replay={fault}", "--hidden=16"]))
    assert "--replay computes a step of the run as it was trained, with --hidden 8" in line
    line = failing(capsys, runs, lambda: main([f"--replay={data / 'data_card.json'}"]))
    assert "is not in a run folder" in line
