"""Train RecTools' SASRec until its validation NDCG@10 reaches a goal (see time_to_result.py).

    ENV/bin/python benchmarks/speed/time_rectools.py DATASET_FOLDER --goal .05

Runs in the environment of requirements-recommend.txt. The model has RecTools' defaults throughout:
those are the settings that it recommends. After each epoch the validation targets are ranked by
this project from RecTools' vectors, as in benchmarks/reference/quality.sh. Prints a JSON line.
"""

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path

import torch
from rectools.models import SASRecModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
from quality_rectools import first_epoch
from sasrec_rectools import cpu_trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="dataset folder, made by make_dataset.py")
    parser.add_argument("--goal", type=float, required=True, help="macro NDCG@10 of validation")
    parser.add_argument("--max_epochs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = SASRecModel(get_trainer_func=lambda: cpu_trainer(max_epochs=1))
    choice, training = first_epoch(options.folder, model, options.seed, options.max_epochs)
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
