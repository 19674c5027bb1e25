#!/usr/bin/env bash
# RecBole's ShannonEntropy falls where recommendations become more diverse.
#
# Versions: recbole 1.2.1, torch 2.13.0 on the CPU, numpy 1.26.4, Python 3.11.
# Expected: the entropy of the items over all lists, -Σ p log p, as its documentation has it: the more
# items share the recommendations, the higher.
# Seen, lists of ten for 1,000 users:
#   lists                               ShannonEntropy@10   -Σ p log p
#   the same ten items for everyone                .2303         2.303
#   ten of 100 items at random                     .0460         4.601
#   ten of 1,000 items at random                   .0069         6.861
# The sum is divided by the number of different items in the lists. From three items on, log(n) / n falls
# with n: who picks the model with the highest entropy picks the one that shows everyone the same few items.
# Times that number it is the entropy. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check recbole==1.2.1 torch==2.13.0 \
  numpy==1.26.4 scipy==1.13.1 pandas==2.2.3 scikit-learn==1.5.2 "setuptools<81" \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from recbole.evaluator import DataStruct
from recbole.evaluator.metrics import ShannonEntropy

USERS, K = 1000, 10
generator = np.random.default_rng(0)
metric = ShannonEntropy({"topk": [K], "metric_decimal_place": 6})


def entropies(lists: np.ndarray) -> tuple[float, float]:
    """RecBole's figure for the lists [users, K], and -Σ p log p."""
    data = DataStruct()
    data.set("rec.items", torch.as_tensor(lists))
    shares = np.bincount(lists.ravel()) / lists.size
    shares = shares[shares > 0]
    return metric.calculate_metric(data)[f"shannonentropy@{K}"], -(shares * np.log(shares)).sum()


kinds = {"the same ten for everyone": np.tile(np.arange(K), (USERS, 1))}
for items in (100, 1000):
    kinds[f"ten of {items:,} at random"] = np.stack(
        [generator.permutation(items)[:K] for _ in range(USERS)]
    )
print(f"recbole {version('recbole')}, torch {torch.__version__}, numpy {np.__version__}")
seen = []
for kind, lists in kinds.items():
    seen.append(entropies(lists))
    print(f"{kind:27} ShannonEntropy@{K} {seen[-1][0]:.4f}   -Σ p log p {seen[-1][1]:.3f}")
given = np.array(seen)
expected = [[0.2303, 2.303], [0.0460, 4.601], [0.0069, 6.861]]
raise SystemExit(not np.allclose(given, expected, atol=6e-4))
PYTHON
