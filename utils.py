"""The run folder, seeds, device and processes, and the record of the environment."""

import csv
import ctypes
import io
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from models import SyNCRec
from src.checkpoint import read_checkpoint
from src.dataset.folder import Dataset, dataset_folder, open_dataset
from src.encoding import Ensemble
from src.errors import EXIT_USER_ERROR, UserError
from src.files import write_atomically
from src.settings import Settings

ROOT = Path(__file__).resolve().parent
METRICS_COLUMNS = ("epoch", "step", "split", "path", "domain", "metric", "value")
TRANSFER_COLUMNS = ("epoch", "domain", "phi", "s", "gamma", "weight")
TRANSFER_STEP_COLUMNS = ("epoch", "step", "domain", "phi", "s", "gamma")
PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "torch")


class Table:
    """A CSV file of a run: rows carry an epoch, the file is rewritten whole at every `write`."""

    def __init__(self, path: Path, columns: tuple[str, ...], last_epoch: int | None = None):
        """With `last_epoch`, go on from the file's rows up to that epoch; otherwise start anew."""
        self.path = path
        self.columns = columns
        self.rows: list[tuple] = []
        if last_epoch is not None and path.is_file():
            with path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
            self.rows = [tuple(row) for row in rows if int(row[0]) <= last_epoch]

    def write(self, rows: Iterable[tuple]) -> None:
        """Add rows and write the file."""
        self.rows.extend(rows)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        write_atomically(self.path, lambda temporary: temporary.write_text(text.getvalue()))


@dataclass(frozen=True)
class Process:
    """This process among those of the run, and its device."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.processes > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, own: torch.Tensor) -> list[torch.Tensor]:
        """A tensor of every process, of the same shape in all, in the order of the processes."""
        if self.processes == 1:
            return [own]
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.processes)]
        dist.all_gather(parts, own)
        return parts

    def gather_objects(self, own: Any) -> list[Any]:
        """A small value of every process, in their order."""
        if self.processes == 1:
            return [own]
        told: list[Any] = [None] * self.processes
        dist.all_gather_object(told, own)
        return told

    def wait(self) -> None:
        """Until all processes are here."""
        if self.processes > 1:
            dist.barrier()

    def gather_groups(self, own: torch.Tensor, sizes: list[list[int]]) -> list[torch.Tensor]:
        """The rows of all processes, put together by group: own [n, …] lies group after group,
        `sizes` [P][G] says how many rows each process has of each.

        The own rows keep their gradient, times the processes, because DistributedDataParallel
        averages what must be added; the rows of others are values.
        """
        if self.processes == 1:
            return list(own.split(sizes[0]))
        padded = own.new_zeros(max(map(sum, sizes)), *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = self.gather(padded)
        parts[self.rank] = own.detach() + self.processes * (own - own.detach())
        groups = [
            part[: sum(counts)].split(counts) for part, counts in zip(parts, sizes, strict=True)
        ]
        return [torch.cat(group) for group in zip(*groups, strict=True)]

    def agree(self, decide: Callable[[], Any]) -> Any:
        """What the leading process decides, for all of them; its UserError ends them all."""
        if self.processes == 1:
            return decide()
        told: list[Any] = [None]
        if self.leads:
            try:
                told = [decide()]
            except UserError as error:
                dist.broadcast_object_list([error], device=self.device)
                raise
        dist.broadcast_object_list(told, device=self.device)
        if isinstance(told[0], UserError):
            sys.exit(EXIT_USER_ERROR)  # the leading process says why
        return told[0]


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
    torch.set_rng_state(states["cpu"][process.rank])
    if process.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"][process.rank], process.device)


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
        cpu = torch.device("cpu")  # of a checkpoint the weights alone go to the device
        state = read_checkpoint(part_folder / "best.pt", settings, part, cpu, mapped=True)
        model.load_state_dict(state["model"])
        models.append(model)
    return Ensemble(models, separate=settings.mode == "sdsr_separate")


def new_model(settings: Settings, dataset: Dataset, device: torch.device) -> SyNCRec:
    """A model with fresh weights, in the type that `--precision` keeps them in."""
    model = SyNCRec(settings, dataset.item_starts.tolist())
    return model.to(device, torch.float64 if settings.precision == "float64" else torch.float32)


def model_parts(settings: Settings, dataset: Dataset, folder: Path) -> list[tuple[Dataset, Path]]:
    """The models of a run: what each is trained on, and where its checkpoints lie."""
    if settings.mode != "sdsr_separate":
        return [(dataset, folder)]
    return [
        (dataset.only_domain(domain), folder / "domains" / str(domain))
        for domain in range(len(dataset.domain_names))
    ]
