"""Tables and figure of the planted log: gap and weight against the planted relatedness.

    python experiments/planted.py runs/planted --out results/planted

Reads the runs of experiments/planted.sh. Writes OUT.md (tables), OUT.csv (values) and OUT.png.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.config.cli import OneLineParser
from src.dataset.store.folder import dataset_folder, read_card
from src.io.errors import UserError, run_command
from src.io.files import write_atomically
from src.io.paths import ROOT
from src.runs.records import read_results

matplotlib.use("Agg")
SEEDS = (1, 2, 3)
SWEEP = {
    "uniform weights": "planted-uniform-1",
    "default": "planted-default-1",
    "τ 1, floor 0": "planted-tau1-floor0",
    "τ 0.1, floor 0": "planted-tau0.1-floor0",
    "τ 0.03, floor 0": "planted-tau0.03-floor0",
}


def planted_relatedness() -> dict[str, float]:
    """{domain: relatedness}, from the data card of the log."""
    notes = read_card(dataset_folder(ROOT, "planted", "202312"))["notes"]
    planted = json.loads(notes["planted_relatedness"])
    return dict(sorted(planted.items(), key=lambda pair: -pair[1]))


def read_run(folder: Path, split: str = "test") -> tuple[dict, pd.DataFrame]:
    """The results of a split under `full`, and transfer.csv, of a run."""
    results = read_results(folder)[split]["full"]
    return results, pd.read_csv(folder / "transfer.csv")


def last_epoch(transfer: pd.DataFrame, column: str, domains: list[str]) -> np.ndarray:
    """[D] a column of transfer.csv at the last epoch."""
    final = transfer[transfer.epoch == transfer.epoch.max()].set_index("domain")
    return final.loc[domains, column].to_numpy()


def seed_table(runs: Path, planted: dict[str, float]) -> tuple[str, list[tuple]]:
    """φ, γ and NDCG@10 of each domain over three seeds."""
    domains = list(planted)
    gap, gamma, scores = [], [], {}
    for seed in SEEDS:
        results, transfer = read_run(runs / f"planted-default-{seed}")
        uniform, _ = read_run(runs / f"planted-uniform-{seed}")
        gap.append(last_epoch(transfer, "phi", domains))
        gamma.append(last_epoch(transfer, "gamma", domains))
        for name, source, path in (
            ("SyNCRec cross", results, "cross"),
            ("SyNCRec single", results, "single"),
            ("cross, uniform weights", uniform, "cross"),
            ("item Markov", results, "markov"),
            ("popularity", results, "popularity"),
        ):
            row = [source[path][domain]["ndcg@10"] for domain in domains]
            scores.setdefault(name, []).append(row)
    columns = {"relatedness": np.array([list(planted.values())]), "φ": gap, "γ": gamma, **scores}
    lines = ["| domain | " + " | ".join(columns) + " | cross ÷ uniform |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    rows = []
    for number, domain in enumerate(domains):
        cells = []
        for name, values in columns.items():
            seeds = np.array(values)[:, number]
            cells.append(_cell(name, seeds))
            rows += [(domain, name, n, float(v)) for n, v in enumerate(seeds, 1)]
        ratio = np.array(scores["SyNCRec cross"]) / np.array(scores["cross, uniform weights"])
        cells.append(f"{ratio.mean(0)[number]:.3f} (lowest {ratio.min(0)[number]:.3f})")
        lines.append(f"| {domain} | " + " | ".join(cells) + " |")
    truth = list(planted.values())
    each = [spearmanr(truth, row).statistic for row in gamma]
    mean = spearmanr(truth, np.mean(gamma, axis=0)).statistic
    lines.append("")
    lines.append(
        f"Rank correlation of γ with the planted relatedness: {mean:.2f} for the mean over seeds; "
        "by seed: " + ", ".join(f"{value:.2f}" for value in each) + ". Lowest mean γ: "
        f"{domains[int(np.argmin(np.mean(gamma, axis=0)))]}."
    )
    transfer = np.mean(scores["SyNCRec cross"], axis=0) - np.mean(scores["SyNCRec single"], axis=0)
    correlation = spearmanr(transfer, np.mean(gamma, axis=0)).statistic
    lines.append("")
    lines.append(
        "Measured transfer (NDCG@10 cross − single, mean over seeds): "
        + ", ".join(f"{d} {t:+.4f}" for d, t in zip(domains, transfer, strict=True))
        + f". Rank correlation with γ: {correlation:.2f} over {len(domains)} domains."
    )
    return "\n".join(lines) + "\n", rows


def _cell(name: str, seeds: np.ndarray) -> str:
    if len(seeds) == 1:
        return f"{seeds[0]:g}"
    digits = 4 if name not in ("φ", "γ") else 3
    if np.ptp(seeds) == 0:  # a baseline: the same for every seed
        return f"{seeds[0]:.{digits}f}"
    return f"{seeds.mean():.{digits}f} ± {seeds.std(ddof=1):.{digits}f}"


def sweep_table(runs: Path, planted: dict[str, float]) -> str:
    """One seed under weightings of increasing strength.

    Cells: the weight w at the last epoch → NDCG@10 of the cross path on test. The macro mean is
    also given on validation, by which the defaults are chosen.
    """
    domains = list(planted)
    heads = [f"{name} (r = {planted[name]:g})" for name in domains]
    lines = [
        "| weighting | " + " | ".join(heads) + " | macro | validation |",
        "|---|" + "---:|" * 7,
    ]
    for label, name in SWEEP.items():
        results, transfer = read_run(runs / name)
        weights = last_epoch(transfer, "weight", domains)
        scores = [results["cross"][domain]["ndcg@10"] for domain in domains]
        cells = [f"{w:.2f} → {s:.3f}" for w, s in zip(weights, scores, strict=True)]
        macro = results["cross"]["macro"]["ndcg@10"]
        valid = read_run(runs / name, "valid")[0]["cross"]["macro"]["ndcg@10"]
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {macro:.4f} | {valid:.4f} |")
    return "\n".join(lines) + "\n"


def draw(runs: Path, planted: dict[str, float], out: Path) -> None:
    """Draw γ by epoch for each weighting of the sweep, one line per domain."""
    labels = [label for label in SWEEP if label != "uniform weights"]
    figure, axes = pyplot.subplots(1, len(labels), figsize=(11, 2.8), sharey=True)
    colours = ["#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7"]
    for axis, label in zip(axes, labels, strict=True):
        _, transfer = read_run(runs / SWEEP[label])
        for colour, (domain, relatedness) in zip(colours, planted.items(), strict=False):
            rows = transfer[transfer.domain == domain]
            axis.plot(rows.epoch, rows.gamma, color=colour, label=f"{domain}, r = {relatedness:g}")
        axis.set(title=label, xlabel="epoch")
    axes[0].set_ylabel("γ")
    axes[0].legend(fontsize=6, frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=130, metadata={"Software": None})


def main() -> None:
    """Write the tables and the figure, and print the tables. Raises UserError."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="write OUT.md, OUT.csv and OUT.png")
    arguments = parser.parse_args()
    if not arguments.runs.is_dir():
        raise UserError(f"{arguments.runs} does not exist; run experiments/planted.sh first")
    planted = planted_relatedness()
    table, rows = seed_table(arguments.runs, planted)
    text = f"{table}\n{sweep_table(arguments.runs, planted)}"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out.with_suffix(".md"), lambda path: path.write_text(text))
    values = pd.DataFrame(rows, columns=["domain", "quantity", "seed", "value"])
    write_atomically(
        arguments.out.with_suffix(".csv"), lambda path: values.to_csv(path, index=False)
    )
    draw(arguments.runs, planted, arguments.out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    run_command(main)
