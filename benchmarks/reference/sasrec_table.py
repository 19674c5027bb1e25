"""The table of sasrec.sh: tokens a second of both sides, and their ratio.

    python benchmarks/reference/sasrec_table.py RUNS [--json FILE]

RUNS holds one JSON line a run, in the order of the runs, as sasrec_rectools.py and sasrec_ours.py
print them. Every run of a side gives one rate, Σ real tokens / Σ seconds; a side's figure is the
median of its rates, beside the lowest and the highest one.
"""

import json
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.io.files import write_json

OURS = "this project"


def rate(run: dict) -> float:
    """Real tokens a second of one run."""
    return sum(run["tokens"]) / sum(run["seconds"])


def check_runs(runs: list[dict]) -> None:
    """Refuse runs that cannot be compared: other users, threads or torch, or an unlike catalogue.

    RecTools knows only the items of its training events, a few fewer than the dataset has.
    """
    first = runs[0]
    for run in runs:
        for key in ("users", "threads"):
            if run[key] != first[key]:
                raise UserError(
                    f"{run['model']} ran with {run[key]} {key}, {first['model']} with {first[key]}"
                )
        if run["torch"].split("+")[0] != first["torch"].split("+")[0]:
            raise UserError(f"torch {run['torch']} is compared with torch {first['torch']}")
        if abs(run["items"] / first["items"] - 1.0) > 0.01:
            raise UserError(
                f"{run['model']} ranks {run['items']} items, {first['model']} {first['items']}"
            )


def summarise(runs: list[dict]) -> list[dict]:
    """One row a model and precision, with the ratio to the other model's median at float32."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for run in runs:
        groups.setdefault((run["model"], run["precision"]), []).append(run)
    rows = []
    for (model, precision), members in groups.items():
        rates = [rate(run) for run in members]
        steps = sum(len(run["seconds"]) for run in members)
        rows.append(
            {
                "model": model,
                "precision": precision,
                "runs": len(members),
                "tokens_per_s": median(rates),
                "lowest": min(rates),
                "highest": max(rates),
                "step_ms": 1000 * median(sum(r["seconds"]) / len(r["seconds"]) for r in members),
                "tokens_per_step": sum(sum(run["tokens"]) for run in members) / steps,
                "items": members[0]["items"],
            }
        )
    base = [row for row in rows if row["model"] != OURS and row["precision"] == "float32"]
    for row in rows:
        row["ratio"] = row["tokens_per_s"] / base[0]["tokens_per_s"] if base else None
    return rows


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | precision | tokens/s, median (lowest–highest of the runs) | ratio | ms a step "
        "| tokens a step | items |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['tokens_per_s']:,.0f} "
            f"({row['lowest']:,.0f}–{row['highest']:,.0f}) of {row['runs']} | {ratio} "
            f"| {row['step_ms']:,.0f} | {row['tokens_per_step']:,.0f} | {row['items']:,} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, help="file with one JSON line a run")
    parser.add_argument("--json", type=Path, help="write the rows and the runs there as well")
    options = parser.parse_args(arguments)
    runs = [json.loads(line) for line in options.runs.read_text().splitlines()]
    if not runs:
        raise UserError(f"{options.runs} holds no run")
    check_runs(runs)
    rows = summarise(runs)
    print(table(rows))
    if options.json:
        write_json(options.json, {"rows": rows, "runs": runs})


if __name__ == "__main__":
    run_command(main)
