"""Train RecTools' SASRec on a dataset folder and rank its test targets (see quality.sh).

    python benchmarks/reference/quality_rectools.py DATASET_FOLDER --out FILE

Runs in the environment of requirements-rectools.txt.
"""

import logging
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from quality_ranks import CONTEXT, EpochChoice, Vectors, leave_one_out, parse
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from sasrec_rectools import cpu_trainer, read_events, sasrec

BATCH = 256  # users whose vectors are computed at a time


class Reader:
    """Reads the vectors that RecTools recommends by."""

    def __init__(self, model: SASRecModel, events: pd.DataFrame, item_rows: int):
        self.model, self.item_rows = model, item_rows
        self.contexts = {
            split: Dataset.construct(events[events["split"].isin(known)])
            for split, known in CONTEXT.items()
        }
        self.users = np.unique(events[Columns.User])

    def __call__(self, split: str) -> Vectors:
        preparator = self.model.data_preparator
        known = preparator.transform_dataset_u2i(self.contexts[split], self.users)
        loader = preparator.get_dataloader_recommend(known, BATCH)
        module = self.model.lightning_model
        # what `recommend` calls; its users are in the order of their internal ids
        queries, rows = module._get_user_item_embeddings(loader, "cpu")
        order = known.user_id_map.convert_to_internal(self.users)  # raises where a user is missing
        items = torch.zeros(self.item_rows, rows.shape[1])
        ids = preparator.get_known_item_ids()
        internal = torch.from_numpy(preparator.get_known_items_sorted_internal_ids())
        items[torch.from_numpy(ids.astype(np.int64))] = rows[internal]
        return Vectors(queries[order], items, np.isin(np.arange(self.item_rows), ids))


def first_epoch(
    folder: Path, model: SASRecModel, seed: int, patience: int
) -> tuple[EpochChoice, Dataset]:
    """Train for an epoch on the training events of a dataset folder; returns the choice among its
    epochs, and what the next ones train on."""
    warnings.simplefilter("ignore")  # advice of Lightning's on workers and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    dataset, events = leave_one_out(folder), read_events(folder)
    # Whoever sorts by these times has the dataset's order, also where the log's times are equal.
    events[Columns.Datetime] = pd.to_datetime(np.arange(len(events)), unit="s")
    training = Dataset.construct(events[events["split"].isin(CONTEXT["valid"])])
    lightning.seed_everything(seed, verbose=False)
    model.fit_partial(training, min_epochs=1, max_epochs=1)
    reader = Reader(model, events, dataset.item_rows)
    return EpochChoice(model.torch_model, dataset, reader, patience), training


def main() -> None:
    options = parse(__doc__.splitlines()[0])
    model = sasrec(options.length, lambda: cpu_trainer(max_epochs=1))
    choice, training = first_epoch(options.folder, model, options.seed, options.patience)
    while not choice.end_epoch() and len(choice.figures) < options.max_epochs:
        model.fit_partial(training, min_epochs=1, max_epochs=1)
    facts = {"model": "SASRec", "library": "RecTools", "version": metadata.version("rectools")}
    settings = {"length": options.length, "seed": options.seed, "patience": options.patience}
    choice.finish(options.out, facts | settings)


if __name__ == "__main__":
    main()
