"""A run is recognised, continued and scored again when settings change that don't identify it."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import main
import make_dataset
import runner
from src.config.identity import hash_values
from src.config.settings import run_settings
from src.dataset.store.folder import open_dataset
from src.io.errors import UserError
from src.nn.dropout import dropout
from src.runs.checkpoints import read_checkpoint
from src.runs.records import environment
from src.training.random_state import seed_everything
from tests.support.command_runs import contents, failing, make_log, train
from tests.support.watched import differences

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(finished_run):
    """A run of two epochs."""
    return finished_run("run", "--max_epochs=2")


@pytest.fixture
def run(whole, tmp_path):
    """A copy of `whole` for one test."""
    return shutil.copytree(whole, tmp_path / "runs" / "tiny" / "run")


def rewrite_config(run, *gone: str, **changes) -> None:
    """Change settings in config.json, and take some out."""
    path = run / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: v for name, v in settings.items() if name not in gone}))


def rows_of(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------ continued and scored


def test_a_ranking_out_of_memory_is_resumed_with_the_users_that_the_message_names(
    data, whole, tmp_path, monkeypatch
):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    runs = tmp_path / "runs"
    monkeypatch.setattr(runner, "evaluate_run", full)
    with pytest.raises(UserError, match=r"out of memory .*rank") as error:
        train(data, runs, "run", "--max_epochs=2")
    monkeypatch.undo()
    (flag,) = re.findall(r"--eval_users \d+", str(error.value))
    assert "--resume" in str(error.value)
    again = train(data, runs, "run", "--max_epochs=2", "--resume", *flag.split())
    # queries that are encoded beside others differ in their last bits, and the weights a little
    assert set(differences(again, whole)) <= {"blend.json"}
    weights = [pd.DataFrame(json.loads((run / "blend.json").read_text())) for run in (again, whole)]
    pd.testing.assert_frame_equal(*weights, rtol=1e-4, atol=1e-4)


def test_a_run_continues_after_its_dataset_has_moved(data, whole, tmp_path, capsys):
    first = shutil.copytree(data, tmp_path / "first")
    run = train(first, tmp_path, "run", "--max_epochs=1")
    moved = first.rename(tmp_path / "moved")
    train(moved, tmp_path, "run", "--max_epochs=2", "--resume")
    assert differences(run, whole) == []
    capsys.readouterr()
    train(data, tmp_path, "run", "--max_epochs=2")
    assert f"finished already: {run}" in capsys.readouterr().out


def test_a_relative_runs_dir_is_relative_to_the_current_directory(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(data, Path("here"), "run", "--protocol", "full")
    assert (tmp_path / "here" / "tiny" / "run" / "results.json").is_file()


# ------------------------------------------------------------------------ records of earlier runs


def test_a_removed_setting_of_an_earlier_run_is_ignored(data, run, tmp_path, capsys):
    rewrite_config(run, since_removed=3, runs_dir=str(run.parents[1]))
    before = contents(run)
    train(data, run.parents[1], "run", "--max_epochs=2")
    assert "finished already" in capsys.readouterr().out
    main.main([f"--config={run / 'config.json'}"])
    assert "finished already" in capsys.readouterr().out
    assert contents(run) == before
    mistyped = shutil.copy(run / "config.json", tmp_path / "mistyped.json")  # of no run
    with pytest.raises(UserError, match="unknown setting 'since_removed'"):
        main.main([f"--config={mistyped}"])
    main.main([f"--evaluate={run}"])
    assert {name: before[name] for name in before if name != "config.json"} == {
        name: content for name, content in contents(run).items() if name != "config.json"
    }


def test_a_beta_of_zero_in_a_run_of_an_earlier_version_is_the_default(data, run, capsys):
    """Such a run's config.json names no weighting."""
    rewrite_config(run, "weighting", lc_ntg_beta=0.0)
    assert run_settings(run).lc_ntg_beta is None
    runs = run.parents[1]
    train(data, runs, "run", "--max_epochs=2")
    assert "finished already" in capsys.readouterr().out
    frozen = ("--max_epochs=2", "--lc_ntg_beta=0")
    line = failing(capsys, runs, lambda: train(data, runs, "run", *frozen))
    assert "--lc_ntg_beta None, not 0.0" in line
    rewrite_config(run, weighting="lc_ntg", lc_ntg_beta=0.0)
    assert run_settings(run).lc_ntg_beta == 0.0


# ------------------------------------------------------------------------ what is recorded


def test_no_process_has_the_dropout_of_another_run_s_seed():
    masks = {}
    for seed in (42, 43, 44):
        for rank in range(3):
            seed_everything(seed, rank)
            masks[seed, rank] = tuple(dropout(torch.ones(64), 0.5, True).tolist())
    assert len(set(masks.values())) == len(masks)


def test_separate_models_of_one_domain_write_the_tables_of_a_run(tmp_path):
    raw, data = make_log(tmp_path / "raw"), tmp_path / "data"
    make_dataset.main(
        ["--data_name=tiny", "--strd_ym=202312", f"--raw_dir={raw}", f"--out_dir={data}",
         "--threads=1", "--domains", "A"]
    )  # fmt: skip
    run = train(data, tmp_path, "run", "--mode=sdsr_separate")
    rows = rows_of(run / "metrics.csv")
    assert rows == [r for r in rows_of(run / "domains" / "0" / "metrics.csv") if r["domain"] == "A"]
    assert {row["split"] for row in rows} == {"train", "valid"}


def test_whether_the_code_is_changed_is_not_known_without_git(tmp_path, monkeypatch):
    known = environment(CPU, "0")
    assert (known["dirty"] is None) == (known["commit"] is None)
    monkeypatch.setenv("PATH", str(tmp_path))
    unknown = environment(CPU, "0")
    assert unknown["dirty"] is None
    assert unknown["commit"] is None


def test_a_checkpoint_from_before_a_setting_existed_has_its_default(run, data):
    """As one that this version writes, made by a version without --warmup_epochs."""
    state = torch.load(run / "last.pt", weights_only=True)
    del state["settings"]["warmup_epochs"]
    torch.save(state | {"identity": hash_values(state["settings"])}, run / "last.pt")
    settings, dataset = run_settings(run), open_dataset(data)
    read_checkpoint(run / "last.pt", settings, dataset)
    with pytest.raises(UserError, match=r"--warmup_epochs was 0\.0, now 2\.0"):
        read_checkpoint(run / "last.pt", replace(settings, warmup_epochs=2.0), dataset)
