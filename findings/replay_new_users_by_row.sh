#!/usr/bin/env bash
# RePlay's NewUsersSplitter, given a session column, tests the first rows of a pandas frame, not the new users.
#
# Versions: replay-rec 0.22.0, pandas 2.3.3, polars 1.44.2, numpy 2.4.6, Python 3.11 or newer.
# Expected: the newest tenth of the users is the test set, whatever the order of the rows; a session column
# changes nothing where no session is cut.
# Seen, 100 users that begin on 100 days, 10 events and two sessions each, test_size=.1:
#   rows                    session column   test users   new ones of them   training events of the new ones
#   any order               no                   10             10                     0
#   oldest user first       yes                  10              0                   100
#   shuffled                yes                   0              0                   100
#   newest user first       yes                  10             10                     0
# The rows to test are marked by the row numbers of a merged frame, which begin at 0 again. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check replay-rec==0.22.0 pandas==2.3.3 \
  polars==1.44.2 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from importlib import metadata

import pandas as pd
from replay.splitters import NewUsersSplitter

rows = [(user, (7 * user + event) % 50, 24 * user + event, 2 * user + event // 5)
        for user in range(100) for event in range(10)]
log = pd.DataFrame(rows, columns=["query_id", "item_id", "timestamp", "session_id"])
orders = {
    "oldest user first": log,
    "shuffled": log.sample(frac=1, random_state=1),
    "newest user first": log.sort_values("query_id", ascending=False, kind="stable"),
}
newest = set(range(90, 100))
seen = {}
for name, frame in orders.items():
    for sessions in (None, "session_id"):
        splitter = NewUsersSplitter(test_size=0.1, session_id_column=sessions)
        train, test = splitter.split(frame.reset_index(drop=True))
        users = set(test["query_id"])
        seen[name, sessions] = len(users), len(users & newest), int(train["query_id"].isin(newest).sum())
        print(f"replay-rec {metadata.version('replay-rec')}, {name}, session column {sessions}: {len(users)} test "
              f"users, {len(users & newest)} of them new, {seen[name, sessions][2]} training events of new users")
as_seen = (
    all(seen[name, None] == (10, 10, 0) for name in orders)
    and seen["oldest user first", "session_id"] == (10, 0, 100)
    and seen["shuffled", "session_id"][1:] == (0, 100)
    and seen["newest user first", "session_id"] == (10, 10, 0)
)
raise SystemExit(not as_seen)
PYTHON
