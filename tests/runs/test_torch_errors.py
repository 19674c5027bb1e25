"""Torch's errors that have no type are recognised: each is provoked here as it occurs in a run."""

import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from src.training.torch_errors import is_anomaly, is_lost_process, is_out_of_memory, short_text

PREDICATES = (is_out_of_memory, is_anomaly, is_lost_process)
LIMITED_LOAD = """
import resource, sys, torch
from src.training.torch_errors import is_out_of_memory
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    torch.load(sys.argv[1], mmap=sys.argv[2] == "mapped")
except RuntimeError as error:
    print(is_out_of_memory(error), error)
"""


def recognised(error: BaseException) -> list:
    return [predicate for predicate in PREDICATES if predicate(error)]


def test_the_allocator_of_the_cpu_has_no_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55, dtype=torch.uint8)
    assert recognised(error.value) == [is_out_of_memory]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize("how", ["mapped", "read"])
def test_a_file_does_not_fit_in_memory(how, tmp_path):
    torch.save(torch.zeros(2**24), tmp_path / "large.pt")
    arguments = ["-c", LIMITED_LOAD, str(tmp_path / "large.pt"), how]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("True "), (done.stdout, done.stderr)


def test_python_and_a_gpu_have_no_memory():
    with pytest.raises(MemoryError) as error:
        bytearray(2**62)
    assert recognised(error.value) == [is_out_of_memory]
    assert recognised(torch.OutOfMemoryError("CUDA out of memory.")) == [is_out_of_memory]


def test_a_backward_function_returns_nan():
    x = torch.zeros(1, requires_grad=True)
    with (
        pytest.warns(UserWarning, match="Error detected in"),
        pytest.raises(RuntimeError) as error,
        torch.autograd.set_detect_anomaly(True),
    ):
        (x.sqrt() * 0).sum().backward()
    assert recognised(error.value) == [is_anomaly]


def leave_or_reduce(rank: int, store: str, results) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    dist.barrier()
    if rank == 0:
        try:
            for _ in range(100):
                dist.all_reduce(torch.ones(1))
        except RuntimeError as error:
            results.put((recognised(error), short_text(error)))
    results.close()
    results.join_thread()
    os._exit(0)


def test_another_process_ends(tmp_path):
    context = get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=leave_or_reduce, args=(rank, str(tmp_path / "store"), results))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    error_types, text = results.get(timeout=120)
    for worker in workers:
        worker.join(timeout=60)
    assert error_types == [is_lost_process]
    assert text and "/" not in text  # without the path of gloo's source file


@pytest.mark.parametrize(
    "fails", [lambda: torch.ones(2, 3) @ torch.ones(2, 3), lambda: torch.zeros(2).backward()]
)
def test_other_errors_of_torch_are_none_of_these(fails):
    with pytest.raises(RuntimeError) as error:
        fails()
    assert not recognised(error.value)
