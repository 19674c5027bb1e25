"""The best possible NDCG@10 of a generated log, as `report.py table --limits` reads it."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from src.io.errors import UserError
from src.report.formatting import join_some

METRIC, SPLIT, PROTOCOL = "ndcg@10", "test", "full"  # what the limits are of
VIEWS = ("own", "joined")  # the events that a model can know


def check_shown(split: str, protocol: str, metrics: Collection[str]) -> None:
    """UserError unless the table shows what the limits are of."""
    if (split, protocol) != (SPLIT, PROTOCOL) or METRIC not in metrics:
        raise UserError(
            f"--limits are of {METRIC}, --split {SPLIT}, --protocol {PROTOCOL}; show these, or "
            "drop --limits"
        )


def read_limits(path: Path, domains: Collection[str]) -> dict[str, float]:
    """{domain: the larger limit of VIEWS}, from a limits.csv of `src.dataset.generator --limits`.

    NaN for a domain without targets. UserError for a file that cannot be read, lacks a column, has
    other domains than the runs, or a value that is no NDCG.
    """
    try:
        rows = pd.read_csv(
            path, dtype={"domain": str} | dict.fromkeys(VIEWS, float), keep_default_na=False,
            na_values={view: [""] for view in VIEWS},
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read --limits {path}: {' '.join(str(error).split())}") from None
    for column in ("domain", *VIEWS):
        if column not in rows:
            raise UserError(
                f"--limits {path} has no column {column}; give the limits.csv that "
                "`python -m src.dataset.generator --limits --out DIR` writes"
            )
    if sorted(rows.domain) != sorted(domains):
        raise UserError(
            f"--limits {path} has the domains {join_some(list(rows.domain))}, the runs have "
            f"{join_some(list(domains))}; give the limits of their log"
        )
    limits = rows.set_index("domain")[list(VIEWS)].max(axis=1)
    wrong = limits[limits.notna() & ~((limits > 0) & (limits <= 1))]
    if len(wrong):
        raise UserError(
            f"--limits {path} has the limit {wrong.iloc[0]:g} for {wrong.index[0]}; "
            "an NDCG lies between 0 and 1"
        )
    return {str(domain): float(limit) for domain, limit in limits.items()}


def share(value: float, limit: float) -> str:
    """ " (93 %)", a value as a share of the limit; empty where there is no limit."""
    return f" ({100 * value / limit:.0f} %)" if np.isfinite(limit) else ""
