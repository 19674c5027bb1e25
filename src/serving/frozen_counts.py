"""Count models of a bundle: sums that were made at its export, and that decay from then on.

They answer as the models they were made from (src/serving/count_tables.py) about every time that is
not before the export's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import csc_array, csr_array

from src.baselines.covisit import CONTEXT, Covisit
from src.baselines.decayed_counts import LONGER, DecayedCounts
from src.baselines.markov import Markov, event_places
from src.baselines.markov_any import MarkovAny
from src.baselines.own import Own
from src.baselines.popularity import Popularity
from src.baselines.recent import Recent
from src.config.names import COUNTED
from src.dataset.batching.ragged import expand_ranges, positions_in_runs
from src.dataset.store.folder import Dataset
from src.interfaces import CountModel, Requests
from src.serving.count_tables import FOLLOWED, RECENT

NOTHING = np.zeros(0, dtype=np.int64)
CHAINS: dict[str, type[Markov]] = {"markov": Markov, "markov_any": MarkovAny}


@dataclass(frozen=True)
class FrozenTimes:
    """When counts were summed up, and how they decay."""

    time: int  # of the sums, in seconds since 1970
    tick: int  # seconds
    recent_half_lives: np.ndarray  # [D] seconds
    covisit_half_lives: np.ndarray  # [D] seconds

    def decay(self, times: np.ndarray, half_life: float | np.ndarray) -> np.ndarray:
        """What is left of the sums at other times [n], with one half-life, or one of each [n]."""
        age = (times // self.tick - self.time // self.tick) * float(self.tick)
        return np.exp2(-age / half_life)


@dataclass(frozen=True)
class FrozenCounts(DecayedCounts):
    """Decayed counts of items with the half-lives that were exported alone."""

    times: FrozenTimes
    sums: np.ndarray  # [V + 1, half-lives] at the time of the export

    def at(
        self, domain: int, times: np.ndarray, half_life: float, columns: slice | np.ndarray
    ) -> np.ndarray:
        exported = [self.times.recent_half_lives[domain] * longer for longer in LONGER]
        first, end = self.item_starts[domain : domain + 2]
        sums = self.sums[first:end, exported.index(half_life)][columns]
        return self.times.decay(times, half_life)[:, None] * sums


@dataclass(frozen=True)
class FrozenCovisit(Covisit):
    """Followers of items, summed up."""

    times: FrozenTimes
    sums: tuple[csr_array, ...]  # [V + 1, V + 1] for each half-life, at the time of the export

    def counts(
        self, requests: Requests, items: slice, half_lives: list[np.ndarray]
    ) -> Iterator[csc_array]:
        """As `Covisit.counts`, for the first of the half-lives that were exported."""
        users, ends, times, _ = requests
        starts = np.maximum(self.dataset.offsets[users], ends - CONTEXT)
        events, row = expand_ranges(starts, ends)
        newest = (ends - starts)[row] - 1 - positions_in_runs(ends - starts)
        where = row, self.dataset.items[events]
        weights = csr_array(
            (1 / np.sqrt(1.0 + newest), where), shape=(len(ends), self.dataset.item_rows)
        )
        for sums, lives in zip(self.sums, half_lives, strict=False):
            counts = (weights @ sums)[:, items].tocoo()
            half_life = lives[self.dataset.item_domains[items][counts.col]]
            counts.data = counts.data * self.times.decay(times[counts.row], half_life)
            yield counts.tocsc()


def frozen_models(
    catalogue: Dataset,
    items: pa.Table,
    transitions: dict[str, pa.Table],
    followers: pa.Table,
    times: FrozenTimes,
) -> dict[str, CountModel]:
    """{name: count model} of the tables of a bundle, without contexts (`with_contexts`), in the
    order of `src.config.names.COUNTED`. `transitions` are those of each model that it has."""
    size, starts = catalogue.item_rows, catalogue.item_starts
    sums = np.zeros((size, len(RECENT)))
    sums[1:] = np.stack([items[name].to_numpy() for name in RECENT], 1)
    counts = FrozenCounts(starts, NOTHING, NOTHING, times.tick, times, sums)
    popularity = Popularity(catalogue.training_counts, starts)
    followed = tuple(_matrix(followers, "follower", name, size) for name in FOLLOWED)
    covisit = FrozenCovisit(
        catalogue, NOTHING, NOTHING, NOTHING, times.tick, times.covisit_half_lives, times, followed
    )
    places = event_places(catalogue)
    chains = {
        name: CHAINS[name](_matrix(table, "next", "count", size), popularity, catalogue, places)
        for name, table in transitions.items()
    }
    models: dict[str, CountModel] = {
        "popularity": popularity,
        **chains,
        "recent": Recent(catalogue, counts, times.recent_half_lives),
        "own": Own(catalogue, popularity),
        "covisit": covisit,
    }
    return {name: models[name] for name in COUNTED if name in models}


def _matrix(table: pa.Table, column: str, value: str, size: int) -> csr_array:
    """[V + 1, V + 1] the values of pairs of items."""
    where = table["item"].to_numpy(), table[column].to_numpy()
    return csr_array((table[value].to_numpy().astype(float), where), shape=(size, size))
