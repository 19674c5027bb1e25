"""Small datasets with targets to rank, whole-number scores, and what ranks are by definition."""

import copy
import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from src.config.names import AS_LISTED, RELEASED, UNSEEN
from src.dataset.store.folder import TEST, TRAIN, VALID, Dataset
from src.evaluation.targets import Targets
from tests.support.builders import make_dataset

DRAWN = ("sampled", "popular", "sampled_all", RELEASED)


def dataset_of(sizes, sequences, held, gaps) -> Dataset:
    """Users by their items; of each the last `held` events are targets of either split, valid ones
    first; `gaps` are the times between events, 0 for a tie."""
    starts = np.concatenate([[1], 1 + np.cumsum(sizes)])
    users = []
    for items in sequences:
        domains = np.searchsorted(starts, items, side="right") - 1
        users.append((list(items), domains.tolist()))
    splits = []
    for items, count in zip(sequences, held, strict=True):
        count = min(count, len(items))
        tests = (count + 1) // 2
        splits += [TRAIN] * (len(items) - count) + [VALID] * (count - tests) + [TEST] * tests
    times = [np.cumsum(own) for own in np.split(np.asarray(gaps), np.cumsum(_lengths(users))[:-1])]
    return dataclasses.replace(
        make_dataset(users, sizes),
        split=np.array(splits, dtype=np.int8),
        times=np.concatenate(times).astype(np.int64),
    )


def random_dataset(rng, sizes, users=12, longest=10) -> Dataset:
    """Ragged users with up to four targets each, repeated items and ties in time."""
    lengths = rng.integers(2, longest + 1, users)
    starts = np.concatenate([[1], 1 + np.cumsum(sizes)])

    def item(domain):
        return int(starts[domain] + rng.integers(0, min(sizes[domain], 9)))  # few: some come again

    sequences = [[item(d) for d in rng.integers(0, len(sizes), length)] for length in lengths]
    held = rng.integers(1, 5, users)
    return dataset_of(sizes, sequences, held, rng.integers(0, 2, lengths.sum()))


def temporal(dataset: Dataset) -> Dataset:
    """The same events, split by time: those from time 3 on are held out, from 5 on for the test."""
    split = np.select([dataset.times >= 5, dataset.times >= 3], [TEST, VALID], TRAIN)
    card = dataset.card | {"split": {"protocol": "temporal"}}
    return dataclasses.replace(dataset, split=split.astype(np.int8), card=card)


def with_ids(dataset: Dataset, folder) -> Dataset:
    """The same dataset with ids to name: user u and item i are `user-u` and `item-i`."""
    for kind, ids in (("user", range(dataset.users)), ("item", range(1, dataset.item_rows))):
        table = pa.table({f"{kind}_id": [f"{kind}-{number}" for number in ids]})
        pq.write_table(table, folder / f"{kind}s.parquet")
    return dataclasses.replace(dataset, folder=folder)


class WholeNumbers:
    """A scorer with scores of a few whole numbers, so that many are equal: one for each target,
    domain that is asked for, and item."""

    def __init__(self, dataset: Dataset, targets: int, kinds: int = 3, seed: int = 0):
        self.starts = dataset.item_starts
        shape = (targets, len(dataset.domain_names), dataset.item_rows)
        self.table = np.random.default_rng(seed).integers(0, kinds, shape).astype(np.float32)

    def of(self, rows):
        part = copy.copy(self)
        part.table = self.table[rows]
        return part

    def scores(self, rows, domain):
        own = slice(int(self.starts[domain]), int(self.starts[domain + 1]))
        some = torch.from_numpy(self.table[rows, domain, own])
        return lambda columns: some[:, columns]

    def pairs(self, domains, items):
        rows = np.arange(len(items))
        return torch.from_numpy(self.table[rows[:, None], domains[:, None], items])


def rivals(protocol: str, dataset: Dataset, targets: Targets, drawn: dict, row: int) -> list[int]:
    """The items that a target is ranked against, by the protocol's definition."""
    domain, target = int(targets.domains[row]), int(targets.items[row])
    base = protocol.removesuffix(UNSEEN)
    if base == "full":
        found = range(dataset.item_starts[domain], dataset.item_starts[domain + 1])
    elif base == "full_all":
        found = range(1, dataset.item_rows)
    else:
        found = [item for item in drawn[base][row].tolist() if item >= 0]
    found = [item for item in found if item != target]
    if protocol.endswith(UNSEEN):
        had = items_had(dataset, targets, row)
        found = [item for item in found if item not in had]
    return found


def items_had(dataset: Dataset, targets: Targets, row: int) -> set[int]:
    """The items of a target's context."""
    return set(dataset.items[dataset.offsets[targets.users[row]] : targets.ends[row]].tolist())


def ranks_by_hand(
    protocol, dataset, targets, drawn, score, row, excludes=False
) -> tuple[int, int, int]:
    """better, tied, candidates of one target, a candidate at a time; `score(row, domain, item)` is
    that of an item as if the domain were asked for. `excludes`: lists leave out seen items."""
    if protocol == AS_LISTED:
        protocol = "full" + UNSEEN if excludes else "full"
        if excludes and int(targets.items[row]) in items_had(dataset, targets, row):
            others = len(rivals(protocol, dataset, targets, drawn, row))
            return others, 0, others  # in no list: all candidates are above it
    own_domain = int(targets.domains[row])
    own = score(row, own_domain, int(targets.items[row]))
    better, tied, candidates = 0, 1, 1  # the target ties with itself
    for item in rivals(protocol, dataset, targets, drawn, row):
        domain = int(np.searchsorted(dataset.item_starts, item, side="right")) - 1
        value = score(row, own_domain if protocol == RELEASED else domain, item)
        better, tied, candidates = better + (value > own), tied + (value == own), candidates + 1
    return better, tied, candidates


def _lengths(users) -> list[int]:
    return [len(items) for items, _ in users]
