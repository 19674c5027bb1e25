#!/usr/bin/env bash
# numpy.searchsorted copies the whole array where the key has another type, a plain int included.
#
# Version: numpy 2.4.6, Python 3.11 or newer.
# Expected: a search among n sorted numbers takes log2 n steps; and since numpy 2 a Python int takes
# the type of the array that it meets (NEP 50), so 5 is an int32 beside an int32 array.
# Seen, ten million items of int32, one search, times of this kind:
#   key numpy.int32(5)     2.5 µs
#   key 5                  10,000 µs: as int64, and the array is converted to int64 for each call
#   key 5.0 in float32     11,000 µs, numpy.float32(5) 2.5 µs
# Offsets and items of a large log are best kept in 32 bits, and a look-up for each request then walks
# through all of them. Memory shows it, whatever the speed: the call takes 80 MB for the copy.
# Fails if what is copied changes; the times are printed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import time
import tracemalloc

import numpy as np

ITEMS, CALLS = 10**7, 20


def cost(array: np.ndarray, key: object) -> tuple[float, float]:
    """Microseconds and megabytes of one search."""
    began = time.process_time()
    for _ in range(CALLS):
        np.searchsorted(array, key)
    microseconds = (time.process_time() - began) / CALLS * 1e6
    tracemalloc.start()
    np.searchsorted(array, key)
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return microseconds, megabytes


items = np.arange(ITEMS, dtype=np.int32)
cases = {
    "int32, numpy.int32(5)": cost(items, np.int32(5)),
    "int32, 5": cost(items, 5),
    "float32, numpy.float32(5)": cost(items.astype(np.float32), np.float32(5)),
    "float32, 5.0": cost(items.astype(np.float32), 5.0),
    "int64, 5": cost(items.astype(np.int64), 5),
}
print("numpy", np.__version__)
for name, (microseconds, megabytes) in cases.items():
    print(f"{name}: {microseconds:,.1f} µs, {megabytes:.1f} MB")
print("beside an array, 5 takes its type:", (items[:1] + 5).dtype)
copies = [megabytes > 70 for _, megabytes in cases.values()]
raise SystemExit(copies != [False, True, False, True, False] or (items[:1] + 5).dtype != np.int32)
PYTHON
