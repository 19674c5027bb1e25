"""Read and write a raw log of an experiment: a folder with interactions.csv.gz."""

from pathlib import Path

import pandas as pd

from src.io.errors import UserError
from src.io.files import write_atomically

FILE_NAME = "interactions.csv.gz"  # user_id,item_id,domain,unix_time


def read_log(folder: Path) -> pd.DataFrame:
    """The events of `--raw`, ids as text. UserError without the file."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError(f"--raw {folder} has no {FILE_NAME}")
    names = ("user_id", "item_id", "domain")
    return pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False)


def write_log(log: pd.DataFrame, folder: Path) -> None:
    """Write the events into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(
        folder / FILE_NAME,
        lambda file: log.to_csv(file, index=False, compression={"method": "gzip", "mtime": 0}),
    )
    print(f"{len(log):,} events: {folder / FILE_NAME}")
