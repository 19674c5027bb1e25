"""Start a command: allocator, device, processes."""

import ctypes
import os

import torch
import torch.distributed as dist

from src.io.errors import UserError
from src.training.processes import Process


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors in the process for later ones (glibc; no effect elsewhere).

    By default the C library returns blocks above some megabytes to the system at once, and a step
    spends more time on mapping and clearing the same pages again than on filling them.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return
    if not mallopt(mmap_threshold, 2**31 - 1):
        mallopt(mmap_threshold, 2**25)  # the most that glibc before 2.35 takes
    mallopt(trim_threshold, 2**31 - 1)


def start_process(device: str, deterministic: bool = False) -> Process:
    """Choose the device, and join the other processes if torchrun started this one.

    With `deterministic` torch refuses operations whose result may differ from run to run. UserError
    for a device that does not exist here.
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
    """The device of `--device`: auto, cpu, cuda (one GPU per process) or cuda:N."""
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
