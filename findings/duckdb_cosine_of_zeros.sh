#!/usr/bin/env bash
# In DuckDB the cosine similarity of a vector of zeros is NaN, and NaN is the largest number: the row that stands for
# padding, or an item that was never trained, heads every user's list.
#
# Versions: duckdb 2.0.0, torch 2.13.0 on the CPU, pyarrow 26.0.1, numpy 2.4.6, Python 3.11 or newer.
# Expected: a vector of zeros has a similarity of 0, as in torch, or none, and comes after what is similar.
# Seen, an nn.Embedding of 1,001 rows, row 0 the padding (padding_idx=0), 100 queries, ten items each:
#   ORDER BY                                            lists that begin with row 0   lists as by torch
#   array_cosine_similarity(vector, query) DESC                   100                        0
#   list_cosine_similarity(vector, query) DESC                    100                        0
#   array_cosine_distance(vector, query)                            0                      100
#   array_inner_product(vector, query) DESC, length 1               0                      100
# Similarity and distance order the same items differently. Leave rows of zeros out before ranking, or order by the
# distance, where NaN comes last. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0 torch==2.13.0 pyarrow==26.0.1 \
  numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import duckdb
import numpy as np
import pyarrow as pa
import torch

ITEMS, HIDDEN, QUERIES, K = 1000, 16, 100, 10
print(*(f"{module.__name__} {module.__version__}" for module in (duckdb, torch, pa, np)))
torch.manual_seed(0)
vectors = torch.nn.Embedding(1 + ITEMS, HIDDEN, padding_idx=0).weight.detach()
queries = torch.randn(QUERIES, HIDDEN)
similarity = torch.nn.functional.cosine_similarity(queries[:, None], vectors[None], dim=-1)
by_torch = similarity.topk(K).indices.tolist()


def table(rows):
    flat = pa.array(rows.numpy().ravel())
    return pa.table({"id": np.arange(len(rows)), "vector": pa.FixedSizeListArray.from_arrays(flat, HIDDEN)})


unit = torch.nn.functional.normalize
for name, of in (("items", vectors), ("users", queries)):
    for prefix, rows in (("", table(of)), ("unit_", table(unit(of)))):
        duckdb.sql(f"CREATE TABLE {prefix}{name} AS FROM rows")
seen = {}
for function, order, prefix in (
    ("array_cosine_similarity", "DESC", ""), ("list_cosine_similarity", "DESC", ""),
    ("array_cosine_distance", "ASC", ""), ("array_inner_product", "DESC", "unit_"),
):
    lists = [
        [item for (item,) in duckdb.sql(
            f"SELECT items.id FROM {prefix}items AS items, {prefix}users AS users WHERE users.id = {user} "
            f"ORDER BY {function}(items.vector, users.vector) {order} LIMIT {K}"
        ).fetchall()]
        for user in range(QUERIES)
    ]
    first = sum(ranked[0] == 0 for ranked in lists)
    same = sum(a == b for a, b in zip(lists, by_torch, strict=True))
    seen[function] = first, same
    print(f"{function:<24} row 0 first in {first} of {QUERIES} lists, {same} lists as by torch")
assert seen["array_cosine_similarity"] == seen["list_cosine_similarity"] == (QUERIES, 0)
assert seen["array_cosine_distance"] == seen["array_inner_product"] == (0, QUERIES)
PYTHON
echo "as described"
