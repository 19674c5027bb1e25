"""Small datasets, models and batches in memory, that the tests share."""

from pathlib import Path

import numpy as np
import torch

from models import SyNCRec
from src.config.names import MODELS, load
from src.config.settings import Settings, settings_class
from src.config.validation import check_settings
from src.dataset.batching.packing import build_batch
from src.dataset.batching.windows import newest_events, train_ends
from src.dataset.store.folder import TEST, TRAIN, VALID, Dataset
from src.evaluation.queries import domain_scores


def make_dataset(users, domain_sizes, *, held_out=0, times=None) -> Dataset:
    """A dataset in memory: users are (items, domains) lists; the last `held_out` events of each
    are validation and test targets; `times` of each user's events are in seconds, by default one
    after another."""
    starts = np.concatenate([[1], 1 + np.cumsum(domain_sizes)])
    lengths = [len(items) for items, _ in users]
    split = []
    for length in lengths:
        held = [VALID, TEST][2 - held_out :] if held_out else []
        split += [TRAIN] * (length - len(held)) + held
    names = [f"domain{number}" for number in range(len(domain_sizes))]
    events = sum(lengths)
    return Dataset(
        folder=Path("memory"),
        card={"data_name": "memory", "sha256": "memory", "domains": dict.fromkeys(names)},
        domain_names=names,
        item_starts=starts,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        items=np.array([item for items, _ in users for item in items], dtype=np.int32),
        domains=np.array([d for _, domains in users for d in domains], dtype=np.int16),
        times=np.arange(events) if times is None else np.concatenate(times).astype(np.int64),
        split=np.array(split, dtype=np.int8),
    )


def random_users(seed, count=7, domain_sizes=(6, 5, 9, 4), absent=(), longest=12):
    """Ragged users; the first one stays in one domain; domains of `absent` have no event."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[1], 1 + np.cumsum(domain_sizes)])
    present = [d for d in range(len(domain_sizes)) if d not in absent]
    users = []
    for user in range(count):
        length = int(rng.integers(1, longest + 1))
        domains = [present[0] if user == 0 else int(rng.choice(present)) for _ in range(length)]
        items = [int(rng.integers(starts[d], starts[d + 1])) for d in domains]
        users.append((items, domains))
    return users


def random_times(users, seed=0):
    """Times of each user's events: intervals of none to some years, on a logarithmic scale."""
    rng = np.random.default_rng(seed)
    return [np.cumsum(10 ** rng.uniform(-1, 8.5, len(items))).astype(int) for items, _ in users]


def make_model(dataset, *, seed=0, dtype=torch.float64, **settings) -> SyNCRec:
    """A small model with weights large enough that every part shows in the outputs."""
    defaults = {"hidden": 8, "dropout": 0.0, "max_len": 16, "experts_cross": 2}
    torch.manual_seed(seed)
    model = SyNCRec(Settings(**(defaults | settings)), dataset.item_starts.tolist()).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def named_model(dataset, name, mode="cdsr", **changes):
    """A small float64 model of the table of names, without dropout, with weights so large that
    every part shows in the outputs."""
    defaults = {"model": name, "mode": mode, "hidden": 8, "dropout": 0.0, "max_len": 16}
    settings = settings_class(name, "lc_ntg")(**(defaults | changes))
    check_settings(settings)
    model = load(MODELS[name].path)(settings, dataset.item_starts.tolist()).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def events_of(batch) -> list[tuple[int, int]]:
    """(user, index of the event) of each target, in the canonical order."""
    view, slots = batch.cross, batch.cross.target_slots
    return list(zip(view.sequence_ids[slots].tolist(), view.positions[slots].tolist(), strict=True))


def train_batch(dataset, users=None, max_len=16, seed=3, epoch=0, negatives=1):
    """All training events of `users` (default: everybody) as one batch."""
    users = np.arange(dataset.users) if users is None else np.asarray(users)
    windows = newest_events(dataset, users, train_ends(dataset)[users], max_len)
    return build_batch(dataset, windows, seed, epoch, times=True, negatives=negatives)


def losses_with_gradient(model, batch) -> dict[str, torch.Tensor]:
    """The softmax loss of every target [N] in each view, by torch's own and differentiable."""
    found = {}
    for task in model.tasks:
        parts, start = [], 0
        for domain, outputs in enumerate(model.outputs(batch, task).split(batch.counts)):
            own = batch.targets[start : start + len(outputs)] - model.item_starts[domain]
            scores = domain_scores(model, outputs, domain)
            parts.append(torch.nn.functional.cross_entropy(scores, own, reduction="none"))
            start += len(outputs)
        found[task] = torch.cat(parts)
    return found
