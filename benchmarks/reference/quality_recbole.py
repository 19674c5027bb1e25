"""Train RecBole's GRU4Rec on a dataset folder and rank its test targets (see quality.sh).

    python benchmarks/reference/quality_recbole.py DATASET_FOLDER --out FILE

Runs in the environment of requirements-recbole.txt.
"""

import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from quality_ranks import EpochChoice, Vectors, leave_one_out, parse
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import GRU4Rec
from recbole.trainer import Trainer
from recbole.utils import init_seed

from src.dataset.store.folder import TRAIN, Dataset
from src.evaluation.targets import split_targets

NAME = "log"
USER, ITEM, TIME = "user", "item", "position"
# What departs from RecBole's defaults: hidden_size 128, one negative, batches of 2,048, of which an
# epoch would have some 40.
SETTINGS = {
    "hidden_size": 64,
    "train_batch_size": 512,
    "train_neg_sample_args": None,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    "USER_ID_FIELD": USER,
    "ITEM_ID_FIELD": ITEM,
    "TIME_FIELD": TIME,
    "load_col": {"inter": [USER, ITEM, TIME]},
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}
BATCH = 1024  # users whose vectors are computed at a time


def write_log(dataset: Dataset, length: int, folder: Path) -> None:
    """RecBole's file of the newest `length` + 1 training events of each user and the held-out ones.

    RecBole makes a sample of each event but the first, so that an epoch has the targets that
    RecTools trains. It sorts by times that it scales to 0 … 1 in float32, which seconds do not
    survive: its times are the positions in the user's sequence.
    """
    starts, ends = dataset.offsets[:-1], dataset.offsets[1:]
    users = np.repeat(np.arange(dataset.users), ends - starts)
    position = np.arange(len(users)) - starts[users]
    training = np.bincount(users[dataset.split == TRAIN], minlength=dataset.users)
    kept = position >= (training - length - 1)[users]
    rows = np.stack([users, dataset.items, position], 1)[kept]
    (folder / NAME).mkdir()
    np.savetxt(
        folder / NAME / f"{NAME}.inter", rows, fmt="%d", delimiter="\t", comments="",
        header=f"{USER}:token\t{ITEM}:token\t{TIME}:float",
    )  # fmt: skip


class Reader:
    """Reads the vectors that RecBole ranks by: `full_sort_predict` is their product."""

    def __init__(self, model: GRU4Rec, loaders: dict, dataset: Dataset):
        self.model, self.item_rows = model, dataset.item_rows
        self.recbole = loaders["valid"].dataset
        self.samples, self.orders = {}, {}
        for split, loader in loaders.items():
            samples = loader.dataset.inter_feat
            order = np.argsort(self._ids(USER, samples[USER].numpy()))
            held_out = self._ids(ITEM, samples[ITEM].numpy())[order]
            if not np.array_equal(held_out, split_targets(dataset, split).items):
                raise SystemExit(f"RecBole's {split} targets are not those of the dataset")
            self.samples[split], self.orders[split] = samples, order

    def _ids(self, field: str, numbers: np.ndarray) -> np.ndarray:
        """The dataset folder's ids of RecBole's."""
        return self.recbole.id2token(field, numbers).astype(np.int64)

    @torch.no_grad()
    def __call__(self, split: str) -> Vectors:
        self.model.eval()
        samples = self.samples[split]
        queries = torch.cat(
            [
                self.model(items, lengths)
                for items, lengths in zip(
                    samples[self.model.ITEM_SEQ].split(BATCH),
                    samples[self.model.ITEM_SEQ_LEN].split(BATCH),
                    strict=True,
                )
            ]
        )
        rows = self.model.item_embedding.weight[1:]  # row 0 is padding
        ids = self._ids(ITEM, np.arange(1, len(rows) + 1))
        items = torch.zeros(self.item_rows, rows.shape[1])
        items[torch.from_numpy(ids)] = rows
        return Vectors(queries[self.orders[split]], items, np.isin(np.arange(self.item_rows), ids))


def main() -> None:
    options = parse(__doc__.splitlines()[0])
    warnings.simplefilter("ignore")  # of pandas and torch, about calls that will go
    dataset = leave_one_out(options.folder)
    with tempfile.TemporaryDirectory() as folder:
        write_log(dataset, options.length, Path(folder))
        places = {"data_path": folder, "checkpoint_dir": folder}
        own = {"seed": options.seed, "MAX_ITEM_LIST_LENGTH": options.length}
        config = Config(model="GRU4Rec", dataset=NAME, config_dict=SETTINGS | places | own)
        init_seed(config["seed"], config["reproducibility"])
        train, valid, test = data_preparation(config, create_dataset(config))
        torch.set_num_threads(options.threads)  # RecBole may have set them
        model = GRU4Rec(config, train.dataset)
        trainer = Trainer(config, model)
        reader = Reader(model, {"valid": valid, "test": test}, dataset)
        choice = EpochChoice(model, dataset, reader, options.patience)
        for epoch in range(options.max_epochs):
            trainer._train_epoch(train, epoch)
            if choice.end_epoch():
                break
    facts = {"model": "GRU4Rec", "library": "RecBole", "version": metadata.version("recbole")}
    settings = {"length": options.length, "seed": options.seed, "patience": options.patience}
    choice.finish(options.out, facts | settings | {"samples": len(train.dataset)})


if __name__ == "__main__":
    main()
