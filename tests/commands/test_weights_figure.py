"""The figure of the loss weights: its table is that of the runs."""

import pandas as pd
import pytest

from experiments import weights_figure
from src.io.errors import UserError
from tests.support.run_folders import Log, write_run


def test_the_table_has_the_weights_of_each_run(tmp_path):
    log = Log(domains=("A", "B", "C"))
    runs = {
        name: write_run(tmp_path / name, log, mode="syncrec", gaps={"A": gap, "B": 0.0, "C": -0.1})
        for name, gap in (("one", 0.5), ("two", 0.1))
    }
    out = tmp_path / "weights"
    weights_figure.main([*(f"{name}={run}" for name, run in runs.items()), f"--out={out}"])
    table = pd.read_csv(out.with_suffix(".csv"))
    for name, run in runs.items():
        rows = table[table.run == name].reset_index(drop=True)
        expected = pd.read_csv(run / "transfer.csv")
        for column in ("epoch", "domain", "phi", "weight"):
            assert list(rows[column]) == pytest.approx(list(expected[column]), abs=1e-4)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_run_with_one_view_or_without_a_name_is_one_line(tmp_path):
    run = write_run(tmp_path / "run", Log(), mode="cdsr")
    mistakes = {
        "trained with one view": [f"a={run}"],
        "give NAME=RUN": [str(run)],
        "the same NAME": [f"a={run}", f"a={run}"],
    }
    for fault, words in mistakes.items():
        with pytest.raises(UserError, match=fault):
            weights_figure.main([*words, f"--out={tmp_path / 'x'}"])
    assert not list(tmp_path.glob("x.*"))
