"""Time the training steps of this project's plain SASRec on a dataset folder; one JSON line.

    python benchmarks/reference/sasrec_ours.py src/dataset/processed/abxi/201407-core5

The model is `--mode cdsr` with one expert, no gate, no tower and the softmax over the items of all
domains; what runs is the trainer of main.py, loading included. See sasrec.sh.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.config.cli import OneLineParser
from src.config.settings import Settings
from src.config.validation import check_settings
from src.dataset.batching.batch import Batch
from src.dataset.store.folder import open_dataset
from src.io.errors import UserError, run_command
from src.training.random_state import seed_everything
from trainers import Trainer
from utils import start_process

PLAIN = {
    "mode": "cdsr",
    "experts_cross": 1,
    "experts_single": 0,
    "gate": "none",
    "towers": False,
    "loss": "ce",
    "softmax_items": "all",
    "hidden": 64,
    "layers": 2,
    "heads": 1,
    "max_len": 50,
    "batch_size": 128,
    "dropout": 0.3,
    "lr": 1e-3,
    "device": "cpu",
}


def endless_steps(trainer: Trainer) -> Iterator[list[Batch]]:
    """The batches of each optimiser step, epoch after epoch, made as they are asked for."""
    while True:
        yield from trainer.loader.steps(trainer.progress.epoch)
        trainer.progress.epoch += 1


def time_steps(trainer: Trainer, warmup: int, steps: int) -> tuple[list[float], list[int]]:
    """Train `warmup` + `steps` steps; (seconds, targets) of each of the last `steps`.

    The time between the ends of two steps holds all that a step costs: building the batch, forward,
    backward and the optimiser.
    """
    trainer.model.train()
    ends, tokens = [], []
    for step_batches in islice(endless_steps(trainer), warmup + steps):
        trainer.train_step(step_batches)
        ends.append(time.perf_counter())
        tokens.append(sum(len(batch.targets) for batch in step_batches))
    seconds = [end - start for start, end in pairwise(ends)]
    return seconds[warmup - 1 :], tokens[warmup:]


def main(arguments: list[str] | None = None) -> None:
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="dataset folder, made by make_dataset.py")
    parser.add_argument("--steps", type=int, default=60, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (at least 1)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--seed", type=int, default=42, help="seed of weights and batches")
    options = parser.parse_args(arguments)
    if min(options.steps, options.warmup) < 1:
        raise UserError("--steps and --warmup must be at least 1")

    settings = Settings(**PLAIN, precision=options.precision, seed=options.seed)
    check_settings(settings)
    process = start_process(settings.device)
    seed_everything(settings.seed)
    dataset = open_dataset(options.folder)
    with tempfile.TemporaryDirectory() as folder:  # a trainer has a run folder; nothing is written
        trainer = Trainer(settings, dataset, Path(folder), process)
        seconds, tokens = time_steps(trainer, options.warmup, options.steps)
    print(
        json.dumps(
            {
                "model": "this project",
                "precision": options.precision,
                "users": len(trainer.loader.users),
                "items": dataset.item_rows - 1,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "tokens": tokens,
                "seconds": [round(value, 6) for value in seconds],
            }
        )
    )


if __name__ == "__main__":
    run_command(main)
