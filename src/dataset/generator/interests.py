"""A log drawn from a hidden Markov model with known parameters (preset `interests`).

A user has hidden *interests*, each a Markov chain over S states: one *shared* interest, and one
*private* interest per domain. A domain d reads the shared interest for a fraction r_d of the users
(its relatedness) and its private one for the others. An interest takes one step with each event
that reads it: it stays, moves on to the next state of a ring, or jumps to any state; before the
first event all states are equally likely.

A state has a cluster of items in each domain. An event takes an item of the cluster of the interest
that its domain reads, the first of them most often, or, as noise, an item of the domain by
popularity. With `trend`, the appeal of each item rises and falls with the day.

The domain of an event is drawn independently of everything else, by the same weights for all
users, and a user's events are a Poisson process of a common rate. So domains and times say nothing
about the interests, and the number of events that lie unseen between two others has a known law.
That makes exact what `src.dataset.generator.limits` computes: how well the best ranking does.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.config.cli import setting
from src.dataset.generator import log_file
from src.dataset.generator.log_file import (
    DAY,
    END_SECOND,
    FILE_NAME,
    FIRST_SECOND,
    check_domains,
    check_fractions,
    check_least,
    distinct,
    draw_indices,
    write_events,
)
from src.io.errors import UserError

MEAN_DAYS = 360  # days that a user is active on average; uniform from half to one and a half times
POPULARITY_EXPONENT = 0.8  # Zipf law of the noise over the items of a domain
PERIOD = 120.0  # days in which the appeal of an item rises and falls once, with `trend`


@dataclass(frozen=True)
class InterestConfig:
    """The flags of the preset `interests`."""

    out: str = setting("", f"folder for {FILE_NAME}, or for the files of --limits")
    users: int = setting(4000, "users", group="size")
    events: int = setting(40, "mean events per user", group="size")
    states: int = setting(16, "states of an interest", group="size")
    cluster_items: int = setting(6, "items of a state in each domain", group="size")
    domains: tuple[str, ...] = setting(
        ("gen_Books", "gen_Clothing", "gen_Games", "gen_Sports", "gen_Toys"),
        "names of the domains",
        group="what is planted",
    )
    shares: tuple[float, ...] = setting(
        (0.2, 0.1, 0.4, 0.2, 0.1),
        "for each domain its share of the events",
        group="what is planted",
    )
    relatedness: tuple[float, ...] = setting(
        (0.0, 1.0, 1.0, 0.0, 1.0),
        "for each domain the fraction, 0 to 1, of users for whom it reads the shared interest",
        group="what is planted",
    )
    jump: float = setting(
        0.06, "probability that the shared interest changes at a step", group="what is planted"
    )
    private_jump: float = setting(
        0.1, "probability that a private interest changes at a step", group="what is planted"
    )
    follow: float = setting(
        0.5,
        "fraction of changes that lead to the next state; others to any",
        group="what is planted",
    )
    sharpness: float = setting(
        1.0, "exponent of Zipf's law over the items of a cluster", group="what is planted"
    )
    noise: float = setting(
        0.2, "fraction of events drawn by popularity alone", group="what is planted"
    )
    trend: float = setting(
        0.0, "amplitude of the log of an item's appeal over time", group="what is planted"
    )
    seed: int = setting(42, "the same seed gives the same bytes")
    limits: bool = setting(
        False,
        "instead of writing the log, print the best possible NDCG@10 on its test targets; with "
        "--out, also write limits.json and limits.csv there",
        group="limits",
    )
    window: int = setting(50, "newest events that a ranking may know, L", group="limits")
    strd_ym: str = setting("202312", "cut-off month YYYYMM of the dataset", group="limits")


NOT_IN_LOG = ("out", "limits", "window", "strd_ym")  # flags that don't change the log


@dataclass(frozen=True)
class InterestLog:
    """Events in time order, one entry each, with the hidden truth beside what a log shows."""

    users: np.ndarray  # [events] from 0
    domains: np.ndarray  # [events] index into the config's domains
    items: np.ndarray  # [events] from 0 in each domain
    times: np.ndarray  # [events] seconds since 1970 UTC, all distinct
    states: np.ndarray  # [events] hidden: the state of the interest that the event reads
    noise: np.ndarray  # [events] hidden: the item is drawn by popularity
    related: np.ndarray  # [users, D] hidden: the domain reads the user's shared interest


@dataclass(frozen=True)
class Laws:
    """Which items the events of a domain take: the part of the model that depends on the seed.

    Items are counted by *slot*: state * cluster_items + rank in the state's cluster.
    """

    shelves: np.ndarray  # [D, items] the item in each slot
    popularity: np.ndarray  # [D, items] weight of each slot under noise
    phases: np.ndarray  # [D, items] where in the period of a trend each slot begins, 0 to 1


def slot_laws(config: InterestConfig, laws: Laws, domain: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the slots of a domain on each day: ([days, slots] within its cluster,
    [days, slots] under noise); one row for all days without a trend."""
    days = np.arange((END_SECOND - FIRST_SECOND) // DAY if config.trend else 1)
    appeal = np.exp(
        config.trend * np.sin(2 * np.pi * (days[:, None] / PERIOD + laws.phases[domain]))
    )
    ranks = np.tile(np.arange(config.cluster_items), config.states)
    within = ((1.0 + ranks) ** -config.sharpness * appeal).reshape(-1, config.cluster_items)
    within /= within.sum(axis=1, keepdims=True)
    noise = laws.popularity[domain] * appeal
    return within.reshape(appeal.shape), noise / noise.sum(axis=1, keepdims=True)


def day_rows(config: InterestConfig, times: np.ndarray) -> np.ndarray:
    """The row of `slot_laws` that holds at each time."""
    return (times - FIRST_SECOND) // DAY if config.trend else np.zeros(len(times), np.int64)


def step_law(jump: float, follow: float, states: int) -> np.ndarray:
    """[S] the probability that one step of an interest moves it on by 0, 1, … S − 1 places."""
    law = np.full(states, jump * (1 - follow) / states)
    law[0] += 1 - jump
    law[1 % states] += jump * follow
    return law


def event_rate(config: InterestConfig) -> float:
    """Events of a user per second."""
    return config.events / (MEAN_DAYS * DAY)


def event_shares(config: InterestConfig) -> np.ndarray:
    """[D] the probability of each domain at an event."""
    return np.array(config.shares) / sum(config.shares)


def generate(config: InterestConfig) -> tuple[InterestLog, Laws]:
    """Draw a log and its laws. Only uniform draws are used, so that no change of a sampler changes
    the stream. UserError when the settings contradict each other.
    """
    _check(config)
    rng = np.random.default_rng(config.seed)
    laws = _draw_laws(rng, config)
    times, filled = _times(rng, config)  # [users, longest]
    n_domains = len(config.domains)
    domains = draw_indices(rng, filled.size, event_shares(config)).reshape(filled.shape)
    related = rng.random((config.users, n_domains)) < np.array(config.relatedness)
    states = _states(rng, config, np.where(filled, domains, n_domains), related)

    users, columns = np.nonzero(filled)
    order = np.argsort(times[users, columns], kind="stable")
    users, columns = users[order], columns[order]
    events, seconds = (users, columns), distinct(times[users, columns])
    slots, noise = _slots(rng, config, laws, domains[events], states[events], seconds)
    items = laws.shelves[domains[events], slots]
    return (
        InterestLog(users, domains[events], items, seconds, states[events], noise, related),
        laws,
    )


def _check(config: InterestConfig) -> None:
    """UserError for settings that contradict each other or are out of range."""
    check_domains(config.domains, {"shares": config.shares, "relatedness": config.relatedness})
    for flag in ("users", "events", "states", "cluster_items", "window"):
        check_least(flag, getattr(config, flag), 1)
    check_least("seed", config.seed, 0)
    check_fractions("relatedness", *config.relatedness)
    for flag in ("jump", "private_jump", "follow", "noise"):
        check_fractions(flag, getattr(config, flag))
    for flag in ("shares", "sharpness", "trend"):
        value = getattr(config, flag)
        for number in value if isinstance(value, tuple) else (value,):
            if not 0 <= number < np.inf:
                raise UserError(f"--{flag} has the value {number}; give a number of at least 0")
    if not sum(config.shares):
        raise UserError("--shares are all 0; give at least one domain a share")


def _draw_laws(rng: np.random.Generator, config: InterestConfig) -> Laws:
    """The laws of all domains."""
    shape = len(config.domains), config.states * config.cluster_items
    shelves, places = (np.argsort(rng.random(shape), axis=1) for _ in range(2))
    return Laws(shelves, (1.0 + places) ** -POPULARITY_EXPONENT, rng.random(shape))


def _times(rng: np.random.Generator, config: InterestConfig) -> tuple[np.ndarray, np.ndarray]:
    """[users, longest] rising seconds, and which of them are events: for each user a Poisson
    process of the common rate in a window of the period."""
    length = DAY * MEAN_DAYS * (0.5 + rng.random((config.users, 1)))
    start = FIRST_SECOND + rng.random((config.users, 1)) * (END_SECOND - FIRST_SECOND - length)
    most = 1.5 * config.events  # expected events in the longest window
    longest = int(most + 10 * most**0.5 + 20)  # more have a probability below 1e-12
    gaps = -np.log1p(-rng.random((config.users, longest))) / event_rate(config)
    passed = np.cumsum(gaps, axis=1)
    return (start + passed).astype(np.int64), passed < length


def _states(
    rng: np.random.Generator, config: InterestConfig, domains: np.ndarray, related: np.ndarray
) -> np.ndarray:
    """[users, longest] the state that each event reads.

    domains [users, longest], D where there is no event; related [users, D].
    """
    n_domains = len(config.domains)
    reads_shared = np.take_along_axis(np.pad(related, ((0, 0), (0, 1))), domains, axis=1)
    interests = np.where(reads_shared, n_domains + 1, domains)  # [users, longest]
    states = np.zeros_like(domains)
    for interest in (*range(n_domains), n_domains + 1):
        reads = interests == interest
        jump = config.jump if interest > n_domains else config.private_jump
        law = step_law(jump, config.follow, config.states)
        moves = draw_indices(rng, reads.size, law).reshape(reads.shape)
        first = np.floor(rng.random((len(reads), 1)) * config.states).astype(np.int64)
        path = (first + np.cumsum(np.where(reads, moves, 0), axis=1)) % config.states
        states[reads] = path[reads]
    return states


def _slots(
    rng: np.random.Generator,
    config: InterestConfig,
    laws: Laws,
    domains: np.ndarray,
    states: np.ndarray,
    times: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The slot of each event [events], and whether it is noise [events]."""
    slots, days = np.empty_like(domains), day_rows(config, times)
    is_noise, draws = rng.random(len(domains)) < config.noise, rng.random(len(domains))
    for domain in range(len(config.domains)):
        within, noise = slot_laws(config, laws, domain)
        clusters = within.reshape(-1, config.cluster_items)  # [days * states, items of a cluster]
        chosen = (domains == domain) & is_noise
        slots[chosen] = _choose(noise, days[chosen], draws[chosen])
        chosen = (domains == domain) & ~is_noise
        rows = days[chosen] * config.states + states[chosen]
        ranks = _choose(clusters, rows, draws[chosen])
        slots[chosen] = states[chosen] * config.cluster_items + ranks
    return slots, is_noise


def _choose(laws: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """[n] a choice by the law of each of `rows` [n]; laws [·, choices] of sum 1, draws [n] uniform.

    One search serves all rows: each row's cumulated law lies beyond that of the row before.
    """
    cumulated = np.cumsum(laws, axis=1) + np.arange(len(laws))[:, None]
    places = np.searchsorted(cumulated.ravel(), rows + draws, side="right")
    return np.clip(places - rows * laws.shape[1], 0, laws.shape[1] - 1)  # rounding


def write_log(config: InterestConfig, log: InterestLog, folder: Path) -> Path:
    """Write the log into a folder, whole or not at all; the same settings give the same bytes."""
    return write_events(folder, header(config), config.domains, log)


def header(config: InterestConfig) -> dict[str, str]:
    """The comment lines above the table, by key."""
    relatedness = dict(zip(config.domains, config.relatedness, strict=True))
    module = "src/dataset/generator/interests.py"
    return log_file.header(module, command_line(config), config.seed, relatedness)


def command_line(config: InterestConfig) -> str:
    """The command that writes this log, with every flag that changes it."""
    flags = []
    for field in dataclasses.fields(config):
        if field.name not in NOT_IN_LOG:
            value = getattr(config, field.name)
            words = value if isinstance(value, tuple) else (value,)
            flags.append(f"--{field.name} {shlex.join(map(str, words))}")
    return f"python -m src.dataset.generator --preset interests --out DIR {' '.join(flags)}"


def run(config: InterestConfig) -> None:
    """Write the log and print what is planted."""
    if not config.out:
        raise UserError("--out is missing; give the folder to write the log to")
    log, _ = generate(config)
    path = write_log(config, log, Path(config.out))
    print(f"GENERATED log, not real behaviour: {len(log.items)} events in {path}")
    for name, share, relatedness in zip(
        config.domains, event_shares(config), config.relatedness, strict=True
    ):
        print(f"  {name}: {share:.0%} of the events, planted relatedness {relatedness:g}")
