#!/usr/bin/env bash
# torch's sums by index stop at 16,777,216 where float32 ones are added; its sums over a whole do not.
#
# Version: torch 2.13.0 on the CPU, Python 3.11 or newer.
# Expected: bincount counts; the mean of ones is one; and what sum() can add up, index_add_ can too.
# Seen, twenty million events of one item, each with weight 1 in float32:
#   sum(), cumsum()                                                20,000,000
#   bincount(weights=), index_add_, scatter_add_, coalesce()       16,777,216
#   embedding_bag(mode="sum"), embedding_bag(mode="mean")          16,777,216 and .8389
#   bincount without weights, numpy.bincount with them             20,000,000
# The sums by index add one value after the other in float32, where 2^24 + 1 is 2^24. No warning is
# given. Popularity, decayed counts and losses summed by domain want float64 weights, or numpy, which
# takes float64 by itself. Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import torch
from torch.nn.functional import embedding_bag

EVENTS = 20_000_000
item, one = torch.zeros(EVENTS, dtype=torch.int64), torch.ones(EVENTS)
none, row, start = torch.zeros(1), torch.ones(1, 1), torch.tensor([0])
sparse = torch.sparse_coo_tensor(item[None], one, (1,))
sums = {
    "sum": one.sum(),
    "cumsum": one.cumsum(0)[-1],
    "bincount with weights": torch.bincount(item, weights=one),
    "index_add_": none.clone().index_add_(0, item, one),
    "scatter_add_": none.clone().scatter_add_(0, item, one),
    "coalesce": sparse.coalesce().values(),
    "embedding_bag sum": embedding_bag(item, row, start, mode="sum"),
    "embedding_bag mean": embedding_bag(item, row, start, mode="mean"),
    "bincount": torch.bincount(item),
    "bincount with float64 weights": torch.bincount(item, weights=one.double()),
    "numpy.bincount with weights": np.bincount(item.numpy(), weights=one.numpy()),
}
print("torch", torch.__version__, "numpy", np.__version__)
found = {name: float(value.squeeze()) for name, value in sums.items()}
for name, value in found.items():
    print(f"{name}: {value:,.4f}")
whole, stopped = float(EVENTS), float(2**24)
as_seen = [whole, whole, *[stopped] * 5, stopped / whole, *[whole] * 3]
raise SystemExit(not np.allclose(list(found.values()), as_seen, rtol=1e-6))
PYTHON
