"""Run the experiment of a spec: its datasets, its runs, their records, its tables.

    python experiments/run.py experiments/specs/NAME.toml --data DIR

What is recorded in results/runs/ is not trained again, what was interrupted goes on. Afterwards the
tables of the spec are in results/NAME.md and .csv; --tables makes them from the records alone.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.runner.count_models import missing_count_models, record_count_models
from experiments.runner.grid import Grid, Places
from experiments.runner.pool import Pool
from experiments.runner.search import read_studies, search, with_best_trials
from experiments.runner.spec import read_spec
from experiments.runner.tables import write_spec_tables
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.io.paths import ROOT
from src.report.run_records import read_records


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("spec", type=Path, metavar="SPEC", help="a file of experiments/specs/")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of the real logs")
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="runs at a time (default: 2, or one per device), one CPU thread each",
    )  # fmt: skip
    parser.add_argument(
        "--devices", nargs="+", default=["cpu"], metavar="DEVICE",
        help="where they run, in turn: cpu, cuda:0 cuda:1 … (default: cpu)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads of a run (default: 1)"
    )
    parser.add_argument(
        "--tables", action="store_true", help="only make the tables, from the records"
    )
    for name, default, what in (
        ("runs_dir", ROOT / "runs", "run folders"),
        ("records", ROOT / "results" / "runs", "records"),
        ("results", ROOT / "results", "tables"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, default=default, metavar="DIR", help=f"folder of the {what}"
        )
    parser.add_argument(
        "--datasets", type=Path, metavar="DIR",
        help="folder of the datasets (default: src/dataset/processed)",
    )  # fmt: skip
    given = parser.parse_args(words)
    given.jobs = given.jobs or (2 if given.devices == ["cpu"] else len(given.devices))
    if given.jobs < 1 or given.threads < 1:
        raise UserError("--jobs and --threads must be at least 1")
    return given


def main(words: list[str] | None = None) -> None:
    """Run what is missing, then make the tables. Exit status 1 where a run failed."""
    given = parse(words)
    spec = read_spec(given.spec)
    slots = [given.devices[number % len(given.devices)] for number in range(given.jobs)]
    folders = (given.runs_dir, given.records, given.datasets, given.data)
    places = Places(*(folder and folder.resolve() for folder in folders))
    grid = Grid(spec, places, Pool(slots, given.threads))
    if not given.tables:
        with grid.pool:
            train(grid, given.results)
    try:
        write_spec_tables(grid, given.results)
    except UserError as error:
        if not grid.failed:  # else these are the reason
            raise
        print(f"no tables: {error}")
    if grid.failed:
        print(f"{len(grid.failed)} run{'s' * (len(grid.failed) != 1)} failed:", file=sys.stderr)
        for line in grid.failed:
            print(f"  {line}", file=sys.stderr)
        sys.exit(1)


def train(grid: Grid, results: Path) -> None:
    """Make the datasets that are needed; run the trials that searches lack, then the runs without a
    record, those of the best trials among them."""
    records = read_records(grid.places.records)
    grid.find_data(records, needed=set())
    studies = read_studies(grid, results)
    done = {study.search.name for study in studies if study.done}
    jobs = with_best_trials(grid.spec, studies).jobs()
    needed = {job.log.name for job in grid.missing(jobs, records)}
    needed |= {one.log for one in grid.spec.searches.values() if one.name not in done}
    needed |= {log for log, _ in missing_count_models(grid, records)}
    grid.find_data(records, needed)
    studies = read_studies(grid, results)
    search(grid, studies)
    grid.spec = with_best_trials(grid.spec, studies)
    jobs = grid.spec.jobs()
    missing = grid.missing(jobs, records)
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are recorded", flush=True)
    if missing:
        grid.work(missing)
    record_count_models(grid)


if __name__ == "__main__":
    run_command(main)
