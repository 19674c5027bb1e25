"""The log xwines from the files of X-Wines Slim: one event per rating, the type of the wine as
domain, times as published, read as UTC.

    python experiments/logs/xwines.py --files FILES --data DIR
"""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.logs.known import COLUMNS, make_log
from src.io.errors import run_command

NAMES = {"Dessert/Port": "Dessert_Port", "Rosé": "Rose"}  # the other types as they are


def convert(folder: Path) -> pd.DataFrame:
    """The log, in the order of users and times."""
    ratings = pd.read_csv(
        folder / "XWines_Slim_150K_ratings.csv", usecols=["UserID", "WineID", "Date"]
    )
    wines = pd.read_csv(folder / "XWines_Slim_1K_wines.csv", usecols=["WineID", "Type"])
    types = wines.set_index("WineID").Type.replace(NAMES)
    log = pd.DataFrame(
        {
            "user_id": ratings.UserID,
            "item_id": ratings.WineID,
            "domain": ratings.WineID.map(types),
            "unix_time": pd.to_datetime(ratings.Date).astype("datetime64[s]").astype("int64"),
        },
        columns=COLUMNS,
    )
    return log.sort_values(["user_id", "unix_time"], kind="stable", ignore_index=True)


if __name__ == "__main__":
    run_command(lambda: make_log("xwines", convert))
