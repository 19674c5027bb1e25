"""The negative-transfer report refuses in one line and leaves no half report, no file behind."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import report
from src.io.errors import UserError
from src.report.transfer.report_folder import MARK, replace_folder
from tests.support.run_folders import Log
from tests.support.transfer_runs import write_models

SMALL = Log(domains=("Maps", "Nuts"), users=60, name="two", sha256="bbbb")


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["report.py", "transfer", *map(str, arguments)])
    report.main()
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("runs"), SMALL)


def refused(monkeypatch, capsys, match, *arguments):
    with pytest.raises(UserError, match=match) as caught:
        call(monkeypatch, capsys, *arguments)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(runs, tmp_path, monkeypatch, capsys):
    (sdsr, cdsr, syncrec), out = [run for run in runs if "two" in run.name], tmp_path / "out"
    for kept, match in (
        ([sdsr, cdsr], r"data set two has no run of SyNCRec \(--mode syncrec\); train it"),
        ([cdsr, syncrec], r"two has no run of SDSR \(--mode sdsr_separate or sdsr\)"),
        ([syncrec], r"no run of SDSR .* and CDSR \(--mode cdsr\)"),
    ):
        refused(monkeypatch, capsys, match, *kept, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_two_logs_of_one_name_and_two_models_of_a_mode_are_refused(tmp_path, monkeypatch, capsys):
    first = write_models(tmp_path / "a", SMALL)
    other = Log(domains=SMALL.domains, users=60, name="two", sha256="cccc")
    second = [
        run.rename(run.with_name(f"again-{run.name}"))
        for run in write_models(tmp_path / "b", other)
    ]
    refused(monkeypatch, capsys, "two different data sets named two", *first, *second)
    (wide,) = write_models(tmp_path / "c", SMALL, modes=("cdsr",), hidden=128, seeds=(5,))
    refused(
        monkeypatch,
        capsys,
        "are both --mode cdsr on two but differ in other settings",
        *first,
        wide,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("targets.parquet", "targets.parquet does not exist; run `python main.py --evaluate"),
        ("serving.json", "has no served path; run `python main.py --evaluate"),
        ("metrics.csv", "metrics.csv does not exist; train the run again with --overwrite"),
        ("transfer.csv", "does not exist; train the run again with --overwrite"),
        ("results.json", "is not finished (no results.json); continue it with main.py --resume"),
    ],
)
def test_a_missing_file_is_named_with_its_remedy(name, expected, tmp_path, monkeypatch, capsys):
    folders = write_models(tmp_path / "runs", SMALL)
    for folder in folders:
        (folder / name).unlink(missing_ok=True)
    refused(monkeypatch, capsys, re.escape(expected), *folders, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trajectory_with_a_missing_row_needs_training_again(tmp_path, monkeypatch, capsys):
    folders = write_models(tmp_path / "runs", SMALL)
    path = folders[-1] / "transfer.csv"
    rows = pd.read_csv(path)
    rows.iloc[1:].to_csv(path, index=False)
    expected = "transfer.csv: expected one row per (epoch, domain); train the run again with"
    refused(monkeypatch, capsys, re.escape(expected), *folders, "--out", tmp_path / "out")


def test_a_folder_that_is_no_report_is_left_alone(runs, tmp_path, monkeypatch, capsys):
    few = [run for run in runs if "two" in run.name]
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "report.html").write_text("<html>mine</html>")
    (folder / "figures").mkdir()
    (folder / "tables").mkdir()
    refused(monkeypatch, capsys, "mine exists and is not a report", *few, "--out", folder)
    assert (folder / "report.html").read_text() == "<html>mine</html>"
    refused(monkeypatch, capsys, "is not a report", *few, "--out", folder / "report.html")
    refused(monkeypatch, capsys, "cannot write --out", *few, "--out", folder / "report.html" / "in")
    monkeypatch.chdir(folder / "tables")
    refused(monkeypatch, capsys, "contains the current folder", *few, "--out", folder)


def test_a_failure_while_writing_keeps_the_report_that_is_there(tmp_path):
    out = tmp_path / "report"

    def write(folder):
        for name in ("figures", "tables"):
            (folder / name).mkdir()
        (folder / "report.html").write_text(MARK)

    def fail(folder):
        (folder / "report.html").write_text("half")
        raise KeyboardInterrupt

    replace_folder(out, write)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(out, fail)
    assert (out / "report.html").read_text() == MARK
    assert list(tmp_path.iterdir()) == [out]


SIGNALLED = """
import os, signal, sys
from src.io.errors import run_command
{patch}
import report
run_command(report.main)
"""
KILL = "lambda *_: os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.nightly  # tests/commands/test_recommend.py has the same in every change
@pytest.mark.parametrize(
    ("command", "patch"),
    [
        ("table", f"import src.io.files; src.io.files.sync = {KILL}"),  # written, not renamed
        ("transfer", f"from src.report.transfer import html_page; html_page._table = {KILL}"),
    ],
)
def test_a_terminated_command_leaves_no_temporary_file(command, patch, runs, tmp_path):
    out = tmp_path / "out"
    few = [str(run) for run in runs if "two" in run.name]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED.format(patch=patch), command, *few, "--out", str(out)],
        capture_output=True, text=True, cwd=Path(report.__file__).parent,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_the_other_commands_load_no_plotting_library():
    code = "import report, sys; print([name for name in sys.modules if 'matplotlib' in name])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=Path(report.__file__).parent,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
