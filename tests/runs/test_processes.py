"""Any number of processes gives the training and the scores of one, to 1e-8 in float64.

Runs share a launch of their number of processes (process_worker.py); one goes through the command.
"""

from collections import Counter
from functools import cache

import pyarrow.parquet as pq
import pytest
import torch

import main
from src.dataset.batching.loader import Loader
from src.dataset.store.folder import open_dataset
from tests.support.command_runs import DOMAINS, ROOT, contents, make_data
from tests.support.process_runs import (
    USERS,
    assert_same_files,
    assert_same_run,
    checkpoint_numbers,
    difference,
    exact,
    launch,
    launch_runs,
)

KINDS = {  # {name: flags that are not at their default}
    "full": (),
    "no-lc-ntg": ("--no-lc_ntg",),
    "heldout-gap": ("--gap=heldout",),
    "no-sc-mim": ("--no-sc_mim",),
    "bce": ("--loss=bce", "--batch_by=length"),
    "all-learn": ("--no-stop_gradient", "--target_domain_query", "--softmax_items=all"),
    "one-expert": ("--share_experts",),
    "per-domain": ("--cross_per_domain",),
    "sequence": ("--gate=sequence", "--no-towers"),
    "cdsr": ("--mode=cdsr", "--gate=none", "--time_embedding=interval"),
    "multi-task": ("--model=ple", "--ple_own=2"),
    "abxi": ("--model=abxi", "--mode=cdsr", "--time_embedding=interval"),
    "own-context": ("--mode=sdsr", "--sdsr_context=own", "--batch_by=length"),
    "separate": ("--mode=sdsr_separate", "--max_epochs=2"),
    "parts": ("--batch_size=4", "--grad_accum=2"),
}
WITH_THREE = ("bce", "own-context")
IN_EVERY_CHANGE = ("full", "heldout-gap", "separate")  # in two processes; the rest is nightly
# equal batches, whole and in parts
WHOLE = ("--no-sc_mim", "--batch_size=9", "--max_epochs=7")
IN_PARTS = ("--no-sc_mim", "--batch_size=3", "--grad_accum=3", "--max_epochs=7")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), users=USERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


def flags_of(data, folder, processes: int, name: str, *more: str) -> list[str]:
    return exact(data, folder / str(processes), name, *more)


@pytest.fixture(scope="module")
def alone(data, folder):
    """A function: the run folder of a kind in one process, made once."""

    def run(name: str, *more: str):
        run_folder = folder / "1" / "tiny" / name
        if not run_folder.is_dir():
            main.main(flags_of(data, folder, 1, name, *more))
        return run_folder

    return run


@pytest.fixture(scope="module")
def launched(data, folder):
    """A function: the run folder of a kind in several processes; those of a tier share a launch."""

    @cache
    def launch_tier(processes: int, nightly: bool) -> None:
        kinds = {
            name: more
            for name, more in (KINDS | {"in-parts": IN_PARTS}).items()
            if is_nightly(name, processes) == nightly and (processes == 2 or name in WITH_THREE)
        }
        flags = [flags_of(data, folder, processes, name, *more) for name, more in kinds.items()]
        done = launch_runs(processes, folder, [(run_flags, None) for run_flags in flags])
        assert done.returncode == 0, done.stderr
        assert "arning" not in done.stderr  # of unused parameters, strides, or the process group

    def run(name: str, processes: int):
        launch_tier(processes, is_nightly(name, processes))
        return folder / str(processes) / "tiny" / name

    return run


def is_nightly(name: str, processes: int) -> bool:
    return processes > 2 or name not in IN_EVERY_CHANGE


# ------------------------------------------------------------------------ whole runs


def test_the_log_leaves_processes_without_a_user_and_the_steps_are_many(data):
    """Otherwise the tests below would be too easy."""
    loader = Loader(
        open_dataset(data), torch.device("cpu"), 1, 2, batch_size=7, max_len=50, seed=42
    )
    shares = [batch for step in loader.shares(epoch=0) for batch in step]
    assert [len(users) for users in shares[-1]] == [1, 0]
    assert [len(users) for users in shares[0]] == [4, 3]
    assert 5 * loader.steps_per_epoch >= 50


@pytest.mark.nightly
def test_the_command_trains_and_ranks_in_three_processes_as_in_one(data, folder, alone):
    one = alone("full")
    done = launch(3, ROOT / "main.py", *flags_of(data, folder, 3, "full"))
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stderr
    many = folder / "3" / "tiny" / "full"
    assert_same_run(one, many)
    before = contents(many)
    main.main([f"--evaluate={many}"])  # the same weights, by one process
    assert contents(many) == before
    ranks = pq.read_table(many / "ranks.parquet").to_pandas()
    count = Counter(zip(ranks.split, ranks.path, ranks.target, strict=True))
    targets = open_dataset(data).split_counts
    assert set(count.values()) == {1}
    for split, by_domain in (("valid", targets[1]), ("test", targets[2])):
        assert (ranks.split == split).sum() == by_domain.sum() * ranks.path.nunique() > 0


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        pytest.param(name, count, marks=[pytest.mark.nightly] * is_nightly(name, count))
        for name, count in [*((name, 2) for name in KINDS), *((name, 3) for name in WITH_THREE)]
    ],
)
def test_a_run_in_several_processes_equals_that_of_one(alone, launched, name, processes):
    one, many = alone(name, *KINDS[name]), launched(name, processes)
    if name == "separate":
        assert_same_files(one, many)
        for domain in range(len(DOMAINS)):
            assert_same_run(one / "domains" / str(domain), many / "domains" / str(domain))
    else:
        assert_same_run(one, many)


@pytest.mark.nightly
def test_a_batch_in_parts_trains_as_the_whole_one_in_one_process_and_in_two(alone, launched):
    whole, parts = alone("whole", *WHOLE), alone("in-parts", *IN_PARTS)
    assert_same_run(whole, parts)
    assert_same_run(whole, launched("in-parts", 2))


@pytest.mark.nightly
def test_with_the_mutual_information_loss_the_parts_train_differently(alone):
    """As --help says of --grad_accum: a user's negatives are those of the part."""
    whole, parts = (
        alone(f"mim-{len(flags)}", *flags, "--sc_mim", "--max_epochs=1")
        for flags in (WHOLE, IN_PARTS)
    )
    first, second = (checkpoint_numbers(run / "last.pt") for run in (whole, parts))
    assert difference(first["/model/critics"], second["/model/critics"]) > 1e-6
