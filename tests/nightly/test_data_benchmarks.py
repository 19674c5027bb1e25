"""The benchmark of the data step: what it prints, and that it compares like with like."""

import json

import pytest

from benchmarks.speed import data
from src.io.errors import UserError

KEYS = {"events", "seconds", "sort_seconds", "ratio", "pandas_seconds", "peak_rss_mib"}


def test_the_benchmark_prints_one_object(tmp_path, capsys):
    """Plain pandas must make the same content, day-grain ties or not, or it fails."""
    flags = ["--events=3000", f"--work_dir={tmp_path}", "--json", "--", "--min_user_events=15"]
    data.main(flags)
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= KEYS
    assert found["events"] == 3000 > found["kept_events"] > 0
    assert found["ratio"] == found["seconds"] / found["sort_seconds"]
    assert list(tmp_path.iterdir()) == []


def test_the_generated_log_is_a_function_of_its_size(tmp_path):
    written = []
    for name in ("a", "b"):
        data.generate(2000, tmp_path / name, {"threads": "1"})
        written.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert written[0] == written[1]


def test_a_log_that_is_too_small_is_refused():
    with pytest.raises(UserError, match="at least 1000"):
        data.main(["--events=10"])
