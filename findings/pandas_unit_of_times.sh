#!/usr/bin/env bash
# In pandas 3 one fraction of a second changes the unit in which all other times are stored.
#
# Version: pandas 3.1.1, Python 3.11 or newer.
# Expected: to_datetime(..., unit="s") of whole seconds gives one type, as it did up to pandas 2
# (nanoseconds), so that .astype("int64") // 10**9 is the seconds again.
# Seen, a column of whole seconds since 1970, the first of them 1704067200:
#   whole seconds, int64 or float64    datetime64[us], and // 10**9 gives 1704067
#   half a second in one other row     datetime64[ns], and // 10**9 gives 1704067200
#   dates as text                      datetime64[us]
#   nine decimals in one other row     datetime64[ns]
# So a script that was right on pandas 2, or is right on one month's log, is off by a thousand on the
# next month's, and half-lives, cut-offs and sessions with it. `.dt.as_unit("s")` before the cast says
# what is meant.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pandas==3.1.1 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import pandas as pd

SECONDS = 1704067200
logs = {
    "whole numbers": pd.to_datetime(pd.Series([SECONDS, SECONDS + 1]), unit="s"),
    "seconds": pd.to_datetime(pd.Series([SECONDS, SECONDS + 1.0]), unit="s"),
    "seconds, one with a half": pd.to_datetime(pd.Series([SECONDS, SECONDS + 1.5]), unit="s"),
    "text": pd.to_datetime(pd.Series(["2024-01-01", "2024-01-02"])),
    "text, one with nine decimals": pd.to_datetime(
        pd.Series(["2024-01-01", "2024-01-02 00:00:00.000000001"]), format="ISO8601"
    ),
}
print("pandas", pd.__version__)
found = {}
for name, times in logs.items():
    first = times.astype("int64").iloc[0] // 10**9
    meant = times.dt.as_unit("s").astype("int64").iloc[0]
    found[name] = str(times.dtype), int(first), int(meant)
    print(f"{name}: {times.dtype}, // 10**9 {first}, as_unit('s') {meant}")
wrong = ("datetime64[us]", SECONDS // 1000, SECONDS)
right = ("datetime64[ns]", SECONDS, SECONDS)
raise SystemExit(list(found.values()) != [wrong, wrong, right, wrong, right])
PYTHON
