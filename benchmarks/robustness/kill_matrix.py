"""Whether a run that is killed and resumed ends as one that was left alone, bit for bit.

    python benchmarks/robustness/kill_matrix.py   # 32 kills, a table
    python benchmarks/robustness/kill_matrix.py --kills 100 --seed 7 --json

make_dataset.py and main.py run on a small generated log with every component, dropout, and
--save_every_steps. An uninterrupted run is what all is compared with. Then processes are ended by
SIGKILL, at a random moment within a phase: while the dataset is made, a step is taken, the
validation is ranked, a checkpoint is written or renamed, the results are ranked and written. A
dataset must be whole or absent, and whole and the same after the next command. A run is resumed
after each kill, until it is through: checkpoints must hold the same tensors, bit for bit, and
every other file the same bytes.

`kills` are those that ended a process; one that came too late is `late`, and tried again.
`identical` are the kills whose run or dataset ended as the uninterrupted one. `corrupt` are those
after which a file could not be read, or held what the whole run does not. `by_phase` says where the
kills fell; `between` is outside of all phases. `torn_named` are resumed runs that named a torn
checkpoint; `unfinished` are the kills that left a file under its temporary name, and
`between_renames` those that left a former.pt and no last.pt. The exit status is 1 where not every
kill is identical, or one is corrupt.
"""

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import main as train
import make_dataset
from benchmarks.speed.common import print_result, say
from src.config.cli import OneLineParser
from src.dataset.store.folder import open_dataset
from src.dataset.store.verify import verify_dataset
from src.io.errors import UserError, run_command
from src.io.paths import ROOT
from src.runs.checkpoints import FORMER, LAST
from tests.support import watched
from tests.support.command_runs import contents, make_log
from tests.support.watched import Aim, Ended

USERS = 50
MORE = ("--batch_size=10", "--max_epochs=4", "--save_every_steps=2")
IN_A_RUN = ("train", "validation", "save", "score")  # score comes last in a run's life
PHASES = ("data", *IN_A_RUN)
TRIES = 20  # per kill
SHOWN = 5  # differences


@dataclass
class Matrix:
    """How kills are aimed, what their runs are compared with, and the counts so far."""

    folder: Path
    chance: random.Random
    data: Path  # the dataset and the run that nothing ended
    run: Path
    seconds: dict[str, float]  # that a phase takes
    times: dict[str, int]  # that it is entered in a run
    by_phase: Counter = field(default_factory=Counter)
    identical: int = 0
    corrupt: int = 0
    late: int = 0
    torn_named: int = 0
    unfinished: int = 0
    between_renames: int = 0
    lives: int = 0

    def live(self, command: Callable, flags: list[str], aim: Aim | None = None) -> Ended:
        """A life of a command; a kill is counted where it fell."""
        self.lives += 1
        ended = watched.live(command, flags, self.folder / "log.txt", aim, watched.slow_renames)
        if ended.status not in (0, watched.KILLED):
            raise UserError(f"{command.__module__}.py ended with {ended.status}: {ended.output}")
        if ended.status == watched.KILLED:
            self.by_phase[ended.killed_in] += 1
        elif aim:
            self.late += 1
        self.torn_named += watched.warnings_in(ended.output)
        return ended

    def aim(self, phase: str, kills: int) -> Aim:
        """A random moment in a phase of a run that is to be killed so often."""
        nth = self.chance.randint(1, max(1, self.times[phase] // kills))
        return Aim(phase, nth, self.chance.uniform(0, self.seconds[phase]))

    def missing(self, kills: int) -> list[str]:
        """The phases of the kills that are still to come, of so many in all."""
        wanted = Counter(PHASES[number % len(PHASES)] for number in range(kills))
        return list((wanted - self.by_phase).elements())


def prepare(folder: Path, seed: int) -> Matrix:
    """Make the dataset and the run that nothing ends, by the commands alone; then once more
    watched, which tells how long the phases last."""
    raw = make_log(folder / "raw", users=USERS)
    data, runs = folder / "whole" / "data", folder / "whole"
    for command, flags in (
        ("make_dataset", watched.data_flags(raw, data)),
        ("main", watched.run_flags(data, runs, *MORE)),
    ):
        subprocess.run(
            [sys.executable, ROOT / f"{command}.py", *flags], check=True, stdout=subprocess.DEVNULL
        )
    matrix = Matrix(folder, random.Random(seed), data, watched.folder_in(runs), {}, {})
    again = folder / "again"
    ended = [
        matrix.live(make_dataset.main, watched.data_flags(raw, again / "data")),
        matrix.live(train.main, watched.run_flags(data, again, *MORE)),
    ]
    if different := watched.differences(watched.folder_in(again), matrix.run):
        raise UserError(f"a run that nothing ended differs from another one: {different}")
    for phase in PHASES:
        times = _durations(ended, phase)
        matrix.seconds[phase], matrix.times[phase] = statistics.median(times), len(times)
    return matrix


def _durations(ended: list[Ended], phase: str) -> list[float]:
    """Seconds of each time in a phase."""
    events = [event for life in ended for event in life.events if event.phase == phase]
    return [left.at - entered.at for entered, left in zip(events[::2], events[1::2], strict=True)]


def kill_data(matrix: Matrix) -> None:
    """Kill make_dataset.py once, look what is there, and run it again."""
    target = matrix.folder / f"data{matrix.lives}" / "data"
    flags = watched.data_flags(matrix.folder / "raw", target)
    if matrix.live(make_dataset.main, flags, matrix.aim("data", 1)).status != watched.KILLED:
        return
    sha256 = open_dataset(matrix.data).card["sha256"]
    if target.exists():
        try:
            verify_dataset(open_dataset(target))
            matrix.corrupt += open_dataset(target).card["sha256"] != sha256
        except UserError as error:
            say(f"corrupt: {error}")
            matrix.corrupt += 1
    matrix.live(make_dataset.main, flags)
    verify_dataset(open_dataset(target))
    beside = [path.name for path in target.parent.iterdir() if path != target]
    same = contents(target) == contents(matrix.data)
    matrix.identical += same and not beside
    if not same or beside:
        say(f"a dataset that was killed and made again differs; beside it: {beside}")


def kill_run(matrix: Matrix, phases: list[str]) -> None:
    """Kill a run of main.py in these phases, one life after the other, and see it through."""
    runs = matrix.folder / f"runs{matrix.lives}"
    flags, folder, kills = (
        watched.run_flags(matrix.data, runs, *MORE),
        watched.folder_in(runs),
        0,
    )
    for phase in phases:
        ended = matrix.live(train.main, flags, matrix.aim(phase, len(phases)))
        if ended.status != watched.KILLED:
            break
        kills += 1
        matrix.unfinished += bool(watched.left_over(folder))
        matrix.between_renames += (folder / FORMER).is_file() and not (folder / LAST).is_file()
        if faults := watched.faults_after_a_kill(folder, matrix.run):
            say(f"corrupt after a kill in {ended.killed_in}: {faults}")
            matrix.corrupt += 1
    matrix.live(train.main, flags)
    different = watched.differences(folder, matrix.run)
    matrix.identical += 0 if different else kills
    if different:
        say(f"a run that was killed {kills} times differs: {different[:SHOWN]}")


def measure(kills: int, seed: int) -> dict[str, Any]:
    """Kill until every phase has had its share of the kills."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        matrix = prepare(Path(folder), seed)
        while missing := matrix.missing(kills):
            if matrix.lives > TRIES * kills:
                raise UserError(f"no kill meets {missing[0]}: the machine is too busy to aim")
            if "data" in missing:
                kill_data(matrix)
            in_a_run = [phase for phase in IN_A_RUN[:-1] if phase in missing]
            matrix.chance.shuffle(in_a_run)
            in_a_run += ["score"] * ("score" in missing)
            if in_a_run:
                kill_run(matrix, in_a_run)
            say(f"{matrix.by_phase.total()} kills, {matrix.identical} identical")
    return {
        "kills": matrix.by_phase.total(),
        "identical": matrix.identical,
        "corrupt": matrix.corrupt,
        "by_phase": {phase: matrix.by_phase[phase] for phase in (*PHASES, watched.BETWEEN)},
        "torn_named": matrix.torn_named,
        "unfinished": matrix.unfinished,
        "between_renames": matrix.between_renames,
        "late": matrix.late,
        "lives": matrix.lives,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object or a table; exit status 1 where a kill has changed anything."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=32, help="least number of kills (32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        raise UserError(f"--kills must be at least 1, not {options.kills}")
    result = measure(options.kills, options.seed)
    rows = [("what", "number"), *result.pop("by_phase").items()] if not options.json else []
    print_result(result, [*rows, *result.items()], options.json)
    if result["identical"] != result["kills"] or result["corrupt"]:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
