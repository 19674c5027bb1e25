#!/usr/bin/env bash
# One Ibis expression gives different values on DuckDB and on Spark, without an error or a warning.
#
# Versions: ibis-framework 12.0.0, duckdb 2.0.0, pyspark 4.0.1, Python 3.11 or newer, Java 17.
# Expected: an expression that both backends accept means the same on both.
# Seen:
#   literal("electronics.smartphone").split(".")[0]   DuckDB "electronics", Spark ""
#   literal("Comedy|Drama").split("|")[0]             DuckDB "Comedy", Spark "C"
#   literal(2.5).cast("int64")                        DuckDB 3, Spark 2
#   literal("12.7").try_cast("int64")                 DuckDB 13, Spark null
# The separator of `split` is a regular expression in Spark alone; a cast to an integer rounds in DuckDB
# and cuts off in Spark. What replaced `split` here: find and substr, which agree.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ibis-framework[duckdb]==12.0.0' duckdb==2.0.0 pyspark==4.0.1 pandas==3.1.1 pyarrow==26.0.1 \
  numpy==2.4.6 sqlglot==30.30.0 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'END'
import ibis
import pandas as pd
from pyspark.sql import SparkSession

builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
spark = ibis.pyspark.connect(builder.config("spark.log.level", "ERROR").getOrCreate())
duck = ibis.duckdb.connect()


def first_part(text, separator):
    text = ibis.literal(text)
    return text.substr(0, text.find(separator))


# expression: (it, what DuckDB gave, what Spark gave)
SEEN = {
    "'electronics.smartphone'.split('.')[0]": (
        ibis.literal("electronics.smartphone").split(".")[0], "electronics", ""),
    "'Comedy|Drama'.split('|')[0]": (ibis.literal("Comedy|Drama").split("|")[0], "Comedy", "C"),
    "2.5.cast('int64')": (ibis.literal(2.5).cast("int64"), 3, 2),
    "'12.7'.try_cast('int64')": (ibis.literal("12.7").try_cast("int64"), 13, None),
    "find and substr of '|'": (first_part("Comedy|Drama", "|"), "Comedy", "Comedy"),
}
changed = 0
for name, (expression, *seen) in SEEN.items():
    values = [backend.execute(expression) for backend in (duck, spark)]
    values = [None if pd.isna(value) else value for value in values]
    changed += values != seen
    print(f"{name:42} DuckDB {values[0]!r:15} Spark {values[1]!r:15}", "" if values == seen else "CHANGED")
raise SystemExit(changed > 0)
END
