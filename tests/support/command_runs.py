"""A tiny generated log, its dataset and runs on it, through the repository's commands."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import main
from src.dataset.generator.planted import SyntheticConfig, generate, write_log
from src.io.errors import run_command

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = ("A", "B", "C")
TINY = (
    "--hidden=8", "--layers=1", "--heads=2", "--max_len=8", "--batch_size=20", "--max_epochs=1",
    "--experts_cross=2", "--eval_users=32", "--sampled_negatives=6", "--threads=1", "--device=cpu",
)  # fmt: skip


def make_log(folder: Path, seed: int = 1, users: int = 50) -> Path:
    """A generated log in three domains; the folder."""
    config = SyntheticConfig(
        users=users, events=10, clusters=3, cluster_items=4,
        domains=DOMAINS, relatedness=(1.0, 0.5, 0.0), seed=seed,
    )  # fmt: skip
    write_log(config, generate(config), folder)
    return folder


def data_step(*words: str) -> None:
    """Run make_dataset.py's command in this process."""
    import make_dataset  # loads a data engine, which most tests do without

    make_dataset.main(list(words))


def make_data(folder: Path, seed: int = 1, users: int = 50) -> Path:
    """The dataset folder of such a log, below `folder`."""
    raw, data = make_log(folder / "raw", seed, users), folder / "data"
    data_step(
        "--data_name=tiny", "--strd_ym=202312", f"--raw_dir={raw}", f"--out_dir={data}",
        "--threads=1",
    )  # fmt: skip
    return data


def flags(data: Path, runs: Path, *more: str) -> list[str]:
    """The flags of main.py for a tiny run; the later ones win."""
    return [f"--data_dir={data}", f"--runs_dir={runs}", *TINY, *more]


def train(data: Path, runs: Path, name: str, *more: str) -> Path:
    """Run main.py's command in this process; the run folder."""
    main.main(flags(data, runs, f"--run_name={name}", *more))
    return runs / "tiny" / name


def command(
    *words: str | Path, cwd: Path = ROOT, check: bool = True
) -> subprocess.CompletedProcess:
    """Run `python WORDS …` as a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, check=check, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip


def started(data: Path, runs: Path, *more: str) -> subprocess.Popen:
    """A run by the real command, once its first epoch is done."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "main.py", *flags(data, runs, "--run_name=run", *more)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert any(line.startswith("epoch   1") for line in iter(process.stdout.readline, ""))
    return process


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, and what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def failing(capsys, runs: Path, run: Callable[[], object]) -> str:
    """Run a command that must fail: exit status 2, one line, no file touched; that line."""
    before = contents(runs)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_command(run)
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert contents(runs) == before
    return line
