"""Fixtures that the tests share."""

import gc
import os
import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

gc.disable()  # until all files are imported
gc.set_threshold(10_000)  # objects, of which a tiny training makes a hundred thousand
# Before torch starts its threads: those that wait would spin, and take the time of those at work
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest_plugins = ["tests.support.spark_session"]
# A shell has its background commands ignore SIGINT, and theirs would inherit that from the tests
signal.signal(signal.SIGINT, signal.default_int_handler)
# They take longest and begin first, so that no process of pytest works alone at the end
LONG_FILES = ("test_processes_ending.py", "test_processes.py", "test_resume.py")
TESTS = Path(__file__).resolve().parent
SHARED_DATA = TESTS.parents[1] / "shared" / "data"


def pytest_collection_modifyitems(items):
    """What lies in tests/nightly is nightly, and so is what needs Spark, which takes long to start;
    elsewhere a mark says so. Long files come first."""
    for item in items:
        if "spark" in item.fixturenames or TESTS / "nightly" in item.path.parents:
            item.add_marker("nightly")
        if item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.timeout(3600))
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tensors are small: more threads only wait for each other."""
    import torch  # not above: the process that hands out the tests does without

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def libraries_are_no_garbage():
    """Each training collects garbage, and would search what libraries and earlier files of tests
    leave: half a million objects."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()  # DuckDB complains about what is left at the end


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Good files of every kind, for the tests that spoil them and put them back."""
    from tests.support.tiny_world import build  # loads a data engine, which few tests need

    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The dataset folder of a tiny log; a test that changes it does so to a copy."""
    from tests.support.command_runs import make_data  # loads torch, which few tests need

    return make_data(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="session")
def finished_run(data, tmp_path_factory) -> Callable[..., Path]:
    """finished_run(name, *flags): the folder of a finished run on it, trained once for all tests; a
    test that changes it does so to a copy."""
    from tests.support.command_runs import train

    return cache(lambda name, *flags: train(data, tmp_path_factory.mktemp("runs"), name, *flags))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real logs; the test is skipped where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real logs (../shared/data) are not here")
    return SHARED_DATA


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-k WORDS`, leave out files that hold none of the words: importing every file would load
    the data engines for each choice of tests. Expressions with `not` look at all files."""
    words = re.findall(r"\w+", config.option.keyword.lower())
    if not words or "not" in words or collection_path.suffix != ".py":
        return None
    text = f"{collection_path.name} {collection_path.read_text()}".lower()
    return None if any(word in text for word in words) else True


@pytest.fixture(autouse=True)
def torch_begins_and_ends_each_test_alike():
    """What a test draws doesn't depend on the tests before it; and `--deterministic` holds for a
    whole process, within which tests run commands."""
    import torch

    torch.manual_seed(0)
    yield
    if torch.are_deterministic_algorithms_enabled():  # setting it loads torch's compiler
        torch.use_deterministic_algorithms(False)
