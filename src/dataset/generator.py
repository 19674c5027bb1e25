"""Generate a multi-domain log in which it is known, by domain, how much the others help.

    python -m src.dataset.generator --out DIR --users 2000 --events 40 --seed 42

Each user drifts through interests. An interest is a cluster of items and a place in it; it lasts
for some events, one place further at each, then jumps along a fixed graph of clusters or back to
the user's taste. One such path is *shared*; besides it each (user, domain) pair has a path of its
*own*, with a taste of its own. Domain d of relatedness r_d reads the shared path for a share r_d of
the users and its own path for the others. So

- at r = 1 what the user does in the other related domains tells the present interest (positive
  transfer); at r = 0 the events of other domains carry no information at all, not even a clock: an
  own path runs on a shuffled copy of the user's sessions (negative transfer, as far as a model pays
  for ignoring them);
- the law of one domain's events taken alone is the same at every r, and all domains have the same
  number of items and expected events: differences between domains come from relatedness alone.

A session is a run of events in one domain. Inside a domain the items of a cluster form a ring: an
event takes an item at the interest's place or a few places on; the other events are noise by
popularity. Noise and spread blur first-order chains of items while the interest lasts, so a model
that remembers more than the last item ranks better than item-to-item Markov.
"""

import dataclasses
import gzip
import io
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.config.cli import build_parser, from_namespace, setting
from src.io.errors import UserError, run_command

FILE_NAME = "interactions.csv.gz"
FIRST_SECOND = 1_577_836_800  # 2020-01-01 00:00 UTC
END_SECOND = 1_706_745_600  # 2024-02-01 00:00 UTC
SHORTEST_HISTORY = 180 * 86_400  # seconds between a user's two ends
SHIFTS = 8  # an item stands 0 … 7 places after the interest's, with equal chance
SESSION_ENDS = 0.4  # chance that the next event begins a new session, in a domain drawn anew
SUCCESSORS = 2  # clusters that a cluster leads to
FOLLOW = 0.5  # share of the jumps that follow the graph of clusters; the others follow the taste
TASTE_SHARPNESS = 2.0  # power of exponential weights: a user has a few preferred clusters
ENTRY_EXPONENT = 1.0  # Zipf law of the position at which a ring is entered
POPULARITY_EXPONENT = 0.8  # Zipf law of the noise over the items of a domain


@dataclass(frozen=True)
class SyntheticConfig:
    """What the generator is asked for; the defaults are the bundled log."""

    out: str = setting("", f"folder that {FILE_NAME} is written to (required)")
    users: int = setting(2000, "users", group="size")
    events: int = setting(
        40, "mean events a user: uniform from half to one and a half of it", group="size"
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
        "for each domain the share, 0 to 1, of the users for whom it reads the shared interest",
        group="what is planted",
    )
    jump: float = setting(0.05, "chance that an interest ends at an event", group="what is planted")
    noise: float = setting(0.3, "share of events by popularity alone", group="what is planted")
    seed: int = setting(42, "the same seed gives the same bytes")


@dataclass(frozen=True)
class SyntheticLog:
    """Events in time order, one entry each, with the hidden truth beside what a log shows."""

    users: np.ndarray  # [events] from 0
    domains: np.ndarray  # [events] position in the config's domains
    items: np.ndarray  # [events] from 0 in each domain
    times: np.ndarray  # [events] seconds since 1970 UTC, all distinct
    interests: np.ndarray  # [events] hidden: what the domain reads, cluster * ring + place
    noise: np.ndarray  # [events] hidden: the item is drawn by popularity
    related: np.ndarray  # [users, D] hidden: the domain reads the user's shared interest
    item_slots: np.ndarray  # [D, items of a domain] hidden: cluster * ring + place of each item


def generate(config: SyntheticConfig) -> SyntheticLog:
    """Draw a log. Only uniform draws are used, so no version's sampler can change the stream.

    Raises UserError when the settings contradict each other.
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
        own_path = _interest_paths(rng, config, leads_to, longest)
        own_columns = np.nonzero((_shuffled(rng, domains, sessions, filled) == d) & filled)[1]
        interests[rows, columns] = np.where(
            related[rows, d], shared[rows, columns], own_path[rows, own_columns]
        )
        slots, noise[rows, columns] = _items_of_domain(rng, config, interests[rows, columns])
        items[rows, columns] = shelves[d, slots]

    times = _times(rng, filled)
    users = np.broadcast_to(np.arange(config.users)[:, None], items.shape)
    order = np.argsort(times[filled], kind="stable")
    return SyntheticLog(
        *(column[filled][order] for column in (users, domains, items)),
        _distinct(times[filled][order]),
        interests[filled][order],
        noise[filled][order],
        related,
        np.argsort(shelves, axis=1),
    )


def _check(config: SyntheticConfig) -> None:
    """Refuse settings that make no log."""
    if len(config.domains) != len(config.relatedness):
        raise UserError(
            f"--relatedness has {len(config.relatedness)} values for {len(config.domains)} "
            "--domains; give one a domain"
        )
    if not config.domains or len(set(config.domains)) != len(config.domains):
        raise UserError("--domains needs one or more names, each once")
    for name in config.domains:
        if not name or any(mark in name for mark in ',"\n\r#'):
            raise UserError(f"--domains has the name {name!r}; leave out commas, quotes and #")
    for flag in ("users", "events", "clusters", "cluster_items"):
        lowest = {"clusters": SUCCESSORS, "events": 2}.get(flag, 1)
        if getattr(config, flag) < lowest:
            raise UserError(f"--{flag} is {getattr(config, flag)}; give at least {lowest}")
    if config.seed < 0:
        raise UserError(f"--seed is {config.seed}; give at least 0")
    shares = {"relatedness": config.relatedness, "jump": (config.jump,), "noise": (config.noise,)}
    for flag, values in shares.items():
        for value in values:
            if not 0 <= value <= 1:
                raise UserError(f"--{flag} has the value {value}; give a share from 0 to 1")


def _lengths(rng: np.random.Generator, users: int, mean: int) -> np.ndarray:
    """[users] events of each user, uniform from half the mean to one and a half of it."""
    half = mean // 2
    return mean - half + np.floor(rng.random(users) * (2 * half + 1)).astype(np.int64)


def _draw(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """One index for each row of weights [n, choices], by chance in proportion."""
    upto = np.cumsum(weights, axis=1)
    return (rng.random((len(weights), 1)) * upto[:, -1:] >= upto[:, :-1]).sum(axis=1)


def _zipf_draw(rng: np.random.Generator, n: int, size: int, exponent: float) -> np.ndarray:
    """[n] indexes below `size` by Zipf's law: index 0 is the likeliest."""
    return _draw_common(rng, n, np.arange(1, size + 1) ** -exponent)


def _draw_common(rng: np.random.Generator, n: int, weights: np.ndarray) -> np.ndarray:
    """[n] indexes, all by the same weights [choices]."""
    upto = np.cumsum(weights)
    return np.searchsorted(upto, rng.random(n) * upto[-1], side="right")


def _domain_sequences(rng: np.random.Generator, sessions: np.ndarray, n_domains: int) -> np.ndarray:
    """[users, longest] the domain of each event: of each session, by the user's own shares.

    Nothing else decides it, so that any order of a user's sessions is as likely as any other.
    """
    users, longest = sessions.shape
    shares = 0.5 + rng.random((users, n_domains))
    of_session = np.stack([_draw(rng, shares) for _ in range(longest + 1)], axis=1)
    return np.take_along_axis(of_session, sessions, axis=1)


def _interest_paths(
    rng: np.random.Generator, config: SyntheticConfig, leads_to: np.ndarray, longest: int
) -> np.ndarray:
    """[users, longest] each user's interest at each event: cluster times ring size plus place."""
    users, ring = config.users, config.cluster_items
    taste = (-np.log1p(-rng.random((users, config.clusters)))) ** TASTE_SHARPNESS
    clusters = np.empty((users, longest), np.int64)
    places = np.empty_like(clusters)
    clusters[:, 0] = _draw(rng, taste)
    places[:, 0] = np.floor(rng.random(users) * ring)
    for t in range(1, longest):
        before = clusters[:, t - 1]
        successor = leads_to[before, np.floor(rng.random(users) * SUCCESSORS).astype(np.int64)]
        follows, jumps = rng.random(users) < FOLLOW, rng.random(users) < config.jump
        clusters[:, t] = np.where(jumps, np.where(follows, successor, _draw(rng, taste)), before)
        entry = _zipf_draw(rng, users, ring, ENTRY_EXPONENT)
        places[:, t] = np.where(jumps, entry, (places[:, t - 1] + 1) % ring)
    return clusters * ring + places


def _shuffled(
    rng: np.random.Generator, domains: np.ndarray, sessions: np.ndarray, filled: np.ndarray
) -> np.ndarray:
    """Each user's domains, sessions in another order: as likely as the real, independent of it."""
    users, longest = domains.shape
    keys = np.take_along_axis(rng.random((users, longest + 1)), sessions, axis=1)
    keys = np.where(filled, keys, 2.0)  # what is not filled stays at the end
    return np.take_along_axis(domains, np.argsort(keys, axis=1, kind="stable"), axis=1)


def _items_of_domain(
    rng: np.random.Generator, config: SyntheticConfig, interests: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slots [n] (cluster times ring size plus place) of one domain's events, and the noise mask."""
    n, ring = len(interests), config.cluster_items
    by_popularity = np.argsort(rng.random(config.clusters * ring))
    noise_slots = by_popularity[_zipf_draw(rng, n, len(by_popularity), POPULARITY_EXPONENT)]
    shift = np.floor(rng.random(n) * SHIFTS).astype(np.int64)
    slots = interests // ring * ring + (interests + shift) % ring
    is_noise = rng.random(n) < config.noise
    return np.where(is_noise, noise_slots, slots), is_noise


def _times(rng: np.random.Generator, filled: np.ndarray) -> np.ndarray:
    """[users, longest] seconds, rising; each user is active in a window of the whole period."""
    users = len(filled)
    latest_start = END_SECOND - SHORTEST_HISTORY
    start = FIRST_SECOND + rng.random((users, 1)) * (latest_start - FIRST_SECOND)
    end = start + SHORTEST_HISTORY + rng.random((users, 1)) * (latest_start - start)
    drawn = start + rng.random(filled.shape) * (end - start)
    return np.sort(np.where(filled, drawn, END_SECOND), axis=1).astype(np.int64)


def _distinct(times: np.ndarray) -> np.ndarray:
    """Rising times made strictly rising: a time that is taken moves to the next free second."""
    position = np.arange(len(times))
    return np.maximum.accumulate(times - position) + position


def write_log(config: SyntheticConfig, log: SyntheticLog, folder: Path) -> Path:
    """Write the log as a gzipped event table under a header that says what it is.

    The file appears whole or not at all; the same settings give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / FILE_NAME, folder / f".{FILE_NAME}.{os.getpid()}"
    try:
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
        ):
            text.writelines(f"# {key}: {value}\n" for key, value in header(config).items())
            text.write("user_id,item_id,domain,unix_time\n")
            text.writelines(_rows(config, log))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def header(config: SyntheticConfig) -> dict[str, str]:
    """The comment lines that stand above the table, by key."""
    planted = dict(zip(config.domains, config.relatedness, strict=True))
    return {
        "generated": "by src/dataset/generator.py; these events are not real behaviour of anyone",
        "command": command_line(config),
        "seed": str(config.seed),
        "planted_relatedness": json.dumps(planted),
        "planted_sequential": json.dumps(list(config.domains)),
    }


def command_line(config: SyntheticConfig) -> str:
    """The command that writes this log, every setting spelled out; only the folder is left open."""
    flags = []
    for field in dataclasses.fields(config):
        if field.name != "out":
            value = getattr(config, field.name)
            words = value if isinstance(value, tuple) else (value,)
            flags.append(f"--{field.name} {shlex.join(map(str, words))}")
    return f"python -m src.dataset.generator --out DIR {' '.join(flags)}"


def _rows(config: SyntheticConfig, log: SyntheticLog) -> Iterator[str]:
    """The lines of the table."""
    for user, domain, item, time in zip(
        *(column.tolist() for column in (log.users, log.domains, log.items, log.times)),
        strict=True,
    ):
        name = config.domains[domain]
        yield f"g{user:05d},{name}-{item:04d},{name},{time}\n"


def main() -> None:
    """The command."""
    parser = build_parser(SyntheticConfig, "Generate a multi-domain log with planted transfer.")
    config = from_namespace(SyntheticConfig, parser.parse_args())
    if not config.out:
        raise UserError("--out is missing; name the folder to write the log to")
    log = generate(config)
    path = write_log(config, log, Path(config.out))
    print(f"GENERATED log, not real behaviour: {len(log.items)} events in {path}")
    for name, share in zip(config.domains, config.relatedness, strict=True):
        print(f"  {name}: planted relatedness {share:g}, planted sequential structure")


if __name__ == "__main__":
    run_command(main)
