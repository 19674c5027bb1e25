"""A run folder belongs to one run: two commands, foreign files, and what a kill leaves."""

import json
import shutil
from pathlib import Path

import pytest

from src.io.locking import hold_lock
from tests.support.command_runs import failing, train
from tests.support.watched import differences

EPOCHS = "--max_epochs=3"


@pytest.fixture(scope="module")
def whole(finished_run):
    """A run of three epochs."""
    return finished_run("run", EPOCHS)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def test_a_second_command_in_the_folder_is_refused_and_changes_nothing(data, runs, capsys):
    run = train(data, runs, "run", EPOCHS)
    with hold_lock(run, "in use"):
        for given in ((), ("--resume",), ("--overwrite",)):
            line = failing(
                capsys, runs, lambda given=given: train(data, runs, "run", EPOCHS, *given)
            )
            assert f"another command is working in {run}" in line


class Killed(BaseException):
    """Ends a command where it stands."""


@pytest.mark.parametrize(("mode", "removed"), [("syncrec", 1), ("sdsr_separate", 11)])
def test_a_run_whose_replacement_was_killed_is_trained_again_whole(
    data, runs, tmp_path, monkeypatch, mode, removed
):
    """However many files were removed, those that are left are not used."""
    old = (EPOCHS, f"--mode={mode}", "--protocol=full")
    whole = train(data, tmp_path, "run", *old)
    folder = shutil.copytree(whole, runs / "tiny" / "run")
    unlink, left = Path.unlink, [removed]

    def unlink_some(path, *arguments, **named):
        if not left[0]:
            raise Killed
        left[0] -= 1
        unlink(path, *arguments, **named)

    monkeypatch.setattr(Path, "unlink", unlink_some)
    with pytest.raises(Killed):
        train(data, runs, "run", *old, "--lr=.01", "--overwrite")
    monkeypatch.undo()
    assert json.loads((folder / "config.json").read_text())["lr"] == 0.001
    train(data, runs, "run", *old, "--resume")
    assert differences(folder, whole) == []


def test_a_command_killed_at_its_end_leaves_no_former_checkpoint(data, runs, whole, capsys):
    folder = shutil.copytree(whole, runs / "tiny" / "run")
    shutil.copy(folder / "last.pt", folder / "former.pt")
    train(data, runs, "run", EPOCHS)
    assert "finished already" in capsys.readouterr().out
    assert differences(folder, whole) == []


@pytest.mark.parametrize("given", [("--resume",), ("--overwrite",)])
def test_checkpoints_without_a_config_are_refused(whole, data, runs, capsys, given):
    folder = shutil.copytree(whole, runs / "tiny" / "run")
    (folder / "config.json").unlink()
    line = failing(capsys, runs, lambda: train(data, runs, "run", EPOCHS, *given))
    assert f"{folder} holds checkpoints but no config.json" in line


def dangling(path):
    path.unlink()
    path.symlink_to(path.parent / "on another disk.pt")


@pytest.mark.parametrize(
    ("lose", "given"),
    [
        (Path.unlink, ("--max_epochs=4",)),
        (dangling, ("--max_epochs=4",)),
        (lambda path: path.rename(path.with_name("last-old.pt")), ("--max_epochs=9",)),
        (Path.unlink, ("--max_epochs=4", "--save_every_steps=1")),
        (lambda path: (path.unlink(), path.mkdir()), ("--max_epochs=4",)),
    ],
    ids=["deleted", "a dangling link", "renamed", "other saves", "a folder"],
)
def test_however_last_pt_was_lost_the_trained_run_stays(data, runs, whole, capsys, lose, given):
    folder = shutil.copytree(whole, runs / "tiny" / "run")
    lose(folder / "last.pt")
    line = failing(capsys, runs, lambda: train(data, runs, "run", *given, "--resume"))
    assert f"{folder / 'last.pt'} is missing; no other checkpoint to continue from" in line
    for name in ("best.pt", "metrics.csv", "results.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "deleted"),
    [
        pytest.param((), ["last.pt"], marks=pytest.mark.nightly),
        ((), ["last.pt", "best.pt"]),
        pytest.param(("--mode=sdsr_separate",), ["domains/1/last.pt"], marks=pytest.mark.nightly),
        (("--mode=sdsr_separate",), ["domains/2/last.pt", "domains/2/best.pt"]),
    ],
    ids=["last", "last and best", "last of a domain", "both of a domain"],
)
def test_a_finished_run_without_last_pt_is_not_trained_anew(data, runs, capsys, more, deleted):
    folder = train(data, runs, "run", "--protocol=full", *more)
    for name in deleted:
        (folder / name).unlink()
    longer = (EPOCHS, "--protocol=full", *more, "--resume")
    line = failing(capsys, runs, lambda: train(data, runs, "run", *longer))
    assert line == (
        f"error: {folder / deleted[0]} is missing; no other checkpoint to continue from, rerun "
        "with --overwrite, or give another --run_name\n"
    )
    train(data, runs, "run", "--protocol=full", *more, "--resume")  # no longer: nothing to train
    assert "finished already" in capsys.readouterr().out
