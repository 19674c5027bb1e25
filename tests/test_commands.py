"""The real commands with tiny settings: from a log to a run folder that can be trusted."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_runs import DOMAINS, ROOT, command, contents, flags, make_data, make_log, train

from main import find_run, main, parse_settings
from src.arguments import as_json
from src.errors import UserError
from src.settings import Settings

METRICS = [f"{name}@{k}" for name in ("hr", "ndcg") for k in (1, 5, 10, 20)] + ["mrr"]
BASELINES = {"popularity", "markov"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(data, runs):
    """A finished run of the whole model, two epochs."""
    return train(data, runs, "base", "--max_epochs=2")


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


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


def assert_equal_state(first, second):
    """Two checkpoints hold the same, bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal_state(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal_state(one, other)
    else:
        assert first == second


# ---------------------------------------------------------------- from the log to the run folder


def test_the_three_commands_lead_from_nothing_to_a_table(tmp_path):
    command(
        "-m", "src.dataset.synthetic", "--out", tmp_path / "raw", "--users=30", "--events=8",
        "--clusters=3", "--cluster_items=4", "--domains", *DOMAINS, "--relatedness", 1, 0.5, 0,
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


def test_the_run_folder_holds_the_files_of_the_contract(run, data):
    assert {path.name for path in run.iterdir()} == {
        "config.json", "environment.json", "metrics.csv", "transfer.csv", "transfer_steps.csv",
        "last.pt", "best.pt", "results.json", "ranks.parquet",
    }  # fmt: skip
    metrics = table(run / "metrics.csv")
    assert list(metrics[0]) == ["epoch", "step", "split", "path", "domain", "metric", "value"]
    assert {row["split"] for row in metrics} == {"train", "valid"}  # nothing looks at test
    transfer = table(run / "transfer.csv")
    assert list(transfer[0])[:5] == ["epoch", "domain", "phi", "s", "gamma"]
    assert len(transfer) == 2 * len(DOMAINS)
    for epoch in ("1", "2"):
        gammas = [float(row["gamma"]) for row in transfer if row["epoch"] == epoch]
        assert sum(gammas) == pytest.approx(1, abs=1e-5)
    environment = json.loads((run / "environment.json").read_text())
    card = json.loads((data / "data_card.json").read_text())
    assert environment["data_sha256"] == card["sha256"]
    assert pq.read_table(run / "ranks.parquet").column_names == [
        "split", "protocol", "path", "user_id", "domain", "item_id", "better", "tied", "candidates",
    ]  # fmt: skip


def test_results_have_every_split_protocol_path_and_domain(run):
    found = results(run)
    assert set(found) == {"valid", "test"}
    for protocols in found.values():
        assert set(protocols) == {"full", "sampled"}
        for paths in protocols.values():
            assert set(paths) == {"cross", "single", *BASELINES}
            for by_domain in paths.values():
                assert list(by_domain) == [*DOMAINS, "macro", "users"]
                assert all(set(row) == {*METRICS, "n"} for row in by_domain.values())
                assert sum(by_domain[name]["n"] for name in DOMAINS) == by_domain["users"]["n"]


def test_the_ranks_say_what_the_results_say(run):
    ranks = pq.read_table(run / "ranks.parquet").to_pandas()
    ranks = ranks.set_index(["split", "protocol", "path"]).sort_index()
    for split, protocols in results(run).items():
        for protocol, paths in protocols.items():
            for path, by_domain in paths.items():
                rows = ranks.loc[[(split, protocol, path)]]
                hits = np.clip(5 - rows.better, 0, rows.tied) / rows.tied
                by_name = hits.groupby(rows.domain).mean()
                assert by_domain["users"]["hr@5"] == pytest.approx(hits.mean())
                assert by_domain["macro"]["hr@5"] == pytest.approx(by_name.mean())
                for name in DOMAINS:
                    assert by_domain[name]["hr@5"] == pytest.approx(by_name[name])
                    assert by_domain[name]["n"] == (rows.domain == name).sum()


# ---------------------------------------------------------------- the same again, and going on


def test_the_config_of_a_run_gives_the_same_run_again(run, data, runs):
    again = [f"--config={run / 'config.json'}", "--run_name=again"]
    before, after = (json.loads((run / "config.json").read_text()) for _ in "ab")
    settings = parse_settings(again)
    for name in before:
        after[name] = getattr(settings, name)
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


@pytest.mark.parametrize("mode", ["syncrec", "sdsr_separate"])
def test_a_resumed_run_equals_an_uninterrupted_one(data, runs, mode):
    whole = train(data, runs, f"whole-{mode}", f"--mode={mode}", "--max_epochs=2")
    parts = train(data, runs, f"parts-{mode}", f"--mode={mode}", "--max_epochs=1")
    train(data, runs, f"parts-{mode}", f"--mode={mode}", "--max_epochs=2", "--resume")
    found, expected = contents(parts), contents(whole)
    assert found.keys() == expected.keys()
    for name in expected:
        if name.endswith(".pt"):
            states = (torch.load(folder / name, weights_only=True) for folder in (parts, whole))
            assert_equal_state(*states)
        elif name not in ("config.json", "environment.json"):
            assert found[name] == expected[name], name


def test_a_run_that_was_cut_off_goes_on_and_says_so_without_resume(data, runs, run, capsys):
    cut = train(data, runs, "cut", "--max_epochs=2")
    (cut / "results.json").unlink()
    train(data, runs, "cut", "--max_epochs=2", "--resume")
    assert (cut / "results.json").read_bytes() == (run / "results.json").read_bytes()


def test_resume_starts_a_run_that_is_not_there(data, runs):
    assert (train(data, runs, "fresh", "--resume") / "results.json").is_file()


def test_overwrite_replaces_a_run_of_other_settings(data, runs):
    folder = train(data, runs, "replaced", "--lr=0.1")
    (folder / "stray").touch()
    train(data, runs, "replaced", "--lr=0.01", "--overwrite")
    assert json.loads((folder / "config.json").read_text())["lr"] == 0.01
    assert not (folder / "stray").exists()


# ---------------------------------------------------------------- every mode, type and process


@pytest.mark.parametrize("loss", ["ce", "bce"])
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
    for split in ("valid", "test"):
        for protocol in ("full", "sampled"):
            found = results(folder)[split][protocol]
            assert set(found) == paths | BASELINES
            assert len({rows["users"]["n"] for rows in found.values()}) == 1
    losses = train_losses(folder)
    assert {path for _, path, _ in losses} == paths
    assert {domain for _, _, domain in losses} >= set(DOMAINS)
    assert all(math.isfinite(value) for value in losses.values())
    assert (folder / "transfer.csv").is_file() == (mode == "syncrec")


def test_models_are_compared_on_the_same_targets_and_negatives(data, tmp_path):
    train(data, tmp_path, "joint")
    stored = contents(tmp_path / "tiny" / "candidates")
    assert len(stored) == 2  # valid and test
    train(data, tmp_path, "separate", "--mode=sdsr_separate", "--seed=3")
    assert contents(tmp_path / "tiny" / "candidates") == stored
    tables = [
        pq.read_table(tmp_path / "tiny" / name / "ranks.parquet").to_pandas()
        for name in ("joint", "separate")
    ]
    targets = [
        {tuple(row) for row in ranks[["split", "protocol", "user_id", "item_id"]].to_numpy()}
        for ranks in (part[part.path == "single"] for part in tables)
    ]
    assert targets[0] == targets[1]
    markov = [part[part.path == "markov"].reset_index(drop=True) for part in tables]
    assert markov[0].equals(markov[1])


def test_bf16_trains_to_about_the_same_loss(run, data, runs):
    rough = train_losses(train(data, runs, "bf16", "--max_epochs=2", "--precision=bf16"))
    for key, value in train_losses(run).items():
        assert rough[key] == pytest.approx(value, rel=0.05)


def test_two_processes_learn_what_one_learns(data, tmp_path):
    wanted = flags(data, tmp_path, "--dropout=0", "--no-sc_mim", "--run_name=two")
    command(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        ROOT / "main.py", *wanted,
    )  # fmt: skip
    one = train_losses(train(data, tmp_path, "one", "--dropout=0", "--no-sc_mim"))
    two = train_losses(tmp_path / "tiny" / "two")
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-4)


def test_the_log_of_the_helpers_is_the_same_every_time(tmp_path):
    first, second = (make_log(tmp_path / name) for name in "ab")
    assert contents(first) == contents(second)


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
