"""However busy the machine is, processes end with the statuses that docs/runs.md states.

200 endings in two and as many in three processes, and some runs of main.py, beside a load that
keeps every core busy. It takes some ten minutes.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.support.command_runs import ROOT, make_data
from tests.support.process_endings import ENDINGS, project_lines, statuses
from tests.support.process_runs import USERS, exact, launch

pytestmark = pytest.mark.nightly

TIMES = 200
OTHERS = 10  # endings of each kind but the first, which the remaining ones are


@pytest.fixture(autouse=True)
def load():
    """A process that never waits, for each core."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    yield
    for process in busy:
        process.kill()
        process.wait()


@pytest.mark.parametrize("processes", [2, 3])
def test_of_200_endings_none_fails(processes):
    kinds = [ending for ending in ENDINGS[1:] for _ in range(OTHERS)]
    kinds += ["done"] * (TIMES - len(kinds))
    batches = [[(ending, processes) for ending in kinds[at : at + 4]] for at in range(0, TIMES, 4)]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "process_endings.py", json.dumps(batches)],
        check=True, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    results = json.loads(done.stdout)
    assert len(results) == TIMES
    for ending, codes, errors in results:
        assert codes == statuses(ending, processes), (ending, errors)
        assert "terminate called" not in errors
        lines = {"done": 0, "lost": processes - 1, "defect": processes - 1}.get(ending, 1)
        assert len(project_lines(errors)) == lines


@pytest.mark.parametrize("processes", [2, 3])
def test_of_ten_runs_of_the_command_none_fails(tmp_path, processes):
    data = make_data(tmp_path, users=USERS)
    for number in range(10):
        flags = exact(data, tmp_path / "runs", f"run{number}", "--max_epochs=1")
        done = launch(processes, ROOT / "main.py", *flags)
        assert done.returncode == 0, done.stderr
