"""Tests of one thing load what it needs: no data engine for the losses."""

import subprocess
import sys

import pytest

from tests.support.command_runs import ROOT

RUN = """
import sys, pytest
status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-k", "losses"])
print(int(status), sorted({"duckdb", "ibis", "pyspark"} & sys.modules.keys()))
"""


@pytest.mark.nightly
def test_the_tests_of_the_losses_load_no_data_engine():
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"
