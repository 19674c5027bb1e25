"""Tables of the ABXI runs: paired differences, and the effect of the order of tied events.

    python experiments/abxi_tables.py runs/abxi --out results/abxi

Writes OUT_differences.csv and .md (the macro mean of NDCG@10 under `full`; the CSV also has the
domains), and OUT_ties.csv and .md: the same models on the log with tied events in hashed order and
as logged, each also with strict contexts (without events of the target's own day).
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.report.compare import Row, compare_pair
from src.report.finished_runs import read_runs
from src.report.formatting import ALPHA, interval, number, p_cell, signed
from src.report.seed_groups import Ranker, SeedGroup, group_seeds
from src.report.table_files import markdown, write_tables

METRIC = "ndcg@10"
PAIRS = [  # (run name, path) minus (run name, path)
    (("cdsr", "cross"), ("sdsr_separate", "single")),
    (("cdsr", "cross"), ("sdsr", "single")),
    (("cdsr", "cross"), ("sasrec", "cross")),
    (("syncrec", "cross"), ("cdsr", "cross")),
    (("syncrec", "cross"), ("syncrec", "single")),
    (("syncrec", "single"), ("sdsr", "single")),
    (("syncrec", "served"), ("sdsr_separate", "single")),
    (("cdsr", "cross"), ("cdsr", "markov")),
]
MODELS = ("sdsr_separate", "sdsr", "cdsr", "syncrec", "sasrec")
SEED = 42  # the only seed trained on both orders
PROTOCOLS = ("full", "full-strict")


def seeds_of(runs: Path, name: str, loss: str) -> SeedGroup:
    """The seeds of a model and loss."""
    folders = sorted(runs.glob(f"{name}-{loss}-seed*"))
    if not folders:
        raise UserError(f"{runs} has no run {name}-{loss}-seed*; run experiments/abxi.sh first")
    (group,) = group_seeds(read_runs(folders))
    return group


def differences(runs: Path) -> list[Row]:
    """The rows of every pair: its domains and means."""
    rows = []
    for loss in ("ce", "bce"):
        for pair in PAIRS:
            if loss == "bce" and ("sasrec", "cross") in pair:
                continue  # not trained
            first, second = (Ranker(seeds_of(runs, name, loss), path) for name, path in pair)
            rows += compare_pair(first, second, "test", "full", [METRIC])
    return rows


def differences_text(rows: list[Row]) -> str:
    """One row per pair: the macro mean, and the number of domains in which each one is better."""
    domains: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.domain not in ("macro", "users"):
            domains.setdefault((row.first, row.second), []).append(row)
    head = ["first", "second", "first − second", "± over seeds", "95 % interval", "p"]
    head += ["detectable", "domains: better / worse / not significant"]
    cells = []
    for row in rows:
        if row.domain != "macro":
            continue
        significant = [one for one in domains[row.first, row.second] if one.p_holm < ALPHA]
        better = sum(one.difference > 0 for one in significant)
        count = len(domains[row.first, row.second])
        cells.append(
            [
                row.first, row.second, signed(row.difference),
                "–" if row.seed_deviation is None else number(row.seed_deviation),
                interval(row.low, row.high), p_cell(row.p),
                number(row.detectable),
                f"{better} / {len(significant) - better} / {count - len(significant)}",
            ]
        )  # fmt: skip
    return markdown(head, cells, 2)


def ties(runs: Path) -> list[tuple]:
    """(model, path, order, protocol, value) of one seed, and of Markov."""
    rows = []
    for name in MODELS:
        for order, part in (("hashed", ""), ("as_logged", "-logged")):
            (run,) = read_runs([runs / f"{name}-ce{part}-seed{SEED}"])
            paths = [path for path in run.paths if path != "served"]
            paths += ["markov"] if name == MODELS[0] else []
            for path in paths:
                for protocol in PROTOCOLS:
                    value = run.scores("test", protocol, path)["macro"][METRIC]
                    rows.append((path if path == "markov" else name, path, order, protocol, value))
    return rows


def ties_text(rows: list[tuple]) -> str:
    """One row per model and path; the last column: what the logged order adds to the metric."""
    by_row: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for name, path, order, protocol, value in rows:
        by_row.setdefault((name, path), {})[order, protocol] = value
    head = ["model", "path", "as logged", "as logged, strict", "hashed", "hashed, strict"]
    columns = [(order, name) for order in ("as_logged", "hashed") for name in PROTOCOLS]
    cells = []
    for (name, path), values in by_row.items():
        logged, hashed = values["as_logged", "full"], values["hashed", "full"]
        share = f"{100 * (logged - hashed) / logged:.0f} %".replace("-", "−")
        cells.append(
            [name, "" if name == path else path, *(number(values[c]) for c in columns), share]
        )
    return markdown([*head, "due to the logged order"], cells, 2)


def main() -> None:
    """Write both tables and print them."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="OUT_differences, OUT_ties")
    arguments = parser.parse_args()
    rows = differences(arguments.runs)
    text = differences_text(rows)
    columns = [field.name for field in dataclasses.fields(Row)]
    out = arguments.out.with_name(f"{arguments.out.name}_differences")
    write_tables(out, columns, [dataclasses.astuple(row) for row in rows], text)
    values = ties(arguments.runs)
    order = ties_text(values)
    out = arguments.out.with_name(f"{arguments.out.name}_ties")
    write_tables(out, ["model", "path", "tie_order", "protocol", METRIC], values, order)
    print(f"{text}\n{order}")


if __name__ == "__main__":
    run_command(main)
