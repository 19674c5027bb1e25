"""Where a dataset folder comes into being: locked, beside its final name, all or nothing."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from src.io.errors import UserError
from src.io.files import is_open_as, lock, sync

PREFIX = "make_dataset-"  # of folders for what is spilled
ELSEWHERE = "spill_elsewhere"  # the file that says where that is


@dataclass
class Workplace:
    """A folder to fill, and one for what is spilled meanwhile."""

    made: Path  # becomes the dataset folder
    spill: Path
    complete: bool = False  # set when `made` may take its final name


@contextmanager
def workplace(target: Path, temp_dir: str = "") -> Iterator[Workplace]:
    """A place to make the folder `target`, which appears when `complete` has been set, or never.

    What was left by a command that was killed is removed first. UserError when another command
    makes the same folder now, where nothing can be written, and when the disk is full.
    """
    target = target.resolve()
    root = target.parent / f".{target.name}.partial"
    try:
        with _locked(root, target), _removed_at_end(root):
            with _spill_folder(root, temp_dir) as spill:
                place = Workplace(root / "made", spill)
                place.made.mkdir()
                yield place
            if place.complete:
                _synced(place.made)
                place.made.rename(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}") from None


@contextmanager
def _locked(root: Path, target: Path) -> Iterator[None]:
    """Make `root` anew and lock it; the lock ends with the process, however that ends."""
    while True:
        root.mkdir(parents=True, exist_ok=True)
        path = root / "lock"
        try:
            held = lock(path, file=True)
        except FileNotFoundError:  # the command before is just removing its folder
            continue
        if held is None:
            raise UserError(
                f"another command is making {target} now; wait for it, or name another folder "
                "with --variant or --out_dir"
            )
        # the file may have been removed between opening and locking: by the command before
        if is_open_as(path, held):
            break
        os.close(held)
    for left in root.iterdir():  # by a command that was killed
        if left.name == ELSEWHERE:
            spill = Path(left.read_text())
            if spill.name.startswith(PREFIX):  # the kill may have come before all was written
                shutil.rmtree(spill, ignore_errors=True)
        if left.is_dir():
            shutil.rmtree(left)
        elif left != path:
            left.unlink()
    try:
        yield
    finally:
        os.close(held)


@contextmanager
def _removed_at_end(root: Path) -> Iterator[None]:
    """Remove the folder, the lock last: who finds no lock makes one, and begins to fill it."""
    try:
        yield
    finally:
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink()
        (root / "lock").unlink()
        with suppress(OSError):  # the next command has come
            root.rmdir()


@contextmanager
def _spill_folder(root: Path, temp_dir: str) -> Iterator[Path]:
    """A new folder in `temp_dir`, or in `root`; it is gone at the end.

    Its name is kept in `root`, so that the next command can remove what a killed one left.
    """
    with temporary_folder(temp_dir or str(root)) as spill:
        if temp_dir:
            (root / ELSEWHERE).write_text(str(spill))
        yield spill


@contextmanager
def temporary_folder(temp_dir: str = "") -> Iterator[Path]:
    """A new folder in `temp_dir`, or where the system has such folders; it is gone at the end.

    UserError when it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temp_dir or None)).absolute()
    except OSError as error:
        raise UserError(f"--temp_dir {temp_dir} cannot be written to ({error})") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _synced(folder: Path) -> None:
    """Have the disk hold all of a folder: a loss of power after the renaming must not empty it."""
    for path in [folder, *folder.rglob("*")]:
        sync(path)
