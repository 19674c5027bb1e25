#!/usr/bin/env bash
# One p-value that is NaN changes what statsmodels corrects, in a different way for each method, without a word.
#
# Versions: statsmodels 0.15.0, scipy 1.17.1, numpy 2.4.6, Python 3.11 or newer.
# Expected: NaN is refused, as by scipy's false_discovery_control, or left out, so that the others are corrected as
# if it were not there; and a hypothesis is rejected where its corrected p is below alpha.
# Seen, two models in four domains, p .001, .02 and .03; the fourth, where both rank every target alike, NaN from
# scipy.stats.ttest_rel or wilcoxon:
#   method            corrected, with the NaN     without it           rejected, with the NaN
#   holm              .004 .06  .06               .003 .04  .04        the first alone
#   bonferroni        .004 .08  .12               .003 .06  .09        the first alone
#   fdr_bh            NaN, all of them            .003 .03  .03        all three
#   simes-hochberg    NaN, all of them            .003 .03  .03        the first alone
#   hommel            NaN, all of them            .003 .03  .03        none, not even the first
# A domain in which nothing was tested makes two differences of three lose their significance (holm), or leaves all
# of them without a p, but with a decision (fdr_bh). A randomisation test gives such a domain a p of 1, as here.
# Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6 \
  pandas==3.1.1 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import scipy
import statsmodels
from scipy.stats import false_discovery_control, permutation_test, ttest_rel, wilcoxon
from statsmodels.stats.multitest import multipletests

SEEN = {  # {method: (corrected with the NaN, without it, rejected with the NaN)}
    "holm": ([0.004, 0.06, 0.06], [0.003, 0.04, 0.04], [True, False, False]),
    "bonferroni": ([0.004, 0.08, 0.12], [0.003, 0.06, 0.09], [True, False, False]),
    "fdr_bh": ([np.nan] * 3, [0.003, 0.03, 0.03], [True, True, True]),
    "simes-hochberg": ([np.nan] * 3, [0.003, 0.03, 0.03], [True, False, False]),
    "hommel": ([np.nan] * 3, [0.003, 0.03, 0.03], [False, False, False]),
}

print("statsmodels", statsmodels.__version__, "scipy", scipy.__version__)
alike = np.zeros(50)  # the differences of two models that rank alike
with warnings.catch_warnings(action="ignore"):  # scipy warns of a division by zero
    assert np.isnan(ttest_rel(alike, alike).pvalue) and np.isnan(wilcoxon(alike).pvalue)
assert permutation_test((alike,), np.mean, permutation_type="samples", n_resamples=99).pvalue == 1
p = np.array([0.001, 0.02, 0.03])
warnings.simplefilter("error")  # statsmodels gives none
changed = 0
for method, expected in SEEN.items():
    rejected, corrected, *_ = multipletests([*p, np.nan], method=method)
    seen = corrected[:3], multipletests(p, method=method)[1], rejected[:3]
    same = all(np.allclose(one, two, equal_nan=True) for one, two in zip(seen, expected))
    changed += not same
    print(f"{method:15}", *(one.tolist() for one in seen), "" if same else "CHANGED")
try:
    false_discovery_control([*p, np.nan])
    changed += 1
except ValueError as error:
    print("scipy:", error)
raise SystemExit(changed > 0)
PYTHON
echo "as described"
