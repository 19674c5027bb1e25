"""Calibration of the intervals and p-values of src/statistics, by simulation.

    python benchmarks/robustness/significance.py
    python benchmarks/robustness/significance.py --simulations 200 --json

Two simulated models rank the same targets of many users in three domains. Samples of these users
are compared as `report.py compare` does. The promises: if the models are equal, p ≤ .05 in at most
5 % of the samples, and so is the Holm-corrected p of any domain; the interval contains the true
difference in at least 95 %; if that difference is the one printed as detectable, p ≤ .05 in 80 %.
`bounds` is the range that chance allows a kept promise (99.9 %); a `!` marks a row outside it. The
last rows show the rejected alternatives: percentiles of the bootstrap as the interval, and targets
resampled instead of users.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import print_result, say
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.statistics.bootstrap import LEVEL, estimates
from src.statistics.comparison import POWER
from src.statistics.holm import holm
from tests.support.simulated_comparisons import (
    DOMAINS,
    GAIN,
    KINDS,
    SHARES,
    bounds,
    contains,
    make_population,
    samples,
    simulate,
    user_numbers,
)

ALPHA = 0.05
USERS = (30, 100, 300, 1000)


def null_rows(kind: str, users: int, simulations: int, *, by_target: bool = False) -> list[dict]:
    """Equal models: false findings, and intervals that contain 0."""
    outcome = simulate(make_population(kind, 0), users, simulations, by_target=by_target)
    families = np.array([holm(p[: len(DOMAINS)]).min() for p in outcome.p])
    data = f"{kind}, targets as users" if by_target else kind
    fewest = len(DOMAINS) - 1
    rows = {
        "p ≤ .05, macro": (outcome.p[:, -2] <= ALPHA, ALPHA, "most"),
        "Holm's p ≤ .05 in any domain": (families <= ALPHA, ALPHA, "most"),
        "0 in the interval, macro": (outcome.covered[:, -2], LEVEL, "least"),
        f"0 in the interval, {SHARES[fewest]:.0%}": (outcome.covered[:, fewest], LEVEL, "least"),
    }
    return [_row(data, users, what, *row) for what, row in rows.items()]


def power_rows(kind: str, simulations: int) -> list[dict]:
    """Models whose true difference is just detectable with so many users."""
    population = make_population(kind, GAIN)
    users = population.needed_users()
    outcome = simulate(population, users, simulations)
    data = f"{kind}, difference {population.truth[-1] / outcome.detectable:.2f} × detectable"
    return [
        _row(data, users, "p ≤ .05, users", outcome.p[:, -1] <= ALPHA, POWER, "about"),
        _row(data, users, "in the interval, users", outcome.covered[:, -1], LEVEL, "least"),
    ]


def percentile_rows(kind: str, users: int, simulations: int) -> list[dict]:
    """The coverage of the percentiles of the bootstrap, instead of the interval of `compare`."""
    population = make_population(kind, 0)
    covered = [
        contains(
            estimates(
                differences.ravel(), user_numbers(differences), domains.ravel(), list(DOMAINS),
                resamples=499, seed=number,
            ),
            population.truth,
        )[-2]
        for number, (differences, domains) in enumerate(samples(population, users, simulations))
    ]  # fmt: skip
    what = "0 in the interval, macro"
    return [_row(f"{kind}, percentiles", users, what, np.array(covered), LEVEL, "least")]


def _row(
    data: str, users: int, what: str, happened: np.ndarray, promised: float, at: str
) -> dict[str, Any]:
    """One line of the table; `happened`: [S] whether it happened in each sample."""
    low, high = bounds(promised, len(happened), at)
    share = float(happened.mean())
    return {
        "data": data, "users": users, "what": what, "promised": f"{at} {promised:.2f}",
        "found": share, "bounds": [low, high], "within": low <= share <= high,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Simulate and print the table. Raises UserError."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--simulations", type=int, default=800, help="samples per row (default: 800)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    parsed = parser.parse_args(arguments)
    if parsed.simulations < 1:
        raise UserError(f"--simulations must be at least 1, not {parsed.simulations}")
    rows = []
    for kind in KINDS:
        for users in USERS:
            rows += null_rows(kind, users, parsed.simulations)
            say(f"{kind}, {users} users: done")
        rows += power_rows(kind, parsed.simulations)
        say(f"{kind}, a difference: done")
    for users in USERS:
        rows += percentile_rows("dense", users, parsed.simulations)
    rows += null_rows("clustered", USERS[-1], parsed.simulations, by_target=True)
    table = [["data", "users", "what", "promised", "found", "bounds", ""]]
    table += [
        [
            row["data"], row["users"], row["what"], row["promised"], f"{row['found']:.3f}",
            "{:.3f} to {:.3f}".format(*row["bounds"]), "" if row["within"] else "!",
        ]
        for row in rows
    ]  # fmt: skip
    print_result({"simulations": parsed.simulations, "rows": rows}, table, parsed.json)


if __name__ == "__main__":
    run_command(main)
