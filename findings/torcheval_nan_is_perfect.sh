#!/usr/bin/env bash
# TorchEval's hit rate and reciprocal rank are perfect for a model whose scores are all NaN, or all equal.
#
# Versions: torcheval 0.0.7, torch 2.13.0 on the CPU, Python 3.11 or newer.
# Expected: NaN is refused or counts as a miss; of 101 equal scores the target is among the first ten one
# time in ten, or the order of the input decides.
# Seen, the target and 100 other items for each of 1,000 users:
#   scores                              hit_rate(k=10)   mean reciprocal_rank
#   at random                                 .10               .05
#   all equal: a collapsed model             1                 1
#   all NaN: a diverged model                1                 1
#   at random, the target's NaN              1                 1
# The rank of the target is the number of scores above its own, and nothing is above NaN. Who keeps the
# checkpoint with the best hit rate keeps the one that diverged. Here equal scores count apart (`tied` of each
# target), and NaN ends the run. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torcheval==0.0.7 torch==2.13.0 numpy==2.4.6 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from torcheval.metrics import HitRate
from torcheval.metrics.functional import hit_rate, reciprocal_rank

USERS, ITEMS, K = 1000, 101, 10
generator = torch.Generator().manual_seed(0)
targets = torch.randint(ITEMS, (USERS,), generator=generator)
random = torch.randn(USERS, ITEMS, generator=generator)
nan_target = random.clone()
nan_target[torch.arange(USERS), targets] = torch.nan
scores = {
    "at random": random,
    "all equal": torch.zeros(USERS, ITEMS),
    "all NaN": torch.full((USERS, ITEMS), torch.nan),
    "at random, the target's NaN": nan_target,
}

print("torcheval", version("torcheval"), "torch", torch.__version__)
seen = {}
for name, values in scores.items():
    metric = HitRate(k=K)
    metric.update(values, targets)
    figures = hit_rate(values, targets, k=K).mean(), reciprocal_rank(values, targets).mean()
    assert figures[0] == metric.compute().mean()  # the class counts as the function does
    seen[name] = [float(figure) for figure in figures]
    print(f"{name:<30} {seen[name][0]:.3f} {seen[name][1]:.3f}")

hits, reciprocal = seen.pop("at random")
assert 0.08 < hits < 0.12 and 0.04 < reciprocal < 0.065
assert all(figures == [1, 1] for figures in seen.values())
PYTHON
echo "as described"
