#!/usr/bin/env bash
# NDCG and MAP of LightGBM and XGBoost are 1 for a user without a relevant candidate; of CatBoost's metrics NDCG
# and recall are 1, MAP, MRR and precision 0.
#
# Versions: lightgbm 4.6.0, xgboost-cpu 3.2.0, catboost 1.2.10, Python 3.11 or newer.
# Expected: a user whose target is not among the candidates that are ranked again counts 0 (the target is missed)
# or is left out, in all metrics of a library alike.
# Seen, 1,000 users, 20 candidates each, ranked at random; the target is among the candidates of a share of them:
#   target found for   NDCG@5: LightGBM  XGBoost  CatBoost   MAP@5: LightGBM  XGBoost  CatBoost   recall@5 CatBoost
#   all                         .15       .16       .15              .12       .13       .12            .26
#   half                        .58       .58       .57              .56       .56       .05            .62
#   one in ten                  .92       .91       .92              .91       .91       .01            .93
#   none                       1         1         1                1         1         0              1
# The worse the candidates, the better the figure: (1 - share) is added to it. XGBoost counts 0 where the metric's
# name ends in a minus (ndcg@5-), which its documentation says; LightGBM and CatBoost have no such name. To compare
# sets of candidates, take the mean over all users of the gain of found targets. Here a target that is not among the
# candidates, or is barred from the list, counts 0 in every metric. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lightgbm==4.6.0 xgboost-cpu==3.2.0 catboost==1.2.10 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import lightgbm
import numpy as np
import xgboost
from catboost.utils import eval_metric

USERS, CANDIDATES = 1000, 20
rng = np.random.default_rng(0)
features = rng.normal(size=(USERS * CANDIDATES, 2))  # say nothing of the target
users = np.repeat(np.arange(USERS), CANDIDATES)
group = np.full(USERS, CANDIDATES)
target = np.arange(USERS) * CANDIDATES + rng.integers(CANDIDATES, size=USERS)


def relevance(share):
    """1 for the target of the first `share` of the users; the others have no relevant candidate."""
    labels = np.zeros(USERS * CANDIDATES)
    labels[target[: round(share * USERS)]] = 1
    return labels


def of_lightgbm(labels):
    # one tree on labels at random, so that the scores are at random too
    options = {"objective": "lambdarank", "metric": ["ndcg", "map"], "eval_at": [5], "verbose": -1}
    train = lightgbm.Dataset(features, rng.permutation(relevance(1)), group=group)
    valid = lightgbm.Dataset(features, labels, group=group, reference=train)
    seen = {}
    callback = lightgbm.record_evaluation(seen)
    lightgbm.train(options | {"num_threads": 1}, train, 1, valid_sets=[valid], callbacks=[callback])
    return [seen["valid_0"][name][0] for name in ("ndcg@5", "map@5")]


def of_xgboost(labels, names=("ndcg@5", "map@5")):
    train = xgboost.DMatrix(features, rng.permutation(relevance(1)), group=group)
    valid = xgboost.DMatrix(features, labels, group=group)
    seen = {}
    options = {"objective": "rank:ndcg", "eval_metric": list(names), "nthread": 1}
    xgboost.train(options, train, 1, evals=[(valid, "v")], evals_result=seen, verbose_eval=False)
    return [seen["v"][name][0] for name in names]


def of_catboost(labels, names=("NDCG", "MAP", "RecallAt", "MRR", "PrecisionAt")):
    scores = rng.normal(size=len(labels))
    return [eval_metric(labels, scores, f"{name}:top=5", group_id=users)[0] for name in names]


print(*(f"{name} {version(name)}" for name in ("lightgbm", "xgboost-cpu", "catboost", "numpy")))
print("share | LightGBM ndcg map | XGBoost ndcg map | CatBoost ndcg map recall mrr precision")
found = {"ndcg": 0.147, "map": 0.114, "recall": 0.25}  # of a target at a random place of twenty
for share in (1, 0.5, 0.1, 0):
    labels = relevance(share)
    light, xg, cat = of_lightgbm(labels), of_xgboost(labels), of_catboost(labels)
    print(share, *("| " + " ".join(f"{value:.3f}" for value in row) for row in (light, xg, cat)))
    for row in (light, xg, cat):
        assert abs(row[0] - (1 - share + share * found["ndcg"])) < 0.03
    for row in (light, xg):
        assert abs(row[1] - (1 - share + share * found["map"])) < 0.03
    assert abs(cat[1] - share * found["map"]) < 0.03
    assert abs(cat[2] - (1 - share + share * found["recall"])) < 0.04
none = relevance(0)
assert of_xgboost(none, ("ndcg@5-", "map@5-", "pre@5")) == [0, 0, 0]
assert of_catboost(none) == [1, 0, 1, 0, 0]
PYTHON
echo "as described"
