"""The log ciao from the ratings of Tang et al.: one event per rating, its category as domain.

    python experiments/logs/ciao.py --files FILES --data DIR

The columns of the file are user, product, category, rating, helpfulness, and seconds since 1970.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.logs.known import COLUMNS, make_log
from src.io.errors import run_command

FILE = "rating_with_timestamp.mat"


def convert(folder: Path) -> pd.DataFrame:
    """The log, in the order of users and times, equal times as in the file."""
    arrays = [array for array in loadmat(folder / FILE).values() if np.shape(array)[1:] == (6,)]
    if len(arrays) != 1:
        raise ValueError(f"{FILE} has {len(arrays)} arrays of six columns, not one")
    user, item, category, _, _, time = arrays[0].astype("int64").T
    log = pd.DataFrame(
        {
            "user_id": [f"u{number:04}" for number in user],
            "item_id": [f"i{number:06}" for number in item],
            "domain": [f"c{number:02}" for number in category],
            "unix_time": time,
        },
        columns=COLUMNS,
    )
    return log.sort_values(["user_id", "unix_time"], kind="stable", ignore_index=True)


if __name__ == "__main__":
    run_command(lambda: make_log("ciao", convert))
