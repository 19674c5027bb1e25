"""A run that is stopped, killed or damaged ends as one that was left alone, bit for bit."""

import errno
import io
import os
import re
import shutil
import signal
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import main as training
from src.io.errors import UserError, run_command
from src.runs import training_state
from src.training.signals import Interrupted
from tests.support import watched
from tests.support.command_runs import contents, failing, flags, make_data, started, train
from tests.support.watched import Aim, differences
from trainers import Trainer

EPOCHS = "--max_epochs=3"  # of 3 steps each


@pytest.fixture(scope="module")
def whole(finished_run):
    """A run of three epochs that nothing stopped."""
    return finished_run("run", EPOCHS)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def stopped(data: Path, runs: Path, name: str, *more: str, at: int, sent=(signal.SIGTERM,)) -> Path:
    """Train in this process; these signals come within step number `at`. The run folder."""
    step, left = Trainer.train_step, [at]

    def signalled_step(trainer, *arguments):
        left[0] -= 1
        if left[0] == 0:
            for number in sent:
                signal.raise_signal(number)
        return step(trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(Trainer, "train_step", signalled_step)
        run_command(lambda: train(data, runs, name, *more))
    assert ended.value.code == 130
    return runs / "tiny" / name


def steps_of(checkpoint: Path) -> tuple[int, int]:
    """Epochs and steps within the next one that a checkpoint stands after."""
    state = torch.load(checkpoint, weights_only=True)
    return state["epoch"], state["position"]


# ---------------------------------------------------------------- stopped by a signal


VARIANTS = {
    "all components": (),
    "saves within the epoch": ("--save_every_steps=1",),
    "several batches a step": ("--batch_size=7", "--grad_accum=3", "--save_every_steps=2"),
    "many steps an epoch": ("--batch_size=2",),
    "batches by length": ("--batch_by=length",),
    "sparse items": ("--loss=bce", "--sparse_items"),
    "adamw, linear, bf16": (
        "--optimizer=adamw", "--weight_decay=.01", "--lr_schedule=linear", "--precision=bf16",
    ),
    "float64": ("--precision=float64", "--deterministic", "--attention_dropout=.1"),
    "dynamic weight average": ("--weighting=dwa", "--save_every_steps=1"),
    "FAMO": ("--weighting=famo", "--dropout=.3", "--batch_size=7", "--grad_accum=3"),
    "Shapley": ("--weighting=shapley", "--dropout=.3"),
    "random weights": ("--weighting=random", "--mode=cdsr"),
    "gap on held-out events": ("--gap=heldout", "--dropout=.3", "--save_every_steps=1"),
    "one task": ("--mode=cdsr",),
    "masked events": ("--model=bert4rec", "--dropout=.3", "--save_every_steps=1"),
    "changed copies": ("--model=cl4srec", "--dropout=.3", "--batch_size=7", "--grad_accum=3"),
    "multi-task experts": ("--model=ple", "--dropout=.3", "--save_every_steps=1"),
    "ABXI": ("--model=abxi", "--mode=cdsr", "--attention_dropout=.1", "--loss=sampled"),
    "AutoCDSR": ("--model=autocdsr", "--mode=cdsr", "--batch_size=7", "--grad_accum=3"),
    "AutoCDSR, PCGrad": ("--model=autocdsr", "--mode=cdsr", "--weighting=pcgrad"),
    "C2DSR draws domains and items": ("--model=c2dsr", "--batch_size=7", "--save_every_steps=2"),
    "MML draws crops": ("--model=mml", "--batch_size=7", "--save_every_steps=2"),
    "one model per domain": ("--mode=sdsr_separate", "--time_embedding=interval"),
}  # fmt: skip


IN_EVERY_CHANGE = (
    "several batches a step", "sparse items", "adamw, linear, bf16", "one model per domain",
)  # fmt: skip


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(
            name,
            marks=[pytest.mark.nightly] * (name not in IN_EVERY_CHANGE),
            id=re.sub("[ ,]+", "-", name),
        )
        for name in VARIANTS
    ],
)
def test_a_run_stopped_within_an_epoch_continues_bit_for_bit(data, runs, variant):
    more = ("--max_epochs=2", "--protocol=full", *VARIANTS[variant])
    expected = train(data, runs, "whole", *more)
    folder = stopped(data, runs, "parts", *more, at=5)
    train(data, runs, "parts", *more, "--resume")
    assert differences(folder, expected) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_step_is_finished_and_saved_and_the_line_says_where(data, runs, capsys, sent):
    folder = stopped(data, runs, "run", EPOCHS, at=5, sent=(sent,))
    line = capsys.readouterr().err
    assert line == (
        f"interrupted: {sent.name}; {folder / 'last.pt'} is saved after step 2 of epoch 2; "
        "continue with --resume\n"
    )
    assert steps_of(folder / "last.pt") == (1, 2)


@pytest.mark.parametrize(
    "sent",
    [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGTERM],
    ids=lambda number: number.name,
)
def test_the_command_ends_with_130_and_continues_exactly(data, runs, tmp_path, sent):
    more = ("--max_epochs=12", "--protocol=full")
    process = started(data, runs, *more)
    process.send_signal(sent)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.startswith(f"interrupted: {sent.name}; ")
    assert error.count("\n") == 1
    folder = runs / "tiny" / "run"
    epoch, position = steps_of(folder / "last.pt")
    where = f"step {position} of epoch {epoch + 1}" if position else f"epoch {epoch}"
    assert f"{folder / 'last.pt'} is saved after {where}; continue with --resume" in error
    train(data, runs, "run", *more, "--resume")
    assert differences(folder, train(data, tmp_path, "run", *more)) == []


@pytest.mark.parametrize("second", ["in a step", "in a save"])
def test_a_second_signal_ends_at_once_and_tears_nothing(data, runs, whole, monkeypatch, second):
    sent, save = (signal.SIGINT,) * (2 if second == "in a step" else 1), torch.save

    def signalled_save(*arguments):
        save(*arguments)
        signal.raise_signal(signal.SIGINT)

    saved = stopped(data, runs, "run", EPOCHS, at=4)  # the first step of the second epoch
    before = contents(saved)
    if second == "in a save":
        monkeypatch.setattr(torch, "save", signalled_save)
    folder = stopped(data, runs, "run", EPOCHS, "--resume", at=1, sent=sent)
    monkeypatch.undo()
    after = contents(folder)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} <= {
        "environment.json",
        "config.json",
    }
    train(data, runs, "run", EPOCHS, "--resume")
    assert differences(folder, whole) == []


# ---------------------------------------------------------------- torn and foreign checkpoints


@pytest.fixture(scope="module")
def cut_short(data, tmp_path_factory):
    """A run that stands within its second epoch, with the checkpoint before that one."""
    more = (EPOCHS, "--save_every_steps=1")
    folder = stopped(data, tmp_path_factory.mktemp("cut"), "run", *more, at=5)
    assert steps_of(folder / "former.pt") == (1, 1)
    return folder


@pytest.fixture
def cut(cut_short, runs):
    """The same, for this test alone."""
    return shutil.copytree(cut_short, runs / "tiny" / "run")


def flip(content: bytes) -> bytes:
    """One bit changed within the largest record."""
    with zipfile.ZipFile(io.BytesIO(content)) as records:
        record = records.read(max(records.infolist(), key=lambda info: info.file_size))
    middle = content.index(record) + len(record) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "cut": lambda content: content[:5000],
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_checkpoint_is_named_and_the_one_before_it_used(
    cut, data, runs, whole, capsys, damage
):
    last = cut / "last.pt"
    last.write_bytes(DAMAGE[damage](last.read_bytes()))
    train(data, runs, "run", EPOCHS, "--resume")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {last} is damaged")
    assert warning.endswith("continuing from former.pt")
    assert differences(cut, whole) == []


OTHERS = {
    "data": "was trained on another dataset",
    "model": "is of another run: --hidden was 16, now 8",
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_foreign_checkpoint_is_named_and_the_one_before_it_used(
    cut, data, runs, whole, tmp_path, capsys, other
):
    if other == "data":
        foreign = train(make_data(tmp_path / "log", seed=2), tmp_path, "foreign")
    else:
        foreign = train(data, tmp_path, "foreign", "--hidden=16")
    shutil.copy(foreign / "last.pt", cut / "last.pt")
    capsys.readouterr()
    train(data, runs, "run", EPOCHS, "--resume")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {cut / 'last.pt'} {OTHERS[other]}")
    assert differences(cut, whole) == []


def test_a_torn_checkpoint_does_not_take_the_place_of_the_good_one(cut, data, runs):
    """The good one is there until the next is whole, whenever the command is killed."""
    good = (cut / "former.pt").read_bytes()
    (cut / "last.pt").write_bytes(b"torn")
    stopped(data, runs, "run", EPOCHS, "--resume", at=1)
    assert (cut / "former.pt").read_bytes() == good
    assert steps_of(cut / "last.pt") == (1, 2)


def test_a_checkpoint_within_an_epoch_has_as_many_records_however_many_steps(cut):
    counts = [len(zipfile.ZipFile(cut / name).namelist()) for name in ("former.pt", "last.pt")]
    assert counts[0] == counts[1]


def test_two_torn_checkpoints_are_one_line(cut, data, runs, capsys):
    (cut / "last.pt").write_bytes((cut / "last.pt").read_bytes()[:3000])
    (cut / "former.pt").write_bytes(b"")
    line = failing(capsys, runs, lambda: train(data, runs, "run", EPOCHS, "--resume"))
    assert f"{cut / 'last.pt'} is damaged" in line
    assert "--overwrite" in line


# ---------------------------------------------------------------- killed: several models, a start


def killed(data: Path, runs: Path, log: Path, step: int, *more: str) -> None:
    """Run the command until it is killed in its step number `step`."""
    given = flags(data, runs, "--run_name=run", "--resume", *more)
    assert watched.live(training.main, given, log, Aim("train", step, 0.0)).status == watched.KILLED


def die_between_renamings() -> None:
    """Have this process killed once last.pt is former.pt, and before the new one is there."""
    rename = Path.replace

    def renamed_last(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if target.name == "former.pt":
            os.kill(os.getpid(), signal.SIGKILL)
        return renamed

    Path.replace = renamed_last


def test_a_run_killed_between_the_two_renamings_of_a_save_continues(data, runs, whole, tmp_path):
    given = flags(data, runs, "--run_name=run", EPOCHS, "--save_every_steps=1")
    log, folder = tmp_path / "log.txt", runs / "tiny" / "run"
    ended = watched.live(training.main, given, log, prepare=die_between_renamings)
    assert ended.status == watched.KILLED
    assert not (folder / "last.pt").exists()
    assert steps_of(folder / "former.pt") == (0, 1)
    train(data, runs, "run", EPOCHS, "--resume")
    assert differences(folder, whole) == []


def test_a_run_killed_within_and_between_the_models_of_its_domains_continues(data, runs, tmp_path):
    more = ("--mode=sdsr_separate", "--max_epochs=2", "--save_every_steps=2")
    expected = train(data, tmp_path, "run", *more)
    domains = [torch.load(expected / "domains" / str(d) / "last.pt") for d in range(3)]
    first, second, _ = (state["step"] for state in domains)
    log, folder = tmp_path / "log.txt", runs / "tiny" / "run"
    killed(data, runs, log, first + 1, *more)  # the first model is done, the second has nothing
    assert sorted(path.parent.name for path in folder.rglob("last.pt")) == ["0"]
    killed(data, runs, log, second, *more)
    killed(data, runs, log, 1, *more)
    assert sorted(path.parent.name for path in folder.rglob("last.pt")) == ["0", "1"]
    train(data, runs, "run", *more, "--resume")
    assert differences(folder, expected) == []


def test_a_run_from_former_weights_killed_before_and_after_its_first_save_continues(
    data, runs, whole, tmp_path
):
    more = (f"--init_from={whole}", "--seed=5", "--max_epochs=2", "--save_every_steps=1")
    expected = train(data, tmp_path, "run", *more)
    folder, saved = runs / "tiny" / "run", []
    for step in (1, 2):
        killed(data, runs, tmp_path / "log.txt", step, *more)
        saved.append((folder / "last.pt").exists())
    assert saved == [False, True]
    train(data, runs, "run", *more, "--resume")
    assert differences(folder, expected) == []
    assert (folder / "metrics.csv").read_text().splitlines()[1].startswith("0,0,valid")


# ---------------------------------------------------------------- two faults at once


def test_a_full_disk_does_not_hide_what_is_not_finite(data, runs, monkeypatch, capsys):
    gradients = Trainer.gradients

    def poisoned(trainer, *arguments):
        losses = gradients(trainer, *arguments)
        trainer.model.item_table.grad[3] = torch.nan
        return losses

    def full(*_):
        raise UserError("fault.pt cannot be written (No space left on device)")

    monkeypatch.setattr(Trainer, "gradients", poisoned)
    monkeypatch.setattr(training_state, "write_checkpoint", full)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: train(data, runs, "run"))
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert "step 1 of epoch 1: the gradient of item_table is not finite; " in line
    assert "could not be saved: fault.pt cannot be written (No space left" in line


# ---------------------------------------------------------------- what a validation may meet


def test_a_signal_in_a_validation_ends_at_once_and_the_epoch_is_not_lost(
    data, runs, whole, monkeypatch
):
    validate, calls = Trainer.validate, []

    def interrupted(self, *given):
        calls.append(self.progress.position)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)  # which the signal cuts short
            raise AssertionError("the validation went on")
        return validate(self, *given)

    monkeypatch.setattr(Trainer, "validate", interrupted)
    with pytest.raises(Interrupted, match=r"SIGINT; .*last\.pt is saved after step 3 of epoch 2"):
        train(data, runs, "run", EPOCHS)
    monkeypatch.setattr(Trainer, "validate", validate)
    assert calls == [3, 3]
    again = train(data, runs, "run", EPOCHS, "--resume")
    assert differences(again, whole) == []


def test_the_patience_is_not_over_within_an_epoch(data, runs):
    """It is checked at the ends of epochs alone, as without the interruption."""
    given = ("--max_epochs=6", "--patience_steps=1", "--lr=1e-9")
    expected = train(data, runs, "whole", *given)
    trainers = []
    step = Trainer.train_step

    def stopped(self, *batch):
        trainers.append(self)
        if self.progress.step == 4:
            self.signals.received = "SIGTERM"
        return step(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopped)
        with pytest.raises(Interrupted, match="step 2 of epoch 2"):
            train(data, runs, "run", *given)
    again = train(data, runs, "run", *given, "--resume")
    assert (again / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()


def test_a_checkpoint_that_cannot_be_read_now_is_not_torn(cut, data, runs, monkeypatch, capsys):
    """A disk that fails for a moment costs no checkpoint."""

    def failing_read(path, **_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("src.runs.checkpoints.torch.load", failing_read)
    line = failing(capsys, runs, lambda: train(data, runs, "run", EPOCHS, "--resume"))
    assert "last.pt cannot be read (Input/output error)" in line


def edited(path: Path, *keys: Any, value: Any) -> None:
    """Write a checkpoint again with another value, or without it (None), at a place in it."""
    state = torch.load(path, weights_only=True)
    *above, last = keys
    holder = state
    for key in above:
        holder = holder[key]
    holder[last] = value
    if value is None:
        del holder[last]
    torch.save(state, path)


def test_a_checkpoint_that_does_not_fit_gives_way_to_the_one_before_it(
    cut, data, runs, whole, capsys
):
    path = cut / "last.pt"
    edited(path, "optimizer", "state", 0, "exp_avg", value=None)
    again = train(data, runs, "run", EPOCHS, "--resume")
    errors = capsys.readouterr().err
    assert f"{path} does not fit this run" in errors and "continuing from former.pt" in errors
    assert "train again" not in errors
    assert differences(again, whole) == []


GROUP = ("optimizer", "param_groups", 0)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ((*GROUP, "lr"), "fast"),
        ((*GROUP, "betas"), None),
        ((*GROUP, "amsgrad"), 0.0),
        (("optimizer", "state", 0, "step"), [1]),
        (("scheduler", "last_epoch"), "x"),
        (("scheduler", "_step_count"), 10**400),
        (("scheduler", "base_lrs"), []),
        (("epoch",), 10**400),
        (("step",), 3),
        (("sums", "losses"), torch.zeros(0, 2, 3)),
        (("sums", "shown", "mim_loss"), torch.zeros(2)),
        (("sums", "transfer"), torch.zeros(2, 5)),
    ],
    ids=lambda part: part[-1] if isinstance(part, tuple) else "",
)
def test_an_edited_checkpoint_is_refused_in_one_line(cut, data, runs, keys, value):
    (cut / "former.pt").unlink()
    edited(cut / "last.pt", *keys, value=value)
    with warnings.catch_warnings(), pytest.raises(UserError, match="does not fit") as error:
        warnings.simplefilter("error")
        train(data, runs, "run", EPOCHS, "--resume")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- checkpoints that were deleted


def test_an_unfinished_run_without_last_pt_is_not_trained_anew(cut, data, runs, capsys):
    for name in ("last.pt", "former.pt"):
        (cut / name).unlink()
    line = failing(capsys, runs, lambda: train(data, runs, "run", EPOCHS, "--resume"))
    assert f"{cut / 'last.pt'} is missing" in line


def test_a_run_without_any_checkpoint_yet_says_that_it_starts(cut, data, runs, whole, capsys):
    for name in ("last.pt", "former.pt", "best.pt", "metrics.csv", "transfer.csv"):
        (cut / name).unlink()
    (cut / "transfer_steps.csv").unlink()
    train(data, runs, "run", EPOCHS, "--resume")
    line = f"{cut} has no checkpoint yet: training from the start\n"
    assert capsys.readouterr().out.startswith(line)
    assert differences(cut, whole) == []
