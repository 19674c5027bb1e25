#!/usr/bin/env bash
# torch's ReduceLROnPlateau takes a steadily worsening value below zero for progress: the rate never falls, and the
# best value that it keeps gets worse.
#
# Versions: torch 2.13.0 on the CPU, Python 3.11 or newer.
# Expected: a loss that only rises has no new best; after `patience` epochs the learning rate falls, whatever the sign.
# Seen, 60 epochs, patience 3, the default threshold_mode (rel), each epoch a little worse than the one before:
#   monitored value                      threshold   rate after 60 epochs   first value   "best" at the end
#   loss above 0, rises                   1e-4              1e-8                5              5
#   loss below 0, rises                   1e-4              1                  -5             -4.987
#   loss below 0, rises                   1e-2              1                  -5             -3.67
#   log-likelihood (mode max), falls      1e-2              1                  -5             -6.51
#   the same with threshold_mode="abs"    1e-2              1e-8 each
# A value is better than best * (1 - threshold): below 0 that lies above the best, so values up to a threshold worse are
# better, again and again. Losses below 0 are usual here: bounds on mutual information, minus a reward or NDCG, densities.
# Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau


def after(first, worse, **options):
    """(learning rate, kept best) after 60 epochs, each `worse` than the one before."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, patience=3, **options)
    for epoch in range(60):
        scheduler.step(first + worse * epoch)
    return optimizer.param_groups[0]["lr"], scheduler.best


print("torch", torch.__version__)
cases = {
    "above 0": (5, 0.000225, {"threshold": 1e-4}),
    "below 0": (-5, 0.000225, {"threshold": 1e-4}),
    "below 0, 1e-2": (-5, 0.0225, {"threshold": 1e-2}),
    "mode max": (-5, -0.0256, {"threshold": 1e-2, "mode": "max"}),
    "below 0, abs": (-5, 0.0225, {"threshold": 1e-2, "threshold_mode": "abs"}),
    "mode max, abs": (-5, -0.0256, {"threshold": 1e-2, "threshold_mode": "abs", "mode": "max"}),
}
seen = {name: after(first, worse, **options) for name, (first, worse, options) in cases.items()}
for name, (rate, best) in seen.items():
    print(f"{name:<14} rate {rate:.0e} best {best:.3f}")
for name in ("above 0", "below 0, abs", "mode max, abs"):
    assert seen[name][0] < 1e-7 and seen[name][1] == cases[name][0]
for name in ("below 0", "below 0, 1e-2", "mode max"):
    first, worse, _ = cases[name]
    assert seen[name][0] == 1 and abs(seen[name][1] - (first + 59 * worse)) < 1e-9
PYTHON
echo "as described"
