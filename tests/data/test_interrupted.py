"""However the command ends, there is a whole dataset folder or none; through the command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.dataset.store.folder import open_dataset
from src.dataset.store.verify import verify_dataset
from tests.support.data_logs import card_of, make, random_log, write_log

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A log that takes the command a moment."""
    rows = random_log(events=60_000, users=3_000, items=900)
    return write_log(tmp_path_factory.mktemp("log") / "raw" / "e.csv", rows)


def start(raw: Path, out: Path, *flags: str) -> subprocess.Popen:
    """The command on its way, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", ROOT / "make_dataset.py", "--data_name=t", "--strd_ym=201412",
         f"--raw_dir={raw}", f"--out_dir={out}", "--threads=1", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def begun(process: subprocess.Popen) -> subprocess.Popen:
    """Wait for the first line about the log: what comes before it is Python's start."""
    assert process.stdout.readline() == "make_dataset.py: starting\n"
    assert process.stdout.readline().startswith("reading ")
    return process


def is_whole(folder: Path) -> bool:
    """Whether a folder is there; if it is, its whole content is what its card says."""
    if not folder.exists():
        return False
    verify_dataset(open_dataset(folder))
    return True


def left_beside(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path != folder]


KILL_AT = """
import os, pkgutil, signal, sys
import make_dataset
owner, name, when = pkgutil.resolve_name(sys.argv[1]), sys.argv[2], sys.argv[3]
original = getattr(owner, name)
def killing(*arguments, **named):
    if when == "after":
        original(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, killing)
make_dataset.main(sys.argv[4:])
"""
KILL_POINTS = [
    ("src.dataset.make", "open_engine", "before"),
    ("src.dataset.make", "parse", "after"),
    ("src.dataset.make", "build_sequences", "after"),
    ("src.dataset.make", "make_card", "before"),
    ("src.dataset.build.writer", "_single_tables", "before"),  # tables are half written
    ("src.dataset.make", "write_tables", "after"),
    ("src.dataset.build.staging", "_sync_tree", "after"),
    ("pathlib:Path", "rename", "after"),
    ("pathlib:Path", "unlink", "before"),  # of the lock, which is the last thing that goes
]


IN_EVERY_CHANGE = ("_single_tables", "rename")


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=[pytest.mark.nightly] * (point[1] not in IN_EVERY_CHANGE))
        for point in KILL_POINTS
    ],
    ids=lambda point: f"{point[2]}-{point[1]}",
)
def test_killed_at_any_point_there_is_a_whole_folder_or_none(tmp_path, point):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log())
    out = tmp_path / "parent" / "out"
    flags = ["--data_name=t", "--strd_ym=201412", f"--raw_dir={raw}", f"--out_dir={out}"]
    process = subprocess.run(
        [sys.executable, "-c", KILL_AT, *point, *flags], cwd=ROOT, capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert is_whole(out) == (point[1] in ("rename", "unlink"))
    make(raw, out)
    make(raw, tmp_path / "unkilled")
    assert is_whole(out)
    assert card_of(out)["sha256"] == card_of(tmp_path / "unkilled")["sha256"]
    assert left_beside(out) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing(raw, tmp_path, sent):
    out, spill = tmp_path / "parent" / "out", tmp_path / "spill"
    spill.mkdir()
    process = begun(start(raw, out, f"--temp_dir={spill}"))
    while not list(spill.glob("*/*")):  # it has begun to work
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(sent)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "interrupted"
    assert not out.parent.exists()
    assert list(spill.iterdir()) == []


def test_what_a_killed_command_spilled_elsewhere_goes_with_the_next(raw, tmp_path):
    out, spill = tmp_path / "parent" / "out", tmp_path / "spill"
    spill.mkdir()
    process = begun(start(raw, out, f"--temp_dir={spill}"))
    while not list(spill.glob("*/*")):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert list(spill.iterdir())
    process = start(raw, out, f"--temp_dir={spill}")
    assert process.wait() == 0
    assert list(spill.iterdir()) == []
    assert is_whole(out)


def test_of_two_commands_at_once_one_makes_the_folder(raw, tmp_path):
    out = tmp_path / "parent" / "out"
    both = [start(raw, out), start(raw, out)]
    said = [process.communicate() for process in both]
    codes = [process.returncode for process in both]
    assert is_whole(out)
    assert 0 in codes
    for code, (output, error) in zip(codes, said, strict=True):
        if code:
            assert code == 2
            assert error.startswith("error: another command is making ")
            assert error.count("\n") == 1
        else:
            assert "dataset folder: " in output
    assert left_beside(out) == []


@pytest.mark.nightly
def test_two_commands_with_other_options_never_mix(raw, tmp_path):
    out = tmp_path / "parent" / "out"
    both = [start(raw, out), start(raw, out, "--min_user_events=5")]
    codes = sorted(process.wait() for process in both)
    assert codes == [0, 2]
    assert is_whole(out)
    assert left_beside(out) == []


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a megabyte; the test is skipped where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no small disk can be mounted here (needs the right to mount)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("full", ["out_dir", pytest.param("temp_dir", marks=pytest.mark.nightly)])
def test_a_full_disk_is_one_line_and_leaves_nothing(raw, tmp_path, small_disk, full):
    out = (small_disk if full == "out_dir" else tmp_path / "parent") / "out"
    spill = small_disk if full == "temp_dir" else tmp_path / "spill"
    spill.mkdir(exist_ok=True)
    process = start(raw, out, f"--temp_dir={spill}")
    _, error = process.communicate()
    assert process.returncode == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not out.exists()
    assert list(small_disk.iterdir()) == []


@pytest.mark.nightly
def test_a_full_disk_leaves_the_folder_that_is_there(tmp_path, small_disk):
    few = write_log(tmp_path / "few" / "e.csv", random_log())
    out = small_disk / "out"
    assert start(few, out, f"--temp_dir={tmp_path}").wait() == 0
    written = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (small_disk / "filler").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
    process = start(few, small_disk / "out2", f"--temp_dir={tmp_path}")
    assert process.wait() == 2, process.stderr.read()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == written
    assert is_whole(out)
