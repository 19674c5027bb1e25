"""Lists of recommendations as Python values, and the scores they come from, computed plainly."""

import dataclasses

import numpy as np
import pandas as pd
import torch

from src.dataset.batching.packing import build_batch
from src.dataset.batching.windows import Windows
from src.dataset.store.folder import open_dataset
from src.evaluation.queries import domain_scores


def lists(table) -> dict[tuple, list]:
    """{(user_id, domain): [(item_id, score), …] in the order of rank}."""
    found = {}
    for row in table.to_pylist():
        items = found.setdefault((row["user_id"], row["domain"]), [])
        items.append((row["item_id"], row["score"]))
        assert row["rank"] == len(items)
    return found


def paths_of(table) -> dict[tuple, str]:
    """{(user_id, domain): the path that made the list}."""
    return {(row["user_id"], row["domain"]): row["path"] for row in table.to_pylist()}


def by_hand(run, dataset, user: int, domain: int, path: str) -> np.ndarray:
    """[V_d] scores after all events of one user of a dataset, through the model alone."""
    events = np.arange(dataset.offsets[user], dataset.offsets[user + 1])
    (model, *others), own, first = run.ensemble.models, domain, 0
    items, domains = dataset.items[events], dataset.domains[events]
    newest = slice(-(run.settings.max_len - 1), None)
    if others:  # a model of its own: one domain, whose items begin at 1
        model, own = run.ensemble.models[domain], 0
        first = int(dataset.item_starts[domain]) - 1
        items = items[domains == domain][newest]
        domains = np.zeros_like(items)
    elif path == "single":
        items, domains = items[newest], domains[newest]
        items, domains = items[domains == domain], domains[domains == domain]
    else:
        items, domains = items[newest], domains[newest]
    some_item = dataset.item_starts[domain + 1] - 1 - first  # another than recommend.py's
    one = dataclasses.replace(
        dataset,
        domain_names=["own"] if others else list(dataset.domain_names),
        item_starts=np.array(model.item_starts),
        offsets=np.array([0, len(items) + 1]),
        items=np.append(items - first, some_item).astype(np.int32),
        domains=np.append(domains, own).astype(np.int16),
    )
    window = Windows(np.array([0]), np.arange(len(items) + 1), np.zeros(len(items) + 1, np.int64))
    with torch.no_grad():
        hidden = model.queries(build_batch(one, window, 0, 0), path)
        return domain_scores(model, hidden, own)[0].numpy()


def events_of(data, users: int) -> pd.DataFrame:
    """The events of the first users of a dataset folder, as new events."""
    dataset = open_dataset(data)
    ids, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    rows = [
        (
            ids[user],
            items[dataset.items[event] - 1],
            dataset.domain_names[dataset.domains[event]],
            int(dataset.times[event]),
        )
        for user in range(users)
        for event in range(*dataset.offsets[user : user + 2])
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "unix_time"])
