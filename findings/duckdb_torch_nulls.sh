#!/usr/bin/env bash
# DuckDB's .torch() turns NULL into 0, silently: an event without a known item becomes one of item 0.
#
# Versions: duckdb 2.0.0, torch 2.13.0 on the CPU, numpy 2.4.6, pandas 3.1.1, Python 3.11 or newer.
# Expected: a tensor has no mask, so an error, as for text and times; or NaN in a floating-point column, as
# df() gives.
# Seen, three events left-joined with items numbered from 0 (the second item unknown, its rating missing):
#   column        fetchall           df()           fetchnumpy()   torch()
#   item_number   0, None, 1         0, <NA>, 1     0, --, 1       0, 0, 1
#   rating        4, None, 5         4, NaN, 5      4, --, 5       4, 0, 5
#   liked         True, None, True   …, <NA>, …     …, --, …       True, False, True
#   avg(rating) in SQL 4.5, mean of the tensor 3.0
# .torch() takes the data of the masked arrays that fetchnumpy() gives and leaves the masks behind. Embedding
# row 0, be it padding or a real item, then learns from every such event; a missing rating is the worst one,
# a missing label a negative.
# What helps: WHERE … IS NOT NULL, COALESCE with a number of its own, or Arrow's to_numpy, which refuses.
# make_dataset.py reads results as Arrow tables, and a row without user, item or time is rejected.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0 torch==2.13.0 numpy==2.4.6 \
  pandas==3.1.1 pyarrow==26.0.1 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import duckdb
import torch

changed = 0


def show(name, found, seen):
    global changed
    changed += found != seen
    print(f"{name:40} {found}", "" if found == seen else "CHANGED")


duck = duckdb.connect()
duck.sql("""CREATE TABLE events AS FROM (VALUES
    (1, 'a', 4.0::DOUBLE, true), (2, 'x', NULL, NULL), (3, 'b', 5.0, true)) AS _(time, item, rating, liked)""")
duck.sql("CREATE TABLE items AS FROM (VALUES ('a', 0), ('b', 1)) AS _(item, item_number)")
QUERY = "SELECT item_number, rating, liked FROM events LEFT JOIN items USING (item) ORDER BY time"
print("duckdb", duckdb.__version__, "torch", torch.__version__)
rows = [list(column) for column in zip(*duck.sql(QUERY).fetchall(), strict=True)]
arrays, frame, tensors = duck.sql(QUERY).fetchnumpy(), duck.sql(QUERY).df(), duck.sql(QUERY).torch()
show("fetchall", rows, [[0, None, 1], [4.0, None, 5.0], [True, None, True]])
for name, seen in {"item_number": [0, 0, 1], "rating": [4.0, 0.0, 5.0], "liked": [True, False, True]}.items():
    show(f"{name}: missing in fetchnumpy()", arrays[name].mask.tolist(), [False, True, False])
    show(f"{name}: missing in df()", frame[name].isna().tolist(), [False, True, False])
    show(f"{name}: torch()", tensors[name].tolist(), seen)
show("types", [str(tensor.dtype) for tensor in tensors.values()], ["torch.int32", "torch.float64", "torch.bool"])
[(average,)] = duck.sql("SELECT avg(rating) FROM events").fetchall()
show("avg(rating), mean of the tensor", [average, tensors["rating"].mean().item()], [4.5, 3.0])
# a filter keeps what is known, and Arrow refuses a column with a missing number unless asked for a copy
known = duck.sql(f"SELECT * FROM ({QUERY}) WHERE item_number IS NOT NULL").torch()
show("WHERE … IS NOT NULL", known["item_number"].tolist(), [0, 1])
column = duck.sql(QUERY).to_arrow_table()["item_number"].combine_chunks()
try:
    refused = f"gave {column.to_numpy()}"
except Exception as error:
    refused = type(error).__name__
show("Arrow's to_numpy", refused, "ArrowInvalid")
raise SystemExit(changed > 0)
PYTHON
