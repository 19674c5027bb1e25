"""Time the training steps of RecTools' SASRec on a dataset folder; one JSON line (see sasrec.sh).

    python benchmarks/reference/sasrec_rectools.py src/dataset/processed/abxi/201407-core5

Runs in an environment of its own (requirements-rectools.txt), so it imports nothing from the
project: the dataset folder's arrays are read with numpy alone.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

TRAIN = 0  # value of `split` in the dataset folder
PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}  # Lightning's names


class StepClock(lightning.Callback):
    """Notes when each training step ended and how many real targets it had.

    The time between two ends holds all that a step costs: the next batch's loading, forward,
    backward, the optimiser and Lightning's own loop.
    """

    def __init__(self):
        self.ends: list[float] = []  # seconds
        self.tokens: list[int] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.ends.append(time.perf_counter())
        self.tokens.append(int((batch["y"] != 0).sum()))  # 0 is padding


def read_events(folder: Path) -> pd.DataFrame:
    """All events as RecTools wants them: user, item, weight, datetime; and the split of each."""
    arrays = {
        name: np.load(folder / "sequences" / f"{name}.npy")
        for name in ("offsets", "items", "times", "split")
    }
    users = np.repeat(np.arange(len(arrays["offsets"]) - 1), np.diff(arrays["offsets"]))
    return pd.DataFrame(
        {
            Columns.User: users,
            Columns.Item: arrays["items"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(arrays["times"], unit="s"),
            "split": arrays["split"],
        }
    )


def cpu_trainer(**settings: object) -> lightning.Trainer:
    """A trainer as SASRecModel makes one by itself (no bar, no logger, no checkpoints)."""
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        **settings,
    )


def sasrec(length: int, trainer: Callable[[], lightning.Trainer]) -> SASRecModel:
    """SASRec of the compared size, with inputs of `length` events; RecTools' defaults for all
    else."""
    return SASRecModel(
        n_factors=64,
        n_blocks=2,
        n_heads=1,
        session_max_len=length,
        dropout_rate=0.3,
        batch_size=128,
        loss="softmax",
        lr=1e-3,
        get_trainer_func=trainer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="dataset folder, made by make_dataset.py")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (at least 1)")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--seed", type=int, default=42, help="seed of weights and batches")
    parser.add_argument("--label", default="", help="what the name of the model adds")
    options = parser.parse_args()
    if min(options.steps, options.warmup) < 1:
        parser.error("--steps and --warmup must be at least 1")
    warnings.simplefilter("ignore")  # advice of Lightning's on workers and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    lightning.seed_everything(options.seed, verbose=False)

    def trainer() -> lightning.Trainer:
        return cpu_trainer(
            max_steps=options.warmup + options.steps,
            precision=PRECISIONS[options.precision],
            callbacks=[StepClock()],
        )

    model = sasrec(50, trainer)
    events = read_events(options.folder)
    model.fit(Dataset.construct(events[events["split"] == TRAIN].drop(columns="split")))
    # RecTools trains with a copy of its trainer, callbacks included
    (clock,) = (part for part in model.fit_trainer.callbacks if isinstance(part, StepClock))
    print(
        json.dumps(
            {
                "model": f"RecTools {metadata.version('rectools')}{options.label}",
                "precision": options.precision,
                "users": int(model.data_preparator.train_dataset.user_id_map.size),
                "items": int(model.data_preparator.item_id_map.size) - 1,  # one is the padding
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "tokens": clock.tokens[options.warmup :],
                "seconds": np.diff(clock.ends)[options.warmup - 1 :].round(6).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main()
