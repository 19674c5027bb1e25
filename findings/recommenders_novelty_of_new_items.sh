#!/usr/bin/env bash
# recommenders' novelty counts an item without training events as 0, the least novel of all, and its catalogue coverage
# of lists with such items is above 1.
#
# Versions: recommenders 1.2.1, pandas 2.2.3, numpy 1.26.4, Python 3.11.
# Expected: novelty is -log2 of an item's share of the training events, so an item that nobody has seen is more novel
# than any other, or is left out of the mean; coverage lies between 0 and 1.
# Seen, 1,000 users, ten items each out of 500 with training events and 500 without; popularity falls like 1 / rank:
#   lists                           novelty   coverage
#   the ten most popular items        5.0       .02
#   ten with events at random        10.3      1
#   half of them without events       5.1      2
#   ten without events                0        1
# Items are joined with their novelty, those without one fall out of the sum and stay in the number it is divided by. A
# recommender of new items, for which the metric is looked at, appears as the least novel. Here popularity@10 counts
# training events, 0 for a new item, and coverage is a share of all candidates. Fails if the figures change.
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
from recommenders.evaluation.python_evaluation import catalog_coverage, novelty

USERS, SEEN, NEW, K = 1000, 500, 500, 10
rng = np.random.default_rng(0)
columns = {"col_user": "user", "col_item": "item"}
share = 1 / np.arange(1, SEEN + 1)
events = np.concatenate([np.arange(SEEN), rng.choice(SEEN, 49_500, p=share / share.sum())])
train = pd.DataFrame({"user": rng.integers(USERS, size=len(events)), "item": events})


def lists(draw):
    """One list of K different items for each of other users, so that no pair is in training."""
    return pd.DataFrame(
        [(USERS + user, item) for user in range(USERS) for item in draw()], columns=["user", "item"]
    )


def some(first, count, k):
    return first + rng.choice(count, k, replace=False)


cases = {
    "most popular": lists(lambda: range(K)),
    "with events": lists(lambda: some(0, SEEN, K)),
    "half new": lists(lambda: [*some(0, SEEN, K // 2), *some(SEEN, NEW, K // 2)]),
    "new": lists(lambda: some(SEEN, NEW, K)),
}
print(*(f"{name} {version(name)}" for name in ("recommenders", "pandas", "numpy")))
seen = {}
for name, frame in cases.items():
    seen[name] = novelty(train, frame, **columns), catalog_coverage(train, frame, **columns)
    print(f"{name:<14} novelty {seen[name][0]:.2f} coverage {seen[name][1]:.2f}")
novel = {name: value for name, (value, _) in seen.items()}
assert novel["new"] == 0 < novel["most popular"] < novel["half new"] < novel["with events"]
np.testing.assert_allclose(novel["half new"], novel["with events"] / 2, rtol=0.05)
assert seen["half new"][1] == 2
PYTHON
echo "as described"
