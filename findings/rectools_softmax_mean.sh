#!/usr/bin/env bash
# RecTools' softmax loss is a mean over the targets whose loss is not yet 0: what is learned exactly drops
# out, the reported loss rises, and a batch that is learned as a whole makes every weight NaN.
#
# Versions: rectools 0.19.0, torch 2.13.0 on the CPU, pytorch-lightning 2.5.2, numpy 1.26.4, pandas
# 2.2.3, Python 3.11 or 3.12.
# Expected: a mean over the targets that are not padding; a model that is right and sure has a loss near 0.
# Seen, the loss of 500 targets among 100 items, five of them all at one score, the others above the rest by
# a gap (in brackets torch's mean):
#   gap 15   .0461 (.0461)
#   gap 20   .0629 (.0461)
#   gap 30  4.6052 (.0461); NaN where all 500 are learned (0)
# From a gap of 17 on float32 has no loss left, and the divisor counts losses above 0.
# Seen, SASRecModel on 200 users whose next item follows from the last (loss="sampled_softmax" with its
# default of one negative, batches of 8, learning rate .01): the training loss falls to .008, rises to .2, and
# is NaN from epoch 214 of 300 on; the model then still answers with lists, hit@1 .01. After 100 epochs hit@1
# is .97. No error, no warning. Fails if that changes (not if the epoch does).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "rectools[torch]==0.19.0" torch==2.13.0 \
  pytorch-lightning==2.5.2 numpy==1.26.4 pandas==2.2.3 2> >(grep -v WARNING >&2)
cd "$work"
cat > probe.py <<'PYTHON'
import math
import warnings

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

torch.set_num_threads(1)


def losses(gap: float, hard: int) -> tuple[float, float]:
    """RecTools' loss and torch's mean where all but the first targets are above the rest by a gap."""
    torch.manual_seed(0)
    targets = torch.randint(1, 100, (10, 50))
    logits = torch.zeros(10, 50, 100).scatter_(2, targets[..., None], gap)
    logits[:hard, 0] = 0
    mean = F.cross_entropy(logits.transpose(1, 2), targets).item()
    return TransformerLightningModule._calc_softmax_loss(logits, targets, torch.ones(10, 50)).item(), mean


class Record(Callback):
    """The training loss of each epoch, in a list that outlives the copies of the trainer."""

    losses: list[float] = []

    def on_train_epoch_end(self, trainer, module) -> None:
        Record.losses.append(float(trainer.callback_metrics["train_loss"]))


def train(epochs: int) -> tuple[list[float], float]:
    """The losses of the epochs, and hit@1 of the next item."""
    users, items, length = 200, 100, 20
    log = pd.DataFrame(
        [(user, (3 * user + 7 * day) % items, day) for user in range(users) for day in range(length)],
        columns=["user_id", "item_id", "datetime"],
    ).assign(weight=1.0)
    log["datetime"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(log["datetime"], "D")
    Record.losses = []
    seed_everything(0, verbose=False)

    def trainer() -> Trainer:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        return Trainer(max_epochs=epochs, accelerator="cpu", devices=1, enable_model_summary=False,
                       callbacks=[Record()], **quiet)

    model = SASRecModel(n_blocks=1, n_heads=1, n_factors=64, session_max_len=length - 1, dropout_rate=0.0,
                        loss="sampled_softmax", lr=1e-2, batch_size=8, get_trainer_func=trainer)
    dataset = Dataset.construct(log)
    model.fit(dataset)
    lists = model.recommend(np.arange(users), dataset, k=1, filter_viewed=False)
    hits = lists["item_id"] == (3 * lists["user_id"] + 7 * length) % items
    return Record.losses, hits.mean()


fixed = {gap: losses(gap, 5) for gap in (15.0, 20.0, 30.0)}
learned = losses(30.0, 0)
for gap, (loss, mean) in {**fixed, "30, all learned": learned}.items():
    print(f"gap {gap}: {loss:.4f} ({mean:.4f})")
_, early = train(100)
epochs, late = train(300)
nan = next((number for number, loss in enumerate(epochs) if math.isnan(loss)), None)
finite = [loss for loss in epochs if not math.isnan(loss)]
print(f"training loss, lowest {min(finite):.4f}, highest of the last 25 finite epochs {max(finite[-25:]):.3f}, "
      f"first NaN in epoch {nan}; hit@1 after 100 epochs {early:.2f}, after 300 {late:.2f}")
as_seen = (
    abs(fixed[15.0][0] - fixed[15.0][1]) < 1e-4
    and fixed[20.0][0] > 1.2 * fixed[20.0][1]
    and fixed[30.0][0] > 50 * fixed[30.0][1]
    and math.isnan(learned[0])
    and nan is not None
    and max(finite[-25:]) > 5 * min(finite)
    and early > 0.9
    and late < 0.1
)
raise SystemExit(not as_seen)
PYTHON
PYTHONWARNINGS=ignore "$work/venv/bin/python" probe.py 2> >(grep -v -e "^[GTH]PU" -e "Trainer.fit" >&2)
