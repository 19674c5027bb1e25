"""Item-to-item Markov over all domains: items by how often they directly followed the item of the
user's newest event, whatever its domain."""

from typing import ClassVar

import numpy as np

from src.baselines.markov import Markov, item_before
from src.dataset.store.folder import Dataset
from src.interfaces import Requests


class MarkovAny(Markov):
    """Counts of training transitions between any two items."""

    feature_names: ClassVar[tuple[str, ...]] = ("joint transitions",)

    @classmethod
    def fit(cls, dataset: Dataset) -> "MarkovAny":
        return cls.of(dataset, item_before(dataset, any_domain=True))

    def last_items(self, domains: int | np.ndarray, requests: Requests) -> np.ndarray:
        """[n] the item of the newest known event of each request, of any domain; 0 without one."""
        known = requests.ends > self.dataset.offsets[requests.users]
        return np.where(known, self.dataset.items[(requests.ends - 1).clip(min=0)], 0)
