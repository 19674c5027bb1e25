"""A generated log in memory and a trainer with one batch of it, for benchmarks and tests.

The log is generated from published facts of a real sample (the 500 users of the SyNCRec release,
five Amazon domains): how many events its users have, how the events fall on the domains, and how
many items those have. What it does not have is a meaning: items are drawn uniformly.
"""

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.config.cli import config_defaults
from src.config.settings import Settings, names_in, settings_class
from src.dataset.batching.batch import Batch
from src.dataset.batching.packing import build_batch
from src.dataset.batching.windows import Windows, newest_events
from src.dataset.store.folder import TRAIN, Dataset
from src.io.paths import ROOT
from src.training.processes import Process
from src.training.random_state import seed_everything
from tests.support.padded_model import PaddedBatch, pad
from trainers import Trainer
from utils import start_process

# Users of the sample with 0, 1, … 49 events and with 50 or more
USERS_BY_EVENTS = (
    0, 0, 0, 0, 0, 2, 7, 6, 23, 15, 22, 23, 15, 17, 14, 11, 14, 9, 14, 19, 17, 14, 15, 15, 8, 11,
    9, 24, 6, 13, 7, 6, 9, 3, 2, 3, 4, 11, 1, 5, 4, 3, 5, 2, 3, 2, 1, 1, 7, 1, 77,
)  # fmt: skip
HELD_OUT = 2  # a user's validation and test event, which no training step sees
MAX_LEN = 50  # L of the paper's run: longer histories are cut, so 50 or more stay 50
DOMAIN_EVENTS = (4846, 4765, 2505, 2563, 1444)
DOMAIN_ITEMS = (4528, 4421, 2311, 2382, 1211)


# ------------------------------------------------------------------------ data and settings


def training_lengths(users: int) -> np.ndarray:
    """[users] training events of each, evenly spaced through the sample's distribution.

    No draw decides the mix: its mean is 23.7, the sample's, up to rounding at few users.
    """
    events = np.repeat(np.arange(len(USERS_BY_EVENTS)), USERS_BY_EVENTS)  # ascending
    lengths = np.where(events < MAX_LEN, events - HELD_OUT, MAX_LEN)
    return lengths[((np.arange(users) + 0.5) * len(lengths) / users).astype(np.int64)]


def generated_dataset(
    lengths: np.ndarray, shares: Sequence[float], items: Sequence[int], seed: int = 0
) -> Dataset:
    """A training log in memory, a function of its arguments alone.

    Parameters
    ----------
    lengths: [users] events of each user.
    shares: D numbers; each event falls on a domain in proportion to them, whatever the user's other
        events. Real users keep more to a domain, so this has more and shorter single views.
    items: D numbers of items; an event's item is drawn uniformly from its domain.
    """
    rng = np.random.default_rng(seed)
    events = int(lengths.sum())
    starts = np.concatenate([[1], 1 + np.cumsum(items)]).astype(np.int64)
    domains = rng.choice(len(shares), size=events, p=np.asarray(shares) / np.sum(shares))
    names = [f"domain{number}" for number in range(len(shares))]
    return Dataset(
        folder=Path("generated"),
        card={"data_name": "generated", "sha256": "", "domains": dict.fromkeys(names)},
        domain_names=names,
        item_starts=starts,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=rng.integers(starts[domains], starts[domains + 1]).astype(np.int32),
        domains=domains.astype(np.int16),
        times=np.arange(events, dtype=np.int64),
        split=np.full(events, TRAIN, dtype=np.int8),
    )


def split_evenly(total: int, parts: int) -> list[int]:
    """`total` as whole numbers that differ by one at most."""
    edges = [total * part // parts for part in range(parts + 1)]
    return [end - start for start, end in itertools.pairwise(edges)]


def paper_settings(**changes: Any) -> Settings:
    """configs/paper.json, with the gate of a token each (that of a whole sequence sees later
    positions) and `changes`."""
    paper = config_defaults(Settings, ROOT / "configs" / "paper.json")
    values = paper | {"gate": "token"} | changes
    return settings_class(*names_in(values))(**values)


@dataclasses.dataclass
class Bench:
    """A trainer and one batch of its whole data, ready to be stepped."""

    trainer: Trainer
    windows: Windows
    batch: Batch

    @property
    def tokens(self) -> int:
        """Real targets of the batch; each is a token in each view."""
        return len(self.batch.targets)

    @property
    def item_counts(self) -> list[int]:
        """D numbers of items."""
        return np.diff(self.trainer.dataset.item_starts).tolist()

    def step(self) -> None:
        """The real thing: one training step of the trainer, optimiser included."""
        self.trainer.train_step([self.batch])


def make_bench(settings: Settings, dataset: Dataset, process: Process) -> Bench:
    """A trainer of these settings and one batch with every user of the dataset."""
    seed_everything(settings.seed)
    folder = Path(tempfile.gettempdir())  # nothing is saved
    trainer = Trainer(settings, dataset, folder, process)
    trainer.model.train()
    users = np.random.default_rng(settings.seed).permutation(dataset.users)
    windows = newest_events(dataset, users, trainer.loader.ends[users], settings.max_len)
    batch = build_batch(dataset, windows, settings.seed, 0, times=settings.reads_time)
    batch = batch.to(process.device)
    return Bench(trainer, windows, batch)


def small_bench(*, device="cpu", dtype=torch.float64, users=9, noise=0.3, **settings) -> Bench:
    """A bench of a few users whose weights are large enough that every part shows."""
    defaults = {"hidden": 8, "dropout": 0.0, "experts_cross": 2, "batch_size": users}
    if dtype == torch.float64:
        defaults["precision"] = "float64"
    dataset = generated_dataset(training_lengths(users), DOMAIN_EVENTS, [30, 20, 10, 9, 8])
    bench = make_bench(paper_settings(**(defaults | settings)), dataset, start_process(device))
    with torch.no_grad():
        for parameter in bench.trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    return bench


def padded_batch(bench: Bench) -> PaddedBatch:
    """Its batch as the oracle takes it."""
    return pad(bench.trainer.dataset, bench.windows, bench.batch, bench.trainer.settings.max_len)


def bytes_held(step: Callable[[], None], folder: Path) -> int:
    """The most bytes that torch's CPU tensors take during a step, above those before it."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    return int(np.cumsum([change for _, change in changes]).max())
