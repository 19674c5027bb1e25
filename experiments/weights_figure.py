"""How far loss weights move: w of each domain by epoch, one panel per run.

    python experiments/weights_figure.py "paper's rule"=runs/wikispeedia/paper-seed42 \
        "held-out gap"=runs/wikispeedia/heldout-seed42 --out results/wikispeedia_weights

Writes OUT.csv (run, epoch, domain, phi, weight) and OUT.png. The domains that end with the largest
and the smallest weight of a run are named, the others are grey.
"""

import sys
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command
from src.io.files import check_output, write_atomically
from src.report.finished_runs import read_runs
from src.report.transfer import figure_style as style


def main(words: list[str] | None = None) -> None:
    """Read the runs, write both files."""
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="run folders with both views")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.csv and OUT.png")
    given = parser.parse_args(words)
    for suffix in (".csv", ".png"):
        check_output(given.out.with_suffix(suffix), "--out")
    runs = [named(word) for word in given.runs]
    if len({name for name, _ in runs}) < len(runs):
        raise UserError("two runs have the same NAME")
    table = pd.concat([weights(*run) for run in runs])
    write_atomically(given.out.with_suffix(".png"), lambda path: draw(table, path))
    write_atomically(given.out.with_suffix(".csv"), lambda path: table.to_csv(path, index=False))
    print(table.groupby("run", sort=False).weight.agg(["min", "max"]).to_string())


def named(word: str) -> tuple[str, Path]:
    """The label of a panel and its run."""
    name, equals, folder = word.rpartition("=")
    if not equals or not name:
        raise UserError(f"{word}: give NAME=RUN")
    return name, Path(folder)


def weights(name: str, folder: Path) -> pd.DataFrame:
    """The rows of a run: run, epoch, domain, phi, weight."""
    (run,) = read_runs([folder])
    transfer = run.transfer()
    if transfer is None:
        raise UserError(f"{folder} has no transfer.csv: it was trained with one view")
    rows = transfer[["epoch", "domain", "phi", "weight"]].round(4)
    return rows.assign(run=name)[["run", *rows.columns]]


def draw(table: pd.DataFrame, path: Path) -> None:
    """One panel per run, with a common axis."""
    names = list(table.run.unique())
    matplotlib.use("Agg")
    width = 3.6 * len(names) + 0.6
    figure, axes = pyplot.subplots(1, len(names), figsize=(width, 2.9), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        lines = table[table.run == name].pivot(index="epoch", columns="domain", values="weight")
        ends = lines.iloc[-1]
        marked = {ends.idxmax(): style.VERMILION, ends.idxmin(): style.BLUE}
        for domain, line in lines.items():
            colour, front = marked.get(domain, style.GREY), domain in marked
            label = f"{domain}: {line.iloc[-1]:.2f}" if front else None
            axis.plot(line.index, line, color=colour, linewidth=1.6 if front else 0.7, label=label)
        axis.axhline(1, color=style.BLACK, linewidth=0.6)
        axis.set(title=name, xlabel="epoch")
        axis.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("weight of the domain's loss")
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    run_command(main)
