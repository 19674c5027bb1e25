"""Selecting the events of a dataset: the steps of `transforms.py`, run in an engine."""

import dataclasses
from dataclasses import dataclass

import pyarrow as pa
from ibis import _
from ibis.expr.types import Table

from src.config.dataset_settings import DatasetSettings, end_of_log, month_of
from src.dataset.build import spelling, transforms
from src.dataset.engine.base import Engine, count_rows
from src.dataset.store.card_schema import domain_name_error
from src.io.errors import UserError
from src.io.json_schema import repr_short

MAX_DOMAINS = 500


@dataclass(frozen=True)
class Selection:
    """The events of a dataset, ordered, and the ids behind the numbers."""

    events: Table  # user, item, domain, time; stored in the engine
    ordered: Table  # the same with position and size, renumbered; not run yet
    users: pa.Table  # [users] user_id, events; by user number
    items: pa.Table  # [items] item_id, domain (its number), count; item i is row i - 1
    domain_names: list[str]  # D
    dropped: dict[str, int]  # {reason: events}


class NumberedEvents:
    """Numbered events in an engine, and the steps that drop some of them.

    `events` is materialised, and released when a step has replaced it; `users` and `items` are the
    tables of `number_events`.
    """

    def __init__(self, engine: Engine, events: Table, users: Table, items: Table, tie_order: str):
        self.engine, self.events, self.users, self.items = engine, events, users, items
        self.tie_order = tie_order
        self.rows = count_rows(events)
        self.dropped: dict[str, int] = {}

    def run(self, step: transforms.Step) -> None:
        """Run a step; UserError when nothing is left."""
        columns = self.events.columns
        if step.needs_order:
            self._replace(self.ordered())
        self._replace(step.keep(self.events).select(columns))
        before, self.rows = self.rows, count_rows(self.events)
        self.dropped[step.reason] = self.dropped.get(step.reason, 0) + before - self.rows
        if not self.rows:
            raise UserError(step.empty_error)

    def ordered(self) -> Table:
        """The events with their order: the columns of `transforms.with_order`."""
        if self.tie_order == "as_logged":
            return transforms.with_order(self.events, transforms.LOGGED)
        self._replace(transforms.with_order(self.events, ["item"]))
        return transforms.with_ties_hashed(self.events, self.users, self.items)

    def _replace(self, events: Table) -> None:
        replacement = self.engine.materialise(events)
        self.engine.release(self.events)
        self.events = replacement


def number_events(engine: Engine, events: Table, settings: DatasetSettings) -> NumberedEvents:
    """Replace the ids of the events by numbers."""
    users = engine.materialise(transforms.user_ids(events))
    items = engine.materialise(transforms.item_ids(events, settings.shared_items))
    check_domain_count(items)
    table = transforms.numbered_events(events, users, items, settings.tie_order == "as_logged")
    return NumberedEvents(engine, engine.materialise(table), users, items, settings.tie_order)


def select_events(engine: Engine, events: Table, settings: DatasetSettings) -> Selection:
    """Restrict, number, filter and order raw events; the filters repeat until nothing changes.

    UserError when nothing remains, for a month or domain that the log does not have, and for
    more than MAX_DOMAINS domains.
    """
    restricted, outside = restrict(events, settings)
    numbered = number_events(engine, restricted, settings)
    users, items = run_filters(numbered, settings)
    ordered = numbered.ordered()
    if any(numbered.dropped.values()):
        ordered = transforms.renumbered(ordered, users, items)
    return Selection(
        events=numbered.events,
        ordered=ordered,
        users=user_table(users, numbered.users),
        items=item_table(items, numbered.items),
        domain_names=domain_names(items, numbered.items),
        dropped=outside | numbered.dropped,
    )


def restrict(events: Table, settings: DatasetSettings) -> tuple[Table, dict[str, int]]:
    """The events before the cut-off in the requested domains, ids and domains as `--strip` and
    `--fold_case` write them; the number of others by reason."""
    events = spelling.simplified(events, settings)
    settings = dataclasses.replace(settings, domains=spelling.chosen_domains(settings))
    in_time = transforms.up_to(events, end_of_log(settings))
    chosen = in_time & transforms.in_domains(events, settings.domains)
    sums = events.agg(
        all=_.count(), in_time=in_time.sum(), chosen=chosen.sum(), first=_.unix_time.min()
    )
    counts = sums.to_pyarrow().to_pylist()[0]
    _check_restriction(events, settings, counts)
    dropped = {"after_cutoff": counts["all"] - counts["in_time"]}
    if settings.domains:
        dropped["other_domains"] = counts["in_time"] - counts["chosen"]
    return events.filter(chosen), dropped


def _check_restriction(events: Table, settings: DatasetSettings, counts: dict) -> None:
    """UserError for a month before the log, domains that are not in it, or no event left."""
    if settings.domains:
        present = events.filter(_.domain.isin(settings.domains)).select("domain").distinct()
        unknown = sorted(set(settings.domains) - set(present.to_pyarrow()["domain"].to_pylist()))
        if unknown:
            known = events.select("domain").distinct().order_by("domain").limit(MAX_DOMAINS)
            names = ", ".join(known.to_pyarrow()["domain"].to_pylist())
            raise UserError(
                f"--domains {' '.join(unknown)}: not in the log; its domains are {names}"
            )
    if counts["first"] >= end_of_log(settings):
        raise UserError(
            f"--strd_ym {settings.strd_ym} is before the first event of the log; choose "
            f"{month_of(counts['first'])}, its first month, or a later one"
        )
    if not counts["chosen"]:
        raise UserError(transforms.empty_selection(settings, counts["in_time"]))


def run_filters(numbered: NumberedEvents, settings: DatasetSettings) -> tuple[Table, Table]:
    """Run all steps that drop events; returns `remaining_users` and `remaining_items`."""
    for step in transforms.first_steps(settings):
        numbered.run(step)
    items = reach_core(numbered, settings)
    for step in transforms.length_steps(settings):
        numbered.run(step)
        items, _changed = drop_lone_items(numbered)
    return numbered.engine.materialise(transforms.remaining_users(numbered.events)), items


def reach_core(numbered: NumberedEvents, settings: DatasetSettings) -> Table:
    """Run the filters and drop domains with one item until nothing changes.

    Returns `remaining_items`.
    """
    changed = True
    while changed:
        repeat_filters(numbered, settings)
        items, changed = drop_lone_items(numbered)
    return items


def repeat_filters(numbered: NumberedEvents, settings: DatasetSettings) -> None:
    """Run the filters until a round of all of them drops nothing."""
    before = None
    while before != (before := numbered.rows):
        for step in transforms.filter_steps(settings):
            numbered.run(step)


def drop_lone_items(numbered: NumberedEvents) -> tuple[Table, bool]:
    """Drop the events of domains with one item, which every score ranks first.

    Returns `remaining_items`, materialised, and whether anything was dropped.
    """
    engine = numbered.engine
    items = engine.materialise(transforms.remaining_items(numbered.events))
    lone = engine.materialise(transforms.domains_with_one_item(items))
    if not count_rows(lone):
        return items, False
    empty = "every domain has only one item, which cannot be ranked; use another log"
    numbered.run(
        transforms.Step("lone_item", lambda events: events.anti_join(lone, "domain"), empty)
    )
    return engine.materialise(transforms.remaining_items(numbered.events)), True


# --- the ids behind the numbers: one row per user or item, not per event -----------------------


def check_domain_count(items: Table) -> None:
    """UserError for more than MAX_DOMAINS domains in `item_ids`."""
    names = items.select("home").distinct().order_by("home").limit(MAX_DOMAINS + 1).to_pyarrow()
    if len(names) > MAX_DOMAINS:
        examples = ", ".join(names["home"].to_pylist()[:3])
        raise UserError(
            f"the log has more than {MAX_DOMAINS} domains ({examples}, …), but a domain is a shop "
            "or a category, not an item; check --domain_col"
        )


def domain_names(kept_items: Table, items: Table) -> list[str]:
    """[D] the names of the remaining domains; UserError for one that is reserved or not
    printable."""
    kept = items.semi_join(kept_items, "item").select("domain_number", "home").distinct()
    names = kept.order_by("domain_number").to_pyarrow()["home"].to_pylist()
    for name in names:
        if error := domain_name_error(name):
            raise UserError(f"the domain name {repr_short(name)} {error}; rename it in the log")
    return names


def user_table(kept_users: Table, users: Table) -> pa.Table:
    """[users] user_id, events, in the order of the new numbers."""
    joined = kept_users.inner_join(users.select("user", "user_id"), "user").order_by("new_user")
    return joined.select("user_id", "events").to_pyarrow()


def item_table(kept_items: Table, items: Table) -> pa.Table:
    """[items] item_id, domain (its new number), count, in the order of the new numbers."""
    ids = items.select("item", "item_id").distinct()  # a shared id has one row per domain
    joined = kept_items.inner_join(ids, "item").order_by("new_item")
    return joined.select("item_id", "count", domain=_.new_domain).to_pyarrow()
