#!/usr/bin/env bash
# Ibis divides whole numbers as floating-point ones: the day of a time in nanoseconds can be the next
# day, and quotient and remainder do not give the number back.
#
# Versions: ibis-framework 12.0.0, duckdb 2.0.0, sqlglot 30.30.0, pyarrow 26.0.1, Python 3.11 or newer.
# Expected: // of two int64 columns is exact, as it is in Python, NumPy and DuckDB's own SQL.
# Seen, t = 1704067199999999999, the last nanosecond of 2023 (UTC), in Ibis:
#   t // 86400000000000                     19723, which is 2024-01-01; DuckDB's SQL has 19722
#   t // 10**9 * 10**9 + t % 10**9          t + 1000000000 on DuckDB
#   9007199254740993 // 1                   9007199254740992
#   t % 10**9                               999999999 on DuckDB, 0 on SQLite
#   -5 // 10**9, -5 % 10**9                 -1 and -5: // rounds down, % goes towards zero
# The SQL is CAST(FLOOR(a / b) AS BIGINT), and / is a division of doubles. Nothing is wrong below 2^53:
# seconds and milliseconds are right, nanoseconds and hashed ids are not. A cut-off or a split by day
# then moves events of the last 128 nanoseconds, and a shard by id // n is another one elsewhere.
# Here: src/dataset/ingest/times.py takes the remainder away first, which leaves an exact division.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ibis-framework[duckdb,sqlite]==12.0.0' duckdb==2.0.0 pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6 \
  sqlglot==30.30.0 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'END'
import ibis

SECOND, DAY = 10**9, 86_400 * 10**9
LAST = 1_704_067_199_999_999_999  # of 2023
duck, sqlite = ibis.duckdb.connect(), ibis.sqlite.connect()


def values(backend, number, expression):
    (value,) = backend.to_pyarrow(expression(ibis.memtable({"n": [number]}).n)).to_pylist()
    return value


# expression: (number, it, what Python has, what DuckDB gave, what SQLite gave)
SEEN = {
    "t // day": (LAST, lambda n: n // DAY, LAST // DAY, 19723, 19723),
    "t // second * second + t % second": (
        LAST, lambda n: n // SECOND * SECOND + n % SECOND, LAST, LAST + SECOND, LAST + 1),
    "t % second": (LAST, lambda n: n % SECOND, LAST % SECOND, 999_999_999, 0),
    "9007199254740993 // 1": (2**53 + 1, lambda n: n // 1, 2**53 + 1, 2**53, 2**53),
    "-5 // second": (-5, lambda n: n // SECOND, -1, -1, -1),
    "-5 % second": (-5, lambda n: n % SECOND, SECOND - 5, -5, -5),
    "1704067199 // 86400": (LAST // SECOND, lambda n: n // 86_400, 19722, 19722, 19722),
}
changed = 0
for name, (number, expression, python, *seen) in SEEN.items():
    found = [values(backend, number, expression) for backend in (duck, sqlite)]
    changed += found != seen
    row = f"{name:34} Python {python:20} DuckDB {found[0]:20} SQLite {found[1]:20}"
    print(row, "" if found == seen else "CHANGED")
(native,) = duck.raw_sql(f"SELECT {LAST} // {DAY}").fetchone()
changed += native != LAST // DAY
print(f"t // day in DuckDB's own SQL: {native}")
raise SystemExit(changed > 0)
END
