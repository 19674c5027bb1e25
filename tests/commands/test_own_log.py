"""experiments/own.sh: from one's own log to report and recommendations, by one command."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from src.config.cli import from_namespace
from src.config.dataset_settings import DatasetSettings
from src.io.errors import UserError
from src.runs.command import parse_command
from tests.support.data_logs import make, random_log, write_log

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "hidden": 8, "layers": 1, "batch_size": 16, "warmup_epochs": 1.0, "max_epochs": 2,
    "threads": 1, "device": "cpu", "protocol": ["full"],
}  # fmt: skip


@pytest.fixture(scope="module")
def own():
    spec = importlib.util.spec_from_file_location("own", ROOT / "experiments" / "own.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_flag_reaches_its_command(own):
    flags = ["--data_name=shop", "--strd_ym=202506", "--seeds", "4", "5", "--events", "buy", "cart"]
    flags += ["--shared_items", "--time_format=%d.%m.%Y", "--hidden", "16", "--no-sc_mim"]
    given, training = own.parse(flags)
    assert given.seeds == [4, 5]
    assert training == ["--hidden", "16", "--no-sc_mim"]
    assert own.dataset_flags(from_namespace(DatasetSettings, given)) == [
        "--data_name=shop", "--strd_ym=202506", "--time_format=%d.%m.%Y", "--events", "buy", "cart",
        "--shared_items",
    ]  # fmt: skip


def test_lists_that_are_given_twice_add_up(own):
    flags = ["--data_name=shop", "--strd_ym=202506", "--seeds", "4", "--seeds=5", "--seeds", "6"]
    flags += ["--events", "buy", "--events=-1", "--protocol", "full", "--protocol=popular"]
    given, training = own.parse(flags)
    assert (given.seeds, given.events) == ([4, 5, 6], ["buy", "-1"])
    assert parse_command(training).settings.protocol == ("full", "popular")


def test_a_flag_of_no_command_is_refused_before_any_work(own, capsys):
    with pytest.raises(SystemExit, match="2"):
        own.parse(["--data_name=shop", "--strd_ym=202506", "--epochs=3"])
    assert "unrecognized arguments: --epochs" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--seed=7", "--mode=cdsr", "--run_name=a", "--overwrite"])
def test_a_flag_that_each_run_has_of_its_own_is_refused(own, flag, capsys):
    with pytest.raises(SystemExit, match="2"):
        own.parse(["--data_name=shop", "--strd_ym=202506", flag])
    assert f"{flag.partition('=')[0]} is set here" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_any_work(own, tmp_path):
    write_log(tmp_path / "raw" / "log.csv", random_log(events=60))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write --out .*/out: it is a file"):
        own.main(command(tmp_path, "own")[2:])
    assert not (tmp_path / "data").exists()


def test_the_time_left_is_that_of_the_unfinished_runs(own, tmp_path):
    plan = own.Plan(tmp_path, "own", [1, 2])
    assert plan.minutes_left() == ""
    for mode in own.MODES:
        plan.path(mode, 1).mkdir()
        (plan.path(mode, 1) / "results.json").write_text("{}")
        plan.seconds[mode] = [120.0]
    assert plan.minutes_left() == ", about 8 min left"
    (plan.path("syncrec", 1) / "results.json").unlink()
    assert plan.minutes_left() == ", about 10 min left"


def command(folder, name, *flags):
    (folder / "tiny.json").write_text(json.dumps(TINY))
    return [
        sys.executable, str(ROOT / "experiments" / "own.py"), f"--data_name={name}",
        "--strd_ym=201412", f"--raw_dir={folder / 'raw'}", f"--config={folder / 'tiny.json'}",
        f"--out_dir={folder / 'data'}", f"--runs_dir={folder / 'runs'}", "--seeds=1",
        f"--out={folder / 'out'}", *flags,
    ]  # fmt: skip


@pytest.mark.nightly
def test_the_whole_way_stopped_by_time_and_by_a_signal(tmp_path):
    rows = [row for row in random_log(events=900, items=30) if row[2] != "été"]
    write_log(tmp_path / "raw" / "log.csv", rows)
    done = subprocess.run(
        command(tmp_path, "own", "--max_minutes=0.05"), capture_output=True, text=True, check=True
    )
    assert "time is up: 0 of 4 runs finished" in done.stdout
    assert "no report" in done.stdout
    process = subprocess.Popen(
        command(tmp_path, "own"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "runs").rglob("results.json")):
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    done = subprocess.run(command(tmp_path, "own"), capture_output=True, text=True, check=True)
    assert "finished already" in done.stdout
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    lists = pq.read_table(tmp_path / "out" / "recommendations.parquet")
    assert set(lists["domain"].to_pylist()) == {"Books", "Music & Film"}


def test_a_log_of_one_domain_is_refused_before_any_training(own, tmp_path):
    """And leaves no dataset folder, so that the same command with the right flag makes it."""
    rows = [row for row in random_log(events=60) if row[2] == "Books"]
    data = tmp_path / "data"
    make(write_log(tmp_path / "raw" / "log.csv", rows), data)
    with pytest.raises(UserError, match=r"one domain, 'Books', .* --domain_col"):
        own.check_domains(data, was_there=True)
    assert data.is_dir()
    with pytest.raises(UserError, match="one domain"):
        own.check_domains(data, was_there=False)
    assert not data.exists()
