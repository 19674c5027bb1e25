"""Each benchmark script runs from the root at its smallest size and prints its promised keys."""

import json
import shutil
import subprocess
import sys

import pytest

from src.io.paths import ROOT
from tests.support.command_runs import make_data

CPU = ("--device=cpu", "--threads=1", "--rounds=1")
SIZES = {  # script: (flags, keys that the object must have)
    "speed/step": (
        (*CPU, "--hidden=8", "--dtype=bfloat16", "--batch=4"), "share_of_peak speedup peak_mib"
    ),
    "speed/domains": ((*CPU, "--hidden=8", "--batch=4"), "ratio"),
    "speed/evaluate": (
        (*CPU, "--items=5000", "--hidden=8", "--targets=64"), "share_of_peak peak_mib added_mib"
    ),
    "speed/recommend": (
        (*CPU, "--users=40", "--items=300", "--hidden=8", "--k=5"),
        "users items hidden seconds share_of_peak vs_faiss peak_mib",
    ),
    "speed/protocols": (
        (*CPU, "--items=40", "--domains=2", "--hidden=8", "--targets=20", "--negatives=5"), "ratio"
    ),
    "speed/kernels": ((*CPU, "--hidden=8", "--dtype=float32", "--batch=4"), "cases"),
    "speed/softmax": ((*CPU, "--items=70", "--targets=12", "--hidden=8"), "sizes"),
    "speed/loader": ((*CPU, "--events=6000", "--items=40", "--batches=2"), "ratio open_s"),
    "speed/data": (("--events=3000",), "ratio peak_rss_mib"),
    "speed/end_to_end": (
        ("--skip_install", "--", "--hidden=8", "--layers=1", "--max_epochs=1", "--threads=1"),
        "dataset_s training_s total_s",
    ),
    "memory/catalogue_run": (
        (*CPU, "--items=300", "--events=4000", "--users=1200", "--hidden=8", "--batch=8",
         "--save_every=10", "--held_out=.02"),
        "steps interrupted_after commands",
    ),
    "robustness/significance": (("--simulations=2",), "rows"),
}  # fmt: skip


def printed(script: str, *flags: str) -> dict:
    """The object that a script prints as its last line; it must end with status 0."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}.py", "--json", *flags], cwd=ROOT,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", SIZES)
def test_a_script_prints_its_keys(script):
    flags, keys = SIZES[script]
    assert printed(script, *flags).keys() >= set(keys.split())


def test_validation_and_scoring_are_timed_on_a_dataset(tmp_path):
    data = make_data(tmp_path)
    result = printed("speed/validation", *CPU, f"--data_dir={data}", "--scored=20")
    assert set(result["cpu_seconds"]) == {"steps", "validation", "full_all", "all"}
    assert {"validation_share", "scoring_ratio"} <= result.keys()


def test_a_case_of_time_to_result_has_its_promised_keys():
    flags = ("--cases=planted/syncrec", "--rounds=1", "--users=60", "--max_epochs=1")
    (case,) = printed("speed/time_to_result", *flags, "--threads=1")["cases"]
    keys = "log model seconds seconds_reference speedup ndcg ndcg_reference shares"
    assert case.keys() >= set(keys.split())
    assert list(case["shares"]) == [
        "start", "loading", "steps", "validation", "scoring", "writing",
    ]  # fmt: skip
    assert sum(case["shares"].values()) == pytest.approx(1)


def test_duckdb_and_spark_make_the_same_data():
    pytest.importorskip("pyspark", reason="PySpark is not installed (requirements-spark.txt)")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java, and there is none")
    assert printed("speed/duckdb_spark", "--events=3000")["events"] == 3000


def test_a_step_and_a_validation_need_no_more_than_their_tables():
    """A gradient with a row for each item, held once too often, would be 44 MiB."""
    flags = (*CPU, "--hidden=64", "--batch=8", "--skip_dense", "--items", "20000", "200000")
    result = printed("memory/catalogue", *flags)
    assert result["growth_mib"] < 8
    assert result["eval_growth_mib"] < 8


def test_ranking_holds_a_chunk_of_the_scores_at_a_time():
    """Resident memory of a process of its own: also what the allocator cannot use again counts."""
    result = printed("speed/evaluate", *CPU, "--items=200000", "--hidden=8", "--targets=2048")
    assert result["all_scores_mib"] > 1500
    assert result["added_mib"] < 150


def test_killed_in_every_phase_all_ends_as_if_nothing_had_been():
    result = printed("robustness/kill_matrix", "--kills=10", "--seed=3")
    assert result["kills"] == result["identical"] >= 10
    assert result["corrupt"] == 0
    assert all(result["by_phase"][phase] for phase in ("data", "train", "validation", "save"))


def test_through_full_disks_nans_and_kills_a_run_ends_as_if_nothing_had_been():
    """The script's status says that all was kept, nothing is left over and memory is flat."""
    assert all(printed("robustness/soak")["faults"].values())
