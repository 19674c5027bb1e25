"""The log wikispeedia from SNAP's wikispeedia_paths-and-graph: the pages of games given up.

    python experiments/logs/wikispeedia.py --files FILES --data DIR

A user is a hashed address, numbered in the order of the file; an item is the number of the article
in articles.tsv, both from 0; the domain is the top-level subject of the article's first category.
The source has the end and the duration of a game: its entries (pages and back clicks) are spread
evenly over the duration, which for a time-out includes the 30 minutes without a click. Back clicks,
games of one page, pages without a category and then users of fewer than five events are left out.
Where a user plays several games at once, events of equal time follow each other by a second.
"""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.logs.known import COLUMNS, make_log
from src.io.errors import run_command

TIME_OUT, TIME_OUT_S = "timeout", 1800
MIN_EVENTS = 5


def convert(folder: Path) -> pd.DataFrame:
    """The log, in the order of users and times."""
    articles = {name: number for number, (name,) in enumerate(rows(folder / "articles.tsv"))}
    subjects: dict[str, str] = {}
    for name, category in rows(folder / "categories.tsv"):
        subjects.setdefault(name, category.split(".")[1])  # subject.Science.Physics …
    users: dict[str, int] = {}
    events = []
    for address, end, duration, path, _, kind in rows(folder / "paths_unfinished.tsv"):
        user, pages = users.setdefault(address, len(users)), path.split(";")
        active = int(duration) - TIME_OUT_S * (kind == TIME_OUT)
        if len(pages) > 1:
            for place, page in enumerate(pages):
                if page in subjects:  # else "<", a back click, or a page without a category
                    time = int(end) - int(duration) + round(place * active / len(pages))
                    events.append((user, articles[page], subjects[page], time))
    log = pd.DataFrame(events, columns=COLUMNS)
    log = log.sort_values(["user_id", "unix_time"], kind="stable", ignore_index=True)
    log = log[log.groupby("user_id").user_id.transform("size") >= MIN_EVENTS]
    return log.assign(unix_time=increasing(log))


def increasing(log: pd.DataFrame) -> pd.Series:
    """The times, each at least a second after the one before of the same user."""
    place = log.groupby("user_id").cumcount()
    return (log.unix_time - place).groupby(log.user_id).cummax() + place


def rows(path: Path) -> list[list[str]]:
    """The fields of each line but comments and blank ones."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
    run_command(lambda: make_log("wikispeedia", convert))
