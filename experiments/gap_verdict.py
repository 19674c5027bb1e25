"""Over all logs: does a gap, known while training, predict what joining the domains does to each?

    python experiments/gap_verdict.py --out results/gap_verdict \\
        default=controls:heldout,weightings:heldout,ciao:syncrec uniform=controls:uniform,…

A group NAME=SPEC:MODEL,… joins the domains that a model has in results/SPEC_gaps.csv of several
specs (`transfer` in a spec writes them). For each group, in each log and over all of them:
Spearman's ρ of each gap with the measured transfer, with its interval over domains, and in how many
domains the sign of the mean gap over seeds is that of the transfer.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.runner.gaps import PREDICTORS
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.io.files import write_atomically
from src.io.paths import ROOT
from src.report.formatting import interval, number
from src.report.table_files import markdown
from src.report.transfer.gamma_correlation import correlation

NEUTRAL = dict.fromkeys(PREDICTORS, 0.0) | {"share": 1.0}


def main(arguments: list[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("groups", nargs="+", metavar="NAME=SPEC:MODEL,…")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.csv and OUT.md")
    given = parser.parse_args(arguments)
    rows = []
    for group in given.groups:
        name, _, members = group.partition("=")
        points = pd.concat(read_points(given.results, one) for one in members.split(","))
        logs = points.data.unique()
        for log in ["all", *logs] if len(logs) > 1 else logs:
            own = points if log == "all" else points[points.data == log]
            rows += [{"runs": name, "log": log} | row for row in verdicts(own)]
    write(pd.DataFrame(rows), given.out)


def read_points(results: Path, member: str) -> pd.DataFrame:
    """The domains of SPEC:MODEL. UserError where there are none."""
    spec, _, model = member.partition(":")
    path = results / f"{spec}_gaps.csv"
    if not path.is_file():
        raise UserError(f"{path} does not exist; make the tables of spec {spec}")
    points = pd.read_csv(path)
    if model not in set(points.model):
        known = ", ".join(points.model.unique())
        raise UserError(f"{path} has no model {model!r}; it has {known}")
    return points[points.model == model]


def verdicts(points: pd.DataFrame) -> list[dict]:
    """What each gap says of the transfer, of the gaps that were measured."""
    rows = []
    means = points.groupby(["data", "domain"])[[*PREDICTORS, "transfer"]].mean()
    for column, label in PREDICTORS.items():
        found = correlation(points, column)
        if not found.points:
            continue
        known = means[means[column].notna()]
        same = np.sign(known[column] - NEUTRAL[column]) == np.sign(known.transfer)
        rows.append(
            {
                "gap": label, "rho": found.rho, "low": found.low, "high": found.high,
                "same_sign": int(same.sum()), "domains": len(known), "verdict": found.verdict,
            }
        )  # fmt: skip
    return rows


def write(table: pd.DataFrame, out: Path) -> None:
    cells = [
        [
            row.runs, row.log, row.gap, number(row.rho, 2),
            interval(row.low, row.high, 2) if np.isfinite(row.low) else "–",
            f"{row.same_sign} of {row.domains}", row.verdict,
        ]
        for row in table.itertuples()
    ]  # fmt: skip
    head = ["runs", "log", "known while training", "ρ", "95 % interval", "same sign", "verdict"]
    text = markdown(head, cells, 3) + "\n"
    write_atomically(out.with_suffix(".md"), lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(out.with_suffix(".csv"), lambda path: table.to_csv(path, index=False))
    print(text)


if __name__ == "__main__":
    run_command(main)
