"""The folder of a report: written whole, and replaced only by another report."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from src.io.errors import UserError
from src.io.files import check_output

PAGE = "report.html"
ENTRIES = {PAGE, "figures", "tables"}
MARK = '<meta name="generator" content="negative-transfer report">'  # in every page


def check_replaceable(out: Path) -> None:
    """UserError unless `out` does not exist, is an empty folder, or holds only a report."""
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"--out {out} contains the current folder; give a folder of its own")
    if not out.exists():
        check_output(out, "--out", folder=True)
    if not out.exists() or (out.is_dir() and (not any(out.iterdir()) or _is_report(out))):
        return
    raise UserError(f"--out {out} exists and is not a report; give another path, or move it away")


def _is_report(folder: Path) -> bool:
    if {path.name for path in folder.iterdir()} != ENTRIES or not (folder / PAGE).is_file():
        return False
    with (folder / PAGE).open(encoding="utf-8", errors="replace") as page:
        return MARK in page.read(1000)


def replace_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill an empty folder beside `out`, then rename it to `out`.

    Raises UserError if `out` cannot be written; an interruption leaves the old report as it was.
    """
    target = out.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write --out {out}: {error.strerror}") from None
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        write(new)
        check_replaceable(out)  # it may have appeared meanwhile
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        if old.exists() and not target.exists():  # interrupted between the two renames
            old.rename(target)
        shutil.rmtree(work, ignore_errors=True)
