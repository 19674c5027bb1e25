"""Errors of torch without a type are recognised; each is provoked as it occurs in a run.

The loss of another process is provoked in test_processes_ending.py.
"""

import sys

import pytest
import torch

from src.training.torch_errors import is_anomaly, is_lost_process, is_out_of_memory
from tests.support.command_runs import command

PREDICATES = (is_out_of_memory, is_anomaly, is_lost_process)
LIMITED_LOAD = """
import resource, sys, torch
from src.training.torch_errors import is_out_of_memory
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    torch.load(sys.argv[1], mmap=True)
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
def test_a_file_does_not_fit_in_memory(tmp_path):
    torch.save(torch.zeros(2**24), tmp_path / "large.pt")
    done = command("-c", LIMITED_LOAD, tmp_path / "large.pt")
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


@pytest.mark.parametrize(
    "fails", [lambda: torch.ones(2, 3) @ torch.ones(2, 3), lambda: torch.zeros(2).backward()]
)
def test_other_errors_of_torch_are_none_of_these(fails):
    with pytest.raises(RuntimeError) as error:
        fails()
    assert not recognised(error.value)
