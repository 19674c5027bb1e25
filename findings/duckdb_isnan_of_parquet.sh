#!/usr/bin/env bash
# DuckDB finds no NaN in a column of a Parquet file: WHERE isnan(score) is empty, WHERE NOT isnan(score) keeps them all.
#
# Versions: duckdb 2.0.0, polars 2.1.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11 or newer.
# Expected: a condition has one answer, in a table, in a file and in the file without statistics. The format leaves NaN
# out of the minimum and maximum of a column, so a reader can't conclude from them that it has none.
# Seen, 100,000 scores between 0 and 1, 10,000 of them NaN, written by Polars or PyArrow:
#   rows                                   file     file without statistics, table, file written by DuckDB
#   WHERE isnan(score)                        0      10,000
#   WHERE NOT isnan(score)              100,000      90,000
#   WHERE score <= 1                    100,000      90,000
#   WHERE score > 2                           0      10,000   (DuckDB takes NaN for the largest number)
#   WHERE isfinite(score)                90,000      90,000
#   count(*) FILTER (isnan(score))       10,000      10,000   alone, as the only value asked for
#   sum(isnan(score)::INT)                    0      10,000
#   avg(CASE WHEN isnan(score) THEN NULL ELSE score END)
#                                           NaN        .4997
# The statistics say that all values lie between 0 and 1, and the conditions are settled before a row is read. A check of
# a log or of scores for NaN passes, and the filter that should drop them keeps them. Ask isfinite(score), or whether
# score - score = 0, as the data step here does. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0 polars==2.1.0 pyarrow==26.0.1 \
  numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import math

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

print(*(f"{module.__name__} {module.__version__}" for module in (duckdb, pl, pa, np)))
ROWS = 100_000
score = np.random.default_rng(0).random(ROWS)
score[::10] = math.nan
NAN = ROWS // 10
pl.DataFrame({"score": score}).write_parquet("polars.parquet")
pq.write_table(pa.table({"score": score}), "pyarrow.parquet")
pq.write_table(pa.table({"score": score}), "plain.parquet", write_statistics=False)
duckdb.sql("CREATE TABLE scores AS FROM 'plain.parquet'")
duckdb.sql("COPY scores TO 'duckdb.parquet'")

CONDITIONS = ("isnan(score)", "NOT isnan(score)", "score <= 1", "score > 2", "isfinite(score)")
VALUES = (
    "count(*) FILTER (isnan(score))", "sum(isnan(score)::INT)",
    "avg(CASE WHEN isnan(score) THEN NULL ELSE score END)",
)
wrong = (0, ROWS, ROWS, 0, ROWS - NAN, NAN, 0, math.nan)
right = (NAN, ROWS - NAN, ROWS - NAN, NAN, ROWS - NAN, NAN, NAN, np.nanmean(score))
for source, expected in (
    ("'polars.parquet'", wrong), ("'pyarrow.parquet'", wrong),
    ("'plain.parquet'", right), ("'duckdb.parquet'", right), ("scores", right),
):
    queries = [f"SELECT count(*) FROM {source} WHERE {condition}" for condition in CONDITIONS]
    queries += [f"SELECT {value} FROM {source}" for value in VALUES]
    seen = [duckdb.sql(query).fetchall()[0][0] for query in queries]
    print(source, *(round(float(value), 4) for value in seen))
    np.testing.assert_allclose(np.array(seen, float), np.array(expected, float), equal_nan=True)
PYTHON
echo "as described"
