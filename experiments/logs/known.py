"""What is known of each real log (logs.toml), and whether a log is the one of the tables."""

import argparse
import hashlib
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from src.io.errors import UserError
from src.io.files import write_atomically

TABLE = Path(__file__).with_name("logs.toml")
FILE_NAME = "interactions.csv.gz"
COLUMNS = ["user_id", "item_id", "domain", "unix_time"]
FACTS = ("events", "users", "items", "domains", "first", "last", "sha256")
ORDER = "sha256_in_order"
OTHER_ORDER = (
    "NOTE: the rows are those of the tables in another order, which counts for `--tie_order "
    "as_logged` and experiments/shuffled_log.py"
)


def known_logs() -> dict[str, dict[str, Any]]:
    """{name: its entry in logs.toml}"""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def read_log(path: Path) -> pd.DataFrame:
    """A log with COLUMNS, ids as they are written. UserError where it is no such file."""
    try:
        log = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:3], str), keep_default_na=False)
        return log[COLUMNS].astype({"unix_time": "int64"})
    except (OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no log with {','.join(COLUMNS)} ({reason})") from None


def facts_of(log: pd.DataFrame) -> dict[str, Any]:
    """FACTS and ORDER of a log. `items` counts ids; `first` and `last` are days, UTC.

    `sha256` is that of the rows in the order of their bytes, so that the order of a file doesn't
    count: `zcat interactions.csv.gz | tail -n +2 | LC_ALL=C sort | sha256sum`. ORDER is that of the
    rows as they stand.
    """
    days = pd.to_datetime(log.unix_time, unit="s").dt.strftime("%Y-%m-%d")
    columns = (log[name].astype(str) for name in COLUMNS)
    rows = [f"{','.join(row)}\n".encode() for row in zip(*columns, strict=True)]
    return {
        "events": len(log),
        "users": log.user_id.nunique(),
        "items": log.item_id.nunique(),
        "domains": log.domain.nunique(),
        "first": days.min(),
        "last": days.max(),
        "sha256": hashlib.sha256(b"".join(sorted(rows))).hexdigest(),
        ORDER: hashlib.sha256(b"".join(rows)).hexdigest(),
    }


def make_log(
    name: str, convert: Callable[[Path], pd.DataFrame], words: list[str] | None = None
) -> None:
    """The command of a script that converts the published files of a log; the result is written
    only if it is the log of the tables."""
    known = known_logs()[name]
    parser = argparse.ArgumentParser(
        description=f"Make the log {name} from the published files: {known['source']}"
    )
    parser.add_argument(
        "--files", type=Path, required=True, metavar="DIR",
        help=f"folder with {', '.join(known['files'])}; download {known['download']}",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR",
        help=f"the folder of the real logs: DIR/{name}/{FILE_NAME} is written",
    )  # fmt: skip
    given = parser.parse_args(words)
    check_files(known, given.files)
    try:
        log = convert(given.files)
    except Exception as error:  # a file of another form fails in many ways
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise UserError(f"the files in {given.files} are not as published ({reason})") from None
    facts = facts_of(log)
    if wrong := [
        f"{one} {facts[one]}, not {known[one]}" for one in FACTS if facts[one] != known[one]
    ]:
        raise UserError(
            f"the files in {given.files} don't give the log {name} of the tables: "
            f"{'; '.join(wrong)}; nothing was written"
        )
    path = given.data / name / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    gzip = {"method": "gzip", "mtime": 0}
    write_atomically(path, lambda file: log.to_csv(file, index=False, compression=gzip))
    print(f"{len(log):,} events, those of the tables: {path}")
    if facts[ORDER] != known[ORDER]:
        print(OTHER_ORDER)


def check_files(known: dict[str, Any], folder: Path) -> None:
    """UserError for missing files, with their address; a line on stderr for a file that differs
    from the hash that its publisher states."""
    if missing := [file for file in known["files"] if not (folder / file).is_file()]:
        raise UserError(
            f"--files {folder} lacks {', '.join(missing)}; download {known['download']}"
        )
    for file, stated in known["files"].items():
        if stated and hashlib.sha256((folder / file).read_bytes()).hexdigest() != stated:
            print(f"NOTE: {file} differs from the SHA-256 its publisher states", file=sys.stderr)
