"""What the README reads off the ABXI runs: paired differences, and what the order of ties is worth.

    python experiments/abxi_tables.py runs/abxi --out results/abxi

Writes OUT_differences.csv and .md (the macro mean of NDCG@10 under `full`; the CSV has the domains)
and OUT_ties.csv and .md: the same models on the log with ties in hashed order and as logged, each
also from strict contexts, without the events of the target's own day.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.report.compare import Row, Side, compared
from src.report.finished_runs import Model, group_by_seed, read_runs
from src.report.output import markdown, write_tables
from src.report.wording import interval, number, signed

METRIC = "ndcg@10"
PAIRS = [  # (model, path) against (model, path)
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
SEED = 42  # of the runs on the log as it stands
VIEWS = ("full", "full-strict")


def model(runs: Path, name: str, loss: str) -> Model:
    """The runs of a model and loss, one a seed."""
    folders = sorted(runs.glob(f"{name}-{loss}-seed*"))
    if not folders:
        raise UserError(f"{runs} has no run {name}-{loss}-seed…; run experiments/abxi.sh")
    (found,) = group_by_seed(read_runs(folders))
    return found


def differences(runs: Path) -> list[Row]:
    """Every domain and mean of every pair."""
    rows = []
    for loss in ("ce", "bce"):
        for pair in PAIRS:
            if loss == "bce" and ("sasrec", "cross") in pair:
                continue  # not trained
            sides = [Side(model(runs, name, loss), path) for name, path in pair]
            rows += compared(*sides, "test", "full", [METRIC])
    return rows


def differences_text(rows: list[Row]) -> str:
    """A row a pair: the macro mean, and in how many domains each side is the better one."""
    domains: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.domain not in ("macro", "users"):
            domains.setdefault((row.first, row.second), []).append(row)
    head = ["first", "second", "first − second", "± over seeds", "95 % interval", "p"]
    head += ["detectable", "domains: better / worse / cannot tell"]
    cells = []
    for row in rows:
        if row.domain != "macro":
            continue
        told = [own for own in domains[row.first, row.second] if own.p_holm < 0.05]
        better = sum(own.difference > 0 for own in told)
        count = len(domains[row.first, row.second])
        cells.append(
            [
                row.first, row.second, signed(row.difference),
                "–" if row.seed_deviation is None else number(row.seed_deviation),
                interval(row.low, row.high), "< 0.001" if row.p < 0.001 else f"{row.p:.3f}",
                number(row.detectable),
                f"{better} / {len(told) - better} / {count - len(told)}",
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
                for view in VIEWS:
                    value = run.scores("test", view, path)["macro"][METRIC]
                    rows.append((path if path == "markov" else name, path, order, view, value))
    return rows


def ties_text(rows: list[tuple]) -> str:
    """A row a model and path; the last column is what the order as logged adds to the figure."""
    found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for name, path, order, view, value in rows:
        found.setdefault((name, path), {})[order, view] = value
    head = ["model", "path", "as logged", "as logged, strict", "hashed", "hashed, strict"]
    columns = [(order, view) for order in ("as_logged", "hashed") for view in VIEWS]
    cells = []
    for (name, path), values in found.items():
        logged, hashed = values["as_logged", "full"], values["hashed", "full"]
        share = f"{100 * (logged - hashed) / logged:.0f} %".replace("-", "−")
        cells.append(
            [name, "" if name == path else path, *(number(values[c]) for c in columns), share]
        )
    return markdown([*head, "from the order as logged"], cells, 2)


def main() -> None:
    """Write both tables and print them."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="OUT_differences and OUT_ties")
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
