"""The lock of a folder: one holder at a time, nothing left locked, nothing left behind."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from src.io.errors import UserError
from src.io.locking import hold_lock

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from src.io.locking import hold_lock
with hold_lock(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.readline()
"""
TAKE_TURNS = """
import os, sys, time
from pathlib import Path
from src.io.errors import UserError
from src.io.locking import hold_lock
folder, turns = Path(sys.argv[1]), 0
while turns < 100:
    try:
        with hold_lock(folder, "busy"):
            os.mkdir(folder)  # fails where another process is inside
            os.rmdir(folder)
            turns += 1
    except UserError:
        pass
    time.sleep(0.001)
"""


def python(code: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "missing" / "parents" / "run"


def test_a_second_process_is_refused_until_the_first_ends_or_is_killed(folder):
    for kill in (False, True):
        holder = python(HOLD, folder)
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"^busy here$"), hold_lock(folder, "busy here"):
            pass
        if kill:
            holder.kill()
        assert holder.communicate("\n") == ("", "")
        with hold_lock(folder, "busy"):
            pass
        assert not list(folder.parent.glob("*"))  # no lock file is left


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, UserError])
def test_nothing_is_left_but_what_was_made_inside(folder, tmp_path, ending):
    try:
        with hold_lock(folder, "busy"):
            if ending:
                raise ending
            folder.mkdir()
    except (KeyboardInterrupt, UserError):
        assert list(tmp_path.iterdir()) == []
    else:
        assert list(folder.parent.iterdir()) == [folder]


def test_four_processes_that_come_and_go_never_hold_it_together(folder):
    processes = [python(TAKE_TURNS, folder) for _ in range(4)]
    for process in processes:
        assert process.communicate() == ("", "")
    assert not folder.parent.exists() or list(folder.parent.iterdir()) == []


def test_a_file_system_without_locks_is_warned_of(folder, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold_lock(folder, "busy"):
        folder.mkdir()
    error = capsys.readouterr().err
    assert (
        error
        == f"warning: the file system of {folder} has no locks; start no second command there\n"
    )
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="Not a directory"),
        hold_lock(tmp_path / "file" / "run", "busy"),
    ):
        pass
