"""Repeats: events of an item that the user had before, and their share of the test targets."""

import numpy as np

from src.dataset.store.folder import TEST, Dataset, user_chunks


def is_repeat(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """[events] whether the user had an earlier event of the same item; the events of a user are in
    their order."""
    pairs = users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items
    repeats = np.ones(len(pairs), dtype=bool)
    repeats[np.unique(pairs, return_index=True)[1]] = False
    return repeats


def repeat_share(dataset: Dataset) -> float:
    """The share of the test targets whose user had the item before; 0 without a test target.

    From the card; of a dataset whose card lacks it, from the events.
    """
    audited = dataset.card.get("audit", {}).get("repeat_targets")
    count = _repeat_targets(dataset) if audited is None else audited["events"]
    return count / max(1, int(dataset.split_counts[TEST].sum()))


def _repeat_targets(dataset: Dataset) -> int:
    count = 0
    for users in user_chunks(dataset.offsets):
        offsets = dataset.offsets[users.start : users.stop + 1]
        events = slice(int(offsets[0]), int(offsets[-1]))
        owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        repeats = is_repeat(owners, dataset.items[events])
        count += int((repeats & (dataset.split[events] == TEST)).sum())
    return count
