"""Train RecTools' SASRec until its validation NDCG@10 reaches a goal (see time_to_result.py).

    ENV/bin/python benchmarks/speed/time_rectools.py DATASET_FOLDER --goal .05

Runs in the environment of requirements-recommend.txt. The model has RecTools' defaults throughout:
those are the settings that it recommends. After each epoch the validation targets are ranked by
this project from RecTools' vectors, as in benchmarks/reference/quality.sh. Prints a JSON line.
"""

import argparse
import json
import logging
import sys
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
from quality_ranks import CONTEXT, EpochChoice, leave_one_out
from quality_rectools import Reader
from sasrec_rectools import cpu_trainer, read_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="dataset folder, made by make_dataset.py")
    parser.add_argument("--goal", type=float, required=True, help="macro NDCG@10 of validation")
    parser.add_argument("--max_epochs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # advice of Lightning's on workers and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    dataset = leave_one_out(options.folder)
    events = read_events(options.folder)
    # Whoever sorts by these times has the dataset's order, also where the log's times are equal.
    events[Columns.Datetime] = pd.to_datetime(np.arange(len(events)), unit="s")
    training = Dataset.construct(events[events["split"].isin(CONTEXT["valid"])])

    lightning.seed_everything(options.seed, verbose=False)
    model = SASRecModel(get_trainer_func=lambda: cpu_trainer(max_epochs=1))
    model.fit_partial(training, min_epochs=1, max_epochs=1)
    reader = Reader(model, events, dataset.item_rows)
    choice = EpochChoice(model.torch_model, dataset, reader, options.max_epochs)
    choice.end_epoch()
    while max(choice.figures) < options.goal and len(choice.figures) < options.max_epochs:
        model.fit_partial(training, min_epochs=1, max_epochs=1)
        choice.end_epoch()
    result = {
        "version": metadata.version("rectools"), "epochs": len(choice.figures),
        "ndcg": max(choice.figures), "reached": max(choice.figures) >= options.goal,
        "valid": choice.figures,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
