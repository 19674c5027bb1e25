"""What counts are worth that stop at the end of training: a dataset that is split by time.

    python experiments/frozen_counts.py src/dataset/processed/abxi/201407-core5-temporal \
        --out results/abxi_frozen_counts

In such a split the models of counts over time (src/baselines/recent.py, covisit.py) count every
event before a target's time, as a service does that counts on. Here they stand beside the same
models frozen where the test begins, and where the validation does: tables that are made once in a
while. Half-lives are chosen on validation, with training events alone for the frozen ones. NDCG@10
on test under `full`, per domain and the macro mean.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.scoring import ndcg_on_test
from src.baselines.covisit import Covisit
from src.baselines.decayed_counts import DecayedCounts
from src.baselines.recent import Recent
from src.config.cli import OneLineParser
from src.dataset.store.folder import TEST, TRAIN, Dataset, open_dataset
from src.evaluation.ranking import CountScorer
from src.io.errors import UserError, run_command
from src.report.table_files import check_tables, markdown, write_tables


def main(words: list[str] | None = None) -> None:
    """Measure and write both tables."""
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("dataset", type=Path, help="a dataset folder of --split temporal")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.csv and OUT.md")
    given = parser.parse_args(words)
    check_tables(given.out)
    dataset = open_dataset(given.dataset)
    if not dataset.is_temporal:
        raise UserError(f"{given.dataset} is not split by time, so that nothing could be frozen")
    rows: list[tuple] = []
    for name, kind in (("recent", Recent), ("covisit", Covisit)):
        for until, model in models(kind, dataset).items():
            values = ndcg_on_test(dataset, lambda plan, _, model=model: CountScorer(model, plan))
            rows.append((name, until, *values.values()))
    columns = ["model", "counts until", *dataset.domain_names, "macro"]
    cells = [[*row[:2], *(f"{value:.4f}" for value in row[2:])] for row in rows]
    text = markdown(columns, cells, 2)
    write_tables(given.out, columns, rows, text)
    print(text)


def models(kind: type[Recent] | type[Covisit], dataset: Dataset) -> dict[str, Recent | Covisit]:
    """{until when it counts: model}"""
    split = np.asarray(dataset.split)
    frozen, known = kind.fit(dataset, np.flatnonzero(split == TRAIN)), np.flatnonzero(split != TEST)
    until_test: Recent | Covisit
    if isinstance(frozen, Recent):
        until_test = dataclasses.replace(frozen, counts=DecayedCounts.of(dataset, known))
    else:
        of_known = Covisit.of(dataset, known)
        until_test = dataclasses.replace(of_known, half_lives=frozen.half_lives)
    return {"each target": kind.fit(dataset), "the test": until_test, "the validation": frozen}


if __name__ == "__main__":
    run_command(main)
