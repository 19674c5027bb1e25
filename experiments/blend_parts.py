"""What each part of the blend adds: runs ranked by blends of more and more components.

    python experiments/blend_parts.py runs/abxi/syncrec-seed* --out results/abxi_blend
    python experiments/blend_parts.py runs/abxi/cdsr-seed1+runs/abxi/sdsr_separate-seed1 --out …

Two run folders joined by + are blended as if they were the two paths of one model, to compare with
SyNCRec's blend.
Every blend is fitted on validation; the table has NDCG@10 on test under `full`, per domain and the
macro mean. Seeds of a model stand in one row, as mean ± standard deviation.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.scoring import ndcg_on_test
from src.config.cli import OneLineParser
from src.config.names import BLENDED_BY
from src.config.settings import Settings, run_settings
from src.dataset.store.folder import Dataset, open_named
from src.evaluation.blend import BlendScorer, FeatureSource, fit_blend, fit_targets
from src.evaluation.path_scores import fit_count_models, path_scorers
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan
from src.evaluation.targets import split_targets
from src.interfaces import CountModel
from src.io.errors import UserError, run_command
from src.io.files import write_atomically
from src.runs.models import best_models

CPU = torch.device("cpu")
TREND, HABIT = BLENDED_BY["trend"], BLENDED_BY["repeat"]
BOTH = ("popularity", "markov", *TREND, *HABIT)
PARTS = {  # {row: the count models that are blended with the model's paths}
    "paths": (),
    "+ habit": HABIT,
    "+ trend": ("popularity", "markov", *TREND),
    "+ both": BOTH,
    "+ both and joint transitions": (*BOTH, *BLENDED_BY["joint_transitions"]),
}


def main(arguments: list[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN[+RUN]")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.csv and OUT.md")
    given = parser.parse_args(arguments)
    rows, fitted = [], {}
    for run in given.runs:
        opened = [open_run(Path(folder)) for folder in run.split("+")]
        dataset = opened[0][1]
        paths = [path for settings, _, _ in opened for path in settings.paths]
        if len(set(paths)) < len(paths):
            raise UserError(f"{run}: two runs have the same path; join one of each task")
        if any(other.card["sha256"] != dataset.card["sha256"] for _, other, _ in opened):
            raise UserError(f"{run}: the runs have different data")
        key = dataset.card["sha256"]
        if key not in fitted:
            every = dataclasses.replace(opened[0][0], joint_transitions=True)
            fitted[key] = fit_count_models(dataset, every)
        for part, names in PARTS.items():
            counted = {name: fitted[key][name] for name in names}
            scores = blend_scores(opened, dataset, counted)
            label = "+".join(settings.run_name or settings.subject for settings, _, _ in opened)
            rows.append({"run": label, "seed": opened[0][0].seed, "blend": part} | scores)
            print(label, part, f"macro {scores['macro']:.4f}", flush=True)
    write(pd.DataFrame(rows), given.out)


def open_run(folder: Path) -> tuple[Settings, Dataset, Ensemble]:
    """A finished run with its models."""
    settings = run_settings(folder)
    dataset = open_named(settings)
    return settings, dataset, best_models(settings, dataset, folder, CPU)


def blend_scores(
    opened: list[tuple[Settings, Dataset, Ensemble]],
    dataset: Dataset,
    counted: dict[str, CountModel],
) -> dict[str, float]:
    """{domain or macro: NDCG@10} of the blend of the runs' paths and the count models."""

    def source(plan: Plan, rows: np.ndarray) -> FeatureSource:
        paths = {}
        for settings, _, ensemble in opened:
            paths |= path_scorers(ensemble, settings, plan, rows)
        return FeatureSource(plan, paths, counted)

    targets = split_targets(dataset, "valid")
    rows = fit_targets(targets)
    valid = source(Plan(dataset, targets, ("full",), {}), rows)
    blend = fit_blend(valid, rows, opened[0][0].seed)
    return ndcg_on_test(dataset, lambda plan, rows: BlendScorer(blend, source(plan, rows)))


def write(table: pd.DataFrame, out: Path) -> None:
    """OUT.csv has every run; OUT.md the seeds of a model in one row."""
    write_atomically(out.with_suffix(".csv"), lambda path: table.to_csv(path, index=False))
    model = table.run.str.replace(r"-?seed\d+", "", regex=True)
    values = table.columns[3:]
    groups = table.groupby([model, "blend"], sort=False)[list(values)]
    mean, deviation = groups.mean(), groups.std()
    lines = ["| model | blend | " + " | ".join(values) + " |"]
    lines.append("|---|---|" + "---:|" * len(values))
    for (name, part), row in mean.iterrows():
        cells = []
        for value in values:
            spread = deviation.loc[(name, part), value]
            cells.append(f"{row[value]:.4f}" + ("" if np.isnan(spread) else f" ± {spread:.4f}"))
        lines.append(f"| {name} | {part} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    write_atomically(out.with_suffix(".md"), lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
