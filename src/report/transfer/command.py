"""`report.py transfer`: run folders -> the negative-transfer report.

A report is a folder: `report.html` (one page, opens from the file, asks for nothing outside),
`figures/` (the same figures as PNG), `tables/` (every value as CSV, what the page shows as
Markdown). It is built beside its place and renamed when it is complete.
"""

import argparse
from pathlib import Path

from src.evaluation.metrics import METRICS
from src.report.compared_paths import data_sets
from src.report.finished_runs import read_runs
from src.report.folder import PAGE, check_replaceable, replace_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="run folders: on each data set --mode sdsr and/or sdsr_separate, cdsr and syncrec, "
        "each with one or more seeds",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("report"),
        help="folder of the report; a report that is there is replaced (default: report, in the "
        "current folder)",
    )  # fmt: skip
    parser.add_argument("--metric", default="ndcg@10", choices=METRICS)


def run(arguments: argparse.Namespace) -> None:
    """Build the report and say where it is; UserError before anything is written."""
    # Here, because it loads the plotting library, which the other commands do without.
    from src.report.document import build

    check_replaceable(arguments.out)
    found = data_sets(read_runs(arguments.runs))
    document = build(found, arguments.metric)
    replace_folder(arguments.out, document.write)
    print(document.text())
    print(f"report: {arguments.out / PAGE}")
