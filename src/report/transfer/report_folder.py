"""Where a report lies: a folder of its own, put in place whole, replaced only by another report."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from src.io.errors import UserError

PAGE = "report.html"
CONTENT = {PAGE, "figures", "tables"}
MARK = '<meta name="generator" content="negative-transfer report">'  # stands in every page


def check_replaceable(out: Path) -> None:
    """UserError unless `out` is free, an empty folder, or a report and nothing else."""
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"--out {out} holds the current folder; give a folder of its own")
    if not out.exists() or (out.is_dir() and (not any(out.iterdir()) or _is_report(out))):
        return
    raise UserError(f"--out {out} exists and is no report; give another, or move it away")


def _is_report(folder: Path) -> bool:
    if {path.name for path in folder.iterdir()} != CONTENT or not (folder / PAGE).is_file():
        return False
    with (folder / PAGE).open(encoding="utf-8", errors="replace") as page:
        return MARK in page.read(1000)


def replace_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill an empty folder beside `out`, then put it in the place of `out`."""
    place = out.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    try:
        new, old = work / "new", work / "old"
        new.mkdir()
        write(new)
        check_replaceable(out)  # it may have come meanwhile
        if place.exists():
            place.rename(old)
        new.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
