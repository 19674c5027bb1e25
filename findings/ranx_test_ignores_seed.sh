#!/usr/bin/env bash
# ranx's randomisation test ignores its seed, and can say that p is 0.
#
# Versions: ranx 0.3.21, numba 0.68.1, numpy 2.4.6, Python 3.11 or newer.
# Expected: compare(..., stat_test="fisher", random_seed=42) is repeatable, with one thread or several;
# and p is at least 1 / (permutations + 1), since the data as they are count as one permutation.
# Seen, NDCG@10 of 300 users, 1,000 permutations, seed 42, eight calls in one process:
#   a against b, which is a little better    .036 to .058: seven or eight different values, with one thread
#                                            and with two
#   a against c, which is far better         0.0 each time
# The test draws inside a parallel loop of Numba, whose threads have random states of their own; the seed
# is set before the loop, where nothing is drawn. So a pair near the limit is significant in one run of an
# evaluation script and not in the next, and a correction for many comparisons multiplies a p of 0.
# Fails if eight calls agree, or if p of the second pair is above 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ranx==0.3.21 numba==0.68.1 \
  numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
for threads in 1 2; do
  NUMBA_NUM_THREADS=$threads "$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numba
import numpy as np
from ranx import Qrels, Run, compare

USERS, ITEMS, CALLS = 300, 50, 8
generator = np.random.default_rng(0)
targets = generator.integers(ITEMS, size=USERS)


def run(name: str, boost: float) -> Run:
    """Random scores, with `boost` added to that of each user's target."""
    scores = generator.normal(size=(USERS, ITEMS))
    scores[np.arange(USERS), targets] += boost
    lists = {
        f"u{user}": {f"i{item}": float(score) for item, score in enumerate(row)}
        for user, row in enumerate(scores)
    }
    return Run(lists, name=name)


qrels = Qrels({f"u{user}": {f"i{item}": 1} for user, item in enumerate(targets)})
runs = [run("a", 1.0), run("b", 1.28), run("c", 3.0)]
near, far = [], []
for _ in range(CALLS):
    report = compare(
        qrels, runs, ["ndcg@10"], stat_test="fisher", n_permutations=1000, random_seed=42
    ).to_dict()["a"]["comparisons"]
    near.append(report["b"]["ndcg@10"])
    far.append(report["c"]["ndcg@10"])
print(f"ranx {version('ranx')}, numba {numba.__version__}, {numba.get_num_threads()} thread(s): "
      f"p of a and b {min(near):.3f} to {max(near):.3f}, {len(set(near))} values in {CALLS} calls; "
      f"of a and c {set(far)}")
raise SystemExit(not (len(set(near)) > 1 and set(far) == {0.0}))
PYTHON
done
