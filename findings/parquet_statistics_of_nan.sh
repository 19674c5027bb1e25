#!/usr/bin/env bash
# What Spark and PyArrow count in a Parquet file depends on its statistics where a column has NaN: Spark's check of a
# range finds no value outside it, and PyArrow counts rows that it then does not read.
#
# Versions: pyspark 4.0.1, pyarrow 26.0.1, polars 2.1.0, numpy 2.4.6, Python 3.11 or newer, Java 17.
# Expected: statistics save time and change no answer. The format leaves NaN out of the minimum and maximum of a column,
# so a reader can't conclude from them that it has none.
# Seen, 100,000 scores between 0 and 1, 10,000 of them NaN, written by PyArrow:
#   rows                                            file     file without statistics
#   Spark, score < 0 OR score > 1                      0      10,000   (Spark takes NaN for the largest number)
#   Spark, NOT score <= 1                              0      10,000
#   Spark, isnan(score)                           10,000      10,000
#   PyArrow, to_table(filter=score <= 1)          90,000      90,000
#   PyArrow, count_rows(filter=score <= 1)       100,000      90,000
#   PyArrow, to_table(filter=score.is_null(nan_is_null=True))
#                                                      0      10,000
#   Polars, each of these                             as without statistics
# A check that all ratings or scores are in range passes on a file and fails on the same rows in memory. Ask isnan in
# Spark, is_nan or is_finite in PyArrow. DuckDB differs in more: duckdb_isnan_of_parquet.sh. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyspark==4.0.1 pyarrow==26.0.1 polars==2.1.0 \
  numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - 2> spark.log <<'PYTHON' || { cat spark.log >&2; exit 1; }
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pyspark
from pyspark.sql import SparkSession

print(*(f"{module.__name__} {module.__version__}" for module in (pyspark, pa, pl, np)))
ROWS = 100_000
score = np.random.default_rng(0).random(ROWS)
score[::10] = math.nan
NAN = ROWS // 10
pq.write_table(pa.table({"score": score}), "file.parquet")
pq.write_table(pa.table({"score": score}), "plain.parquet", write_statistics=False)
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()

IN_SPARK = ("score < 0 OR score > 1", "NOT score <= 1", "isnan(score)")
field, column = ds.field("score"), pl.col("score")
IN_POLARS = (
    (column < 0) | (column > 1), ~(column <= 1), column.is_nan(), column <= 1, column <= 1, column.is_nan(),
)  # fmt: skip
for name, expected in (
    ("file.parquet", (0, 0, NAN, ROWS - NAN, ROWS, 0)),
    ("plain.parquet", (NAN, NAN, NAN, ROWS - NAN, ROWS - NAN, NAN)),
):
    rows = [spark.read.parquet(name).filter(condition).count() for condition in IN_SPARK]
    data = ds.dataset(name)
    rows += [data.to_table(filter=field <= 1).num_rows, data.count_rows(filter=field <= 1)]
    rows.append(data.to_table(filter=field.is_null(nan_is_null=True)).num_rows)
    lazy = pl.scan_parquet(name)
    others = [lazy.filter(one).select(pl.len()).collect().item() for one in IN_POLARS]
    print(f"{name:<14} Spark and PyArrow {rows}, Polars {others}")
    assert tuple(rows) == expected
    assert others == [NAN, NAN, NAN, ROWS - NAN, ROWS - NAN, NAN]
spark.stop()
PYTHON
echo "as described"
