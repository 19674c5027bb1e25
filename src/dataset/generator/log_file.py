"""A generated log as a file, and the period and order of its events."""

import gzip
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np

from src.io.errors import UserError
from src.io.files import write_atomically

FILE_NAME = "interactions.csv.gz"
FIRST_SECOND = 1_577_836_800  # 2020-01-01 00:00 UTC
END_SECOND = 1_706_745_600  # 2024-02-01 00:00 UTC
DAY = 86_400  # seconds


class Events(Protocol):
    """What a log shows, in time order: one entry per event."""

    @property
    def users(self) -> np.ndarray: ...  # [events] from 0
    @property
    def domains(self) -> np.ndarray: ...  # [events] index into the names of the domains
    @property
    def items(self) -> np.ndarray: ...  # [events] from 0 in each domain
    @property
    def times(self) -> np.ndarray: ...  # [events] seconds since 1970 UTC, all distinct


def draw_indices(rng: np.random.Generator, n: int, weights: np.ndarray) -> np.ndarray:
    """[n] indices, all by the same weights [choices]."""
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")


def distinct(times: np.ndarray) -> np.ndarray:
    """Make increasing times strictly increasing: a repeated time moves to the next free second."""
    position = np.arange(len(times))
    return np.maximum.accumulate(times - position) + position


def header(module: str, command: str, seed: int, relatedness: dict[str, float]) -> dict[str, str]:
    """The comment lines above the table, by key; every domain has sequential structure."""
    return {
        "generated": f"by {module}; these events are not real behaviour of anyone",
        "command": command,
        "seed": str(seed),
        "planted_relatedness": json.dumps(relatedness),
        "planted_sequential": json.dumps(list(relatedness)),
    }


def write_events(
    folder: Path, comments: dict[str, str], domains: Collection[str], log: Events
) -> Path:
    """Write the log as a gzipped event table below comments that describe it.

    The file appears whole or not at all; the same settings give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, names = folder / FILE_NAME, list(domains)
    columns = [column.tolist() for column in (log.users, log.domains, log.items, log.times)]

    def write(temporary: Path) -> None:
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
        ):
            text.writelines(f"# {key}: {value}\n" for key, value in comments.items())
            text.write("user_id,item_id,domain,unix_time\n")
            for user, domain, item, time in zip(*columns, strict=True):
                name = names[domain]
                text.write(f"g{user:05d},{name}-{item:04d},{name},{time}\n")

    write_atomically(path, write)
    return path


def check_domains(names: Collection[str], settings: dict[str, Collection[float]]) -> None:
    """UserError unless the names can be written and each setting has one value per domain."""
    for flag, values in settings.items():
        if len(values) != len(names):
            raise UserError(
                f"--{flag} has {len(values)} values for {len(names)} --domains; give one value per "
                "domain"
            )
    if not names or len(set(names)) != len(names):
        raise UserError("--domains is empty or repeats a name; give one or more different names")
    for name in names:
        if not name or any(mark in name for mark in ',"\n\r#'):
            raise UserError(
                f"--domains has the name {name!r}; remove commas, quotes, # and line ends"
            )


def check_least(flag: str, value: int, least: int) -> None:
    """UserError for a value that is too small."""
    if value < least:
        what = "negative" if least == 0 else "too small"
        raise UserError(f"--{flag} {value} is {what}; give at least {least}")


def check_fractions(flag: str, *values: float) -> None:
    """UserError for a value outside 0 to 1."""
    for value in values:
        if not 0 <= value <= 1:
            raise UserError(f"--{flag} has the value {value}; give a fraction from 0 to 1")
