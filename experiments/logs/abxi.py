"""The log abxi from two data sets of ABXI: Beauty with Electronics, Grocery with Home and Kitchen.

    python experiments/logs/abxi.py --files FILES --data DIR

A line of *_preprocessed.txt is a user and its events, `USER ITEM|TIME ITEM|TIME …`; map_user has
{id: USER}, map_item {id: [ITEM, domain 0 or 1]}. FILES is the folder data/ of ABXI's repository.
"""

import json
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.logs.known import COLUMNS, make_log
from src.io.errors import run_command

PAIRS = {
    "abe": ("Beauty", "Electronics"),
    "afk": ("Grocery_and_Gourmet_Food", "Home_and_Kitchen"),
}


def convert(folder: Path) -> pd.DataFrame:
    """The log, in the order of users, times, domains and items (as `--tie_order as_logged` has
    it)."""
    rows = [row for pair in PAIRS for row in read_pair(folder / pair, pair)]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(
        ["user_id", "unix_time", "domain", "item_id"], ignore_index=True
    )


def read_pair(folder: Path, pair: str) -> list[tuple[str, str, str, int]]:
    """The rows of two domains."""
    users = json.loads((folder / "map_user_50.txt").read_text())
    items = json.loads((folder / "map_item_50.txt").read_text())
    user_ids = {str(number): name for name, number in users.items()}
    item_ids = {str(number): (name, PAIRS[pair][side]) for name, (number, side) in items.items()}
    rows = []
    for line in (folder / f"{pair}_50_preprocessed.txt").read_text().splitlines():
        user, *events = line.split()
        for event in events:
            item, time = event.split("|")
            rows.append((user_ids[user], *item_ids[item], int(time)))
    return rows


if __name__ == "__main__":
    run_command(lambda: make_log("abxi", convert))
