"""Records of runs: exact where they fit, found by their settings, refused where damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from src.config.settings import run_settings
from src.evaluation.metrics import summarise
from src.io.errors import UserError
from src.report import run_records
from src.report.finished_runs import read_runs
from src.report.recorded_runs import recorded_run
from src.report.run_records import LIMIT, read_records, run_key, write_run
from tests.support.run_folders import Log
from tests.support.run_folders import write_run as write_drawn_run

COST = {"seconds": 1.0, "peak_memory_mib": 2.0}
CODE = {"commit": None, "dirty": None}


def drawn_record(folder: Path, log: Log, limit: int = LIMIT, **options):
    """The record of a run whose ranks are drawn; the run, its recorded twin, the note."""
    path = write_drawn_run(folder / "run-seed1", log, protocols=("full",), seed=1, **options)
    (finished,) = read_runs([path])
    file, note = write_run(folder / "records", finished, COST, CODE)
    records = read_records(folder / "records")
    record = records.runs[file.stem]
    size = file.stat().st_size + file.with_suffix(".npz").stat().st_size
    assert size <= limit
    return finished, recorded_run(record, "run-seed1", run_settings(path), records), note


@pytest.mark.parametrize(
    ("limit", "said"),
    [(LIMIT, ""), (7300, "ranks beyond 31 are rounded"), (4500, "metrics but no ranks")],
    ids=["room", "little room", "none"],
)
def test_ranks_are_rounded_only_where_they_do_not_fit(tmp_path, monkeypatch, limit, said):
    monkeypatch.setattr(run_records, "LIMIT", limit)
    finished, again, note = drawn_record(tmp_path, Log(users=3000), limit)
    assert said in note
    assert bool(note) == bool(said)
    for path in ("cross", "single", "served"):
        for mean, metrics in finished.scores("test", "full", path).items():
            recorded = again.scores("test", "full", path)[mean]
            stored = {"n", "ndcg@10", "hr@10", "mrr"} if "no ranks" in said else metrics.keys()
            assert {name: recorded[name] for name in stored} == {n: metrics[n] for n in stored}
        if "no ranks" in said:
            with pytest.raises(UserError, match=f"has no test ranks of path {path}"):
                again.values("test", "full", path, "ndcg@10")
            continue
        expected = finished.values("test", "full", path, "ndcg@10")
        values = again.values("test", "full", path, "ndcg@10")
        np.testing.assert_array_equal(values.value, expected.value)


def test_a_record_that_is_older_than_a_setting_is_found(tmp_path):
    """By the value that reproduces it, although its name is a hash without that setting."""
    finished, again, _ = drawn_record(tmp_path, Log(), positions="start")
    for suffix in (".json", ".npz"):
        again.folder.with_suffix(suffix).rename(again.folder.with_name(f"0123{suffix}"))
    file = again.folder.with_name("0123.json")
    content = json.loads(file.read_text())
    del content["settings"]["positions"]
    file.write_text(json.dumps(content))
    records = read_records(file.parent)
    record = records.runs[run_key(finished.trained_settings, finished.data)]
    twin = recorded_run(record, "x", finished.trained_settings, records)
    assert twin.ranks("test", "full", "served").equals(again.ranks("test", "full", "served"))


def copies(content: dict) -> dict:
    return content["ranks"]["test"]["copies"]


SPOILED = {
    "a short row": lambda content: content["metrics"]["test"]["cross"]["macro"].pop(),
    "a text": lambda content: content["metrics"]["test"].update(cross=["A"]),
    "an unknown domain": lambda content: copies(content).update(single={"X": "cross"}),
    "an unknown path": lambda content: copies(content).update(single={"A": "x"}),
    "no settings": lambda content: content.pop("settings"),
    "another format": lambda content: content.update(format=2),
    "another kind": lambda content: content.update(kind="x"),
    "other digits": lambda content: content["ranks"]["test"].update(digits="all"),
    "an unknown setting's value": lambda content: content["settings"].update(mode="x"),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda name: name.replace(" ", "-"))
def test_a_spoiled_record_is_one_line(tmp_path, spoil):
    _, again, _ = drawn_record(tmp_path, Log())
    content = json.loads(again.folder.read_text())
    SPOILED[spoil](content)
    again.folder.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        records = read_records(tmp_path / "records")
        for record in records.runs.values():
            recorded_run(record, "x", again.scored, records)
    assert again.folder.stem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_count_model_that_ranks_otherwise_than_its_record_is_refused(tmp_path):
    drawn_record(tmp_path, Log())
    (path,) = (tmp_path / "records").glob("markov-*.json")
    path.write_text(
        path.read_text().replace(f'"users": [{Log().users}, 0.', f'"users": [{Log().users}, 1.')
    )
    (finished,) = read_runs([tmp_path / "run-seed1"])
    with pytest.raises(UserError, match=r"markov has ndcg@10 .* remove both files"):
        write_run(tmp_path / "records", finished, COST, CODE)


def test_another_mean_over_domains_is_computed_from_the_ranks(tmp_path):
    log = Log(domains=("A", "B", "C"), users=100)
    finished, again, _ = drawn_record(tmp_path, log)
    rows = finished.ranks("test", "full", "cross")
    counts = rows.groupby("domain").size()
    least = int(counts.min()) + 1
    settings = type(again.scored)(**vars(again.scored) | {"min_domain_targets": least})
    other = recorded_run(again.record, "x", settings, read_records(tmp_path / "records"))
    domains = rows.domain.map(list(log.domains).index).to_numpy()
    expected = summarise(rows.better, rows.tied, domains, list(log.domains), least=least)
    assert other.scores("test", "full", "cross")["macro"] == expected["macro"]
    assert (
        other.scores("test", "full", "cross")["macro"]
        != again.scores("test", "full", "cross")["macro"]
    )


def test_a_record_has_what_the_run_knew_of_the_transfer(tmp_path):
    log = Log(domains=("A", "B"))
    path = write_drawn_run(tmp_path / "run", log, mode="syncrec", gaps={"A": 0.25, "B": -0.5})
    with (path / "metrics.csv").open("a") as file:
        for name, metric, value in (("cross", "loss", 2.0), ("single", "loss", 2.75)):
            file.write(f"4,1,held_out,{name},A,{metric},{value}\n")
        file.write("4,1,held_out,cross,A,gap_error,0.125\n")
    (run,) = read_runs([path])
    file, _ = write_run(tmp_path / "records", run, COST, CODE)
    gaps = json.loads(file.read_text())["gaps"]
    assert gaps["epoch"] == 4
    by_domain = {
        name: dict(zip(gaps["columns"], row, strict=True)) for name, row in gaps["domains"].items()
    }
    assert by_domain["A"]["phi"] == 0.25 and by_domain["B"]["phi"] == -0.5
    assert by_domain["A"]["held_out_gap"] == 0.75 and by_domain["A"]["held_out_error"] == 0.125
    assert by_domain["B"]["held_out_gap"] is None
    assert read_records(tmp_path / "records").runs[file.stem].content["gaps"] == gaps
    cdsr = write_drawn_run(tmp_path / "one-view", log, mode="cdsr")
    file, _ = write_run(tmp_path / "records", read_runs([cdsr])[0], COST, CODE)
    assert "gaps" not in json.loads(file.read_text())
