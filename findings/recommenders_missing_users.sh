#!/usr/bin/env bash
# recommenders counts a user without a list as 0 in NDCG, and leaves them out of recall, MAP and precision.
#
# Versions: recommenders 1.2.1, pandas 2.2.3, numpy 1.26.4, scikit-learn 1.5.2, Python 3.11.
# Expected: metrics of one library that are given the same two tables are means over the same users.
# Seen, four users with one target each, which stands first in every list, where only some have a list:
#   users with a list        4     3     2     1
#   ndcg_at_k               1.0   .75   .50   .25
#   recall_at_k, map_at_k   1.0   1.0   1.0   1.0
#   precision_at_k, k = 10   .1    .1    .1    .1
# A list is missing where all recommendations were filtered away, or where a model cannot answer for a new user.
# NDCG joins the targets with "outer" and so keeps those users; the others are means over the users in both tables.
# A model that answers for one user in four then has an NDCG of .25 beside a recall of 1, and a comparison of two
# models is decided by which metric one looks at. Count the users first. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pandas==2.2.3 numpy==1.26.4 scikit-learn==1.5.2 \
  2> >(grep -v WARNING >&2)
# the metrics need no more than these; the rest of its requirements are for models and notebooks
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps recommenders==1.2.1 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from recommenders.evaluation.python_evaluation import map_at_k, ndcg_at_k, precision_at_k, recall_at_k

USERS, K = 4, 10
METRICS = (ndcg_at_k, recall_at_k, map_at_k, precision_at_k)
targets = pd.DataFrame({"userID": range(USERS), "itemID": 0, "rating": 1})
lists = pd.DataFrame(
    [(user, item, 20.0 - item) for user in range(USERS) for item in range(20)],
    columns=["userID", "itemID", "prediction"],
)

print("recommenders", version("recommenders"), "pandas", pd.__version__)
seen = []
for answered in range(USERS, 0, -1):
    given = lists[lists.userID < answered]
    seen.append([metric(targets, given, k=K) for metric in METRICS])
    print(answered, "users with a list:", *(f"{m.__name__} {v:.2f}" for m, v in zip(METRICS, seen[-1])))
expected = [[share, 1, 1, 0.1] for share in (1, 0.75, 0.5, 0.25)]
raise SystemExit(not np.allclose(seen, expected))
PYTHON
echo "as described"
