"""The content of a dataset folder against its card, and what is counted a few users at a time."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.dataset.batching.windows import train_ends, training_dataset, window_lengths
from src.dataset.store import folder, verify
from src.dataset.store.folder import TEST, TRAIN, VALID, open_dataset, user_chunks
from src.io.errors import UserError
from tests.support.builders import make_dataset, random_users
from tests.support.damage import change, put

SIZES = (6, 5, 9, 4)


@pytest.fixture
def copy(data, tmp_path):
    """The dataset folder, for this test alone."""
    return shutil.copytree(data, tmp_path / "copy")


@pytest.fixture(params=[5, 40])
def small_chunks(monkeypatch, request):
    """Everything that goes by chunks goes by so few events."""
    monkeypatch.setattr(folder, "CHUNK", request.param)
    monkeypatch.setattr(verify, "CHUNK", request.param)
    monkeypatch.setattr(user_chunks, "__defaults__", (request.param,))


# ------------------------------------------------------------------------ the whole content


def test_the_content_is_what_the_card_says(data, small_chunks):
    dataset = open_dataset(data)
    verify.verify_dataset(dataset)
    assert verify.hash_of(dataset) == dataset.card["sha256"]


def rename(data: Path, table: str, column: str) -> None:
    """Give the last row of an id table another id of the same length."""
    path = data / f"{table}.parquet"
    rows = pq.read_table(path)
    ids = rows[column].to_pylist()
    ids[-1] = ids[-1][:-1] + "~"
    pq.write_table(
        rows.set_column(rows.schema.get_field_index(column), column, pa.array(ids)), path
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: change(d, "times", put(-1, 5)),
        lambda d: change(d, "split", put(2, VALID)),
        lambda d: change(d, "offsets", lambda x: put(4, x[4] + 1)(x)),
        lambda d: rename(d, "items", "item_id"),
        lambda d: rename(d, "users", "user_id"),
    ],
    ids=["time", "split", "offset", "item id", "user id"],
)
def test_content_of_another_hash_is_refused(copy, damage):
    damage(copy)
    with pytest.raises(UserError, match=r"other content than its data_card\.json states"):
        verify.verify_dataset(open_dataset(copy))


def test_a_missing_id_table_is_named(copy):
    (copy / "users.parquet").unlink()
    with pytest.raises(UserError, match=r"users\.parquet cannot be read"):
        verify.verify_dataset(open_dataset(copy))


# ------------------------------------------------------------------------ a few users at a time


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), size=st.integers(1, 60))
def test_chunks_are_whole_users_in_order_and_no_larger_than_asked_for(lengths, size):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    chunks = list(user_chunks(offsets, size))
    assert [user for users in chunks for user in range(len(lengths))[users]] == [
        *range(len(lengths))
    ]
    for users, after in zip(chunks, [*chunks[1:], None], strict=True):
        events = sum(lengths[users])
        assert events <= size or users.stop - users.start == 1
        assert after is None or events + lengths[after.start] > size  # as large as they can be


def random_split(seed: int):
    """Random users whose events are of a random part each, or of training first."""
    dataset = make_dataset(random_users(seed, count=23), SIZES)
    split = np.random.default_rng(seed).integers(0, 3, len(dataset.items)).astype(np.int8)
    if seed % 2:
        for first, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True):
            split[first:end].sort()
    return dataclasses.replace(dataset, split=split)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_counted_in_chunks_is_counted_right(seed, small_chunks):
    dataset = random_split(seed)
    trained = dataset.items[dataset.split == TRAIN].tolist()
    rows = range(dataset.item_rows)
    assert dataset.training_counts.tolist() == [trained.count(item) for item in rows]
    for part in (TRAIN, VALID, TEST):
        own = dataset.domains[dataset.split == part].tolist()
        assert dataset.split_counts[part].tolist() == [own.count(d) for d in range(len(SIZES))]
    users = [slice(*ends) for ends in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)]
    counts = [int((dataset.split[own] == TRAIN).sum()) for own in users]
    assert (train_ends(dataset) - dataset.offsets[:-1]).tolist() == counts
    part, ends = training_dataset(dataset)
    assert (part is dataset) == bool(seed % 2)
    read = [
        part.items[first:end].tolist() for first, end in zip(part.offsets[:-1], ends, strict=True)
    ]
    assert read == [dataset.items[own][dataset.split[own] == TRAIN].tolist() for own in users]
    tokens = window_lengths(part, ends, 4, "paired")
    assert tokens.tolist() == [min(count, 4) for count in counts]
