#!/usr/bin/env bash
# LensKit's LastFrac holds out the whole history of users with few events: a smaller fraction, a larger test set.
#
# Versions: lenskit 2025.8.1, torch 2.13.0 on the CPU, numpy 2.4.6, pandas 2.3.3, Python 3.11 or newer.
# Expected: LastFrac(.1) holds out the last tenth of each user's events, rounded: none of a user with four, as
# its sibling SampleFrac does.
# Seen, 1,000 users with one to ten events, 5,537 in all:
#                    test events      users without training events   test events of users with 1, 2, 3, 4, 5, 6
#   SampleFrac(.2)   1,113 (20 %)         0                             0 0 1 1 1 1
#   LastFrac(.2)     1,379 (25 %)       180                             1 2 1 1 1 1
#   LastFrac(.1)     1,981 (36 %)       484                             1 2 3 4 5 1
# The last n of a list are taken as list[-n:], which is all of it where n is rounded to 0. These users are
# evaluated as if they were new. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lenskit==2025.8.1 torch==2.13.0 \
  numpy==2.4.6 pandas==2.3.3 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from importlib import metadata

import numpy as np
import pandas as pd
from lenskit.data import from_interactions_df
from lenskit.splitting import LastFrac, SampleFrac, crossfold_users

draw = np.random.default_rng(0)
rows = []
for user in range(1000):
    chosen = draw.choice(200, draw.integers(1, 11), replace=False)
    rows += [(user, item, 1_700_000_000 + 100 * user + place) for place, item in enumerate(chosen)]
log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
events = log.groupby("user_id").size()
dataset = from_interactions_df(log)

seen = {}
for name, holdout in (
    ("SampleFrac(.2)", SampleFrac(0.2, rng=1)),
    ("LastFrac(.2)", LastFrac(0.2)),
    ("LastFrac(.1)", LastFrac(0.1)),
):
    split = next(iter(crossfold_users(dataset, 1, holdout, rng=1)))
    test = pd.Series({key.user_id: len(items) for key, items in split.test})
    by_length = test.groupby(events.reindex(test.index)).mean().reindex(range(1, 7), fill_value=0)
    seen[name] = int(test.sum()), int((test == events.reindex(test.index)).sum()), by_length.tolist()
    print(f"lenskit {metadata.version('lenskit')}, {name}: {test.sum():,} of {len(log):,} events in test, "
          f"{seen[name][1]} users without training events, by events of the user {seen[name][2]}")
as_seen = (
    seen["SampleFrac(.2)"][1:] == (0, [0, 0, 1, 1, 1, 1])
    and seen["LastFrac(.2)"][2] == [1, 2, 1, 1, 1, 1]
    and seen["LastFrac(.1)"][2] == [1, 2, 3, 4, 5, 1]
    and seen["LastFrac(.1)"][0] > seen["LastFrac(.2)"][0] > seen["SampleFrac(.2)"][0]
)
raise SystemExit(not as_seen)
PYTHON
