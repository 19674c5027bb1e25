"""`report.py transfer`: run folders -> the negative-transfer report.

A report is a folder: `report.html` (one page that needs nothing else), `figures/` (the figures as
PNG) and `tables/` (every value as CSV, the shown tables as Markdown). It is built beside its final
place and renamed when it is complete.
"""

import argparse

from src.report.finished_runs import read_runs
from src.report.transfer.data_sets import data_sets
from src.report.transfer.report_folder import PAGE, check_replaceable, replace_folder


def run(arguments: argparse.Namespace) -> None:
    """Build the report and print where it is; UserError before anything is written."""
    # Imported here because it loads the plotting library, which the other commands do not need.
    from src.report.transfer.sections import build

    check_replaceable(arguments.out)
    runs = read_runs(arguments.runs)
    for one in runs:
        one.check_metric(arguments.metric)
    document = build(data_sets(runs), arguments.metric)
    replace_folder(arguments.out, document.write)
    print(document.text())
    print(f"report: {arguments.out / PAGE}")
