"""The flags of `report.py`, by command."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.config.modes import BASELINE_MODES, JOINT_MODE, PATHS, SERVED, TWO_VIEW_MODE
from src.config.names import COUNTED, METRICS


def table_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `report.py table`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument(
        "--split", default="test", choices=("valid", "test"), help="split to show (default: test)"
    )
    parser.add_argument(
        "--protocol", default="full", help="candidate protocol: full, sampled, … (default: full)"
    )
    parser.add_argument(
        "--metrics", nargs="+", default=["ndcg@10", "hr@10"], metavar="METRIC",
        help="metrics in each cell (default: ndcg@10 hr@10)",
    )  # fmt: skip
    parser.add_argument(
        "--limits", type=Path, metavar="FILE",
        help="limits.csv of a generated log: adds each domain's share of its limit to NDCG@10",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="also write OUT.csv (every value of the runs) and OUT.md"
    )


def compare_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `report.py compare`."""
    paths = ", ".join((*PATHS, SERVED, *COUNTED))
    parser.add_argument(
        "runs", nargs="+", metavar="RUN[:PATH]",
        help=f"run folders, each with the path that ranks: {paths} (default: the one that selected "
        "the checkpoint); runs that differ only in the seed are averaged; every later model is "
        "compared with the first",
    )  # fmt: skip
    parser.add_argument(
        "--metric", nargs="+", default=["ndcg@10"], choices=METRICS, metavar="METRIC",
        help=f"one or more of {', '.join(METRICS)} (default: ndcg@10)",
    )  # fmt: skip
    parser.add_argument(
        "--split", default="test", choices=("valid", "test"), help="split to use (default: test)"
    )
    parser.add_argument(
        "--protocol", default="full", help="candidate protocol: full, sampled, … (default: full)"
    )
    parser.add_argument("--out", type=Path, help="also write OUT.csv and OUT.md")


def protocols_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `report.py protocols`."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="run folders; runs that differ only in the seed are averaged",
    )  # fmt: skip
    parser.add_argument(
        "--metrics", nargs="+", default=["ndcg@10", "hr@10"], choices=METRICS, metavar="METRIC",
        help=f"one table for each of {', '.join(METRICS)} (default: ndcg@10 hr@10)",
    )  # fmt: skip
    parser.add_argument(
        "--split", default="test", choices=("valid", "test"), help="split to use (default: test)"
    )
    parser.add_argument("--out", type=Path, help="also write OUT.csv and OUT.md")


def transfer_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `report.py transfer`."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help=f"run folders: for each data set --mode {' and/or '.join(BASELINE_MODES)}, "
        f"{JOINT_MODE} and {TWO_VIEW_MODE}, each with one or more seeds",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("report"),
        help="folder of the report; an existing report is replaced (default: report)",
    )  # fmt: skip
    parser.add_argument(
        "--metric", default="ndcg@10", choices=METRICS,
        help="metric of the differences (default: ndcg@10)",
    )  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command of report.py."""

    path: str  # "module:function", called with its parsed flags
    summary: str
    add_flags: Callable[[argparse.ArgumentParser], None]


COMMANDS = {
    "table": Command("src.report.table:run", "runs side by side, by domain", table_flags),
    "compare": Command(
        "src.report.compare:run",
        "paired differences on the same targets, with intervals and p-values",
        compare_flags,
    ),
    "protocols": Command(
        "src.report.protocols:run", "models under every candidate protocol of their runs",
        protocols_flags,
    ),
    "transfer": Command(
        "src.report.transfer.command:run",
        "the negative-transfer report: one page, its figures and tables",
        transfer_flags,
    ),
}  # fmt: skip
