"""Tables from finished runs: run folders -> Markdown on the console, CSV and Markdown in files.

    python report.py table runs/amazon/RUN [RUN …] [--metrics ndcg@10 hr@10] [--out results/NAME]

Everything is read from results.json and config.json: nothing is trained or scored again.
"""

import argparse
import csv
import io
from pathlib import Path

from src.arguments import OneLineParser, read_json
from src.baselines import BASELINES
from src.errors import UserError, run_command
from src.evaluation.metrics import METRICS
from utils import write_atomically

COLUMNS = ("run", "mode", "loss", "seed", "path", "split", "protocol", "domain", "metric", "value")


def read_runs(folders: list[Path]) -> dict[str, tuple[dict, dict]]:
    """{run name: (config, results)}; UserError for an unfinished run or runs of different data."""
    runs, data = {}, {}
    for folder in folders:
        if not (folder / "results.json").is_file():
            raise UserError(f"{folder} holds no finished run (no results.json); train it first")
        if folder.name in runs:
            raise UserError(f"two runs are called {folder.name}; report one of them")
        config = read_json(folder / "config.json", "config of the run")
        results = read_json(folder / "results.json", "results of the run")
        environment = read_json(folder / "environment.json", "environment of the run")
        runs[folder.name] = (config, results)
        data[folder.name] = environment["data_sha256"]
    first = next(iter(data))
    for name, sha256 in data.items():
        if sha256 != data[first]:
            raise UserError(f"runs {first} and {name} stand on different data; report them apart")
    return runs


def tidy_rows(runs: dict[str, tuple[dict, dict]]) -> list[tuple]:
    """One row a value, all splits and protocols; the baselines once, under their own names."""
    rows, seen = [], set()
    for name, (config, results) in runs.items():
        for split, protocols in results.items():
            for protocol, paths in protocols.items():
                for path, domains in paths.items():
                    baseline = path in BASELINES
                    if baseline and (split, protocol, path) in seen:
                        continue
                    seen.add((split, protocol, path))
                    facts = ("", "", "") if baseline else _facts(config)
                    label = path if baseline else name
                    fixed = (label, *facts, path, split, protocol)
                    rows += [
                        (*fixed, domain, metric, value)
                        for domain, metrics in domains.items()
                        for metric, value in metrics.items()
                    ]
    return rows


def _facts(config: dict) -> tuple:
    return config["mode"], config["loss"], config["seed"]


def markdown_table(rows: list[tuple], split: str, protocol: str, metrics: list[str]) -> str:
    """A row a model and path, a column a domain; the cells hold `metrics` with slashes between."""
    models: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    domains: dict[str, None] = {}
    for run, *_, path, row_split, row_protocol, domain, metric, value in rows:
        if (row_split, row_protocol) == (split, protocol):
            models.setdefault((run, path), {})[domain, metric] = value
            domains[domain] = None
    if not models:
        raise UserError(f"no run has split {split}, protocol {protocol}")
    order = sorted(models, key=lambda model: (model[0] not in BASELINES, list(models).index(model)))
    counts = [f"{name} (n = {models[order[0]][name, 'n']})" for name in domains]
    lines = ["| model | path | " + " | ".join(counts) + " |"]
    lines.append("|---|---|" + "---:|" * len(domains))
    for run, path in order:
        values = models[run, path]
        cells = [_cell(values, name, metrics) for name in domains]
        shown = "" if run == path else path
        lines.append(f"| {run} | {shown} | " + " | ".join(cells) + " |")
    title = f"{split}, protocol `{protocol}`: {' / '.join(metric.upper() for metric in metrics)}"
    return f"{title}\n\n" + "\n".join(lines) + "\n"


def _cell(values: dict[tuple[str, str], float], domain: str, metrics: list[str]) -> str:
    """The metrics of a domain; a dash where it has no target."""
    if not values[domain, "n"]:
        return "–"
    return " / ".join(f"{values[domain, metric]:.4f}".removeprefix("0") for metric in metrics)


def write_tables(rows: list[tuple], table: str, out: Path) -> None:
    """OUT.csv with every value, OUT.md with the table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out.with_suffix(".csv"), lambda path: path.write_text(text.getvalue()))
    write_atomically(out.with_suffix(".md"), lambda path: path.write_text(table))


def parse_arguments() -> argparse.Namespace:
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="runs side by side, by domain", allow_abbrev=False)
    table.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    table.add_argument("--split", default="test", choices=("valid", "test"))
    table.add_argument("--protocol", default="full", help="candidates: full or sampled")
    table.add_argument("--metrics", nargs="+", default=["ndcg@10", "hr@10"], choices=METRICS)
    table.add_argument("--out", type=Path, help="also write OUT.csv and OUT.md")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    rows = tidy_rows(read_runs(arguments.runs))
    table = markdown_table(rows, arguments.split, arguments.protocol, arguments.metrics)
    if arguments.out:
        write_tables(rows, table, arguments.out)
    print(table)


if __name__ == "__main__":
    run_command(main)
