#!/usr/bin/env bash
# Evidently's MAP at k depends on the order of the rows and can be above 1; its NDCG and MRR at rank k are those at k - 1.
#
# Versions: evidently 0.7.23, pandas 2.3.3, Python 3.11 or newer (evidently cannot be imported with pandas 3.1).
# Expected: the scores decide the ranks, and the order of the rows nothing; of one relevant item per user MAP at k is MRR
# at k; the row of rank 10 of each metric's table is that at 10.
# Seen, 500 users, 20 scored candidates each, one of them relevant; the same rows in another order:
#   rows sorted by                          MAP@10   MRR@10   NDCG@10   hit rate@10
#   user and score, best first                .43      .43      .51        .79
#   user and item id, as a log has them       .63      .43      .51        .79
#   user and score, best last                 .99      .43      .51        .79
#   target, relevant rows last               1.34      .43      .51        .79
# Whether the item at rank k is relevant is read from the last row of the user among those up to rank k. The tables of
# NDCG and MRR begin at rank 2 and end at 11, each value one rank too low; those of MAP, hit rate, precision and recall
# are right. Sort by user and score before the report. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check evidently==0.7.23 pandas==2.3.3 numpy==2.3.5 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Recsys, Report
from evidently.metrics import MAP, MRR, NDCG, HitRate

USERS, CANDIDATES, K = 500, 20, 10
rng = np.random.default_rng(0)
user = np.repeat(np.arange(USERS), CANDIDATES)
item = np.tile(np.arange(CANDIDATES), USERS)
target = (item == np.repeat(rng.integers(CANDIDATES, size=USERS), CANDIDATES)).astype(int)
score = rng.random(len(user)) + 0.3 * target
rows = pd.DataFrame({"user_id": user, "item_id": item, "target": target, "prediction": score})
definition = DataDefinition(ranking=[Recsys()])


def tables(frame):
    """{metric: {rank: value}}"""
    data = Dataset.from_pandas(frame.reset_index(drop=True), definition)
    metrics = [MAP(k=K), MRR(k=K), NDCG(k=K), HitRate(k=K)]
    result = Report(metrics).run(data, None).dict()["metrics"]
    return {
        name: dict(zip(table["value"]["rank"].values(), table["value"]["value"].values()))
        for name, table in zip(("map", "mrr", "ndcg", "hits"), result)
    }


rank = rows.groupby("user_id")["prediction"].rank(ascending=False)[rows["target"] == 1]
found = rank[rank <= K]
true = {
    "map": (1 / found).sum() / USERS,
    "mrr": (1 / found).sum() / USERS,
    "ndcg": (1 / np.log2(found + 1)).sum() / USERS,
    "hits": len(found) / USERS,
}
orders = {
    "best first": rows.sort_values(["user_id", "prediction"], ascending=[True, False]),
    "item id": rows,
    "best last": rows.sort_values(["user_id", "prediction"]),
    "relevant last": rows.sort_values("target", kind="stable"),
}
print(*(f"{name} {version(name)}" for name in ("evidently", "pandas", "numpy")), "true:", true)
seen = {}
for name, frame in orders.items():
    table = tables(frame)
    # the last rows of the tables of NDCG and MRR, labelled 11, are those at 10
    assert list(table["ndcg"]) == list(table["mrr"]) == list(range(2, K + 2))
    assert list(table["map"]) == list(table["hits"]) == list(range(1, K + 1))
    at = {"map": table["map"][K], "mrr": table["mrr"][K + 1], "ndcg": table["ndcg"][K + 1]}
    at["hits"] = table["hits"][K]
    print(f"{name:<14}", {metric: round(float(value), 3) for metric, value in at.items()})
    for metric in ("mrr", "ndcg", "hits"):
        np.testing.assert_allclose(at[metric], true[metric])
    seen[name] = float(at["map"])
np.testing.assert_allclose(seen["best first"], true["map"])
assert 0.6 < seen["item id"] < 0.66 and 0.95 < seen["best last"] < 1.02
assert seen["relevant last"] > 1.3
PYTHON
echo "as described"
