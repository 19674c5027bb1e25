"""The loader: a dataset opens without being read, is whole, and an epoch is shared out exactly."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config.settings import Settings
from src.dataset.batching.packing import build_batch
from src.dataset.batching.sampler import epoch_shares
from src.dataset.batching.windows import newest_events
from src.dataset.store import verify
from src.dataset.store.folder import ARRAYS, open_dataset
from src.io.errors import UserError
from src.training.processes import Process
from tests.support.builders import make_dataset, random_users
from tests.support.command_runs import failing, train
from tests.support.damage import change, put
from trainers import Trainer

SIZES = (6, 5, 9, 4)


@pytest.fixture
def copy(data, tmp_path):
    """The dataset folder, for this test alone."""
    return shutil.copytree(data, tmp_path / "copy")


# ------------------------------------------------------------------------ opening


def sparse_folder(place: Path, events: int, users: int) -> Path:
    """A dataset folder whose arrays are holes: nothing but zeros, which are no items."""
    sequences = place / "sequences"
    sequences.mkdir(parents=True)
    for name, kind in {**ARRAYS, "offsets": "int64"}.items():
        count = users + 1 if name == "offsets" else events
        with (sequences / f"{name}.npy").open("wb") as file:
            header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + count * np.dtype(kind).itemsize)
    np.load(sequences / "offsets.npy", mmap_mode="r+")[-1] = events
    card = {
        "format": 1, "data_name": "holes", "sha256": "0" * 64, "users": users, "events": events,
        "items": 10, "domains": {"A": {"items": 10}},
    }  # fmt: skip
    (place / "data_card.json").write_text(json.dumps(card))
    return place


def resident_mib() -> float:
    """Memory of this process that is in RAM, its mapped pages included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_opening_reads_no_event(tmp_path):
    """Two gigabytes without a single valid event open, and only the ends of them are touched."""
    place = sparse_folder(tmp_path / "holes", events=140_000_000, users=7_000_000)
    open_dataset(place)  # what opening imports and keeps is there
    before = resident_mib() if Path("/proc/self/statm").is_file() else None
    dataset = open_dataset(place)
    assert before is None or resident_mib() - before < 2
    assert (dataset.users, len(dataset.items)) == (7_000_000, 140_000_000)
    assert all(isinstance(getattr(dataset, name), np.memmap) for name in ARRAYS)
    with pytest.raises(UserError, match="user 0 has no events"):
        verify.check_events(dataset)


BROKEN = {
    "shorter file": (lambda d: cut(d, "items", -1), ["items.npy", "cannot be read"]),
    "header alone": (lambda d: cut(d, "times", 60), ["times.npy", "cannot be read"]),
    "empty file": (lambda d: cut(d, "split", 0), ["split.npy", "cannot be read"]),
    "longer file": (lambda d: append(d, "domains"), ["domains.npy has", "its header states"]),
    "no file": (lambda d: (d / "sequences/items.npy").unlink(), ["items.npy", "cannot be read"]),
    "wide items": (
        lambda d: change(d, "items", lambda x: x.astype(np.int64)),
        ["items.npy holds int64", "not int32"],
    ),
    "float times": (
        lambda d: change(d, "times", lambda x: x.astype(np.float64)),
        ["times.npy holds float64", "not int64"],
    ),
    "other byte order": (
        lambda d: change(d, "offsets", lambda x: x.astype(">i8")),
        ["offsets.npy holds >i8", "not int64"],
    ),
    "a column": (
        lambda d: change(d, "split", lambda x: x[:, None]),
        ["split.npy holds int8 in 2 dimensions"],
    ),
    "an event less": (
        lambda d: change(d, "split", lambda x: x[:-1]),
        ["split.npy differs in length from items.npy"],
    ),
    "offsets that start later": (
        lambda d: change(d, "offsets", put(0, 1)),
        ["offsets.npy is damaged"],
    ),
    "offsets that end early": (
        lambda d: change(d, "offsets", lambda x: x[:-1]),
        ["offsets.npy is damaged"],
    ),
    "a user more": (
        lambda d: change(d, "offsets", lambda x: np.insert(x, 1, 1)),
        ["has 51 users, but its data_card.json states 50"],
    ),
    # what only a look at the events shows
    "offsets that fall": (
        lambda d: change(d, "offsets", put(3, 0)),
        ["offsets.npy is damaged: user 2 has no events"],
    ),
    "an item of another domain": (
        lambda d: change(d, "items", lambda x: np.roll(x, 1)),
        ["is not in the vocabulary of its domain"],
    ),
    "padding as an item": (
        lambda d: change(d, "items", put(-1, 0)),
        ["item 0 of user 49 is not in the vocabulary of its domain"],
    ),
    "a domain that is none": (
        lambda d: change(d, "domains", put(0, 9)),
        ["of user 0 is not in the vocabulary of its domain"],
    ),
    "a negative domain": (
        lambda d: change(d, "domains", lambda x: put(int(x.argmin()), -3)(x)),
        ["is not in the vocabulary of its domain"],
    ),
    "an unknown part": (
        lambda d: change(d, "split", put(12, 3)),
        ["split 3 of user", "is unknown"],
    ),
}  # fmt: skip


def cut(data: Path, name: str, end: int) -> None:
    path = data / "sequences" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:end])


def append(data: Path, name: str) -> None:
    with (data / "sequences" / f"{name}.npy").open("ab") as file:
        file.write(b"\0\0")


@pytest.mark.parametrize("case", BROKEN, ids=lambda name: name.replace(" ", "-"))
def test_a_damaged_dataset_is_refused_before_anything_is_written(copy, tmp_path, capsys, case):
    damage, said = BROKEN[case]
    damage(copy)
    runs = tmp_path / "runs"
    line = failing(capsys, runs, lambda: train(copy, runs, "run"))
    assert not runs.exists()
    for part in [str(copy), "make the dataset again", *said]:
        assert part in line


def test_a_batch_of_an_item_that_is_not_there_is_refused(copy):
    """Whoever trains or ranks without main.py's look at every event."""
    change(copy, "items", put(0, 10_000))
    dataset = open_dataset(copy)
    window = newest_events(dataset, np.array([0, 1]), dataset.offsets[[1, 2]], 50)
    with pytest.raises(UserError, match="item 10000 is not in the vocabulary"):
        build_batch(dataset, window, 0, 0)


# ------------------------------------------------------------------------ the order of an epoch


@st.composite
def epochs(draw) -> dict:
    """The arguments of an epoch that a trainer would accept."""
    processes = draw(st.integers(1, 5))
    batch_size = draw(st.integers(processes, 40))
    count = draw(st.integers(processes, 300))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    tokens = rng.integers(1, 51, 2 * count)
    return {
        "users": np.sort(rng.permutation(2 * count)[:count]),
        "batch_size": batch_size,
        "seed": draw(st.integers(0, 99)),
        "epoch": draw(st.integers(0, 99)),
        "processes": processes,
        "lengths": draw(st.sampled_from([None, tokens])),
    }


def lists(batches) -> list[list[int]]:
    return [users.tolist() for users in batches]


def one_share(users, batch_size, seed, epoch, rank=0, processes=1, **more) -> list[np.ndarray]:
    """The users of each batch that one process takes."""
    shares = epoch_shares(users, batch_size, seed, epoch, processes, **more)
    return [share[rank] for share in shares]


@settings(max_examples=150, deadline=None)
@given(epoch=epochs())
def test_the_processes_see_each_user_once_an_epoch_and_have_even_shares(epoch):
    shares = [lists(one_share(rank=rank, **epoch)) for rank in range(epoch["processes"])]
    assert len({len(share) for share in shares}) == 1  # as many batches each
    together = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert sorted(itertools.chain(*together)) == epoch["users"].tolist()
    size = epoch["batch_size"]
    assert all(len(batch) == size for batch in together[:-1])
    assert 1 <= len(together[-1]) <= size
    for parts in zip(*shares, strict=True):
        counts = [len(part) for part in parts]
        assert max(counts) - min(counts) <= 1
        if epoch["lengths"] is not None:
            tokens = [int(epoch["lengths"][part].sum()) for part in parts]
            longest = max(int(epoch["lengths"][part].max(initial=0)) for part in parts)
            assert max(tokens) - min(tokens) <= longest


@settings(max_examples=80, deadline=None)
@given(epoch=epochs(), rank=st.integers(0, 4), start=st.integers(0, 40))
def test_an_epoch_goes_on_at_any_batch(epoch, rank, start):
    rank %= epoch["processes"]
    whole = lists(one_share(rank=rank, **epoch))
    assert lists(one_share(rank=rank, start=start, **epoch)) == whole[start:]


def epoch_of(seed=1, epoch=0, batch_size=4, **more):
    users = np.arange(100, 123)
    return one_share(users, batch_size, seed, epoch, **more)


def test_an_epoch_has_every_user_once_and_keeps_its_short_last_batch():
    actual = epoch_of()
    assert [len(part) for part in actual] == [4, 4, 4, 4, 4, 3]
    assert sorted(np.concatenate(actual).tolist()) == list(range(100, 123))


def test_the_random_order_is_one_permutation_dealt_out_in_turn():
    """Pinned: another order would make another run of the same settings."""
    order = np.random.default_rng([1, 0]).permutation(np.arange(100, 123))
    assert np.concatenate(epoch_of()).tolist() == order.tolist()
    second = epoch_of(batch_size=6, rank=1, processes=3)
    assert lists(second) == [order[at : at + 6][1::3].tolist() for at in range(0, 23, 6)]


@pytest.mark.parametrize("lengths", [None, np.arange(200) % 7], ids=["random", "length"])
def test_the_order_is_a_function_of_seed_and_epoch(lengths):
    def order(**key):
        return tuple(np.concatenate(epoch_of(lengths=lengths, **key)).tolist())

    assert order() == order()
    assert len({order(seed=seed, epoch=epoch) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_by_length_a_batch_has_users_of_similar_length_in_an_order_by_chance():
    rng = np.random.default_rng(0)
    tokens, users = rng.integers(1, 51, 5000), np.arange(5000)
    random, sorted_ = (one_share(users, 16, 3, 0, lengths=lengths) for lengths in (None, tokens))
    apart = [
        np.mean([np.ptp(tokens[part]) for part in actual]) for actual in (random, sorted_[:-1])
    ]
    assert apart[0] > 40 and apart[1] < 2
    means = np.array([tokens[part].mean() for part in sorted_])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2  # of one batch and the next
    # the short last batch has no company of its length: its users are those that chance left
    assert set(sorted_[-1].tolist()) == set(random[-1].tolist())


def test_by_length_two_processes_share_a_batch_in_tokens():
    tokens = np.arange(1, 9)
    shares = [one_share(np.arange(8), 8, 0, 0, rank, 2, lengths=tokens) for rank in range(2)]
    assert [sorted(tokens[users].tolist()) for (users,) in shares] == [[1, 4, 5, 8], [2, 3, 6, 7]]


# ------------------------------------------------------------------------ the trainer's batches


def make_trainer(tmp_path, **options) -> Trainer:
    dataset = make_dataset(random_users(3, count=31), SIZES)
    tiny = {"hidden": 8, "layers": 1, "heads": 1, "max_len": 6, "batch_size": 4, "device": "cpu"}
    return Trainer(Settings(**(tiny | options)), dataset, tmp_path, Process(torch.device("cpu")))


def leaves(value) -> list:
    """Every tensor and number inside, as lists, in order."""
    if isinstance(value, torch.Tensor):
        return [value.tolist()]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, (list, tuple)):
        return [leaf for member in value for leaf in leaves(member)]
    return [value]


@pytest.mark.parametrize("batch_by", ["random", "length"])
@pytest.mark.parametrize("grad_accum", [1, 3])
def test_an_epoch_that_goes_on_at_a_step_has_the_batches_of_the_whole_one(
    tmp_path, monkeypatch, batch_by, grad_accum
):
    trainer = make_trainer(tmp_path, batch_by=batch_by, grad_accum=grad_accum)
    trainer.progress.epoch = 2
    whole = [leaves(step) for step in trainer.loader.steps(0)]
    assert len(whole) == trainer.loader.steps_per_epoch == -(-31 // (4 * grad_accum))
    built = []
    monkeypatch.setattr(
        "src.dataset.batching.loader.build_batch",
        lambda *args: built.append(args) or build_batch(*args),
    )
    for first in (0, 1, len(whole) - 1, len(whole)):
        built.clear()
        assert [leaves(step) for step in trainer.loader.steps(0, first)] == whole[first:]
        assert len(built) == max(0, 8 - first * grad_accum)  # and none of those before


def test_by_length_an_epoch_trains_on_the_same_targets(tmp_path):
    actual = {}
    for batch_by in ("random", "length"):
        trainer = make_trainer(tmp_path, batch_by=batch_by, loss="bce")
        steps = [batch for step in trainer.loader.steps(0) for batch in step]
        actual[batch_by] = sorted(
            pair
            for batch in steps
            for pair in zip(batch.targets.tolist(), batch.negatives[:, 0].tolist(), strict=True)
        )
    assert actual["random"] == actual["length"]


def test_a_run_by_length_says_so_and_is_another_run(data, tmp_path, capsys):
    runs = tmp_path / "runs"
    run = train(data, runs, "run", "--batch_by=length", "--mode=cdsr")
    assert json.loads((run / "config.json").read_text())["batch_by"] == "length"
    assert (run / "results.json").is_file()
    line = failing(capsys, runs, lambda: train(data, runs, "run", "--mode=cdsr"))
    assert "--batch_by length, not random" in line
