#!/usr/bin/env bash
# scipy's paired t-test subtracts hits or ranks in their own type: of unsigned ones the worse model wins with p 0.
#
# Versions: scipy 1.17.1, numpy 2.4.6, Python 3.11 or newer.
# Expected: the same t and p for the same numbers, whatever type holds them, as wilcoxon, ttest_ind and bootstrap give;
# ttest_rel is documented for array_like and refuses bool.
# Seen, 1,000 users; A hits the target of 28 % of them, B of 36 %; A - B:
#   hits held as           ttest_rel t (p)     95 % interval      wilcoxon p    ttest_ind t
#   float64, int64, int8    -4.1 (< .0001)     -.13 to -.04       < .0001         -4.1
#   uint8                    19.1 (< 1e-60)      61 to 75         < .0001         -4.1
#   uint64                   19.0 (< 1e-60)     4e18 to 5e18      < .0001         -4.1
# Where B alone hits, 0 - 1 is 255. torch.uint8, a boolean mask made a number to save room, and ranks as uint16 come
# that way. Here differences are taken in float64. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scipy
from scipy import stats

rng = np.random.default_rng(0)
hits = [rng.random(1000) < share for share in (0.30, 0.33)]
print("scipy", scipy.__version__, "numpy", np.__version__, "hit rates", *(h.mean() for h in hits))
expected = None
for dtype in ("float64", "int64", "int8", "uint8", "uint64"):
    a, b = (h.astype(dtype) for h in hits)
    paired = stats.ttest_rel(a, b)
    interval = paired.confidence_interval()
    other = stats.wilcoxon(a, b).pvalue, stats.ttest_ind(a, b).statistic
    print(f"{dtype:<8} t {paired.statistic:.2f} p {paired.pvalue:.1e}", *interval, *other)
    expected = expected or (paired.statistic, *other)
    np.testing.assert_allclose(other, expected[1:])
    if dtype.startswith("u"):
        assert paired.statistic > 15 and paired.pvalue < 1e-60 and interval.low > 1
    else:
        np.testing.assert_allclose(paired.statistic, expected[0])
assert -5 < expected[0] < -3
# ranks too: B has each target up to two places lower
ranks = rng.integers(1, 100, 1000).astype(np.uint16)
noise = rng.integers(0, 3, 1000).astype(np.uint16)
wrong, right = stats.ttest_rel(ranks, ranks + noise), stats.ttest_rel(ranks, (ranks + noise) * 1.0)
print("ranks as uint16: t", wrong.statistic, "as float64: t", right.statistic)
assert right.statistic < -10 and wrong.statistic > 10
PYTHON
echo "as described"
