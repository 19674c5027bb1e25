"""Folders written by the code of commit 85ba73b are read, ranked and trained on as they were then.

tests/data/legacy_run/README.md says how they were made.
"""

import csv
import json
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import main
import make_dataset
import recommend
import report
from src.io.errors import UserError
from src.report.finished_runs import read_runs

ARCHIVE = Path(__file__).parents[1] / "data" / "legacy_run" / "legacy_run.zip"
RUNS = ("syncrec", "sdsr_separate")
TARGET = ("split", "protocol", "path", "user_id", "domain", "item_id")
RANK = ("better", "tied", "candidates")


@pytest.fixture
def folder(tmp_path):
    """A copy of the folders, its runs where main.py looks for them."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    for name in RUNS:
        run = run_in(tmp_path, name)
        run.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(run)
        config = json.loads((run / "config.json").read_text())
        moved = {"data_dir": str(tmp_path / "dataset"), "runs_dir": str(tmp_path / "runs")}
        (run / "config.json").write_text(json.dumps(config | moved))
    return tmp_path


def run_in(folder: Path, name: str) -> Path:
    return folder / "runs" / "tiny" / name


def ranks_of(run: Path) -> list[tuple]:
    """Every row of ranks.parquet, in order: its target, and how the target ranked."""
    table = pq.read_table(run / "ranks.parquet", columns=[*TARGET, *RANK])
    return list(zip(*(table[name].to_pylist() for name in (*TARGET, *RANK)), strict=True))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def values_of(metrics: Path) -> dict[tuple, float]:
    """{what was measured: value} of a metrics.csv."""
    return {
        tuple(text for name, text in row.items() if name != "value"): float(row["value"])
        for row in rows_of(metrics)
    }


@pytest.mark.parametrize("name", RUNS)
def test_evaluate_reproduces_every_rank(folder, name):
    run = run_in(folder, name)
    ranks = ranks_of(run)
    assert len(ranks) > 500
    written = (run / "ranks.parquet").stat().st_mtime_ns
    main.main([f"--evaluate={run}"])
    assert (run / "ranks.parquet").stat().st_mtime_ns != written
    # later versions rank more paths
    paths = {row[2] for row in ranks}
    assert [row for row in ranks_of(run) if row[2] in paths] == ranks


@pytest.mark.parametrize("name", RUNS)
def test_recommend_gives_the_same_items(folder, name):
    run, out = run_in(folder, name), folder / "out.csv"
    recommend.main([f"--run={run}", "--k=2", f"--out={out}", "--exclude_seen"])
    before, after = rows_of(run / "recommendations.csv"), rows_of(out)
    for row in after:
        del row["path"], row["context_events"]  # columns of later versions
    scores, scores_before = (
        [float(row.pop("score")) for row in rows] for rows in (after, before)
    )  # fmt: skip
    assert after == before
    assert scores == pytest.approx(scores_before, rel=1e-4, abs=1e-5)


def test_report_tabulates_the_runs(folder, capsys, monkeypatch):
    runs = [run_in(folder, name) for name in RUNS]
    monkeypatch.setattr(sys, "argv", ["report.py", "table", *map(str, runs)])
    report.main()
    printed = capsys.readouterr().out
    for run in runs:
        results = json.loads((run / "results.json").read_text())["test"]["full"]
        assert run.name in printed
        for path in ("cross", "single"):
            if path in results:
                assert f"{results[path]['macro']['ndcg@10']:.4f}".lstrip("0") in printed


def test_a_metric_that_came_later_is_in_no_old_result_until_it_is_scored_again(
    folder, capsys, monkeypatch
):
    run = run_in(folder, "syncrec")
    words = ["report.py", "table", str(run), "--metrics", "mrr"]
    for metrics, missing in ((["mrr"], False), (["mrr@10"], True)):
        monkeypatch.setattr(sys, "argv", [*words[:-1], *metrics])
        if missing:
            with pytest.raises(UserError, match="no run has the metric mrr@10"):
                report.main()
        else:
            report.main()
    (one,) = read_runs([run])
    one.check_metric("mrr")
    with pytest.raises(UserError, match=r"no mrr@10 .* score it again with main\.py"):
        one.check_metric("mrr@10")
    main.main([f"--evaluate={run}"])
    report.main()
    read_runs([run])[0].check_metric("mrr@10")


@pytest.mark.parametrize("name", RUNS)
def test_resume_goes_on_as_an_uninterrupted_run(folder, name):
    run = run_in(folder, name)
    former = values_of(run / "metrics.csv")
    main.main([f"--config={run / 'config.json'}", "--resume", "--max_epochs=3"])
    metrics, expected = (
        values_of(run / file) for file in ("metrics.csv", "metrics_of_three_epochs.csv")
    )
    assert former.items() <= metrics.items()  # the first epochs were not trained again
    assert len(expected) > len(former)
    assert {cell: metrics[cell] for cell in expected} == pytest.approx(expected, rel=1e-4)


def test_the_same_raw_log_is_the_same_dataset(folder):
    card = json.loads((folder / "dataset" / "data_card.json").read_text())
    flags = ["--data_name=tiny", "--strd_ym=202312", f"--raw_dir={folder / 'raw'}"]
    made = folder / "made"
    make_dataset.main([*flags, f"--out_dir={made}"])
    assert json.loads((made / "data_card.json").read_text())["sha256"] == card["sha256"]
    written = (folder / "dataset" / "data_card.json").stat().st_mtime_ns
    make_dataset.main([*flags, f"--out_dir={folder / 'dataset'}"])  # taken for what it is: reused
    assert (folder / "dataset" / "data_card.json").stat().st_mtime_ns == written
