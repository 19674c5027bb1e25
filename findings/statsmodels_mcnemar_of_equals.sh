#!/usr/bin/env bash
# statsmodels' McNemar test gives p = 0 for two models that hit the same targets, unless it is exact.
#
# Versions: statsmodels 0.15.0, scipy 1.17.1, numpy 2.4.6, Python 3.11 or newer.
# Expected: equal hits are no evidence: p = 1, as the exact test has it, or an error that there is nothing to test.
# Seen, `mcnemar(table)`, the counts of targets that both, A alone, B alone, and neither hits:
#   A alone, B alone                  exact   chi-squared, corrected (the default of exact=False)   not corrected
#   0, 0: the same hits                1                     0, "most significant"                       NaN
#   1, 1                               1                      .48                                        1
#   5, 5                               1                      .75                                        1
# Two models that are equally good, 200 domains of 20 targets, where each hits one target in twenty, alike in nine of
# ten cases: p < .05 in no domain by the exact test, in 80 % of them by the corrected one.
# The correction subtracts 1 from |b - c| also where that is 0, and divides by b + c = 0. In small domains that is the
# usual case, and p = 0 survives any correction for many tests. Here p comes from resampled users, and equal models have
# p = 1. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar

KINDS = {"exact": {}, "corrected": {"exact": False}, "plain": {"exact": False, "correction": False}}


def p_values(table):
    return {name: float(mcnemar(table, **kind).pvalue) for name, kind in KINDS.items()}


print(*(f"{name} {version(name)}" for name in ("statsmodels", "scipy", "numpy")))
seen = {alone: p_values([[10, alone], [alone, 80]]) for alone in (0, 1, 5)}
for alone, values in seen.items():
    print(f"{alone} alone each:", values)
assert seen[0]["exact"] == 1 and seen[0]["corrected"] == 0 and np.isnan(seen[0]["plain"])
for alone in (1, 5):
    assert seen[alone]["exact"] == seen[alone]["plain"] == 1
np.testing.assert_allclose([seen[1]["corrected"], seen[5]["corrected"]], [0.4795, 0.7518], atol=1e-4)

rng = np.random.default_rng(0)
small = {name: [] for name in KINDS}
for _ in range(200):
    a = rng.random(20) < 0.05
    b = np.where(rng.random(20) < 0.9, a, rng.random(20) < 0.05)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    for name, value in p_values(table).items():
        small[name].append(value < 0.05)
shares = {name: float(np.mean(values)) for name, values in small.items()}
print("domains with p < .05:", shares)
assert shares["exact"] == 0 and shares["corrected"] > 0.6
PYTHON
echo "as described"
