"""Staging: a dataset folder is built under a lock beside its final name and appears whole."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from src.io.errors import UserError
from src.io.files import sync
from src.io.locking import hold_lock, lock_file

PREFIX = "make_dataset-"  # of the names of spill folders
SPILL_RECORD = "spill_folder"  # the file in the staging folder that names a spill folder elsewhere


@dataclass
class Staging:
    """A folder to fill and one for spilled intermediate data."""

    folder: Path  # becomes the dataset folder
    spill: Path
    complete: bool = False  # set when `folder` may take its final name


@contextmanager
def staging_folder(target: Path, temp_dir: str = "") -> Iterator[Staging]:
    """A folder in which to build `target`, which appears if `complete` has been set, or never.

    What a killed command left is removed first. UserError when another command is making the same
    folder, where nothing can be written, and when the disk is full.
    """
    target = target.resolve()
    root = _root(target)
    refusal = (
        f"another command is making {target}; wait for it, or name another folder with --variant "
        "or --out_dir"
    )
    try:
        with hold_lock(target, refusal):
            _remove(root)
            try:
                root.mkdir()
                with _spill_folder(root, temp_dir) as spill:
                    staging = Staging(root / "dataset", spill)
                    staging.folder.mkdir()
                    yield staging
                if staging.complete:
                    _sync_tree(staging.folder)
                    staging.folder.rename(target)
            finally:
                _remove(root)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}") from None


def remove_leftovers(target: Path) -> None:
    """Remove what a command left that was killed when `target` had its name already."""
    target = target.resolve()
    if _root(target).exists() or lock_file(target).exists():
        with suppress(UserError, OSError), hold_lock(target, "in use"):
            _remove(_root(target))


def _root(target: Path) -> Path:
    return target.parent / f".{target.name}.partial"


def _remove(root: Path) -> None:
    """Remove a staging folder, and the spill folder elsewhere that a killed command left."""
    record = root / SPILL_RECORD
    if record.is_file():
        spill = Path(record.read_text())
        if spill.name.startswith(PREFIX):  # the kill may have come before all was written
            shutil.rmtree(spill, ignore_errors=True)
    if root.exists():
        shutil.rmtree(root)


@contextmanager
def _spill_folder(root: Path, temp_dir: str) -> Iterator[Path]:
    """A new folder in `temp_dir`, or in `root`, removed at the end.

    Its name is recorded in `root`, so that the next command can remove what a killed one left.
    """
    with temporary_folder(temp_dir or str(root)) as spill:
        if temp_dir:
            (root / SPILL_RECORD).write_text(str(spill))
        yield spill


@contextmanager
def temporary_folder(temp_dir: str = "") -> Iterator[Path]:
    """A new folder in `temp_dir`, or in the system's temporary folder, removed at the end.

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


def _sync_tree(folder: Path) -> None:
    """Sync a folder and all in it, so that a power loss after the rename does not empty it."""
    for path in [folder, *folder.rglob("*")]:
        sync(path)
