"""train.sh: three models and their table, or the mode that is asked for."""

import os
import subprocess
from pathlib import Path

import pytest

from src.io.errors import UserError
from src.runs.several_modes import print_plan
from tests.support.command_runs import ROOT, TINY, data_step, make_log
from tests.support.report_commands import cells_of

MODES = ("sdsr_separate", "cdsr", "syncrec")
needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "python").is_file(), reason="train.sh would install .venv first"
)


def train_sh(folder: Path, *more: str) -> str:
    """What `bash train.sh` prints about a tiny log; its runs are in runs/tiny of the folder."""
    place = (f"--raw_dir={folder / 'raw'}", f"--out_dir={folder / 'data'}")
    words = ("--data_name=tiny", "--strd_ym=202312", *place, f"--data_dir={folder / 'data'}")
    done = subprocess.run(
        ["bash", ROOT / "train.sh", *words, f"--runs_dir={folder / 'runs'}", *TINY, *more],
        cwd=folder, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A folder with the three runs of train.sh, and what it printed."""
    folder = tmp_path_factory.mktemp("train")
    make_log(folder / "raw")
    return folder, train_sh(folder, "--run_name", "r")


def runs_in(folder: Path) -> list[str]:
    """The names of the finished runs."""
    return sorted(path.parent.name for path in folder.glob("runs/tiny/*/results.json"))


@needs_environment
def test_three_models_are_trained_and_one_table_shows_them(trained):
    folder, output = trained
    assert runs_in(folder) == sorted(f"r-{mode}" for mode in MODES)
    starts = [output.index(f"model {n} of 3: --mode={mode}") for n, mode in enumerate(MODES, 1)]
    assert starts == sorted(starts)
    assert output.count("test, protocol `full`: NDCG@10") == 1
    shown = dict.fromkeys(row[1] for row in cells_of(output)[1:] if row[1])
    assert list(shown) == [f"r-{mode}" for mode in MODES]
    assert "share of the limit" not in output  # the limits are of another log


@needs_environment
@pytest.mark.nightly  # .ci/run calls it twice too
def test_what_is_finished_is_used_again_and_the_table_is_the_same(trained):
    folder, output = trained
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/tiny/*/best.pt")}
    again = train_sh(folder, "--run_name=r")
    assert again.count("finished already: ") == 3
    assert cells_of(again) == cells_of(output)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@needs_environment
@pytest.mark.parametrize(
    "words",
    [("--mode", "cdsr"), pytest.param(("--mode=cdsr",), marks=pytest.mark.nightly)],
    ids=" ".join,
)
def test_a_mode_is_trained_alone_and_without_a_table(trained, words):
    folder, _ = trained
    name = f"alone{len(words)}"
    output = train_sh(folder, *words, f"--run_name={name}")
    assert [run for run in runs_in(folder) if run.startswith(name)] == [name]
    assert "model 1 of 3" not in output and cells_of(output) == []
    assert f"run folder: {folder / 'runs' / 'tiny' / name}" in output


# ------------------------------------------------------------------------ the plan


def plan(capsys, data: Path, *flags: str) -> list[str]:
    """The lines of the plan for a dataset folder."""
    print_plan(MODES, [f"--data_dir={data}", "--runs_dir=R", *flags])
    return capsys.readouterr().out.splitlines()


def test_each_mode_and_seed_has_a_run_folder_of_its_own(data, capsys):
    for seed in ("7", "8"):
        lines = plan(capsys, data, "--seed", seed)
        assert lines == [f"{mode} R/tiny/{mode}-ce-seed{seed}" for mode in MODES]
    lines = plan(capsys, data, "--run_name=a")
    assert lines == [f"{mode} R/tiny/a-{mode}" for mode in MODES]


def test_what_one_of_the_modes_refuses_is_refused_before_any_is_trained(data, capsys):
    with pytest.raises(UserError, match="syncrec"):
        plan(capsys, data, "--model=gru4rec")


def test_the_limits_are_shown_for_the_bundled_log_alone(tmp_path, capsys):
    limits = f"limits {ROOT / 'results' / 'limits' / 'limits.csv'}"
    for flags, shown in (
        (["--strd_ym=202312"], [limits]),
        (["--strd_ym=202311"], []),
        (["--strd_ym=202312", "--min_user_events=30"], []),
    ):
        folder = tmp_path / "-".join(flags)
        data_step("--data_name=amazon", f"--out_dir={folder}", "--threads=1", *flags)
        capsys.readouterr()
        assert plan(capsys, folder)[3:] == shown
