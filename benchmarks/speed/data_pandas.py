"""The data step as one would write it in pandas, whole tables in memory: a comparison for data.py.

    python benchmarks/speed/data_pandas.py LOG OUT [--min_user_events K] [--min_item_events K]

Does what `make_dataset.py` does with its defaults: reads a Parquet log, checks it, filters, orders
(events of equal time by SHA-256), splits, numbers, counts for the data card, writes the same arrays
and tables. Prints the content's SHA-256, which must be that of the data card.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

ARRAYS = {"items": "<i4", "domains": "<i2", "times": "<i8", "split": "<i1", "offsets": "<i8"}


def read(folder: Path) -> pd.DataFrame:
    """The log, its rows checked."""
    log = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    for name in ("user_id", "item_id", "domain"):
        log = log[log[name].notna() & (log[name].str.strip() != "")]
    return log[(log.unix_time >= 0) & (log.unix_time < 1_924_992_000)]  # to the end of 2030


def core(log: pd.DataFrame, users: int, items: int) -> pd.DataFrame:
    """Users and items with enough events, to the fixed point."""
    while True:
        before = len(log)
        if users > 1:
            log = log[log.groupby("user_id").item_id.transform("size") >= users]
        if items > 1:
            log = log[log.groupby(["domain", "item_id"]).user_id.transform("size") >= items]
        if len(log) == before:
            return log


def ordered(log: pd.DataFrame) -> pd.DataFrame:
    """By user and time, events of equal time by SHA-256 of what they are."""
    log["tie"] = ""
    tied = log.duplicated(["user_id", "unix_time"], keep=False)
    fields = log.loc[tied, ["user_id", "item_id", "domain"]]
    log.loc[tied, "tie"] = [
        hashlib.sha256(
            "".join(f"{len(f.encode())}:{f}" for f in ("syncrec tie order 1", *row)).encode()
        ).hexdigest()
        for row in fields.itertuples(index=False)
    ]
    return log.sort_values(["user_id", "unix_time", "tie"], ignore_index=True)


def numbered(log: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.Index, pd.Index]:
    """Add user, item, domain_number and split; the items, users and domains."""
    items = log.groupby(["domain", "item_id"], as_index=False).size()
    items["item"] = np.arange(1, len(items) + 1)
    log = log.merge(items[["domain", "item_id", "item"]], on=["domain", "item_id"], how="left")
    log["user"], users = pd.factorize(log.user_id, sort=True)
    log["domain_number"], domains = pd.factorize(log.domain, sort=True)
    size = log.groupby("user").item.transform("size")
    later = log.groupby("user").cumcount(ascending=False)
    log["split"] = np.select([size < 3, later == 0, later == 1], [0, 2, 1], 0)
    return log, items, users, domains


def audit(log: pd.DataFrame) -> dict[str, int]:
    """The card's counts of ties, repeats, cold targets and leaks."""
    training, test = log[log.split == 0], log[log.split == 2]
    group = log.groupby(["user", "unix_time"])
    own = training.groupby("user").unix_time.max().reindex(test.user).to_numpy()
    repeated = log.duplicated(["user", "item"])
    same = log.duplicated(["user", "unix_time"])
    return {
        "ties": int((group.item.transform("size") > 1).sum()),
        "across": int((group.domain_number.transform("nunique") > 1).sum()),
        "duplicates": int(log.duplicated(["user", "item", "unix_time"]).sum()),
        "repeats": int(repeated.sum()),
        "repeat_targets": int(repeated[test.index].sum()),
        "same_time_context": int(same[test.index].sum()),
        "future_leaks": int((test.unix_time < training.unix_time.max()).sum()),
        "own_future_leaks": int((own >= test.unix_time.to_numpy()).sum()),
        "cold": int((~test.item.isin(training.item)).sum()),
    }


def write(log: pd.DataFrame, items: pd.DataFrame, users: pd.Index, out: Path) -> dict:
    """The arrays and tables of a dataset folder."""
    (out / "sequences").mkdir(parents=True)
    (out / "single").mkdir()
    counts = log.groupby("user").size()
    columns = {"items": "item", "domains": "domain_number", "times": "unix_time", "split": "split"}
    arrays = {name: log[column].to_numpy() for name, column in columns.items()}
    arrays["offsets"] = np.concatenate([[0], counts.cumsum()])
    arrays = {name: arrays[name].astype(kind) for name, kind in ARRAYS.items()}
    for name, values in arrays.items():
        np.save(out / "sequences" / f"{name}.npy", values)
    items.to_parquet(out / "items.parquet")
    per_domain = pd.crosstab(log.user, log.domain)
    per_domain.insert(0, "user_id", users)
    per_domain.to_parquet(out / "users.parquet")
    lists = {"items": ("item", list), "domains": ("domain", list), "times": ("unix_time", list)}
    log.groupby("user").agg(**lists).to_parquet(out / "cross.parquet")
    del lists["domains"]
    for name, part in log.groupby("domain"):
        part.groupby("user").agg(**lists).to_parquet(out / "single" / f"{name}.parquet")
    return arrays


def content_hash(items: pd.DataFrame, users: pd.Index, domains: pd.Index, arrays: dict) -> str:
    """As the data card has it."""
    digest = hashlib.sha256()
    for strings in (domains, items.item_id, users):
        texts = [text.encode() for text in strings]
        digest.update(np.int64(len(texts)).tobytes())
        digest.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
        digest.update(b"".join(texts))
    digest.update(domains.get_indexer(items.domain).astype("<i2").tobytes())
    for values in arrays.values():
        digest.update(values.tobytes())
    return digest.hexdigest()


def main() -> None:
    """Read, filter, order, number, count, write; the hash on standard output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--min_user_events", type=int, default=0)
    parser.add_argument("--min_item_events", type=int, default=0)
    asked = parser.parse_args()
    log = core(read(asked.log), asked.min_user_events, asked.min_item_events)
    log, items, users, domains = numbered(ordered(log.copy()))
    audit(log)
    arrays = write(log, items, users, asked.out)
    print(content_hash(items, users, domains, arrays))


if __name__ == "__main__":
    main()
