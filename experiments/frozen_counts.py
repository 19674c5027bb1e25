"""What counts are worth that stop at the end of training: a dataset that is split by time.

    python experiments/frozen_counts.py src/dataset/processed/abxi/201407-core5-temporal \
        --out results/abxi_frozen_counts

In such a split the models of counts over time (src/baselines/recent.py, covisit.py) count every
event before a target's time, as a service does that counts on. Here they stand beside the same
models frozen where the test begins, and where the validation does: tables that are made once a
month. Half-lives are chosen on validation, with training events alone for the frozen ones. NDCG@10
on test under `full`, per domain and the macro mean.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.baselines.covisit import Covisit
from src.baselines.decayed_counts import DecayedCounts
from src.baselines.recent import Recent
from src.dataset.store.folder import TEST, Dataset, open_dataset
from src.evaluation.metrics import summarise
from src.evaluation.ranking import CountScorer, Plan, rank_targets
from src.evaluation.targets import split_targets
from src.interfaces import CountModel
from src.io.errors import UserError, run_command
from src.io.files import check_output, write_atomically
from src.report.table_files import markdown


def main(arguments: list[str] | None = None) -> None:
    """Measure and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a dataset folder of --split temporal")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.csv and OUT.md")
    given = parser.parse_args(arguments)
    check_output(given.out.with_suffix(".csv"), "--out")
    dataset = open_dataset(given.dataset)
    if not dataset.is_temporal:
        raise UserError(f"{given.dataset} is not split by time, so that nothing could be frozen")
    # to count models, a dataset that is split by user has no events to count but those of training
    frozen = dataclasses.replace(dataset, card=dataset.card | {"split": {}})
    known = np.flatnonzero(np.asarray(dataset.split) != TEST)
    rows = {}
    for name, kind in (("recent", Recent), ("covisit", Covisit)):
        until_validation = kind.fit(frozen)
        models = {
            "each target": kind.fit(dataset),
            "the test": counting(until_validation, frozen, known),
            "the validation": until_validation,
        }
        for until, model in models.items():
            rows[name, until] = ndcg(model, dataset)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "counts until"])
    table = table.reset_index()
    write_atomically(given.out.with_suffix(".csv"), lambda path: table.to_csv(path, index=False))
    cells = [[*row[:2], *(f"{value:.4f}" for value in row[2:])] for row in table.to_numpy()]
    text = markdown(list(table.columns), cells, 2)
    write_atomically(given.out.with_suffix(".md"), lambda path: path.write_text(text))
    print(text)


def counting(model: Recent | Covisit, dataset: Dataset, known: np.ndarray) -> CountModel:
    """The model with its half-lives and the counts of the events `known`."""
    if isinstance(model, Recent):
        return dataclasses.replace(model, counts=DecayedCounts.of(dataset, known))
    return dataclasses.replace(Covisit.of(dataset, known), half_lives=model.half_lives)


def ndcg(model: CountModel, dataset: Dataset) -> dict[str, float]:
    """{domain or macro: NDCG@10} of a count model on the test targets."""
    targets = split_targets(dataset, "test")
    plan, rows = Plan(dataset, targets, ("full",), {}), np.arange(len(targets.events))
    blocks = list(plan.blocks(rows))
    ranks = rank_targets(CountScorer(model, targets), plan, rows, blocks)["full"]
    names = dataset.domain_names
    means = summarise(ranks.better, ranks.tied, targets.domains, names)
    return {name: means[name]["ndcg@10"] for name in (*names, "macro")}


if __name__ == "__main__":
    run_command(main)
