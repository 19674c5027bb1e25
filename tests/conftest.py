"""Fixtures that the tests share."""

from pathlib import Path

import pytest
import torch

from benchmarks.robustness.fuzz_world import World, build

pytest_plugins = ["tests.support.spark_session"]
torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Good files of every kind, for the tests that spoil them and put them back."""
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real logs; the test is skipped where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real logs (../shared/data) are not here")
    return SHARED_DATA
