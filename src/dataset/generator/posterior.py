"""What a user's events tell of the item of a target, exactly, in a log of `interests`."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from src.dataset.generator.filtering import Evidence, forward
from src.dataset.generator.interests import (
    InterestConfig,
    InterestLog,
    Laws,
    day_rows,
    event_rate,
    event_shares,
    slot_laws,
    step_law,
)

VIEWS = ("own", "joined", "everything")
FEWEST = 3  # events of a user who has a test target


@dataclass(frozen=True)
class History:
    """Events before a cut-off, users one after the other, with what each tells of an interest."""

    times: np.ndarray  # [events] seconds
    domains: np.ndarray  # [events]
    slots: np.ndarray  # [events]
    signal: np.ndarray  # [events] probability of the item in its own state, beyond `noise`
    noise: np.ndarray  # [events] probability of the item in every other state
    offsets: np.ndarray  # [users + 1]
    users: np.ndarray  # [users] as in the log

    def targets(self) -> np.ndarray:
        """[n] the test targets of `--split leave_one_out`: the last event of each user with 3."""
        return self.offsets[1:][np.diff(self.offsets) >= FEWEST] - 1


def read_history(config: InterestConfig, log: InterestLog, laws: Laws, end: int) -> History:
    """The events before second `end`, as a dataset orders them."""
    order = np.lexsort((log.times, log.users))
    order = order[log.times[order] < end]
    domains, times = log.domains[order], log.times[order]
    slots = np.argsort(laws.shelves, axis=1)[domains, log.items[order]]
    signal, noise = np.empty(len(order)), np.empty(len(order))
    days = day_rows(config, times)
    for domain in range(len(config.domains)):
        events = np.flatnonzero(domains == domain)
        within, by_popularity = slot_laws(config, laws, domain)
        signal[events] = (1 - config.noise) * within[days[events], slots[events]]
        noise[events] = config.noise * by_popularity[days[events], slots[events]]
    users, first = np.unique(log.users[order], return_index=True)
    offsets = np.append(first, len(order))
    return History(times, domains, slots, signal, noise, offsets, users)


def item_probabilities(
    config: InterestConfig, laws: Laws, past: History, targets: np.ndarray, view: str, window: int
) -> np.ndarray:
    """[n, slots] the probability of each item, by slot, of targets [n] that share a domain.

    `view` is one of VIEWS; `window` is L. Nothing at or after a target's time is read but the
    target's domain and time.
    """
    within, noise = slot_laws(config, laws, int(past.domains[targets[0]]))
    days = day_rows(config, past.times[targets])
    belief = state_beliefs(config, past, targets, view, window)
    clusters = np.repeat(belief, config.cluster_items, axis=1)  # [n, slots]
    return (1 - config.noise) * clusters * within[days] + config.noise * noise[days]


def state_beliefs(
    config: InterestConfig, past: History, targets: np.ndarray, view: str, window: int
) -> np.ndarray:
    """[n, S] the probability of each state of the interest that a target reads.

    Where only some users of a domain read the shared interest, all combinations of domains that do
    are weighed by how well they explain the events.
    """
    domain = int(past.domains[targets[0]])
    combinations = list(_combinations(config.relatedness))

    @cache  # the same private interest occurs in many combinations
    def filtered(readers: frozenset[int], shared: bool) -> tuple[np.ndarray, np.ndarray]:
        seen = readers & {domain} if view == "own" else readers
        unseen = event_rate(config) * event_shares(config)[list(readers - seen)].sum()
        jump = config.jump if shared else config.private_jump
        law = step_law(jump, config.follow, config.states)
        return forward(_evidence(config, past, targets, view, window, seen, unseen), law)

    beliefs, weights = [], []
    for prior, group in combinations:
        weight = np.full(len(targets), np.log(prior))
        private = [frozenset({other}) for other in set(range(len(config.domains))) - group]
        for readers in (group, *private):
            if domain in readers or (view != "own" and len(combinations) > 1):
                belief, likelihood = filtered(readers, readers is group)
                weight += likelihood
                if domain in readers:
                    beliefs.append(belief)
        weights.append(weight)
    relative = np.exp(np.array(weights) - np.max(weights, axis=0))  # [combinations, n]
    relative /= relative.sum(axis=0)
    return np.einsum("cn,cns->ns", relative, np.array(beliefs))


def _combinations(relatedness: Collection[float]) -> Iterator[tuple[float, frozenset[int]]]:
    """Every possible set of domains that read the shared interest, with its probability."""
    for reads in product((False, True), repeat=len(relatedness)):
        chances = [r if shared else 1 - r for r, shared in zip(relatedness, reads, strict=True)]
        if (prior := float(np.prod(chances))) > 0:
            yield prior, frozenset(np.flatnonzero(reads).tolist())


def _evidence(
    config: InterestConfig,
    past: History,
    targets: np.ndarray,
    view: str,
    window: int,
    seen: Collection[int],
    unseen: float,
) -> Evidence:
    """The known events of the domains `seen` before each target; `unseen` events per second step
    the same interest without being known."""
    first = past.offsets[np.searchsorted(past.offsets, targets, side="right") - 1]
    if view == "joined":
        first = np.maximum(first, targets - window)
    reads = np.isin(past.domains, list(seen))
    events = np.flatnonzero(reads)
    count = np.concatenate([[0], np.cumsum(reads)])  # of `events` before each event
    begin, end = count[first], count[targets]
    if view == "own":
        begin = np.maximum(begin, end - window)
    lengths = end - begin
    columns = np.arange(lengths.max(initial=0))
    known = events[np.minimum(begin[:, None] + columns, len(events) - 1)]  # [n, T]
    stamps = np.concatenate([past.times[known], past.times[targets, None]], axis=1)
    stamps = np.where(
        np.arange(stamps.shape[1]) < lengths[:, None], stamps, past.times[targets, None]
    )
    gaps = np.diff(stamps, axis=1, prepend=stamps[:, :1])
    return Evidence(
        lengths, past.slots[known] // config.cluster_items, past.signal[known], past.noise[known],
        gaps * unseen,
    )  # fmt: skip
