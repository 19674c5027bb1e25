"""A log in which it is known which domains help each other (preset `planted`).

    python -m src.dataset.generator --preset planted --out DIR --users 2000 --events 40 --seed 42

Each user drifts through interests. An interest is a cluster of items and a position in it. It lasts
for several events, advances by one position at each, then jumps along a fixed graph of clusters or
back to the user's taste. One such path is *shared*; each (user, domain) pair also has a *private*
path with a separate taste. Domain d with relatedness r_d follows the shared path for a fraction r_d
of the users and the private path for the others. So

- at r = 1 the events in other related domains reveal the current interest (positive transfer); at
  r = 0 the events of other domains carry no information at all, not even a clock: a private path
  runs on a shuffled copy of the user's sessions (negative transfer, as far as ignoring them costs
  a model);
- the distribution of one domain's events alone is the same at every r, and all domains have the
  same number of items and expected events: differences between domains come only from relatedness.

A session is a run of events in one domain. The items of a cluster in a domain form a ring: an event
takes an item at the interest's position or a few positions further; the other events are noise by
popularity. Noise and spread blur first-order chains of items while the interest lasts, so a model
that remembers more than the last item ranks better than item-to-item Markov.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.config.cli import setting
from src.dataset.generator import log_file
from src.dataset.generator.log_file import (
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

SHORTEST_HISTORY = 180 * 86_400  # seconds between a user's first and last possible event
SHIFTS = 8  # an item is 0 … 7 positions after the interest's, with equal probability
SESSION_ENDS = 0.4  # probability that the next event starts a new session in a new domain
SUCCESSORS = 2  # successor clusters of each cluster
FOLLOW = 0.5  # fraction of jumps that follow the graph of clusters; the others follow the taste
TASTE_SHARPNESS = 2.0  # power of exponential weights: a user has a few preferred clusters
ENTRY_EXPONENT = 1.0  # Zipf law of the position at which a ring is entered
POPULARITY_EXPONENT = 0.8  # Zipf law of the noise over the items of a domain


@dataclass(frozen=True)
class SyntheticConfig:
    """The flags of the preset `planted`."""

    out: str = setting("", f"folder that {FILE_NAME} is written to (required)")
    users: int = setting(2000, "users", group="size")
    events: int = setting(
        40, "mean events per user, uniform from half to one and a half times this", group="size"
    )
    clusters: int = setting(10, "clusters of items, common to all domains", group="size")
    cluster_items: int = setting(30, "items of a cluster in each domain", group="size")
    domains: tuple[str, ...] = setting(
        ("gen_Books", "gen_Clothing", "gen_Games", "gen_Sports", "gen_Toys"),
        "names of the domains",
        group="what is planted",
    )
    relatedness: tuple[float, ...] = setting(
        (0.25, 1.0, 0.5, 0.0, 0.75),
        "for each domain the fraction, 0 to 1, of users for whom it follows the shared interest",
        group="what is planted",
    )
    jump: float = setting(
        0.05, "probability that an interest ends at an event", group="what is planted"
    )
    noise: float = setting(
        0.3, "fraction of events drawn by popularity alone", group="what is planted"
    )
    seed: int = setting(42, "the same seed gives the same bytes")


@dataclass(frozen=True)
class SyntheticLog:
    """Events in time order, one entry each, with the hidden truth beside what a log shows."""

    users: np.ndarray  # [events] from 0
    domains: np.ndarray  # [events] index into the config's domains
    items: np.ndarray  # [events] from 0 in each domain
    times: np.ndarray  # [events] seconds since 1970 UTC, all distinct
    interests: np.ndarray  # [events] hidden: the followed interest, cluster * ring + position
    noise: np.ndarray  # [events] hidden: the item is drawn by popularity
    related: np.ndarray  # [users, D] hidden: the domain follows the user's shared interest
    item_slots: np.ndarray  # [D, items of a domain] hidden: cluster * ring + position of each item


def generate(config: SyntheticConfig) -> SyntheticLog:
    """Draw a log. Only uniform draws are used, so that no change of a sampler changes the stream.

    UserError when the settings contradict each other.
    """
    _check(config)
    rng = np.random.default_rng(config.seed)
    n_domains, longest = len(config.domains), config.events + config.events // 2
    lengths = _lengths(rng, config.users, config.events)
    filled = np.arange(longest) < lengths[:, None]  # [users, longest]
    sessions = np.cumsum(rng.random(filled.shape) < SESSION_ENDS, axis=1)  # [users, longest] ids
    domains = _domain_sequences(rng, sessions, n_domains)
    leads_to = np.argsort(rng.random((config.clusters, config.clusters)), axis=1)[:, :SUCCESSORS]
    shared = _interest_paths(rng, config, leads_to, longest)
    relatedness = np.array(config.relatedness)
    related = rng.random((config.users, n_domains)) < relatedness
    shelves = np.argsort(rng.random((n_domains, config.clusters * config.cluster_items)), axis=1)

    items = np.zeros_like(domains)
    interests, noise = items.copy(), np.zeros(items.shape, bool)
    for d in range(n_domains):
        rows, columns = np.nonzero((domains == d) & filled)  # the events of d, by user, in order
        private_path = _interest_paths(rng, config, leads_to, longest)
        private_columns = np.nonzero((_shuffled(rng, domains, sessions, filled) == d) & filled)[1]
        interests[rows, columns] = np.where(
            related[rows, d], shared[rows, columns], private_path[rows, private_columns]
        )
        slots, noise[rows, columns] = _items_of_domain(rng, config, interests[rows, columns])
        items[rows, columns] = shelves[d, slots]

    times = _times(rng, filled)
    users = np.broadcast_to(np.arange(config.users)[:, None], items.shape)
    order = np.argsort(times[filled], kind="stable")
    return SyntheticLog(
        users[filled][order],
        domains[filled][order],
        items[filled][order],
        distinct(times[filled][order]),
        interests[filled][order],
        noise[filled][order],
        related,
        np.argsort(shelves, axis=1),
    )


def _check(config: SyntheticConfig) -> None:
    """UserError for settings that contradict each other or are out of range."""
    check_domains(config.domains, {"relatedness": config.relatedness})
    least = {"users": 1, "events": 2, "clusters": SUCCESSORS, "cluster_items": 1, "seed": 0}
    for flag, value in least.items():
        check_least(flag, getattr(config, flag), value)
    check_fractions("relatedness", *config.relatedness)
    check_fractions("jump", config.jump)
    check_fractions("noise", config.noise)


def _lengths(rng: np.random.Generator, users: int, mean: int) -> np.ndarray:
    """[users] events of each user, uniform from half to one and a half times the mean."""
    half = mean // 2
    return mean - half + np.floor(rng.random(users) * (2 * half + 1)).astype(np.int64)


def _draw(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """One index for each row of weights [n, choices], drawn in proportion to them."""
    cumulative = np.cumsum(weights, axis=1)
    draws = rng.random((len(weights), 1)) * cumulative[:, -1:]
    return (draws >= cumulative[:, :-1]).sum(axis=1)


def _zipf_draw(rng: np.random.Generator, n: int, size: int, exponent: float) -> np.ndarray:
    """[n] indices below `size` by Zipf's law: index 0 is the likeliest."""
    return draw_indices(rng, n, np.arange(1, size + 1) ** -exponent)


def _domain_sequences(rng: np.random.Generator, sessions: np.ndarray, n_domains: int) -> np.ndarray:
    """[users, longest] the domain of each event, drawn per session by the user's domain weights.

    Nothing else decides it, so that all orders of a user's sessions are equally likely.
    """
    users, longest = sessions.shape
    weights = 0.5 + rng.random((users, n_domains))
    session_domains = np.stack([_draw(rng, weights) for _ in range(longest + 1)], axis=1)
    return np.take_along_axis(session_domains, sessions, axis=1)


def _interest_paths(
    rng: np.random.Generator, config: SyntheticConfig, leads_to: np.ndarray, longest: int
) -> np.ndarray:
    """[users, longest] each user's interest at each event: cluster * ring size + position."""
    users, ring = config.users, config.cluster_items
    taste = (-np.log1p(-rng.random((users, config.clusters)))) ** TASTE_SHARPNESS
    clusters = np.empty((users, longest), np.int64)
    positions = np.empty_like(clusters)
    clusters[:, 0] = _draw(rng, taste)
    positions[:, 0] = np.floor(rng.random(users) * ring)
    for t in range(1, longest):
        previous = clusters[:, t - 1]
        successor = leads_to[previous, np.floor(rng.random(users) * SUCCESSORS).astype(np.int64)]
        follows, jumps = rng.random(users) < FOLLOW, rng.random(users) < config.jump
        clusters[:, t] = np.where(jumps, np.where(follows, successor, _draw(rng, taste)), previous)
        entry = _zipf_draw(rng, users, ring, ENTRY_EXPONENT)
        positions[:, t] = np.where(jumps, entry, (positions[:, t - 1] + 1) % ring)
    return clusters * ring + positions


def _shuffled(
    rng: np.random.Generator, domains: np.ndarray, sessions: np.ndarray, filled: np.ndarray
) -> np.ndarray:
    """Each user's domains with the sessions shuffled: equally likely, and independent."""
    users, longest = domains.shape
    keys = np.take_along_axis(rng.random((users, longest + 1)), sessions, axis=1)
    keys = np.where(filled, keys, 2.0)  # unfilled columns stay at the end
    return np.take_along_axis(domains, np.argsort(keys, axis=1, kind="stable"), axis=1)


def _items_of_domain(
    rng: np.random.Generator, config: SyntheticConfig, interests: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slots [n] (cluster * ring size + position) of one domain's events, and the noise mask."""
    n, ring = len(interests), config.cluster_items
    by_popularity = np.argsort(rng.random(config.clusters * ring))
    noise_slots = by_popularity[_zipf_draw(rng, n, len(by_popularity), POPULARITY_EXPONENT)]
    shift = np.floor(rng.random(n) * SHIFTS).astype(np.int64)
    slots = interests // ring * ring + (interests + shift) % ring
    is_noise = rng.random(n) < config.noise
    return np.where(is_noise, noise_slots, slots), is_noise


def _times(rng: np.random.Generator, filled: np.ndarray) -> np.ndarray:
    """[users, longest] increasing seconds; each user is active in a window of the period."""
    users = len(filled)
    latest_start = END_SECOND - SHORTEST_HISTORY
    start = FIRST_SECOND + rng.random((users, 1)) * (latest_start - FIRST_SECOND)
    end = start + SHORTEST_HISTORY + rng.random((users, 1)) * (latest_start - start)
    drawn = start + rng.random(filled.shape) * (end - start)
    return np.sort(np.where(filled, drawn, END_SECOND), axis=1).astype(np.int64)


def write_log(config: SyntheticConfig, log: SyntheticLog, folder: Path) -> Path:
    """Write the log into a folder, whole or not at all; the same settings give the same bytes."""
    return write_events(folder, header(config), config.domains, log)


def header(config: SyntheticConfig) -> dict[str, str]:
    """The comment lines above the table, by key."""
    planted = dict(zip(config.domains, config.relatedness, strict=True))
    module = "src/dataset/generator/planted.py"
    return log_file.header(module, command_line(config), config.seed, planted)


def command_line(config: SyntheticConfig) -> str:
    """The command that writes this log, with every flag except the folder."""
    flags = []
    for field in dataclasses.fields(config):
        if field.name != "out":
            value = getattr(config, field.name)
            words = value if isinstance(value, tuple) else (value,)
            flags.append(f"--{field.name} {shlex.join(map(str, words))}")
    return f"python -m src.dataset.generator --preset planted --out DIR {' '.join(flags)}"


def run(config: SyntheticConfig) -> None:
    """Write the log and print what is planted."""
    if not config.out:
        raise UserError("--out is missing; give the folder to write the log to")
    log = generate(config)
    path = write_log(config, log, Path(config.out))
    print(f"GENERATED log, not real behaviour: {len(log.items)} events in {path}")
    for name, share in zip(config.domains, config.relatedness, strict=True):
        print(f"  {name}: planted relatedness {share:g}, planted sequential structure")
