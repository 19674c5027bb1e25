"""Tables from run folders: every value once, baselines first, unlike runs refused."""

import csv
import json

import pytest

import report
from src.errors import UserError


def write_run(folder, *, value, data="aaaa", path="cross", finished=True):
    """A run folder as main.py leaves it, of two domains, with one model path and a baseline."""
    folder.mkdir(parents=True)

    def metrics(number):
        rows = {
            "d1": number,
            "d2": number / 2,
            "macro": 0.75 * number,
            "users": 0.6 * number,
        }
        return {d: {"ndcg@10": v, "hr@10": 2 * v, "n": 7} for d, v in rows.items()}

    paths = {path: metrics(value), "popularity": metrics(0.01)}
    results = {split: {"full": paths} for split in ("valid", "test")}
    if finished:
        (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.json").write_text(json.dumps({"mode": "cdsr", "loss": "ce", "seed": 1}))
    (folder / "environment.json").write_text(json.dumps({"data_sha256": data}))
    return folder


def run_report(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, arguments)])
    report.main()
    return capsys.readouterr().out


def test_the_table_has_a_row_a_path_and_the_baseline_once_and_first(tmp_path, monkeypatch, capsys):
    runs = [write_run(tmp_path / "a", value=0.2), write_run(tmp_path / "b", value=0.4)]
    text = run_report(monkeypatch, capsys, "table", *runs)
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ["popularity", "a", "b"]
    assert [cell.strip() for cell in rows[3][2:]] == [
        ".2000 / .4000", ".1000 / .2000", ".1500 / .3000", ".1200 / .2400",
    ]  # fmt: skip
    assert "d1 (n = 7)" in rows[0][2]


def test_the_files_hold_every_value_of_every_split(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "a", value=0.2)
    text = run_report(monkeypatch, capsys, "table", run, "--out", tmp_path / "out" / "t")
    assert (tmp_path / "out" / "t.md").read_text() in text
    with (tmp_path / "out" / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4 * 3  # splits, paths, domains and means, metrics
    chosen = {"run": "a", "split": "valid", "domain": "macro", "metric": "ndcg@10"}
    (row,) = (row for row in rows if chosen.items() <= row.items())
    assert float(row["value"]) == pytest.approx(0.15)


def test_runs_on_different_data_are_refused(tmp_path, monkeypatch, capsys):
    runs = [write_run(tmp_path / "a", value=0.2), write_run(tmp_path / "b", value=0.2, data="b")]
    with pytest.raises(UserError, match="a and b stand on different data"):
        run_report(monkeypatch, capsys, "table", *runs)


def test_an_unfinished_run_is_named(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "a", value=0.2, finished=False)
    with pytest.raises(UserError, match="a holds no finished run"):
        run_report(monkeypatch, capsys, "table", run)


def test_an_unknown_protocol_is_one_line(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "a", value=0.2)
    with pytest.raises(UserError, match="no run has split test, protocol all"):
        run_report(monkeypatch, capsys, "table", run, "--protocol", "all")
