"""A made-up export of three services, as a company might have it, to try docs/own_logs.md with.

    python experiments/example_export.py exports

Writes exports/travel.csv, books.csv and games.csv: separated by semicolons, dates such as
17.08.2024 12:58, views beside purchases, a few rows that cannot be used; and exports/items.csv,
which holds no events. The events are generated (src/dataset/generator): books and games follow
one interest of a user, travel hardly.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.dataset.generator.planted import SyntheticConfig, generate
from src.io.errors import UserError, run_command

SERVICES = ("travel", "books", "games")
CONFIG = SyntheticConfig(
    out="exports", users=800, events=24, clusters=8, cluster_items=15, domains=SERVICES,
    relatedness=(0.1, 1.0, 0.8), noise=0.2, seed=7,
)  # fmt: skip
HEADER = "customer;article;action;created"
DIRTY = ("c0001;;buy;01.03.2023 10:00", "c0002;books-7;buy;31.02.2023 10:00", "c0003;books-9;buy")
VIEWS = 0.3  # views for each purchase


def main() -> None:
    """Write the export into the folder of the command line."""
    if len(sys.argv) != 2:
        raise UserError(f"give a folder: python {sys.argv[0]} exports")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    log, rng = generate(CONFIG), np.random.default_rng(7)
    rows: dict[str, list[str]] = {name: [] for name in SERVICES}
    for user, domain, item, time in zip(log.users, log.domains, log.items, log.times, strict=True):
        name = SERVICES[domain]
        created = datetime.fromtimestamp(int(time), UTC).strftime("%d.%m.%Y %H:%M")
        line = f"c{user:04d};{name}-{item};%s;{created}"
        rows[name] += [line % "view"] * (rng.random() < VIEWS) + [line % "buy"]
    rows["books"] += DIRTY
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    (folder / "items.csv").write_text("article;title\nbooks-7;A book\n")
    print(f"{sum(map(len, rows.values())):,} rows in {folder}")


if __name__ == "__main__":
    run_command(main)
