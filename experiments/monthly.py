"""The table of docs/retraining.md: December trained from scratch or from November's weights.

    python experiments/monthly.py runs/planted --seeds 1 2 3 --out results/monthly

Reads the runs of experiments/monthly.sh. Writes OUT.md (the table) and OUT.csv (the validation of
every epoch and each test result, one value per row).
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.io.files import write_atomically
from src.runs.records import read_results

SCRATCH = "202312-scratch"
RUNS = {
    SCRATCH: "from scratch",
    "202312": "from 202311's weights",
    "202312-short": "from 202311's weights, a quarter of the epochs",
}


def validation(folder: Path) -> pd.Series:
    """NDCG@10 of the cross path on the validation split, macro mean, by epoch."""
    rows = pd.read_csv(folder / "metrics.csv")
    chosen = (rows.split == "valid") & (rows.path == "cross") & (rows.domain == "macro")
    return rows[chosen & (rows.metric == "ndcg@10")].set_index("epoch").value


def score_on_test(folder: Path) -> float:
    """NDCG@10 of the cross path on the test split, macro mean, under `full`."""
    results = read_results(folder)
    return results["test"]["full"]["cross"]["macro"]["ndcg@10"]


def read_runs(runs: Path, seeds: list[int]) -> pd.DataFrame:
    """One row per value: run, seed, epoch (none for the test), split, value."""
    rows = []
    for name in RUNS:
        for seed in seeds:
            folder = runs / f"monthly-{name}-seed{seed}"
            if not (folder / "results.json").is_file():
                raise UserError(f"{folder} is not a finished run; run experiments/monthly.sh first")
            rows += [
                (name, seed, epoch, "valid", value) for epoch, value in validation(folder).items()
            ]
            rows.append((name, seed, None, "test", score_on_test(folder)))
    table = pd.DataFrame(rows, columns=["run", "seed", "epoch", "split", "value"])
    return table.astype({"epoch": "Int64"})


def row_of(rows: pd.DataFrame, name: str) -> str:
    """A line of the table: means over seeds, and the epochs of each seed."""
    seeds, best, first, reached, epochs, tests = rows[rows.run == name], [], [], [], [], []
    for seed, part in seeds.groupby("seed"):
        curve = part[part.split == "valid"].set_index("epoch").value
        scratch = rows[(rows.run == SCRATCH) & (rows.seed == seed) & (rows.split == "valid")]
        as_good = curve.index[curve >= scratch.value.max()]
        first.append(curve.get(0, np.nan))
        trained = curve.drop(index=0, errors="ignore")  # epoch 0 cannot become best.pt
        best.append(trained.max())
        reached.append(str(as_good.min()) if len(as_good) else "never")
        epochs.append(len(trained))
        tests.append(part[part.split == "test"].value.item())
    cells = [RUNS[name], str(max(epochs)), _mean(first), _mean(best), ", ".join(reached)]
    return "| " + " | ".join([*cells, _mean(tests)]) + " |"


def _mean(values: list[float]) -> str:
    if np.isnan(values).any():
        return "–"
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def main() -> None:
    """Write the table and print it. Raises UserError."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(1 2 3)")
    parser.add_argument("--out", type=Path, required=True, help="write OUT.md and OUT.csv")
    arguments = parser.parse_args()
    rows = read_runs(arguments.runs, arguments.seeds)
    heads = (
        "202312 trained", "epochs", "validation before the first step", "best validation",
        "first epoch as good as from scratch (by seed)", "test",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---|---:|---:|---:|---:|---:|"]
    text = "\n".join([*lines, *(row_of(rows, name) for name in RUNS)]) + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out.with_suffix(".md"), lambda path: path.write_text(text))
    write_atomically(arguments.out.with_suffix(".csv"), lambda path: rows.to_csv(path, index=False))
    print(text)


if __name__ == "__main__":
    run_command(main)
