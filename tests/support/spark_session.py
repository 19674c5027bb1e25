"""One small Spark session for all tests that compare engines; skipped where it cannot start."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """The Spark engine, with two threads and little memory."""
    pytest.importorskip("pyspark", reason="PySpark is not installed (requirements-spark.txt)")
    from src.dataset.engine.spark_engine import java_version, open_spark

    if not java_version():
        pytest.skip("Spark needs Java, and there is none")
    options = {  # the tables are tiny: to compile their plans would take longer than to run them
        "spark.sql.shuffle.partitions": 2,
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    told = " ".join(f"--conf {name}={value}" for name, value in options.items())
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--driver-memory 1g {told} pyspark-shell"
    spill: Path = tmp_path_factory.mktemp("spark")
    with open_spark("local[2]", 0, "", spill) as engine:
        yield engine
