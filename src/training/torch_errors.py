"""Recognise errors of torch by their type or, where that is a plain RuntimeError, by their text.

tests/runs/test_torch_errors.py and test_processes_ending.py provoke each of them, so that a change
of torch is noticed.
"""

import torch
import torch.distributed as dist


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the machine has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # plain RuntimeErrors: the text of ENOMEM from torch's allocator of the CPU and from mmap, and
    # CUDA's text where memory runs out outside torch's allocator
    texts = ("Cannot allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def is_anomaly(error: RuntimeError) -> bool:
    """Whether `torch.autograd.set_detect_anomaly` has found a NaN: a plain RuntimeError."""
    return "returned nan values" in str(error)


def is_lost_process(error: RuntimeError) -> bool:
    """Whether the connection to another process is gone; gloo raises plain RuntimeErrors that begin
    with the path of its source file."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def short_text(error: RuntimeError) -> str:
    """The first sentence of torch's text, without the path of its source file."""
    return str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
