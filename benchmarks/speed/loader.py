"""The loader alone: opening a dataset folder, tokens a second beside training, two processes.

    python benchmarks/speed/loader.py                                   # 20 million events
    python benchmarks/speed/loader.py --events 100_000_000 --json
    python benchmarks/speed/loader.py --events 1_000_000 --config configs/paper.json --rounds 3

Writes a dataset folder of generated events, twenty a user on average, for the time of the
measurement. Then:

- `open_s`, `open_added_mib`: `open_dataset`, and how far the resident memory rose by it;
- `check_s`, `start_s`, `start_added_mib`: the pass over every event with which main.py begins, the
  search for each user's training events, and what it added to memory that is the process's own;
- `loader`: tokens a second of the trainer's own path alone (order of the epoch, windows, packing),
  by one thread; `training`: those of `Trainer.train_step` on such batches. Both for each
  `--batch_by`, one after the other within every round; `ratio` is loader over training;
- `empty_slots`: share of a batch's slots that no token fills, over both views; `imbalance`: how far
  the larger of two processes' shares of a batch is above their mean, in tokens;
- `two_processes`: both open the folder and load at once. `each_user_once`: their users of a whole
  epoch, together, are all users, once. `own_mib` is what a process holds of its own since it
  opened, a model among it, and `mapped_mib` the pages of files, which the processes share.

A token is a real target; it stands in both views. With the default of 1,500 items the
softmax costs training next to nothing: with more items training is slower and the ratio higher.
"""

import dataclasses
import itertools
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    interleaved,
    machine,
    make_parser,
    print_result,
    say,
    seconds,
    spread,
    start,
)
from src.config.cli import config_defaults
from src.config.settings import Settings
from src.dataset.batching.batch import Batch
from src.dataset.batching.sampler import epoch_shares
from src.dataset.batching.windows import training_dataset, window_lengths
from src.dataset.store.folder import ARRAYS, FORMAT, TEST, VALID, Dataset, open_dataset, user_chunks
from src.dataset.store.verify import check_events
from src.io.errors import run_command
from src.io.paths import ROOT
from src.training.processes import Process
from src.training.random_state import seed_everything
from tests.support.step_benches import generated_dataset, split_evenly
from trainers import Trainer
from utils import start_process

DOMAINS = 5
MEAN_EVENTS, LEAST_EVENTS = 20, 3  # of a user; the last two are held out
BATCH_BY = ("random", "length")
TRAINED = 8  # steps that a round trains, at most
WARM_UP = 3  # batches of each round before its clock starts


# ------------------------------------------------------------------------ the dataset folder


def user_lengths(events: int) -> np.ndarray:
    """[users] events of each user, some `events` together: 3 and more, exponentially distributed.

    Evenly spaced quantiles in an order by chance: no draw decides the mix.
    """
    users = max(1, events // MEAN_EVENTS)
    quantiles = (np.arange(users) + 0.5) / users
    above = MEAN_EVENTS - LEAST_EVENTS + 0.5  # rounding down takes half an event
    lengths = LEAST_EVENTS + (-above * np.log1p(-quantiles)).astype(np.int64)
    return np.random.default_rng(0).permutation(lengths)


def write_folder(folder: Path, events: int, items: int) -> None:
    """A dataset folder as training reads it, made a few million events at a time."""
    lengths = user_lengths(events)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sizes = split_evenly(items, DOMAINS)
    (folder / "sequences").mkdir(parents=True)
    np.save(folder / "sequences" / "offsets.npy", offsets)
    arrays = {
        name: np.lib.format.open_memmap(
            folder / "sequences" / f"{name}.npy", "w+", dtype=kind, shape=(int(offsets[-1]),)
        )
        for name, kind in ARRAYS.items()
    }
    for users in user_chunks(offsets):
        part = generated_dataset(lengths[users], [1] * DOMAINS, sizes, seed=users.start)
        part.split[part.offsets[1:] - 2], part.split[part.offsets[1:] - 1] = VALID, TEST
        for name, array in arrays.items():
            array[offsets[users.start] : offsets[users.stop]] = getattr(part, name)
    domains = {f"domain{number}": {"items": size} for number, size in enumerate(sizes)}
    card = {
        "format": FORMAT, "data_name": "generated", "sha256": "0" * 64, "users": len(lengths),
        "items": items, "events": int(offsets[-1]), "domains": domains,
    }  # fmt: skip
    (folder / "data_card.json").write_text(json.dumps(card))


# ------------------------------------------------------------------------ memory


def memory_mib() -> dict[str, float]:
    """What this process has resident, in MiB: its `own` memory, and `mapped` pages of files."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    kib = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)
           if name.startswith("Rss")}  # fmt: skip
    return {"own": kib.get("RssAnon", 0) / 2**10, "mapped": kib.get("RssFile", 0) / 2**10}


def added_mib(before: dict[str, float]) -> dict[str, float]:
    """By how much it has grown since."""
    return {name: value - before[name] for name, value in memory_mib().items()}


def measured_start(folder: Path) -> tuple[Dataset, dict[str, float]]:
    """Open a folder and go through what a run does before its first step; times and memory."""
    before = memory_mib()
    open_s = [seconds(lambda: open_dataset(folder))]
    open_added = sum(added_mib(before).values())
    open_s += [seconds(lambda: open_dataset(folder)) for _ in range(4)]
    dataset = open_dataset(folder)
    check_s = seconds(lambda: check_events(dataset))
    before, kept = memory_mib(), []
    start_s = seconds(lambda: kept.append(training_dataset(dataset)))
    return dataset, {
        "open_s": median(open_s),
        "open_first_s": open_s[0],
        "open_added_mib": open_added,
        "check_s": check_s,
        "start_s": start_s,
        "start_added_mib": added_mib(before)["own"],
    }


# ------------------------------------------------------------------------ loader and training


def make_trainer(settings: Settings, dataset: Dataset, process: Process) -> Trainer:
    """A trainer that saves nothing."""
    seed_everything(settings.seed)
    trainer = Trainer(settings, dataset, Path(tempfile.gettempdir()), process)
    trainer.model.train()
    return trainer


def coming_steps(trainer: Trainer) -> Iterator[list[Batch]]:
    """The batches of one step after the other, from the beginning of another epoch on."""
    while True:
        trainer.progress.epoch += 1
        yield from trainer.loader.steps(trainer.progress.epoch)


def loader_rate(trainer: Trainer, count: int) -> float:
    """Tokens a second of `count` steps' batches, none of them used."""
    steps = coming_steps(trainer)
    for _ in itertools.islice(steps, WARM_UP):
        pass
    tokens = 0

    def load() -> None:
        nonlocal tokens
        for step in itertools.islice(steps, count):
            tokens += sum(len(batch.targets) for batch in step)

    loaded_s = seconds(load)
    return tokens / loaded_s


def training_rate(trainer: Trainer, count: int) -> float:
    """Tokens a second of `count` training steps on batches that are there."""
    steps = list(itertools.islice(coming_steps(trainer), count))
    tokens = sum(len(batch.targets) for step in steps for batch in step)

    def train() -> None:
        for step in steps:
            trainer.train_step(step)

    return tokens / seconds(train, trainer.process.device)


def empty_slots(trainer: Trainer, count: int) -> float:
    """Share of the slots of `count` steps' batches that hold no token, over both views."""
    slots = tokens = 0
    for step in itertools.islice(coming_steps(trainer), count):
        for batch in step:
            slots += len(batch.cross.inputs) + len(batch.single.inputs)
            tokens += 2 * len(batch.targets)
    return 1 - tokens / slots


def imbalance(trainer: Trainer, count: int) -> float:
    """Median over `count` batches of how far the larger share of two processes is above their
    mean, in tokens."""
    settings = trainer.settings
    tokens = window_lengths(
        trainer.loader.training, trainer.loader.ends, settings.max_len, settings.sdsr_context
    )
    shares = epoch_shares(
        trainer.loader.users,
        settings.batch_size,
        settings.seed,
        0,
        2,
        lengths=trainer.loader.lengths,
    )
    found = []
    for pair in itertools.islice(shares, count):
        own = [int(tokens[users].sum()) for users in pair]
        found.append(2 * max(own) / sum(own) - 1)
    return median(found)


def measured_rates(
    trainers: dict[str, Trainer], count: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """{loader, training: {batch_by: tokens a second of each round}}."""
    runs: dict[str, Callable[[], float]] = {}
    for name, trainer in trainers.items():
        runs[f"loader {name}"] = lambda own=trainer: loader_rate(own, count)
        trained = min(count, TRAINED)
        runs[f"training {name}"] = lambda own=trainer, n=trained: training_rate(own, n)
    found = interleaved(runs, rounds)
    return {
        what: {name: found[f"{what} {name}"] for name in trainers}
        for what in ("loader", "training")
    }


# ------------------------------------------------------------------------ two processes


def load_shares(
    rank: int, folder: Path, settings: list[Settings], count: int, together: Any, results: Any
) -> None:
    """What one of two processes does: for each of the settings, note its users of an epoch, then
    load while the other one does."""
    torch.set_num_threads(1)
    process, found = start_process("cpu"), []
    loader_rate(make_trainer(settings[0], open_dataset(folder), process), WARM_UP)
    for number, own in enumerate(settings):
        before = memory_mib()
        trainer = make_trainer(own, open_dataset(folder), process)
        trainer.process = dataclasses.replace(trainer.process, rank=rank, processes=2)
        shares = epoch_shares(
            trainer.loader.users,
            own.batch_size,
            own.seed,
            1,
            2,
            lengths=trainer.loader.lengths,
        )
        users = np.concatenate([share[rank] for share in shares])
        np.save(folder / f"seen-{number}-{rank}.npy", users)
        together.wait()
        rate = loader_rate(trainer, count)
        together.wait()  # none builds or ends while the other one's clock runs
        found.append({"tokens_per_s": rate} | {f"{k}_mib": v for k, v in added_mib(before).items()})
        del trainer
    results.put(found)


def two_processes(
    folder: Path, settings: dict[str, Settings], count: int
) -> dict[str, dict[str, Any]]:
    """{batch_by: rates, memory, and whether each user is seen once} of two processes at once."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(2), context.Queue()
    shared = (folder, list(settings.values()), count, together, results)
    running = [
        context.Process(target=load_shares, args=(rank, *shared), daemon=True) for rank in range(2)
    ]
    for one in running:
        one.start()
    both = [results.get(timeout=600) for _ in running]
    for one in running:
        one.join()
    users = np.arange(open_dataset(folder).users)
    found = {}
    for number, by in enumerate(settings):
        seen = [np.load(folder / f"seen-{number}-{rank}.npy") for rank in range(2)]
        found[by] = {
            "each_user_once": np.array_equal(np.sort(np.concatenate(seen)), users),
            "users": [len(part) for part in seen],
            **{name: [own[number][name] for own in both] for name in both[0][number]},
        }
    return found


# ------------------------------------------------------------------------ command


def measure(folder: Path, parsed: Any, process: Process) -> dict[str, Any]:
    """Everything that is printed, of a dataset folder."""
    dataset, begun = measured_start(folder)
    config = config_defaults(Settings, ROOT / parsed.config)
    settings = {by: Settings(**config, batch_by=by) for by in BATCH_BY}
    trainers = {by: make_trainer(own, dataset, process) for by, own in settings.items()}
    rates = measured_rates(trainers, parsed.batches, parsed.rounds)
    ratios = {
        by: [a / b for a, b in zip(rates["loader"][by], rates["training"][by], strict=True)]
        for by in BATCH_BY
    }
    say("two processes")
    return {
        "events": len(dataset.items),
        "users": dataset.users,
        "items": dataset.item_rows - 1,
        "config": parsed.config,
        **begun,
        "loader": {by: median(found) for by, found in rates["loader"].items()},
        "training": {by: median(found) for by, found in rates["training"].items()},
        "ratio": {by: median(found) for by, found in ratios.items()},
        "empty_slots": {by: empty_slots(own, parsed.batches) for by, own in trainers.items()},
        "imbalance": {by: imbalance(own, parsed.batches) for by, own in trainers.items()},
        "two_processes": two_processes(folder, settings, parsed.batches),
        "rounds": {**rates, "ratio": ratios},
        **machine(process),
    }


def table(result: dict[str, Any]) -> list[list[str]]:
    """The figures for a person, a column a `--batch_by`."""
    rounds, two = result["rounds"], result["two_processes"]
    sizes = f"{result['events']:,} events, {result['users']:,} users, {result['items']:,} items"

    def row(what: str, cell: Callable[[str], str]) -> list[str]:
        return [what, *(cell(by) for by in BATCH_BY)]

    opened = f"{result['open_s']:.4f} s, {result['open_added_mib']:.1f} MiB"
    begun = f"{result['start_s']:.2f} s, {result['start_added_mib']:.0f} MiB"
    return [
        [sizes, *BATCH_BY],
        row("open", lambda by: opened),
        row("check of every event", lambda by: f"{result['check_s']:.2f} s"),
        row("training events of each user", lambda by: begun),
        row("loader alone, tokens/s", lambda by: spread(rounds["loader"][by])),
        row(f"training, {result['config']}", lambda by: spread(rounds["training"][by])),
        row("loader over training", lambda by: spread(rounds["ratio"][by])),
        row("empty slots", lambda by: f"{result['empty_slots'][by]:.2%}"),
        row("imbalance of two processes", lambda by: f"{result['imbalance'][by]:.2%}"),
        row("two processes at once, tokens/s", lambda by: spread(two[by]["tokens_per_s"])),
        row("each user once an epoch", lambda by: str(two[by]["each_user_once"])),
        row("own memory of each, MiB", lambda by: spread(two[by]["own_mib"])),
        row("mapped, shared, MiB", lambda by: spread(two[by]["mapped_mib"])),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--events", type=int, default=20_000_000, help="events (20000000)")
    parser.add_argument("--items", type=int, default=1500, help="items in five domains (1500)")
    parser.add_argument("--batches", type=int, default=300, help="steps loaded a round (300)")
    parser.add_argument(
        "--config", default="configs/quick.json", help="settings to train with (quick)"
    )
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    with tempfile.TemporaryDirectory() as folder:
        say("writing the dataset folder")
        write_folder(Path(folder) / "data", parsed.events, parsed.items)
        result = measure(Path(folder) / "data", parsed, process)
    print_result(result, table(result), parsed.json)


if __name__ == "__main__":
    run_command(main)
