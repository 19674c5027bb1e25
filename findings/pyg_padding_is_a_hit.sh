#!/usr/bin/env bash
# In PyTorch Geometric's recommendation metrics an empty place, -1, can be a hit: recall 1.5 for lists without one.
#
# Versions: torch_geometric 2.8.1, torch 2.13.0 on the CPU, numpy 2.4.6, Python 3.11 or newer.
# Expected: -1, with which PyTorch Geometric's own nearest-neighbour index (and faiss) fills the places for which it
# has no item, is never a hit, and no item.
# Seen, two users with the targets 9 and 3, lists 0 1 2 4 5 and 0 1 -1 -1 -1, so no hit, at 5:
#               recall   precision   hit ratio   MRR   NDCG   MAP
#   with -1      1.5        .3          .5       .17   .66    .72
#   7 for -1     0          0           0        0     0      0
# Coverage of the first lists, five of ten items, is .6. Of lists of 20 random items of 1,000, half of every fifth list
# empty, recall is .021 instead of .018.
# Users and items become one number, user * (largest item + 1) + item, in which -1 is the largest item of the user
# before: a hit for every empty place, where that is a target. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch_geometric==2.8.1 torch==2.13.0 \
  numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
import torch_geometric
from torch_geometric.metrics import (
    LinkPredCoverage,
    LinkPredHitRatio,
    LinkPredMAP,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)


def value(metric, lists: torch.Tensor, targets: torch.Tensor) -> float:
    """The metric of lists [users, k] and targets [2, pairs], as it counts them."""
    metric.update(lists, targets)
    return round(float(metric.compute()), 3)


lists, targets = torch.tensor([[0, 1, 2, 4, 5], [0, 1, -1, -1, -1]]), torch.tensor([[0, 1], [9, 3]])
wrong = lists.where(lists >= 0, 7)
kinds = (LinkPredRecall, LinkPredPrecision, LinkPredHitRatio, LinkPredMRR, LinkPredNDCG, LinkPredMAP)
with_empty = [value(kind(k=5), lists, targets) for kind in kinds]
with_wrong = [value(kind(k=5), wrong, targets) for kind in kinds]
coverage = value(LinkPredCoverage(k=5, num_dst_nodes=10), lists, targets)

torch.manual_seed(0)
padded, plain = LinkPredRecall(k=20), LinkPredRecall(k=20)
for _ in range(200):
    random = torch.rand(256, 1000).topk(20).indices
    random[::5, 10:] = -1
    labels = torch.stack([torch.arange(256), torch.randint(1000, (256,))])
    padded.update(random, labels)
    plain.update(random.where(random >= 0, 1000), labels)
padded, plain = float(padded.compute()), float(plain.compute())
print(f"torch_geometric {torch_geometric.__version__}, torch {torch.__version__}: recall, precision, hit ratio, MRR, "
      f"NDCG, MAP {with_empty} with -1, {with_wrong} with 7; coverage {coverage}; random lists {padded:.4f}, "
      f"without the empty places {plain:.4f}")
raise SystemExit(not (with_empty[0] == 1.5 and min(with_empty) > 0 and max(with_wrong) == 0 and coverage == 0.6
                      and padded > 1.1 * plain))
PYTHON
