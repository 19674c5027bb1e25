"""The real commands with tiny settings: from a log to a run folder that can be trusted."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from main import main
from src.config.cli import as_json
from src.config.modes import BLEND
from src.config.names import COUNT_MODELS, PROTOCOLS
from src.config.settings import Settings
from src.evaluation.metrics import METRICS, target_metrics
from src.io.errors import UserError
from src.runs.command import parse_command
from src.runs.lifecycle import find_run
from src.runs.records import BLEND_WITHOUT
from tests.support.command_runs import (
    DOMAINS,
    ROOT,
    command,
    contents,
    data_step,
    flags,
    train,
)
from tests.support.watched import differences

BEYOND = {"coverage@10", "popularity@10"}
LISTED = ("full", "as_listed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(data, runs):
    """A finished run of the whole model, two epochs."""
    return train(data, runs, "base", "--max_epochs=2")


def results(folder: Path) -> dict:
    """{split: {protocol: …}} of results.json."""
    values = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in values.items() if name != BLEND_WITHOUT}


def table(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train_losses(folder: Path) -> dict[tuple, float]:
    """{(epoch, path, domain): loss} of metrics.csv."""
    return {
        (row["epoch"], row["path"], row["domain"]): float(row["value"])
        for row in table(folder / "metrics.csv")
        if row["metric"] == "loss"
    }


# ---------------------------------------------------------------- from the log to the run folder


def test_the_three_commands_lead_from_nothing_to_a_table(tmp_path):
    command(
        "-m", "src.dataset.generator", "--preset=planted", "--out", tmp_path / "raw", "--users=30",
        "--events=8", "--clusters=3", "--cluster_items=4", "--domains", *DOMAINS,
        "--relatedness", 1, 0.5, 0,
    )  # fmt: skip
    place = (f"--raw_dir={tmp_path / 'raw'}", f"--out_dir={tmp_path / 'data'}")
    command(ROOT / "make_dataset.py", "--data_name=tiny", "--strd_ym=202312", *place, cwd=tmp_path)
    done = command(
        ROOT / "main.py", *flags(tmp_path / "data", tmp_path, "--run_name=r"), cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == f"run folder: {tmp_path / 'tiny' / 'r'}"
    assert any("generated" in line for line in lines)
    for name in (*DOMAINS, "macro", "users"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert "Traceback" not in done.stderr


def test_that_nothing_can_be_transferred_is_said_before_training(data, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    shutil.copy(
        ROOT / "tests" / "data" / "cases" / "no_shared_users.csv", tmp_path / "raw" / "a.csv"
    )
    place = (f"--raw_dir={tmp_path / 'raw'}", f"--out_dir={tmp_path / 'apart'}")
    data_step("--data_name=tiny", "--strd_ym=202312", *place, "--threads=1")
    for mode in ("syncrec", "sdsr_separate"):
        capsys.readouterr()
        train(tmp_path / "apart", tmp_path, mode, f"--mode={mode}")
        lines = capsys.readouterr().out.splitlines()
        note = "NOTE: no user is active in two domains, so nothing can be transferred"
        (said,) = [n for n, line in enumerate(lines) if line.startswith(note)]
        assert said < min(n for n, line in enumerate(lines) if line.startswith("epoch"))
    train(tmp_path / "apart", tmp_path, "syncrec", "--mode=syncrec")  # finished already
    assert "nothing can be transferred" not in capsys.readouterr().out
    train(data, tmp_path, "shared")
    assert "nothing can be transferred" not in capsys.readouterr().out


def test_the_run_folder_holds_the_files_of_the_contract(run, data):
    assert {path.name for path in run.iterdir()} == {
        "config.json", "environment.json", "metrics.csv", "transfer.csv", "transfer_steps.csv",
        "last.pt", "best.pt", "results.json", "ranks.parquet", "targets.parquet",
        "serving.json", "blend.json", "data_card.json", "items.parquet",
    }  # fmt: skip
    metrics = table(run / "metrics.csv")
    assert list(metrics[0]) == ["epoch", "step", "split", "path", "domain", "metric", "value"]
    splits = {row["split"] for row in metrics}
    assert splits == {"train", "held_out", "valid"}  # nothing looks at test
    transfer = table(run / "transfer.csv")
    assert list(transfer[0])[:5] == ["epoch", "domain", "phi", "s", "gamma"]
    assert len(transfer) == 2 * len(DOMAINS)
    for epoch in ("1", "2"):
        gammas = [float(row["gamma"]) for row in transfer if row["epoch"] == epoch]
        assert sum(gammas) == pytest.approx(1, abs=1e-5)
    environment = json.loads((run / "environment.json").read_text())
    card = json.loads((data / "data_card.json").read_text())
    assert environment["data_sha256"] == card["sha256"]
    assert json.loads((run / "data_card.json").read_text()) == card
    assert set(json.loads((run / "serving.json").read_text())) == set(DOMAINS)
    assert pq.read_table(run / "targets.parquet").column_names == [
        "split", "target", "user_id", "domain", "item_id", "history", "domain_history", "domains",
        "item_count", "seen", "same_time",
    ]  # fmt: skip


def test_the_ranks_are_a_row_group_a_split_protocol_and_path(run):
    """With the same targets, by their numbers, in each."""
    facts = pq.read_table(run / "targets.parquet").to_pandas()
    file, actual = pq.ParquetFile(run / "ranks.parquet"), set()
    for number in range(file.num_row_groups):
        rows = file.read_row_group(number).to_pandas()
        assert list(rows) == [
            "split", "protocol", "path", "target", "user_id", "domain", "item_id", "better", "tied",
            "candidates", "barred",
        ]  # fmt: skip
        ((split, protocol, path),) = {*rows[["split", "protocol", "path"]].itertuples(index=False)}
        actual.add((split, protocol, path))
        known = facts[facts.split == split].reset_index(drop=True)
        assert rows.target.tolist() == list(range(len(rows)))
        for column in ("target", "user_id", "domain", "item_id"):
            assert (rows[column].astype(object) == known[column].astype(object)).all()
    assert len(actual) == file.num_row_groups == 2 * len(PROTOCOLS) * (4 + len(COUNT_MODELS))


def test_results_have_every_split_protocol_path_and_domain(run):
    scores = results(run)
    assert set(scores) == {"valid", "test"}
    for split, protocols in scores.items():
        assert set(protocols) == set(PROTOCOLS)
        for protocol, paths in protocols.items():
            assert list(paths) == ["cross", "single", "served", BLEND, *COUNT_MODELS]
            beyond = BEYOND if split == "test" and protocol in LISTED else set()
            for by_domain in paths.values():
                assert list(by_domain) == [*DOMAINS, "macro", "users"]
                for name, row in by_domain.items():
                    assert set(row) == {*METRICS, "n"} | (beyond if name != "users" else set())
                assert sum(by_domain[name]["n"] for name in DOMAINS) == by_domain["users"]["n"]


def test_the_ranks_say_what_the_results_say(run):
    ranks = pq.read_table(run / "ranks.parquet").to_pandas()
    ranks = ranks.set_index(["split", "protocol", "path"]).sort_index()
    for split, protocols in results(run).items():
        for protocol, paths in protocols.items():
            for path, by_domain in paths.items():
                rows = ranks.loc[[(split, protocol, path)]]
                tied = 1 if protocol == "released" else rows.tied  # ties count for the model
                hits = np.clip(5 - rows.better, 0, tied) / tied
                by_name = hits.groupby(rows.domain, observed=True).mean()
                assert by_domain["users"]["hr@5"] == pytest.approx(hits.mean())
                assert by_domain["macro"]["hr@5"] == pytest.approx(by_name.mean())
                for name in DOMAINS:
                    assert by_domain[name]["hr@5"] == pytest.approx(by_name[name])
                    assert by_domain[name]["n"] == (rows.domain == name).sum()


def test_what_serves_is_chosen_on_validation_and_ranks_the_test(run):
    """The served path's rows are those of the path that serving.json names, domain by domain."""
    serving = json.loads((run / "serving.json").read_text())
    ranks = pq.read_table(run / "ranks.parquet").to_pandas()
    columns = ["better", "tied", "candidates"]
    own = {
        path: rows.set_index(["split", "protocol", "domain", "target"])[columns].sort_index()
        for path, rows in ranks.groupby("path", observed=True)
    }
    values = {}
    for path in ("cross", "single"):
        rows = own[path].loc[("valid", "full")]
        metric = target_metrics(rows.better.to_numpy(), rows.tied.to_numpy())["ndcg@10"]
        values[path] = pd.Series(metric, rows.index).groupby("domain", observed=True)
    for name, choice in serving.items():
        difference = values["single"].mean()[name] - values["cross"].mean()[name]
        assert choice["difference"] == pytest.approx(difference, abs=1e-12)
        assert choice["n"] == values["cross"].size()[name]
        assert choice["path"] == ("single" if choice["bound"] > 0 else "cross")
        served, chosen = (own[path].xs(name, level="domain") for path in ("served", choice["path"]))
        assert served.equals(chosen)


# ---------------------------------------------------------------- the same again, and going on


def test_the_config_of_a_run_gives_the_same_run_again(run, data, runs):
    again = [f"--config={run / 'config.json'}", "--run_name=again"]
    before, after = (json.loads((run / "config.json").read_text()) for _ in "ab")
    settings = parse_command(again).settings
    for name, value in json.loads(json.dumps(as_json(settings))).items():
        after[name] = value
    assert after == before | {"run_name": "again"}
    main(again)
    for name in ("results.json", "metrics.csv", "transfer.csv", "ranks.parquet"):
        assert (runs / "tiny" / "again" / name).read_bytes() == (run / name).read_bytes()


def test_a_finished_run_is_shown_not_trained_again(run, data, runs, capsys):
    before = contents(run)
    for resume in ((), ("--resume",)):
        train(data, runs, "base", "--max_epochs=2", *resume)
        assert f"finished already: {run}" in capsys.readouterr().out
    assert contents(run) == before


@pytest.mark.parametrize(
    "mode", ["syncrec", pytest.param("sdsr_separate", marks=pytest.mark.nightly)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(data, runs, mode):
    whole = train(data, runs, f"whole-{mode}", f"--mode={mode}", "--max_epochs=2")
    parts = train(data, runs, f"parts-{mode}", f"--mode={mode}", "--max_epochs=1")
    train(data, runs, f"parts-{mode}", f"--mode={mode}", "--max_epochs=2", "--resume")
    assert differences(parts, whole) == []


def test_overwrite_replaces_a_run_of_other_settings(data, runs):
    folder = train(data, runs, "replaced", "--lr=0.1")
    (folder / "stray").touch()
    train(data, runs, "replaced", "--lr=0.01", "--overwrite")
    assert json.loads((folder / "config.json").read_text())["lr"] == 0.01
    assert not (folder / "stray").exists()


# ---------------------------------------------------------------- every mode, type and process


@pytest.mark.parametrize("loss", ["ce", pytest.param("bce", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("mode", "paths"),
    [
        ("syncrec", {"cross", "single"}),
        ("cdsr", {"cross"}),
        ("sdsr", {"single"}),
        ("sdsr_separate", {"single"}),
    ],
)
def test_every_mode_trains_and_is_ranked_beside_the_baselines(data, runs, mode, paths, loss):
    folder = train(data, runs, f"{mode}-{loss}", f"--mode={mode}", f"--loss={loss}")
    served = {"served"} if len(paths) == 2 else set()
    assert (folder / "serving.json").is_file() == bool(served)
    # a domain's own model has no scores of all items by the query of one domain
    wanted = set(PROTOCOLS) - ({"released"} if mode == "sdsr_separate" else set())
    for split in ("valid", "test"):
        assert set(results(folder)[split]) == wanted
        for actual in results(folder)[split].values():
            assert set(actual) == paths | served | {BLEND} | COUNT_MODELS.keys()
            assert len({rows["users"]["n"] for rows in actual.values()}) == 1
    losses = train_losses(folder)
    assert {path for _, path, _ in losses} == paths
    assert {domain for _, _, domain in losses} >= set(DOMAINS)
    assert all(math.isfinite(value) for value in losses.values())
    assert (folder / "transfer.csv").is_file() == (mode == "syncrec")


def test_models_are_compared_on_the_same_targets_and_negatives(data, tmp_path):
    train(data, tmp_path, "joint")
    stored = contents(tmp_path / "tiny" / "candidates")
    sets = ("popular", "released", "sampled", "sampled_all")
    assert sorted({name.rsplit("-", 3)[0] for name in stored}) == [
        f"{name}-{split}" for name in sets for split in ("test", "valid")
    ]
    train(data, tmp_path, "separate", "--mode=sdsr_separate", "--seed=3")
    assert contents(tmp_path / "tiny" / "candidates") == stored
    tables = [
        pq.read_table(tmp_path / "tiny" / name / "ranks.parquet").to_pandas()
        for name in ("joint", "separate")
    ]
    tables = [part[part.protocol != "released"] for part in tables]
    columns = ["split", "protocol", "target", "user_id", "domain", "item_id"]
    targets = [
        {tuple(row) for row in ranks[columns].to_numpy()}
        for ranks in (part[part.path == "single"] for part in tables)
    ]
    assert targets[0] == targets[1]
    for baseline in COUNT_MODELS:
        rows = [part[part.path == baseline].reset_index(drop=True) for part in tables]
        rows = [part.astype({"split": str, "protocol": str, "path": str}) for part in rows]
        assert rows[0].equals(rows[1])


def test_a_run_from_before_a_setting_came_is_found_again(tmp_path):
    """The setting's default is what the run had."""
    saved = as_json(Settings(lr=0.01))
    del saved["softmax_items"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    (tmp_path / "environment.json").write_text(json.dumps({"data_sha256": "data"}))
    (tmp_path / "results.json").write_text("{}")
    assert find_run(Settings(lr=0.01), tmp_path, "data")
    assert find_run(Settings(lr=0.01, compile=True), tmp_path, "data")
    with pytest.raises(UserError, match="--softmax_items domain, not all"):
        find_run(Settings(lr=0.01, softmax_items="all"), tmp_path, "data")
