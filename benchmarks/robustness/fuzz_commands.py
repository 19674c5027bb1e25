"""Spoiled files through the commands themselves, each a process of its own."""

import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from benchmarks.robustness.fuzz_mutations import NAMES, NUMBERS, remove, spoiled
from benchmarks.robustness.fuzz_world import TINY, World, build, data_flags
from benchmarks.speed.common import say
from utils import ROOT

LIMIT_S = 600  # a command that takes longer hangs; two seconds are usual on an idle core


def run_share(count: int, seed: int, share: int, shares: int) -> dict[str, Counter]:
    """{command: how often each answer came} of one share of `count` commands, on a world of its
    own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-commands-") as root:
        return run(build(Path(root)), range(share, count, shares), seed)


def run(world: World, numbers: range, seed: int) -> dict[str, Counter]:
    """{command: how often each answer came} of the commands of these numbers."""
    found: dict[str, Counter] = {}
    for number in numbers:
        rng = random.Random(f"command {seed} {number}")
        spoil, command = MIX[number % len(MIX)]
        words, files = command(world, rng)
        with spoiled(rng.choice(files), rng) if spoil else nullcontext():
            told = _answer(world, words)
        _tidy(world)
        answers = found.setdefault(Path(words[0]).name, Counter())
        answers[told] += 1
        if told not in ("accepted", "refused"):
            say(f"command {number}, {' '.join(words)}: {told}")
        if (number + 1) % 20 == 0:
            say(f"command {number + 1} is done")
    return found


def _answer(world: World, words: list[str]) -> str:
    """accepted, refused in one line, or a finding."""
    before = set(world.root.iterdir())
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"hang: more than {LIMIT_S} s"
    lines = done.stderr.strip().splitlines()
    if "Traceback" in done.stderr + done.stdout:
        return lines[-1][:200]
    if done.returncode not in (0, 2):
        return f"exit status {done.returncode}: {lines[-1][:100] if lines else ''}"
    if strangers := set(world.root.iterdir()) - before - {world.root / "out", world.root / "made"}:
        return f"wrote {', '.join(path.name for path in strangers)}"
    if done.returncode == 2 and not any(line.startswith("error: ") for line in lines):
        return "exit status 2 without a line"
    return "refused" if done.returncode else "accepted"


def _tidy(world: World) -> None:
    """Remove what a command made."""
    for path in (world.root / "out", world.root / "made", world.root / "elsewhere"):
        remove(path)


Words = tuple[list[str], list[Path]]  # of a command, and the files that may be spoiled for it


def _train(world: World, rng: random.Random) -> Words:
    words = ["main.py", *TINY, f"--data_dir={world.data}", f"--runs_dir={world.root / 'out'}"]
    arrays = list((world.data / "sequences").iterdir())
    return [*words, "--run_name=x"], [world.data / "data_card.json", *arrays]


def _train_with(world: World, rng: random.Random) -> Words:
    words, _ = _train(world, rng)
    return [*words, f"--config={world.run / 'config.json'}"], [world.run / "config.json"]


def _flags(world: World, rng: random.Random) -> Words:
    words, files = _train(world, rng)
    name = rng.choice(("seed", "threads", "hidden", "max_len", "lr", "data_name", "run_name",
                       "batch_size", "lc_ntg_tau", "sampled_negatives"))  # fmt: skip
    return [*words, f"--{name}={rng.choice(NUMBERS + NAMES)}".replace("\0", "")], files


def _resume(world: World, rng: random.Random) -> Words:
    words = ["main.py", *TINY, f"--data_dir={world.data}", f"--runs_dir={world.root / 'runs'}"]
    names = ("last.pt", "config.json", "environment.json", "metrics.csv", "transfer.csv")
    return (
        [*words, "--run_name=syncrec", "--mode=syncrec", "--resume"],
        [world.run / name for name in names],
    )


def _evaluate(world: World, rng: random.Random) -> Words:
    names = ("best.pt", "config.json", "environment.json", "results.json", "ranks.parquet")
    stored = list((world.run.parent / "candidates").iterdir())
    return ["main.py", f"--evaluate={world.run}"], [*(world.run / n for n in names), *stored]


def _replay(world: World, rng: random.Random) -> Words:
    return ["main.py", f"--replay={world.run / 'last.pt'}"], [world.run / "last.pt"]


def _recommend(world: World, rng: random.Random) -> Words:
    names = ("best.pt", "config.json", "serving.json")
    words = ["recommend.py", f"--run={world.run}", "--k=2"]
    return words, [*(world.run / n for n in names), world.data / "users.parquet"]


def _report(world: World, rng: random.Random) -> Words:
    kind = rng.choice(("table", "compare", "protocols", "transfer", "transfer"))
    words = ["report.py", kind, *map(str, world.runs.values()), f"--out={world.root / 'out' / 'r'}"]
    folder = rng.choice(list(world.runs.values()))
    names = ("config.json", "results.json", "environment.json", "data_card.json", "ranks.parquet",
             "targets.parquet", "metrics.csv", "transfer.csv", "serving.json")  # fmt: skip
    return words, [folder / name for name in names if (folder / name).is_file()]


def _make(world: World, rng: random.Random) -> Words:
    log = world.logs[rng.choice(list(world.logs))]
    more = rng.choice(([], ["--max_rejected=1"]))
    words = ["make_dataset.py", *data_flags(log), f"--out_dir={world.root / 'made'}", *more]
    return words, sorted(log.iterdir())


def _reuse(world: World, rng: random.Random) -> Words:
    words = ["make_dataset.py", *data_flags(world.logs["csv"]), f"--out_dir={world.data}"]
    return words, [world.data / "data_card.json"]


# (whether a file is spoiled, the command), one after the other
MIX: tuple[tuple[bool, Callable[[World, random.Random], Words]], ...] = tuple(
    (command is not _flags, command)
    for command in (
        _train, _train_with, _flags, _resume, _evaluate, _replay, _recommend, _report, _report,
        _make, _reuse, _make, _resume, _recommend, _report, _flags, _evaluate, _train, _report,
        _make,
    )
)  # fmt: skip
