"""Writing folders whole: readers and interruptions never see half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.io.errors import UserError
from src.io.files import sync


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the name `target` at the end, or never.

    An existing folder of that name is replaced once the new one is complete. UserError where it
    cannot be written; an existing one is then unchanged.
    """
    target = target.resolve()
    temporary, former = (
        target.with_name(f".{target.name}.{os.getpid()}.{part}.tmp") for part in ("new", "former")
    )
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            sync(path)  # a power loss after the rename must not empty it
        if target.exists():
            target.rename(former)
        temporary.rename(target)
    except OSError as error:
        if former.exists() and not target.exists():
            former.rename(target)
        raise UserError(f"{target} cannot be written ({error.strerror or error})") from None
    finally:
        for folder in (temporary, former):
            shutil.rmtree(folder, ignore_errors=True)
