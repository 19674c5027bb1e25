"""DuckDB and Spark make the same dataset of the same log: the steps are one definition."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.config.dataset_settings import DatasetSettings
from src.dataset.build.card import make_card
from src.dataset.engine.duckdb_engine import open_duckdb
from src.dataset.make import find_log, process_log
from tests.support.data_logs import card_of, make, random_log, write_log

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "filters": {
        "min_user_events": 4, "min_item_events": 3, "min_domains": 2, "dedup": "exact",
        "max_user_events": 30,
    },
    "temporal, of shares": {"split": "temporal", "dedup": "repeats"},
    "each domain": {"split": "leave_one_out_per_domain", "dedup": "consecutive", "max_len": 6},
    "many at once": {  # the one that .ci/run takes
        "min_user_events": 3, "min_domains": 2, "dedup": "repeats", "max_len": 12,
        "shared_items": True, "domains": ("Books", "été"), "split": "temporal",
    },
    "spelling": {"fold_case": True, "strip": True, "domains": ("BOOKS ", "ÉTÉ")},
    "one item an id": {"shared_items": True, "domains": ("Books", "été")},
}  # fmt: skip


def made_by(engine, settings, folder):
    """The card of the dataset that an engine makes, and the bytes of its arrays."""
    folder.mkdir()
    made = process_log(engine, settings, find_log(settings), folder)
    card = make_card(made.sequences, **made.card_inputs)
    return card, {path.name: path.read_bytes() for path in (folder / "sequences").iterdir()}


@pytest.mark.parametrize("options", OPTIONS)
def test_both_engines_make_the_same_dataset(spark, tmp_path, options):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log(events=300))
    settings = DatasetSettings(
        data_name="t", strd_ym="201402", raw_dir=str(raw), **OPTIONS[options]
    )
    with open_duckdb(1, "", tmp_path) as duck:
        expected = made_by(duck, settings, tmp_path / "duckdb")
    assert made_by(spark, settings, tmp_path / "spark") == expected


def test_spark_keeps_nothing_of_what_it_released(spark, tmp_path):
    before = set(spark.spill.iterdir())
    raw = write_log(tmp_path / "raw" / "e.csv", random_log(events=60))
    kept = spark.materialise(spark.backend.read_csv(str(raw / "e.csv"), header=True))
    assert set(spark.spill.iterdir()) > before
    spark.release(kept)
    assert set(spark.spill.iterdir()) == before


def test_the_command_with_spark(spark, tmp_path):
    """As a user runs it; `spark` is asked for so that the test is skipped where it cannot run."""
    raw = write_log(tmp_path / "raw" / "e.csv", random_log(events=60))
    make(raw, tmp_path / "duckdb")
    out = tmp_path / "place" / "out"
    done = subprocess.run(
        [sys.executable, ROOT / "make_dataset.py", "--data_name=t", "--strd_ym=201412",
         f"--raw_dir={raw.as_uri()}", f"--out_dir={out}", "--engine=spark", "--threads=1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert card_of(out)["sha256"] == card_of(tmp_path / "duckdb")["sha256"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert "Traceback" not in done.stderr
