#!/usr/bin/env bash
# numpy.bincount with weights gives floats, but integers where there is nothing to count.
#
# Version: numpy 2.4.6, Python 3.11 or newer.
# Expected: the dtype of a result follows from the dtypes of the arguments, as everywhere in numpy.
# Seen:
#   bincount([0], weights=[0.5], minlength=3)    float64
#   bincount([], weights=[], minlength=3)        int64, although the weights are float64
# A sum over users then is an array of integers for a domain without events, and adding a fraction to
# it in place raises UFuncTypeError, on the one input that no test has. numpy.add.at and a sparse
# matrix keep the dtype. Here: src/baselines/decayed_counts.py converts the result.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'END'
import numpy as np

few, none = np.array([0.5]), np.array([], dtype=np.float64)
counted = np.bincount(np.array([0]), weights=few, minlength=3)
nothing = np.bincount(np.array([], dtype=np.int64), weights=none, minlength=3)
print("numpy", np.__version__, "with events:", counted.dtype, "without:", nothing.dtype)
try:
    nothing += 0.5
    added = "added"
except TypeError:  # numpy.exceptions has no public name for it
    added = "refused"
print("a fraction added in place:", added)
by_hand = np.zeros(3)
np.add.at(by_hand, np.array([], dtype=np.int64), none)
print("numpy.add.at without events:", by_hand.dtype)
seen = (str(counted.dtype), str(nothing.dtype), added, str(by_hand.dtype))
raise SystemExit(seen != ("float64", "int64", "refused", "float64"))
END
