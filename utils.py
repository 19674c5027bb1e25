"""The run folder, seeds, device and processes, and the record of the environment."""

import csv
import ctypes
import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from models import SyNCRec
from src.config.settings import Settings
from src.dataset.batching.loader import Loader
from src.dataset.store.folder import Dataset, dataset_folder, open_dataset
from src.evaluation.queries import Ensemble
from src.io.errors import UserError
from src.io.files import write_atomically
from src.runs.checkpoints import BEST, check_weights, read_checkpoint
from src.training.memory import Forecast, check_tables, forecast
from src.training.processes import Process

ROOT = Path(__file__).resolve().parent
METRICS_COLUMNS = ("epoch", "step", "split", "path", "domain", "metric", "value")
TRANSFER_COLUMNS = ("epoch", "domain", "phi", "s", "gamma", "weight")
TRANSFER_STEP_COLUMNS = ("epoch", "step", "domain", "phi", "s", "gamma")
PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "torch")


class Table:
    """A CSV file of a run, whose rows begin with an epoch. It is written whole at every `write`;
    nothing of it is held in memory."""

    def __init__(self, path: Path, columns: tuple[str, ...], last_epoch: int | None = None):
        """With `last_epoch`, go on from the file's rows up to that epoch; otherwise start anew."""
        self.path, self.columns, self.last_epoch = path, columns, last_epoch
        self.begun = False
        for _ in self.kept():  # a torn file is found before an epoch is trained
            pass

    def kept(self) -> Iterator[list[str]]:
        """The rows that the file had before; UserError where they are not of these columns."""
        if self.last_epoch is None or not self.path.is_file():
            return
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = csv.reader(file, strict=True)
                width = len(next(rows, ()))
                for number, row in enumerate(rows, 2):
                    epoch = row[0] if len(row) == len(self.columns) == width else ""
                    if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 10):
                        raise UserError(f"{self.path} row {number} is torn; give --overwrite")
                    if int(epoch) <= self.last_epoch:
                        yield row
        except (OSError, ValueError, csv.Error) as error:  # torn, or no text
            raise UserError(f"{self.path} cannot be read ({error}); give --overwrite") from None

    def write(self, rows: Iterable[tuple]) -> None:
        """Add rows and write the file."""
        write_atomically(self.path, lambda temporary: self._write(temporary, rows))
        self.begun = True

    def _write(self, temporary: Path, rows: Iterable[tuple]) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self.begun:
                with self.path.open(newline="", encoding="utf-8") as before:
                    shutil.copyfileobj(before, file)
            else:
                writer.writerow(self.columns)
                writer.writerows(self.kept())
            writer.writerows(rows)


def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors for the next ones (glibc; else nothing).

    By default it gives blocks above some megabytes back to the system at once, and a step spends
    longer on mapping and clearing the same pages again than on filling them.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return
    if not mallopt(mmap_threshold, 2**31 - 1):
        mallopt(mmap_threshold, 2**25)  # the most that glibc before 2.35 takes
    mallopt(trim_threshold, 2**31 - 1)


def start_process(device: str, deterministic: bool = False) -> Process:
    """Join the other processes where torchrun started this one; choose the device.

    With `deterministic` torch refuses operations whose result may differ from run to run.
    """
    keep_freed_memory()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if processes == 1:
        return Process(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Process(chosen, dist.get_rank(), processes)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is unknown; give auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {name}: no usable GPU here; give --device cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank)
        elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(f"--device {name} would put every process on one GPU; give cuda")
        if device.index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: only {torch.cuda.device_count()} GPUs here")
    return device


def seed_everything(seed: int) -> None:
    """Seed every generator; data order and negatives have seeds of their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that draw from the global one
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """torch's random states of this process, bytes by device type."""
    own = {"cpu": torch.get_rng_state()}
    return own | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(
    states: dict[str, torch.Tensor], process: Process, key: tuple[int, ...]
) -> None:
    """Take up the random states of all processes, {device type: [P, bytes]}; a process that was not
    there then is seeded from `key` and its rank."""
    states = {kind: torch.atleast_2d(own).cpu() for kind, own in states.items()}
    if process.rank >= len(states["cpu"]):
        seed_everything(int(np.random.SeedSequence([*key, process.rank]).generate_state(1)[0]))
        return
    try:  # copies: torch reads a state from the start of its memory, where a row has no place
        torch.set_rng_state(states["cpu"][process.rank].clone())
        if process.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"][process.rank].clone(), process.device)
    except RuntimeError as error:  # torch looks into the bytes
        raise UserError(f"the checkpoint's random state is none ({error}); train again") from None


def environment(device: torch.device, data_sha256: str) -> dict[str, Any]:
    """What a run stood on: code, versions, device, data and the command."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "data_sha256": data_sha256,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # a copy without a repository is as good a place to train
    return done.stdout.strip()


def open_data(settings: Settings) -> Dataset:
    """The dataset that the settings name."""
    if settings.data_dir:
        return open_dataset(Path(settings.data_dir))
    return open_dataset(
        dataset_folder(ROOT, settings.data_name, settings.strd_ym, settings.variant)
    )


def best_models(
    settings: Settings, dataset: Dataset, folder: Path, device: torch.device
) -> Ensemble:
    """The best checkpoints of a run folder, ready to rank.

    Raises UserError where one is missing, torn, of another dataset or model.
    """
    models = []
    for part, part_folder in model_parts(settings, dataset, folder):
        model = new_model(settings, part, device).eval()
        path = part_folder / BEST
        state = read_checkpoint(path, settings, part, mapped=True)  # of it the weights alone
        check_weights(model, state, path)
        model.load_state_dict(state["model"])
        models.append(model)
    return Ensemble(models, separate=settings.mode == "sdsr_separate")


def new_model(settings: Settings, dataset: Dataset, device: torch.device) -> SyNCRec:
    """A model with fresh weights, in the type that `--precision` keeps them in.

    Weights are drawn on the CPU, so that they are the same on every device; on `meta`, not at all.
    """
    with torch.device("meta" if device.type == "meta" else "cpu"):
        model = SyNCRec(settings, dataset.item_starts.tolist())
    return model.to(device, torch.float64 if settings.precision == "float64" else torch.float32)


def count_parameters(settings: Settings, dataset: Dataset) -> int:
    """How many numbers the model will have; none of them is made."""
    return sum(
        part.numel() for part in new_model(settings, dataset, torch.device("meta")).parameters()
    )


def prepare(settings: Settings, dataset: Dataset, process: Process) -> tuple[Loader, Forecast]:
    """The batches of a run and what its steps will hold; UserError where it cannot be trained,
    before anything is made."""
    if settings.sparse_items and process.processes > 1:
        raise UserError(
            "--sparse_items runs in one process: sparse gradients are not shared; drop it, or "
            "start without torchrun"
        )
    loader = Loader(
        dataset,
        process.device,
        process.rank,
        process.processes,
        batch_size=settings.batch_size,
        max_len=settings.max_len,
        seed=settings.seed,
        grad_accum=settings.grad_accum,
        batch_by=settings.batch_by,
        context=settings.sdsr_context,
        share_mim_counts=settings.compares_views,
    )
    found = forecast(
        settings,
        count_parameters(settings, dataset),
        dataset.item_rows,
        loader.window_lengths(),
        process.processes,
    )
    check_tables(found, settings, process.device)
    return loader, found


def model_parts(settings: Settings, dataset: Dataset, folder: Path) -> list[tuple[Dataset, Path]]:
    """The models of a run: what each is trained on, and where its checkpoints lie."""
    if settings.mode != "sdsr_separate":
        return [(dataset, folder)]
    return [
        (dataset.only_domain(domain), folder / "domains" / str(domain))
        for domain in range(len(dataset.domain_names))
    ]
