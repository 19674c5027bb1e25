#!/usr/bin/env bash
# In TorchMetrics MAP at k is lower for a list with four relevant items than for one with a single one of them.
#
# Versions: torchmetrics 1.9.0, torch 2.13.0 on the CPU, numpy 2.4.6, Python 3.11 or newer.
# Expected: RetrievalMAP(top_k=k) divides by the number of relevant items, or of those that fit into k, so that a hit
# more never lowers it.
# Seen, one user, 50 items, four of them relevant, all scores above 0, at 10:
#   ranks of the relevant items    MAP      NDCG    recall
#   1, 20, 30, 40                 1.000     .390     .25
#   1, 9, 30, 40                   .611     .508     .50
#   1, 9, 10, 40                   .507     .621     .75
#   1, 8, 9, 10                    .496     .744    1
# It divides by the number of hits in the list: items that were missed do not count, and a hit far down costs more
# than a miss. Of several targets per user a cut-off makes every model look good, and can order models the wrong way
# round. With one target per user it is the reciprocal rank, as it should be. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.retrieval import RetrievalMAP, RetrievalNormalizedDCG, RetrievalRecall

scores, user = torch.linspace(1, 0.01, 50), torch.zeros(50, dtype=torch.long)
seen = []
for ranks in ((1, 20, 30, 40), (1, 9, 30, 40), (1, 9, 10, 40), (1, 8, 9, 10)):
    relevant = torch.zeros(50, dtype=torch.long)
    relevant[[rank - 1 for rank in ranks]] = 1
    metrics = [kind(top_k=10) for kind in (RetrievalMAP, RetrievalNormalizedDCG, RetrievalRecall)]
    seen.append([round(float(metric(scores, relevant, indexes=user)), 3) for metric in metrics])
    print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}, relevant at {ranks}: MAP {seen[-1][0]}, "
          f"NDCG {seen[-1][1]}, recall {seen[-1][2]}")
precision, ndcg, recall = zip(*seen, strict=True)
as_seen = (
    list(precision) == sorted(precision, reverse=True)
    and precision[0] == 1
    and precision[3] < 0.5
    and list(ndcg) == sorted(ndcg)
    and list(recall) == sorted(recall)
)
raise SystemExit(not as_seen)
PYTHON
