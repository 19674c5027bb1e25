#!/usr/bin/env bash
# DuckDB takes a NaN for a missing value if it comes from pandas or numpy, and for the largest of all numbers if it comes
# from Polars, PyArrow or a file that one of them wrote: then the item without a score heads the list.
#
# Versions: duckdb 2.0.0, pandas 3.1.1, polars 2.1.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11 or newer.
# Expected: the same array of scores gives the same list and the same mean, whichever frame or file carries it.
# Seen, four items with the scores .9, .5, NaN and .7:
#   the scores come in                        first two by score   mean   scores above .6
#   pandas, numpy, a file written by pandas   a, d                  .7          2
#   PyArrow, Polars, a file written by them   c (NaN), a            NaN         3
# Parquet files of both look alike to a reader of their schema, and so do CSV files but for an empty field in place of
# NaN. A rating filter such as rating >= 4 keeps the rows with NaN in the second case. Who moves scores or ratings from
# one kind of frame to the other should first say what a NaN is: fill_nan(None) in Polars, CASE WHEN isfinite(score) THEN
# score END in DuckDB (not by isnan, see duckdb_isnan_of_parquet.sh). Here a rating that is not finite counts as none.
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0 pandas==3.1.1 polars==2.1.0 \
  pyarrow==26.0.1 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import math

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

print(*(f"{module.__name__} {module.__version__}" for module in (duckdb, pd, pl, pa, np)))
columns = {"item": np.array(["a", "b", "c", "d"]), "score": np.array([0.9, 0.5, math.nan, 0.7])}
sources = {"numpy": columns, "pandas": pd.DataFrame(columns)}
sources |= {"polars": pl.DataFrame(columns), "pyarrow": pa.table(columns)}
sources["pandas"].to_parquet("pandas.parquet")
sources["pandas"].to_csv("pandas.csv", index=False)
sources["polars"].write_parquet("polars.parquet")
sources["polars"].write_csv("polars.csv")
pa.parquet.write_table(sources["pyarrow"], "pyarrow.parquet")
pa.csv.write_csv(sources["pyarrow"], "pyarrow.csv")
for name in ("pandas", "polars", "pyarrow"):
    sources[f"{name}.parquet"] = duckdb.read_parquet(f"{name}.parquet")
    sources[f"{name}.csv"] = duckdb.read_csv(f"{name}.csv")
for name, scored in sources.items():
    first = [item for (item,) in duckdb.sql("FROM scored SELECT item ORDER BY score DESC LIMIT 2").fetchall()]
    [(mean, high)] = duckdb.sql("FROM scored SELECT avg(score), count(*) FILTER (score > .6)").fetchall()
    [(cleaned,)] = duckdb.sql("FROM scored SELECT avg(CASE WHEN isfinite(score) THEN score END)").fetchall()
    print(f"{name:<16} {first} mean {mean:.2f} above .6: {high}")
    assert math.isclose(cleaned, 0.7)
    if name.startswith(("pandas", "numpy")):
        assert (first, high) == (["a", "d"], 2) and math.isclose(mean, 0.7)
    else:
        assert (first, high) == (["c", "a"], 3) and math.isnan(mean)
PYTHON
echo "as described"
