"""The same log with fewer users: does what joining gains depend on how much there is to learn?

    python experiments/thinned_log.py --raw DIR/xwines --keep 0.25 --out OUT

A share of the users, drawn at random, stays with all events. The users of a smaller share are among
those of a larger one with the same seed.

DIR holds interactions.csv.gz (user_id,item_id,domain,unix_time), and so will OUT.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.raw_log import FILE_NAME, read_log, write_log
from src.io.errors import UserError, run_command


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help=f"folder with {FILE_NAME}")
    parser.add_argument("--keep", type=float, required=True, help="share of the users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    given = parser.parse_args(arguments)
    if not 0 < given.keep <= 1:
        raise UserError(f"--keep {given.keep:g}: give a share above 0, at most 1")
    log = read_log(given.raw)
    users = np.sort(log.user_id.unique())
    order = np.random.default_rng(given.seed).permutation(users)
    kept = order[: round(given.keep * len(users))]
    write_log(log[log.user_id.isin(kept)], given.out)


if __name__ == "__main__":
    run_command(main)
