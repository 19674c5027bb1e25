#!/usr/bin/env bash
# Under torch.autocast softmax, norms and sums are float32 on CUDA, but stay bfloat16 on the CPU.
#
# Version: torch 2.13.0, Python 3.11 or newer; no GPU is needed, CUDA's rules are asked on tensors without data.
# Expected: autocast(device.type, torch.bfloat16) means the same on both: products in bfloat16, what sums many
# values in float32.
# Seen, the type of a result where the logits are bfloat16:
#   function                                          cpu         cuda
#   cross_entropy, binary_cross_entropy_with_logits   float32     float32
#   log_softmax, softmax, logsumexp, exp, log         bfloat16    float32
#   sum, cumsum, layer_norm, normalize, softplus      bfloat16    float32
#   mean, logsigmoid                                  bfloat16    bfloat16
# The mean loss of 512 targets among 20,000 items, 17.561 in float32, on the CPU under autocast:
#   cross_entropy(logits, targets)                    17.562
#   -log_softmax(logits).gather(targets).mean()       17.5, each loss from 16 on a multiple of .125
# A loss that is written out (InfoNCE, a sampled softmax) so has two or three digits on the CPU, and
# an early stop or a gap between two losses is decided by rounding. Here logits become float32 before they are
# summed (src/objective/sc_mim.py, src/nn/kernels/softmax_loss.py). Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

WIDE, NARROW = "float32", "bfloat16"
FUNCTIONS = {  # {function: (call, its type on the CPU, on CUDA)}
    "cross_entropy": (lambda x, y: F.cross_entropy(x, y), WIDE, WIDE),
    "binary_cross_entropy_with_logits": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x)), WIDE, WIDE
    ),
    "log_softmax": (lambda x, y: F.log_softmax(x, 1), NARROW, WIDE),
    "softmax": (lambda x, y: F.softmax(x, 1), NARROW, WIDE),
    "logsumexp": (lambda x, y: x.logsumexp(1), NARROW, WIDE),
    "exp": (lambda x, y: x.exp(), NARROW, WIDE),
    "log": (lambda x, y: x.log(), NARROW, WIDE),
    "sum": (lambda x, y: x.sum(1), NARROW, WIDE),
    "cumsum": (lambda x, y: x.cumsum(1), NARROW, WIDE),
    "layer_norm": (lambda x, y: F.layer_norm(x, x.shape[1:]), NARROW, WIDE),
    "normalize": (lambda x, y: F.normalize(x), NARROW, WIDE),
    "softplus": (lambda x, y: F.softplus(x), NARROW, WIDE),
    "mean": (lambda x, y: x.mean(), NARROW, NARROW),
    "logsigmoid": (lambda x, y: F.logsigmoid(x), NARROW, NARROW),
}

print("torch", torch.__version__)
changed = 0
for name, (call, *expected) in FUNCTIONS.items():
    seen = []
    for device in ("cpu", "cuda"):
        with FakeTensorMode():  # types and shapes alone
            logits = torch.empty(8, 100, device=device, dtype=torch.bfloat16)
            targets = torch.empty(8, device=device, dtype=torch.long)
            torch.set_autocast_dtype(device, torch.bfloat16)
            torch.set_autocast_enabled(device, True)
            seen.append(str(call(logits, targets).dtype).removeprefix("torch."))
            torch.set_autocast_enabled(device, False)
    changed += seen != expected
    print(f"{name:33} {seen[0]:9} {seen[1]:9}", "" if seen == expected else "CHANGED")

torch.manual_seed(0)
hidden, items, targets = torch.randn(512, 64), torch.randn(20_000, 64) / 2, torch.randint(20_000, (512,))
exact = F.cross_entropy(hidden @ items.T, targets)
with torch.autocast("cpu", torch.bfloat16):
    logits = hidden @ items.T
    fused = F.cross_entropy(logits, targets)
    written = -F.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    mean = written.mean()
print(f"float32 {exact:.4f}, cross_entropy {fused:.4f}, written out {mean:.4f}")
large = written[written >= 16]
coarse = bool((large * 8 == (large * 8).round()).all()) and len(large) > 200
raise SystemExit(changed > 0 or abs(fused - exact) > 0.002 or abs(mean - exact) < 0.03 or not coarse)
PYTHON
echo "as described"
