"""Room for the arrays on the disk: with the call of the system, and where it has none (macOS)."""

import os
from pathlib import Path

import pytest

from src.io.files import reserve
from tests.support.data_logs import make, random_log, write_log

SIZES = (1, 1000, 3_000_001)


@pytest.fixture(params=["posix_fallocate", "writing"])
def system(request, monkeypatch):
    if request.param == "writing":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    elif not hasattr(os, "posix_fallocate"):
        pytest.skip("this system has no posix_fallocate")


@pytest.mark.parametrize("size", SIZES)
def test_the_file_has_its_zeros_on_the_disk(system, tmp_path, size):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"head")
        reserve(file, size)
    assert path.read_bytes() == b"head" + bytes(size)
    assert path.stat().st_blocks * 512 >= size  # no hole that a full disk could not fill


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_without_the_call_a_full_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with (
        pytest.raises(OSError, match="No space left"),
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        reserve(file, 1000)


def test_a_dataset_is_the_same_either_way(tmp_path, monkeypatch):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log())
    make(raw, tmp_path / "with")
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    make(raw, tmp_path / "without")
    for path in (tmp_path / "with").rglob("*.npy"):
        twin = tmp_path / "without" / path.relative_to(tmp_path / "with")
        assert twin.read_bytes() == path.read_bytes()
