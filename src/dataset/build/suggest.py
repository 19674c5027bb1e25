"""Which filters keep enough users: the k-cores of a log, from weak to strong."""

import dataclasses
from dataclasses import dataclass

from ibis import _
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings
from src.dataset.build import steps
from src.dataset.build.selection import choose, domain_names, number, reach_core
from src.dataset.engine.base import Engine, rows
from src.io.errors import UserError

CORES = (1, 2, 3, 5, 10, 20)  # --min_user_events and --min_item_events
MIN_DOMAINS = (1, 2, 3)


@dataclass(frozen=True)
class Suggestion:
    """What a choice of filters leaves."""

    core: int  # --min_user_events and --min_item_events
    min_domains: int
    users: int
    items: int
    events: int
    fewest: int  # users of the domain that has fewest
    fewest_domain: str


def suggest_filters(engine: Engine, events: Table, settings: DatasetSettings) -> list[Suggestion]:
    """The choices, from weak to strong, each with what it leaves of raw events.

    A choice that leaves nothing ends its row of choices. What the flags ask for besides the
    filters (month, domains, repeats, bots) holds for all.
    """
    chosen, _outside = choose(events, settings)
    found = []
    for least in MIN_DOMAINS:
        keeper = number(engine, chosen, settings)
        names = domain_names(keeper.items, keeper.items)
        for step in steps.first_steps(settings):
            keeper.run(step)
        for core in CORES:
            asked = dataclasses.replace(
                settings, min_user_events=core, min_item_events=core, min_domains=least
            )
            try:
                reach_core(keeper, asked)  # a stronger core lies inside the weaker one
            except UserError:
                break
            found.append(_measured(keeper.events, names, core, least))
    return found


def _measured(events: Table, names: list[str], core: int, least: int) -> Suggestion:
    active = events.select("user", "domain").distinct().group_by("domain").agg(users=_.count())
    counts = dict.fromkeys(range(len(names)), 0)
    for row in active.to_pyarrow().to_pylist():
        counts[row["domain"]] = row["users"]
    fewest = min(counts, key=counts.__getitem__)
    return Suggestion(
        core=core,
        min_domains=least,
        users=rows(events.select("user").distinct()),
        items=rows(events.select("item").distinct()),
        events=rows(events),
        fewest=counts[fewest],
        fewest_domain=names[fewest],
    )
