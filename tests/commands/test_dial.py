"""experiments/dial.py: measured gains beside those that the limits of the generated logs allow."""

import itertools

import numpy as np
import pandas as pd
import pytest

from experiments import dial
from src.dataset.generator.interests import InterestConfig
from src.io.errors import UserError

LOGS = ["dial000", "dial025", "dial050", "dial075", "dial100"]


@pytest.fixture
def results(tmp_path):
    """The differences of a run of the spec, with gains that differ in every row."""
    names = InterestConfig().domains
    rows = [
        {
            "log": log, "first": model, "second": dial.ALONE, "split": split, "metric": "ndcg@10",
            "domain": domain, "second_value": 0.4, "difference": 0.001 * number,
            "low": 0.001 * number - 0.01, "high": 0.001 * number + 0.01,
        }
        for number, (split, log, model, domain) in enumerate(
            itertools.product(["valid", "test"], LOGS, [*dial.GAINS, "other"], [*names, "macro"])
        )
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "dial_differences.csv", index=False)
    return tmp_path


def test_gains_stand_beside_what_the_limits_allow(results):
    dial.main([f"--results={results}", f"--out={results / 'gains'}"])
    table = pd.read_csv(results / "gains.csv")
    assert len(table) == len(LOGS) * 5 * len(dial.GAINS)
    possible = table.groupby("relatedness").possible.mean()
    assert list(possible.index) == [0, 0.25, 0.5, 0.75, 1]
    assert possible.is_monotonic_increasing
    assert abs(possible.loc[0]) < 0.001
    assert possible.loc[1] > 0.1
    np.testing.assert_allclose(table.possible, table.joined - table.own, atol=2e-6)
    given = pd.read_csv(results / "dial_differences.csv").query("split == 'test'")
    given = given.set_index(["log", "first", "domain"]).difference
    for row in table.itertuples():
        assert row.difference == pytest.approx(given[row.log, row.model, row.domain])
    text = (results / "gains.md").read_text()
    assert len(text.splitlines()) == 2 + len(LOGS)
    assert (results / "gains.png").stat().st_size > 10_000


def test_missing_runs_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"does not exist; run experiments/specs/dial\.toml first"):
        dial.main([f"--results={tmp_path}", f"--out={tmp_path / 'gains'}"])
