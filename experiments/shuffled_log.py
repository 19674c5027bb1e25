"""A control: the same log with one thing destroyed that a cross-domain model could learn from.

    python experiments/shuffled_log.py --raw DIR/wikispeedia --kind order --out OUT
    python experiments/shuffled_log.py --raw DIR/wikispeedia --kind others --out OUT

`order`: each user's events, items with their domains, are permuted among the user's times. What a
user does stays, its order goes. `others`: in each domain, users with equally many events there
exchange their sequences, each at the new user's times. Every sequence inside a domain stays (but
for the order of equal times), and so do the times and domains of each user; what the other domains'
events tell of a user goes. A gain over a model per domain that stays under `others` is no transfer
of knowledge about users.

DIR holds interactions.csv.gz (user_id,item_id,domain,unix_time), and so will OUT.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.raw_log import FILE_NAME, read_log, write_log
from src.io.errors import run_command


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help=f"folder with {FILE_NAME}")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    given = parser.parse_args(arguments)
    # events of equal time in an order that says nothing, the same for every kind
    mixed = read_log(given.raw).sample(frac=1, random_state=given.seed)
    log = mixed.sort_values(["user_id", "unix_time"], kind="stable", ignore_index=True)
    shuffled = KINDS[given.kind](log, np.random.default_rng(given.seed))
    write_log(shuffled, given.out)


def without_order(log: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The events of each user permuted among the user's times; `log` is in the order of users."""
    users = log.user_id.factorize()[0]
    order = np.lexsort((rng.random(len(log)), users))
    what = log[["item_id", "domain"]].to_numpy()[order]
    return log.assign(item_id=what[:, 0], domain=what[:, 1])


def without_others(log: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The sequences of each domain exchanged between users of equal counts; `log` is in the order
    of users and times."""
    items, kept = log.item_id.to_numpy().copy(), 0
    for _, rows in log.groupby("domain", sort=True).indices.items():
        users, counts = log.user_id.to_numpy()[rows], {}
        starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
        sequences = np.split(rows, starts[1:])
        for sequence in sequences:
            counts.setdefault(len(sequence), []).append(sequence)
        for sequences_of_a_length in counts.values():
            rows_of = np.stack(sequences_of_a_length)  # [users, count] rows of the log
            giver = np.empty(len(rows_of), dtype=np.int64)
            order = rng.permutation(len(rows_of))
            giver[order] = np.roll(order, 1)  # another user, where there is one
            items[rows_of] = log.item_id.to_numpy()[rows_of[giver]]
            kept += rows_of.size * (len(rows_of) == 1)
    print(f"{kept:,} of {len(log):,} events keep their user: no other has as many in the domain")
    return log.assign(item_id=items)


KINDS = {"order": without_order, "others": without_others}

if __name__ == "__main__":
    run_command(main)
