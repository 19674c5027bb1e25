#!/usr/bin/env bash
# The retrieval layer of Keras Recommenders cuts the ids of its candidates to 32 bits, silently.
#
# Versions: keras-rs 0.4.0, keras 3.15.1, torch 2.13.0 on the CPU, numpy 2.4.6, Python 3.11 or newer.
# Expected: BruteForceRetrieval answers with the ids it was given, or refuses those it cannot hold.
# Seen: of int64 ids 10, 2^31 + 5 and 2^40 + 10 it answers 10, -2147483643 and 10 again: two items have one
# id. Ids that are hashes or numbers of products of a shop are lost without an error or a warning, those
# below 2^31 are right. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check keras-rs==0.4.0 keras==3.15.1 \
  torch==2.13.0 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
KERAS_BACKEND=torch "$work/venv/bin/python" - <<'PYTHON'
import warnings

import keras
import keras_rs
import numpy as np
import torch

warnings.simplefilter("error")
ids = np.array([10, 2**31 + 5, 2**40 + 10])
vectors = np.eye(3, dtype="float32")
retrieval = keras_rs.layers.BruteForceRetrieval(vectors, ids, k=1, return_scores=False)
answers = np.asarray(retrieval(vectors))[:, 0].tolist()
print(f"keras-rs {keras_rs.__version__}, keras {keras.__version__}, torch {torch.__version__}: ids "
      f"{ids.tolist()} are answered as {answers}")
raise SystemExit(answers != [10, -(2**31) + 5, 10])
PYTHON
