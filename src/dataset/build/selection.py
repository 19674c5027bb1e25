"""Which events a dataset holds: the steps of `events.py`, run one after the other in an engine."""

from dataclasses import dataclass

import pyarrow as pa
from ibis import _
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings, cutoff, month_of
from src.dataset.build import steps
from src.dataset.engine.base import Engine, rows
from src.dataset.store.card_schema import domain_name_error
from src.io.errors import UserError
from src.io.json_schema import repr_short

MAX_DOMAINS = 500


@dataclass(frozen=True)
class Selection:
    """The events that a dataset holds, ordered, and the ids behind the numbers."""

    events: Table  # user, item, domain, time; kept in the engine
    ordered: Table  # the same with position and size, numbered anew; not run yet
    users: pa.Table  # [users] user_id, events; in the order of their numbers
    items: pa.Table  # [items] item_id, domain (its number), count; item i stands at i - 1
    domain_names: list[str]  # D
    dropped: dict[str, int]  # {reason: events}


class Keeper:
    """Numbered events in an engine, and the steps that drop some of them, one after the other.

    `events` is materialised, and released when a step has made another table of it; `users` and
    `items` are what `number` made.
    """

    def __init__(self, engine: Engine, events: Table, users: Table, items: Table, tie_order: str):
        self.engine, self.events, self.users, self.items = engine, events, users, items
        self.tie_order = tie_order
        self.rows = rows(events)
        self.dropped: dict[str, int] = {}

    def run(self, step: steps.Step) -> None:
        """Run a step; UserError when nothing is left."""
        columns = self.events.columns
        if step.ordered:
            self._replace(self.ordered())
        self._replace(step.keep(self.events).select(columns))
        before, self.rows = self.rows, rows(self.events)
        self.dropped[step.reason] = self.dropped.get(step.reason, 0) + before - self.rows
        if not self.rows:
            raise UserError(step.when_empty)

    def ordered(self) -> Table:
        """The events with their order: the columns of `steps.with_order`."""
        if self.tie_order == "as_logged":
            return steps.with_order(self.events, steps.LOGGED)
        self._replace(steps.with_order(self.events, ["item"]))
        return steps.with_ties_hashed(self.events, self.users, self.items)

    def _replace(self, events: Table) -> None:
        kept = self.engine.materialise(events)
        self.engine.release(self.events)
        self.events = kept


def number(engine: Engine, events: Table, settings: DatasetSettings) -> Keeper:
    """The events with numbers in place of ids, ready for the filters."""
    users = engine.materialise(steps.user_ids(events))
    items = engine.materialise(steps.item_ids(events, settings.shared_items))
    check_domain_count(items)
    numbered = steps.numbered_events(events, users, items, settings.tie_order == "as_logged")
    return Keeper(engine, engine.materialise(numbered), users, items, settings.tie_order)


def select_events(engine: Engine, events: Table, settings: DatasetSettings) -> Selection:
    """Choose, number, filter and order raw events; the filters repeat until nothing changes.

    UserError when nothing remains, for a month or domain that the log does not have, and for
    more than MAX_DOMAINS domains.
    """
    chosen, outside = choose(events, settings)
    keeper = number(engine, chosen, settings)
    users, items = run_filters(keeper, settings)
    ordered = keeper.ordered()
    if any(keeper.dropped.values()):
        ordered = steps.renumbered(ordered, users, items)
    return Selection(
        events=keeper.events,
        ordered=ordered,
        users=user_table(users, keeper.users),
        items=item_table(items, keeper.items),
        domain_names=domain_names(items, keeper.items),
        dropped=outside | keeper.dropped,
    )


def choose(events: Table, settings: DatasetSettings) -> tuple[Table, dict[str, int]]:
    """The events before the cut-off, of the domains asked for; what lies outside, by reason."""
    in_time = steps.up_to(events, cutoff(settings.strd_ym))
    chosen = in_time & steps.in_domains(events, settings.domains)
    found = events.agg(
        all=_.count(), in_time=in_time.sum(), chosen=chosen.sum(), first=_.unix_time.min()
    )
    counts = found.to_pyarrow().to_pylist()[0]
    _check_choice(events, settings, counts)
    dropped = {"after_cutoff": counts["all"] - counts["in_time"]}
    if settings.domains:
        dropped["other_domains"] = counts["in_time"] - counts["chosen"]
    return events.filter(chosen), dropped


def _check_choice(events: Table, settings: DatasetSettings, counts: dict) -> None:
    """The month is not before the log, the domains asked for are in it, and an event is left."""
    if settings.domains:
        found = events.filter(_.domain.isin(settings.domains)).select("domain").distinct()
        unknown = sorted(set(settings.domains) - set(found.to_pyarrow()["domain"].to_pylist()))
        if unknown:
            known = events.select("domain").distinct().order_by("domain").limit(MAX_DOMAINS)
            names = ", ".join(known.to_pyarrow()["domain"].to_pylist())
            raise UserError(
                f"--domains {' '.join(unknown)}: no such domain in the log; it has {names}"
            )
    if counts["first"] >= cutoff(settings.strd_ym):
        raise UserError(
            f"--strd_ym {settings.strd_ym} is before the first event of the log; "
            f"its first month is {month_of(counts['first'])}"
        )
    if not counts["chosen"]:
        raise UserError(steps.empty_selection(settings, counts["in_time"]))


def run_filters(keeper: Keeper, settings: DatasetSettings) -> tuple[Table, Table]:
    """Run all steps that drop events; `remaining_users` and `remaining_items`, materialised."""
    for step in steps.first_steps(settings):
        keeper.run(step)
    items = reach_core(keeper, settings)
    for step in steps.length_steps(settings):
        keeper.run(step)
        items, _changed = drop_lone_items(keeper)
    return keeper.engine.materialise(steps.remaining_users(keeper.events)), items


def reach_core(keeper: Keeper, settings: DatasetSettings) -> Table:
    """Run the filters until nothing changes, domains with one item left out;
    `remaining_items`."""
    changed = True
    while changed:
        repeat_filters(keeper, settings)
        items, changed = drop_lone_items(keeper)
    return items


def repeat_filters(keeper: Keeper, settings: DatasetSettings) -> None:
    """Run the filters until a whole round drops nothing."""
    before = None
    while before != (before := keeper.rows):
        for step in steps.filter_steps(settings):
            keeper.run(step)


def drop_lone_items(keeper: Keeper) -> tuple[Table, bool]:
    """Drop the events of domains with one item: every score ranks it first.

    Returns `remaining_items`, materialised, and whether anything was dropped.
    """
    engine = keeper.engine
    items = engine.materialise(steps.remaining_items(keeper.events))
    lone = engine.materialise(steps.domains_with_one_item(items))
    if not rows(lone):
        return items, False
    empty = "every domain has one item only, which cannot be ranked; use another log"
    keeper.run(steps.Step("lone_item", lambda events: events.anti_join(lone, "domain"), empty))
    return engine.materialise(steps.remaining_items(keeper.events)), True


# --- the ids behind the numbers: as large as users and items, not as events ---------------------


def check_domain_count(items: Table) -> None:
    """UserError for more than MAX_DOMAINS domains in `item_ids`."""
    found = items.select("home").distinct().order_by("home").limit(MAX_DOMAINS + 1).to_pyarrow()
    if len(found) > MAX_DOMAINS:
        some = ", ".join(found["home"].to_pylist()[:3])
        raise UserError(
            f"the log has more than {MAX_DOMAINS} domains ({some}, …): a domain is a shop or a "
            "category, not an item; is --domain_col right?"
        )


def domain_names(kept_items: Table, items: Table) -> list[str]:
    """[D] the names of the domains that remain. UserError for a name that cannot be
    shown, or that results have taken."""
    kept = items.semi_join(kept_items, "item").select("domain_number", "home").distinct()
    names = kept.order_by("domain_number").to_pyarrow()["home"].to_pylist()
    for name in names:
        if fault := domain_name_error(name):
            raise UserError(f"the domain name {repr_short(name)} {fault}; rename it in the log")
    return names


def user_table(kept_users: Table, users: Table) -> pa.Table:
    """[users] user_id, events, in the order of the new numbers."""
    joined = kept_users.inner_join(users.select("user", "user_id"), "user").order_by("new_user")
    return joined.select("user_id", "events").to_pyarrow()


def item_table(kept_items: Table, items: Table) -> pa.Table:
    """[items] item_id, domain (its new number), count, in the order of the new numbers."""
    ids = items.select("item", "item_id").distinct()  # a shared id has a row of each domain
    joined = kept_items.inner_join(ids, "item").order_by("new_item")
    return joined.select("item_id", "count", domain=_.new_domain).to_pyarrow()
