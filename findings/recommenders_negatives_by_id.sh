#!/usr/bin/env bash
# recommenders' negative_feedback_sampler draws its negatives among the lowest ids of the items.
#
# Versions: recommenders 1.2.1, pandas 2.2.3, numpy 1.26.4, Python 3.11.
# Expected: the negatives of a user are drawn uniformly from the items that the user has not had.
# Seen, 1,000 users, 1,000 items, positives uniform, one negative per positive (the default); a quarter of the
# negatives is expected in each quarter of the ids, and an AUC of .5:
#   events per user    share of the negatives by quarter of the ids    largest id    AUC of the id, positive or negative
#    1                 .40  .33  .21  .06                                  992           .67
#    5                 .49  .39  .12  .00                                  835           .72
#   20                 .48  .44  .08  .00                                  713           .74
# More items are drawn than are needed, those of the user taken out with setdiff1d, which sorts, and the first are
# kept. A model can then tell a negative by its id, or by whatever ids follow: age, alphabet, popularity. Fails if
# that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pandas==2.2.3 numpy==1.26.4 \
  2> >(grep -v WARNING >&2)
# the sampler needs no more than these; the rest of its requirements are for models and notebooks
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps recommenders==1.2.1 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from recommenders.datasets.pandas_df_utils import negative_feedback_sampler

draw = np.random.default_rng(0)
seen = []
for events in (1, 5, 20):
    pairs = [(user, item) for user in range(1000) for item in draw.choice(1000, events, replace=False).tolist()]
    positives = pd.DataFrame(pairs, columns=["userID", "itemID"])
    labelled = negative_feedback_sampler(positives)
    negatives = labelled.loc[labelled["feedback"] == 0, "itemID"].to_numpy()
    quarters = np.bincount(negatives // 250, minlength=4) / len(negatives)
    ranks = pd.Series(np.concatenate([positives["itemID"], negatives])).rank().to_numpy()[: len(positives)]
    auc = (ranks.mean() - (len(positives) + 1) / 2) / len(negatives)
    seen.append((quarters, auc))
    print(f"recommenders {version('recommenders')}, {events} events per user: negatives by quarter of the ids "
          f"{quarters.round(2).tolist()}, largest id {negatives.max()}, AUC of the id {auc:.2f}")
as_seen = all(quarters[0] > 0.38 and quarters[3] < 0.08 and auc > 0.65 for quarters, auc in seen) and seen[-1][0][3] == 0
raise SystemExit(not as_seen)
PYTHON
