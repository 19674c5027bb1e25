#!/usr/bin/env bash
# Exported models hold the paths and the lines of the source that made them, with no option against it.
#
# Versions: torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, Python 3.11 or newer.
# Expected: a file made to be published holds the graph and the weights.
# Seen:
#   torch.export.save(program)          "File "/home/…/model.py", line …" in models/model.json, for each node
#   torch.onnx.export(program).save()   the same, in the property pkg.torch.onnx.stack_trace of each node
#   both, after node.meta.pop("stack_trace") for each node of the program     neither
# So a published model tells the user name and folders of its maker. Here: src/serving/export_model.py.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 onnx==1.23.2 \
  onnxscript==0.7.2 numpy==2.4.6 2> >(grep -v WARNING >&2)
cat > "$work/model.py" <<'END'
import io
import pathlib
import zipfile

import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return (x * 2).relu()


def holds_path(program):
    """Whether each of the two files has the path of this one."""
    here, buffer = str(pathlib.Path(__file__).resolve()).encode(), io.BytesIO()
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        pt2 = any(here in archive.read(name) for name in archive.namelist())
    torch.onnx.export(program, dynamo=True, verbose=False).save("model.onnx")
    return pt2, here in pathlib.Path("model.onnx").read_bytes()


program = torch.export.export(Model(), (torch.ones(2, 3),))
before = holds_path(program)
for node in program.graph.nodes:
    node.meta.pop("stack_trace", None)
after = holds_path(program)
print("torch", torch.__version__, "pt2 and onnx with paths:", before, "without stack traces:", after)
raise SystemExit((before, after) != ((True, True), (False, False)))
END
cd "$work"
"$work/venv/bin/python" "$work/model.py"
