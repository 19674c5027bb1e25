#!/usr/bin/env bash
# On torch the metrics of Keras Recommenders, without shuffle_ties, subtract a millionth of an item's
# index from its score: a perfect model's recall@10 is .68 in a catalogue of 10,000 items.
#
# Versions: keras-rs 0.4.0, keras 3.15.1, torch 2.13.0 and jax 0.10.2 on the CPU, numpy
# 2.4.6, Python 3.11 or newer.
# Expected: shuffle_ties=False keeps the order of tied items and changes nothing else, on any backend.
# Seen, 50 users, the target far above all other items, recall@10 with shuffle_ties=False:
#   scores                                   torch   JAX
#   logits, 10,000 items                     1       1
#   their softmax, 10,000 items               .68    1
#   their softmax, 100,000 items             0       1
# With shuffle_ties=True, the default, all are 1. torch.topk is not stable, and the subtraction is meant
# to decide ties; with probabilities it decides everything. NDCG and MRR go the same way.
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check keras-rs==0.4.0 keras==3.15.1 \
  torch==2.13.0 jax==0.10.2 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
cat > recall.py <<'PYTHON'
import json

import keras
import keras_rs
import numpy as np


def recall(items: int, softmax: bool, shuffle_ties: bool) -> float:
    """recall@10 of 50 users whose targets are above all other items by one."""
    draw = np.random.default_rng(0)
    scores = draw.standard_normal((50, items)).astype("float32")
    labels = np.zeros_like(scores)
    labels[np.arange(50), draw.integers(items, size=50)] = 1
    scores[labels == 1] = scores.max(1) + 1
    if softmax:
        scores = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    metric = keras_rs.metrics.RecallAtK(k=10, shuffle_ties=shuffle_ties, seed=0)
    metric.update_state(labels, scores)
    return round(float(metric.result()), 4)


cases = [(10**4, False), (10**4, True), (10**5, True)]
print(json.dumps({
    "versions": f"keras-rs {keras_rs.__version__}, keras {keras.__version__}, {keras.backend.backend()}",
    "kept": [recall(*case, False) for case in cases],
    "shuffled": [recall(*case, True) for case in cases],
}))
PYTHON
KERAS_BACKEND=torch "$work/venv/bin/python" recall.py > torch.json
KERAS_BACKEND=jax "$work/venv/bin/python" recall.py > jax.json
cat torch.json jax.json
"$work/venv/bin/python" - <<'PYTHON'
import json

on_torch, on_jax = (json.load(open(f"{name}.json")) for name in ("torch", "jax"))
perfect = [1.0, 1.0, 1.0]
as_seen = (
    on_jax["kept"] == on_jax["shuffled"] == on_torch["shuffled"] == perfect
    and on_torch["kept"][0] == 1
    and on_torch["kept"][1] < 0.9
    and on_torch["kept"][2] < 0.1
)
raise SystemExit(not as_seen)
PYTHON
