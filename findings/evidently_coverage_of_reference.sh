#!/usr/bin/env bash
# Evidently's item coverage of the reference counts all candidates, that of the current data the first k: a set of lists
# compared with itself fails the test. And its Gini index of the most concentrated lists is 0, of perfect equality.
#
# Versions: evidently 0.7.23, pandas 2.3.3, Python 3.11 or newer.
# Expected: equal data have equal figures; where everyone gets the same five items of a hundred, the Gini index of how
# often items are recommended is near 1 (.95).
# Seen, 500 users, 100 scored candidates each, k 5:
#                                            coverage: current   reference   Gini index
#   everyone gets the same five items                    .05        1           0
#   five items at random                                1           1           .10
# Items that nobody gets are left out of the Gini index, so it falls when the lists leave more of them out. Who watches a
# recommender in production by these sees an alarm where nothing changed, and none where all lists become one. Fails if
# the figures change.
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
from evidently.metrics import PopularityBiasMetric

USERS, ITEMS, K = 500, 100, 5
rng = np.random.default_rng(0)
user = np.repeat(np.arange(USERS), ITEMS)
item = np.tile(np.arange(ITEMS), USERS)
train = pd.DataFrame({"user_id": rng.integers(USERS, size=5000), "item_id": rng.integers(ITEMS, size=5000)})
definition = DataDefinition(ranking=[Recsys()])


def figure(metric, score):
    """(value, whether the test against the same data passes, what it says)"""
    rows = pd.DataFrame({"user_id": user, "item_id": item, "target": (item == 7) * 1, "prediction": score})
    data = Dataset.from_pandas(rows, definition)
    report = Report([PopularityBiasMetric(k=K, metric=metric)], include_tests=True)
    result = report.run(data, data, additional_data={"current_train_data": train}).dict()
    (test,) = result["tests"]
    return float(result["metrics"][0]["value"]), test["status"].value, test["description"]


def gini(score):
    """Of all items, from the definition."""
    best = np.argsort(-score.reshape(USERS, ITEMS), axis=1)[:, :K]
    counts = np.sort(np.bincount(best.ravel(), minlength=ITEMS))
    return float(((2 * np.arange(1, ITEMS + 1) - ITEMS - 1) * counts).sum() / (ITEMS * counts.sum()))


same, spread = -item.astype(float), rng.random(len(item))
print(*(f"{name} {version(name)}" for name in ("evidently", "pandas", "numpy")))
for name, score in (("same five", same), ("at random", spread)):
    for metric in ("coverage", "gini"):
        print(name, metric, *figure(metric, score))
    print(name, "Gini index of all items", gini(score))
value, status, text = figure("coverage", same)
assert value == 0.05 and status == "FAIL" and "expected 1.000" in text
assert figure("coverage", spread)[:2] == (1.0, "SUCCESS")
assert figure("gini", same)[0] == 0 and gini(same) == 0.95
assert 0.03 < figure("gini", spread)[0] < 0.15
PYTHON
echo "as described"
