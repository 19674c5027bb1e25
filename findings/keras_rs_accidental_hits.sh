#!/usr/bin/env bash
# The layer of Keras Recommenders that takes accidental hits out of in-batch negatives changes no logit.
#
# Versions: keras-rs 0.4.0, keras 3.15.1, torch 2.13.0 on the CPU, numpy 2.4.6, Python 3.11 or newer.
# Expected: RemoveAccidentalHits lowers the logit of every negative that is the row's own positive item,
# so that it drops out of the softmax, as the documentation and the layer's model in TensorFlow
# Recommenders have it.
# Seen: the logits come back as they went in, to the last bit. What is added to an accidental hit is not
# a large negative number but the smallest normal float32 divided by 100, 1e-40. A popular item is
# trained as its own negative as often as without the layer. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check keras-rs==0.4.0 keras==3.15.1 \
  torch==2.13.0 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
KERAS_BACKEND=torch "$work/venv/bin/python" - <<'PYTHON'
import keras
import keras_rs
import torch
import torch.nn.functional as F

# Four users; the first two bought the same item, so each has the other's target as a negative.
items = torch.tensor([7, 7, 8, 9])
logits = torch.tensor([[2.0, 2, 0, 0], [2, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]])
labels = torch.eye(4)
layer = keras_rs.layers.RemoveAccidentalHits()
passed = layer(logits, labels, items)
loss = F.cross_entropy(passed, labels)
without_layer = F.cross_entropy(logits, labels)
hits = (items == items[:, None]) & (labels == 0)
removed = F.cross_entropy(logits.masked_fill(hits, float("-inf")), torch.arange(4))
print(f"keras-rs {keras_rs.__version__}, keras {keras.__version__}, torch {torch.__version__}: "
      f"{int((passed != logits).sum())} of {int(hits.sum())} accidental hits changed; loss {loss:.4f}, without "
      f"the layer {without_layer:.4f}, with the hits removed {removed:.4f}")
raise SystemExit(not (torch.equal(passed, logits) and loss == without_layer and loss > removed + 0.1))
PYTHON
