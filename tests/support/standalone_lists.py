"""Reads a bundle as a service without this project would: numpy, and torch or ONNX Runtime.

    python standalone_lists.py BUNDLE pt2|onnx REQUESTS.npz BATCH LISTS.npz [BATCH LISTS.npz …]

REQUESTS has `items`, `times` [n, L], `lengths`, `domain` and `now` [n]; LISTS gets, for each path,
the 20 best items [n, 20] of the asked domain and their scores, fewer where it has fewer (0, −inf).
Each batch is as long as its longest history.
"""

import json
import sys
from pathlib import Path

import numpy as np

INPUTS = ("items", "times", "domain", "now")
K = 20


def graph_of(path, outputs):
    """(inputs) -> {path: [B, H]}."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        read = [value.name for value in session.get_inputs()]
        assert [value.name for value in session.get_outputs()] == outputs
        return lambda inputs: dict(
            zip(outputs, session.run(None, {name: inputs[name] for name in read}), strict=True)
        )
    import torch

    module = torch.export.load(path).module()

    def run(inputs):
        with torch.no_grad():
            hidden = module(*(torch.from_numpy(inputs[name]) for name in INPUTS))
        return {name: values.numpy() for name, values in hidden.items()}

    return run


def main(bundle, graph, requests, *batches):
    facts = json.loads((bundle / "serving.json").read_text())
    vectors = np.load(bundle / "item_vectors.npy", mmap_mode="r")
    run = graph_of(bundle / f"model.{graph}", list(facts["paths"]))
    asked = dict(np.load(requests))
    for batch, lists in zip(batches[::2], batches[1::2], strict=True):
        np.savez(lists, **best_items(facts, vectors, run, asked, int(batch)))
    unwanted = {"onnx": "torch", "pt2": "src"}[graph]
    assert unwanted not in sys.modules, f"{unwanted} was loaded"


def best_items(facts, vectors, run, asked, batch):
    """The arrays of LISTS."""
    count = len(asked["domain"])
    best = {path: np.zeros((count, K), dtype=np.int64) for path in facts["paths"]}
    scores = {path: np.full((count, K), -np.inf, dtype=np.float32) for path in facts["paths"]}
    for start in range(0, count, batch):
        rows = slice(start, start + batch)
        longest = max(1, asked["lengths"][rows].max())
        inputs = {name: asked[name][rows] for name in INPUTS}
        inputs |= {name: inputs[name][:, :longest] for name in ("items", "times")}
        for path, hidden in run(inputs).items():
            for row, (query, number) in enumerate(zip(hidden, inputs["domain"], strict=True)):
                domain = facts["domains"][number]
                first, end = domain["first"], domain["end"]
                values = vectors[first:end] @ query
                order = np.argsort(-values, kind="stable")[:K]
                best[path][start + row, : len(order)] = first + order
                scores[path][start + row, : len(order)] = values[order]
    named = {f"{path}_items": values for path, values in best.items()}
    return named | {f"{path}_scores": values for path, values in scores.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
