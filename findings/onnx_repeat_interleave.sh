#!/usr/bin/env bash
# repeat_interleave with a count that is a size of the input: its ONNX graph answers wrongly, without
# a word where the count is the number of elements.
#
# Versions: torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.31.1, Python 3.11.
# Expected: the exported graph repeats as torch does, for every size that was declared dynamic; the
# conversion for symbolic counts was fixed in onnxscript in 2025 (its pull request 2548).
# Seen, for torch.arange(3).repeat_interleave(n) with n the length of the input:
#   n = 1   as torch
#   n = 3   [0 1 2], where torch has [0 0 0 1 1 1 2 2 2]
#   n = 2, 4, 5   the graph stops with an invalid shape
# torch.export's own program is right for all of them. The exporter warns of nothing, and a check
# with one example passes if that example has n = 1. Rows of a matrix, with dim=0, are no better.
# Here: src/serving/plain_forward.py expands and reshapes instead, and tests/serving/test_bundle.py
# compares graphs with the run for batches of 1 and 64.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - 2> /dev/null <<'END'
import io

import numpy as np
import onnxruntime
import torch


class Flat(torch.nn.Module):
    def forward(self, x):
        return torch.arange(3).repeat_interleave(x.shape[0])


class Rows(torch.nn.Module):
    def forward(self, x):
        return torch.arange(3)[:, None].repeat_interleave(x.shape[0], dim=0)


def seen(model):
    """{n: "right", "wrong" or "stops"} of the graph against torch's exported program."""
    sizes = {"x": {0: torch.export.Dim("n", min=1)}}
    program = torch.export.export(model, (torch.ones(2),), dynamic_shapes=sizes)
    content = io.BytesIO()
    torch.onnx.export(program, dynamo=True, dynamic_shapes=sizes, verbose=False).save(content)
    graph = onnxruntime.InferenceSession(content.getvalue())
    found = {}
    for n in range(1, 6):
        expected = program.module()(torch.ones(n)).numpy()
        inputs = {value.name: np.ones(n, np.float32) for value in graph.get_inputs()}
        try:
            found[n] = "right" if np.array_equal(graph.run(None, inputs)[0], expected) else "wrong"
        except Exception:
            found[n] = "stops"
    return found


print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
flat, rows = seen(Flat()), seen(Rows())
print("one dimension:", flat)
print("two dimensions:", rows)
expected = {1: "right", 2: "stops", 3: "wrong", 4: "stops", 5: "stops"}
raise SystemExit(flat != expected or rows != expected)
END
