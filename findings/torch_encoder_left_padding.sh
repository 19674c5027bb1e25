#!/usr/bin/env bash
# A causal torch TransformerEncoder over left-padded sequences trains well and scores NaN: in eval mode under
# no_grad every user whose sequence is padded has NaN alone.
#
# Versions: torch 2.13.0 on the CPU, Python 3.11 or newer.
# Expected: one result per sequence, whatever the mode: evaluation differs from training in dropout alone, and
# no_grad in the gradients alone.
# Seen, 200 users of 1 to 20 events in 20 places, two layers, dropout 0; users whose output is NaN anywhere:
#   padding, mask of the attention                train()   eval()   eval() under no_grad
#   left, causal                                     0         0      all that are padded
#   right, causal                                    0         0         0
#   left, both ways                                  0         0         0
#   left, both ways, one user more without events    0         0      that user
# The first places of a left-padded sequence may attend to nothing. scaled_dot_product_attention gives them zeros,
# and the layers after it finite numbers. Without gradients and dropout the layers take a fused path instead, whose
# softmax of nothing is NaN; the next layer weighs that by 0, and 0 * NaN is NaN at all places. Where it is finite it
# is equal. torch.backends.mha.set_fastpath_enabled(False) gives the finite result everywhere, as does padding on the
# right. Some metrics take NaN for a perfect score (torcheval_nan_is_perfect.sh). Here a sequence begins with a start
# token, no place attends to nothing, and the attention is the same in training and scoring. Fails if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn

USERS, LENGTH, HIDDEN = 200, 20, 16
torch.manual_seed(0)
lengths = torch.randint(1, LENGTH + 1, (USERS,))
right = torch.arange(LENGTH) >= lengths[:, None]  # [B, L] True: padding
left = right.flip(1)
causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
padded = lengths < LENGTH
events = torch.randn(USERS, LENGTH, HIDDEN)


def outputs(padding, mask, x=events):
    """[3, B, L, H] in train(), in eval(), and in eval() under no_grad."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(HIDDEN, 2, 32, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = []
    for training, gradient in ((True, True), (False, True), (False, False)):
        encoder.train(training)
        with torch.set_grad_enabled(gradient):
            found.append(encoder(x, mask=mask, src_key_padding_mask=padding).detach())
    return torch.stack(found)


def nan_users(found):
    return found.isnan().flatten(2).any(2)  # [3, B]


print("torch", torch.__version__, "users whose sequence is padded:", int(padded.sum()))
none = torch.ones(1, LENGTH, dtype=torch.bool)
cases = {
    "left, causal": (left, causal, events),
    "right, causal": (right, causal, events),
    "left, both ways": (left, None, events),
    "and one without events": (torch.cat([left, none]), None, torch.cat([events, events[:1]])),
}
seen = {name: outputs(*case) for name, case in cases.items()}
for name, found in seen.items():
    print(f"{name:<24}", *nan_users(found).sum(1).tolist())

wrong = nan_users(seen["left, causal"])
assert not wrong[:2].any() and torch.equal(wrong[2], padded)
assert seen["left, causal"][2][padded].isnan().all()  # at every place
assert not nan_users(seen["right, causal"]).any() and not nan_users(seen["left, both ways"]).any()
assert nan_users(seen["and one without events"]).nonzero().tolist() == [[2, USERS]]
for name in ("right, causal", "left, both ways"):  # where it is finite, it is equal
    real = ~(right if name.startswith("right") else left)
    torch.testing.assert_close(seen[name][2][real], seen[name][0][real], rtol=1e-4, atol=1e-5)
torch.backends.mha.set_fastpath_enabled(False)
slow = outputs(left, causal)
torch.testing.assert_close(slow[2], slow[0], rtol=1e-4, atol=1e-5)
PYTHON
echo "as described"
