"""Where a command writes is checked before its work, and the refusal says what is in the way."""

import pytest

import main
import make_dataset
import recommend
import report
import runner
from src.dataset import make
from src.io.errors import UserError
from src.report import finished_runs
from src.serving import recommend as lists_command
from tests.support.command_runs import TINY, failing, make_log
from tests.support.report_commands import refusal

NAMES = ("--data_name=t", "--strd_ym=202312")


@pytest.fixture(scope="module")
def run(finished_run):
    return finished_run("run", "--protocol=full")


@pytest.fixture
def places(tmp_path) -> dict[str, tuple[str, str]]:
    """{what is wrong: (path that cannot be written, part of the message)}."""
    (tmp_path / "file").write_text("text")
    return {
        "below a file": (f"{tmp_path}/file/out", f"{tmp_path}/file is not a folder"),
        "no permission": ("/proc/out", "in /proc"),
    }


class WorkBegan(Exception):
    """Raised in place of the work."""


def work(*_, **__):
    raise WorkBegan


@pytest.mark.parametrize("wrong", ["below a file", "no permission"])
@pytest.mark.parametrize("command", ["table", "compare", "protocols", "transfer"])
def test_report_refuses_before_it_reads_a_run(monkeypatch, run, places, wrong, command):
    path, said = places[wrong]
    monkeypatch.setattr(finished_runs, "_read_run", work)
    monkeypatch.setattr("sys.argv", ["report.py", command, str(run), str(run), "--out", path])
    with pytest.raises(UserError, match=said):
        report.main()


@pytest.mark.parametrize("command", ["table", "compare", "protocols"])
def test_report_refuses_a_folder_that_has_the_name_of_its_table(
    monkeypatch, capsys, run, tmp_path, command
):
    (tmp_path / "out.csv").mkdir()
    words = (command, run, run, "--out", tmp_path / "out")
    line = refusal(monkeypatch, capsys, tmp_path, *words)
    assert "out.csv: it is a folder; give the name of a file" in line


@pytest.mark.parametrize("wrong", ["below a file", "no permission"])
def test_make_dataset_refuses_before_it_reads_the_log(monkeypatch, tmp_path, places, wrong):
    path, said = places[wrong]
    monkeypatch.setattr(make, "find_log", work)
    words = [*NAMES, f"--raw_dir={make_log(tmp_path / 'raw')}", f"--out_dir={path}"]
    with pytest.raises(UserError, match=said):
        make_dataset.main(words)


def test_make_dataset_refuses_a_foreign_folder_before_it_reads_the_log(monkeypatch, tmp_path):
    monkeypatch.setattr(make, "find_log", work)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("text")
    with pytest.raises(UserError, match="exists and is not a dataset folder"):
        make_dataset.main([*NAMES, f"--out_dir={tmp_path / 'out'}"])


@pytest.mark.parametrize("wrong", ["below a file", "no permission"])
def test_main_refuses_before_it_trains(monkeypatch, capsys, data, tmp_path, places, wrong):
    path, said = places[wrong]
    monkeypatch.setattr(runner, "train", work)
    words = [f"--data_dir={data}", f"--runs_dir={path}", *TINY]
    line = failing(capsys, tmp_path, lambda: main.main(words))
    assert f"cannot write --runs_dir {path}/tiny/" in line
    assert said in line


@pytest.mark.parametrize("wrong", ["below a file", "no permission", "a folder"])
def test_recommend_refuses_before_it_opens_the_run(monkeypatch, run, tmp_path, places, wrong):
    (tmp_path / "top.csv").mkdir()
    path, said = places.get(wrong, (str(tmp_path), "top.csv: it is a folder"))
    said = "file/out does not exist" if wrong == "below a file" else said
    path = "/proc" if wrong == "no permission" else path  # it exists, and takes no files
    monkeypatch.setattr(lists_command, "open_run", work)
    with pytest.raises(UserError, match=said):
        recommend.main([f"--run={run}", f"--out={path}/top.csv"])
