"""Suggesting filters that keep enough users: the k-cores of a log, from weak to strong."""

import dataclasses
from dataclasses import dataclass

from ibis import _
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings
from src.dataset.build import transforms
from src.dataset.build.selection import domain_names, number_events, reach_core, restrict
from src.dataset.engine.base import Engine, count_rows
from src.io.errors import UserError

CORES = (1, 2, 3, 5, 10, 20)  # --min_user_events and --min_item_events
MIN_DOMAINS = (1, 2, 3)


@dataclass(frozen=True)
class Suggestion:
    """The size of the dataset that a choice of filters leaves."""

    core: int  # --min_user_events and --min_item_events
    min_domains: int
    users: int
    items: int
    events: int
    fewest: int  # users of the domain with the fewest
    fewest_domain: str


def suggest_filters(engine: Engine, events: Table, settings: DatasetSettings) -> list[Suggestion]:
    """The choices of filters, from weak to strong, each with the sizes it leaves.

    Cores stop growing when nothing is left. The other flags (month, domains, repeats, bots) apply
    to all choices.
    """
    restricted, _outside = restrict(events, settings)
    suggestions = []
    for least in MIN_DOMAINS:
        numbered = number_events(engine, restricted, settings)
        names = domain_names(numbered.items, numbered.items)
        for step in transforms.first_steps(settings):
            numbered.run(step)
        for core in CORES:
            stricter = dataclasses.replace(
                settings, min_user_events=core, min_item_events=core, min_domains=least
            )
            try:
                reach_core(numbered, stricter)  # a stronger core is a subset of a weaker one
            except UserError:
                break
            suggestions.append(_measure(numbered.events, names, core, least))
    return suggestions


def _measure(events: Table, names: list[str], core: int, least: int) -> Suggestion:
    active = events.select("user", "domain").distinct().group_by("domain").agg(users=_.count())
    counts = dict.fromkeys(range(len(names)), 0)
    for row in active.to_pyarrow().to_pylist():
        counts[row["domain"]] = row["users"]
    fewest = min(counts, key=counts.__getitem__)
    return Suggestion(
        core=core,
        min_domains=least,
        users=count_rows(events.select("user").distinct()),
        items=count_rows(events.select("item").distinct()),
        events=count_rows(events),
        fewest=counts[fewest],
        fewest_domain=names[fewest],
    )
