"""From raw events to ordered, split and numbered ones: each step declared once, in Ibis.

A raw event table has the columns user_id, item_id, domain (strings), unix_time (int64), and where
the event stood: file (string), row, place (int64). Numbering makes of it a table of NUMBERS, with
the place in the log where `--tie_order as_logged` needs it. Every function takes and returns tables
and runs nothing; all orders are by bytes, the same in every engine.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import ibis
from ibis import _
from ibis.expr.types import BooleanValue, IntegerScalar, StringValue, Table

from src.config.dataset_settings import DatasetSettings
from src.dataset.store.folder import TEST, TRAIN, VALID

TIE_KEY = "syncrec tie order 1"  # another key would be another, equally meaningless order
TIE_DIGITS = 12  # 48 bits; should two hashes agree in them, the item decides
IDENTITY = ["domain", "item_id"]
NUMBERS = ["user", "item", "domain", "time"]
LOGGED = ["file", "row", "place"]


@ibis.udf.scalar.builtin
def bit_length(text: str) -> int:
    """The engine's own: bits of a string in UTF-8 (engines disagree about `length`)."""


# --- which part of the log ----------------------------------------------------------------------


def up_to(events: Table, end: int) -> BooleanValue:
    """[events] whether an event comes before the second `end`."""
    return events.unix_time < end


def in_domains(events: Table, domains: tuple[str, ...]) -> BooleanValue:
    """[events] whether an event is of a named domain; all are, where none is named."""
    return events.domain.isin(domains) if domains else ibis.literal(True)


# --- numbers in place of ids --------------------------------------------------------------------


def user_ids(events: Table) -> Table:
    """[users] user, user_id, user_fields: numbered from 0 by user_id."""
    users = events.select("user_id").distinct()
    key = f"{len(TIE_KEY)}:{TIE_KEY}"
    return users.mutate(
        user=ibis.row_number().over(order_by="user_id").cast("int64"),
        user_fields=ibis.literal(key) + tie_field(users.user_id),
    )


def item_ids(events: Table, shared: bool) -> Table:
    """[(domain, item_id)] the item of each: item, domain_number, home (its domain), item_fields.

    Items are numbered from 1 by (home, item_id), so that the items of a domain are neighbours,
    domains from 0 by name. An item's home is where it occurs, or with `shared` the domain where
    its id occurs most often (of equally frequent ones the first by name): then an id is one item.
    """
    items = events.group_by(IDENTITY).agg(count=_.count())
    if shared:
        best = ibis.window(group_by="item_id", order_by=[ibis.desc("count"), ibis.asc("domain")])
        items = items.mutate(home=_.domain.first().over(best))
    else:
        items = items.mutate(home=_.domain)
    numbers = {
        "item": ibis.dense_rank().over(order_by=["home", "item_id"]) + 1,
        "domain_number": ibis.dense_rank().over(order_by="home"),
    }
    numbered = items.mutate(**numbers)
    return numbered.select(
        *IDENTITY,
        "home",
        item=_.item.cast("int32"),
        domain_number=_.domain_number.cast("int16"),
        item_fields=tie_field(numbered.item_id) + tie_field(numbered.home),
    )


def tie_field(text: StringValue) -> StringValue:
    """A field of what `tie_hash` hashes: `bytes:text`."""
    return (bit_length(text) >> 3).cast("string") + ":" + text


def tie_hash(user_fields: StringValue, item_fields: StringValue) -> StringValue:
    """The first digits of SHA-256 of the fields (TIE_KEY, user, item, domain), in hex.

    The fields of the user and of the item are made once for each of them, not for each event.
    """
    return (user_fields + item_fields).hexdigest("sha256").substr(0, TIE_DIGITS)


def numbered_events(events: Table, users: Table, items: Table, as_logged: bool) -> Table:
    """[events] user (int64), item (int32), domain (int16), time (int64), on request the place in
    the log."""
    joined = events.inner_join(users, "user_id").inner_join(items, IDENTITY)
    logged = {name: _[name] for name in LOGGED if as_logged}
    return joined.select(
        user=_.user, item=_.item, domain=_.domain_number, time=_.unix_time, **logged
    )


def remaining_users(events: Table) -> Table:
    """[users] user, new_user, events: numbered anew from 0 in the old order."""
    counts = events.group_by("user").agg(events=_.count())
    return counts.mutate(new_user=ibis.row_number().over(order_by="user").cast("int64"))


def remaining_items(events: Table) -> Table:
    """[items] item, new_item, domain, new_domain, count: numbered anew in the old order."""
    counts = events.group_by("item", "domain").agg(count=_.count())
    return counts.mutate(
        new_item=(ibis.row_number().over(order_by="item") + 1).cast("int32"),
        new_domain=ibis.dense_rank().over(order_by="domain").cast("int16"),
    )


def renumbered(events: Table, users: Table, items: Table) -> Table:
    """The events with the new numbers of `remaining_users` and `remaining_items`."""
    joined = events.inner_join(users.select("user", "new_user"), "user").inner_join(
        items.select("item", "new_item", "new_domain"), "item"
    )
    kept = {name: _[name] for name in events.columns if name not in ("user", "item", "domain")}
    return joined.select(user=_.new_user, item=_.new_item, domain=_.new_domain, **kept)


# --- filters ------------------------------------------------------------------------------------


def first_of(events: Table, same: list[str]) -> Table:
    """Of events that are equal in the columns `same`, user and item among them, the first.

    Without a place in the log, those of equal time are duplicates: whichever stays is the same.
    """
    order = [name for name in ["time", *LOGGED] if name in events.columns and name not in same]
    window = ibis.window(group_by=same, order_by=order)
    first = events.mutate(copy=ibis.row_number().over(window)).filter(_.copy == 0)
    return first.select(events.columns)


def without_consecutive_repeats(ordered: Table) -> Table:
    """Events whose item is not that of the user's event before."""
    window = ibis.window(group_by="user", order_by="position")
    marked = ordered.mutate(item_before=_.item.lag().over(window))
    return marked.filter((_.item != _.item_before).fill_null(True))


def of_users_with(events: Table, least: int) -> Table:
    """Events of users that have at least `least`."""
    users = events.group_by("user").agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(users, "user")


def of_users_within(events: Table, most: int) -> Table:
    """Events of users that have at most `most`."""
    users = events.group_by("user").agg(n=_.count()).filter(_.n <= most)
    return events.semi_join(users, "user")


def of_items_with(events: Table, least: int) -> Table:
    """Events of items that have at least `least`."""
    items = events.group_by("item").agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(items, "item")


def of_users_in_domains(events: Table, least: int) -> Table:
    """Events of users active in at least `least` domains."""
    active = events.select("user", "domain").distinct()
    users = active.group_by("user").agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(users, "user")


def domains_with_one_item(items: Table) -> Table:
    """[domains] domain: those of `remaining_items` that nothing can be ranked in."""
    return items.group_by("domain").agg(n=_.count()).filter(_.n == 1).select("domain")


def newest(ordered: Table, length: int) -> Table:
    """The last `length` events of each user."""
    return ordered.filter(_.position >= _.size - length)


# --- order and split ----------------------------------------------------------------------------


def with_order(events: Table, ties: list[str]) -> Table:
    """Add `position`, the place of an event among its user's, from 0, and `size`, how many the
    user has; and `tied`, whether it shares its time with another. By time, then by `ties`."""
    order = ibis.window(group_by="user", order_by=["time", *ties])
    tied = (_.time.lag().over(order) == _.time) | (_.time.lead().over(order) == _.time)
    return events.mutate(
        position=ibis.row_number().over(order).cast("int64"),
        size=_.count().over(ibis.window(group_by="user")).cast("int64"),
        tied=tied.fill_null(False),
    )


def with_ties_hashed(ordered: Table, users: Table, items: Table) -> Table:
    """Events of a user and time in the order of `tie_hash`, in place of the order they came in.

    Should two hashes agree, the item decides; if it is the same, they are duplicates. Only events
    that share their time are hashed: `ordered` is from `with_order`, users from `user_ids`, items
    from `item_ids`.
    """
    fields = items.select("item", "item_fields").distinct()  # an id can occur in several domains
    tied = ordered.filter(_.tied).inner_join(users.select("user", "user_fields"), "user")
    tied = tied.inner_join(fields, "item")
    hashed = tied.mutate(tie=tie_hash(tied.user_fields, tied.item_fields))
    same = ["user", "time"]
    place = ibis.row_number().over(ibis.window(group_by=same, order_by=["tie", "item"]))
    first = _.position.min().over(ibis.window(group_by=same))
    settled = hashed.mutate(position=(first + place).cast("int64")).select(ordered.columns)
    return ordered.filter(~_.tied).union(settled)


def hold_out_last(ordered: Table) -> Table:
    """Add `split`: of each user the last event TEST, the one before it VALID.

    The others are TRAIN, and a user of fewer than 3 events entirely: nothing would be left to
    learn from.
    """
    return _held_out(ordered, ordered.size - ordered.position - 1, ordered.size)


def hold_out_last_of_each_domain(ordered: Table) -> Table:
    """`hold_out_last` among the events of each user and domain."""
    within = ["user", "domain"]
    backwards = ibis.window(group_by=within, order_by=ibis.desc("position"))
    counted = ordered.mutate(
        later=ibis.row_number().over(backwards),
        own_size=_.count().over(ibis.window(group_by=within)),
    )
    return _held_out(counted, counted.later, counted.own_size).drop("later", "own_size")


def _held_out(events: Table, later: ibis.Value, size: ibis.Value) -> Table:
    """Split by how many events come later among how many."""
    split = ibis.cases((size < 3, TRAIN), (later == 0, TEST), (later == 1, VALID), else_=TRAIN)
    return events.mutate(split=split.cast("int8"))


def temporal(ordered: Table, valid_from: int, test_from: int) -> Table:
    """Add `split`: events from second `test_from` on TEST, from `valid_from` on VALID, else TRAIN.

    Events of one time are on one side of a cut, whoever's they are.
    """
    split = ibis.cases(
        (ordered.time >= test_from, TEST), (ordered.time >= valid_from, VALID), else_=TRAIN
    )
    return ordered.mutate(split=split.cast("int8"))


def start_of_newest(events: Table, count: int) -> IntegerScalar:
    """The latest time that at least `count` events do not come before.

    From the counts of the distinct times: ORDER BY with OFFSET, which says the same, is not exact
    in every engine.
    """
    newest_first = ibis.cumulative_window(order_by=ibis.desc("time"))
    counts = events.group_by("time").agg(n=_.count())
    reached = counts.mutate(newest=_.n.sum().over(newest_first))
    return reached.filter(_.newest >= count).time.max()


# Each adds `split` to a table of `with_order`; `temporal` is also told where its cuts are.
SPLITS: dict[str, Callable[..., Table]] = {
    "leave_one_out": hold_out_last,
    "leave_one_out_per_domain": hold_out_last_of_each_domain,
    "temporal": temporal,
}


# --- what the flags ask for ---------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A step that drops numbered events."""

    reason: str  # the card's word for what it dropped
    keep: Callable[[Table], Table]
    when_empty: str  # what to tell the user when nothing is left
    ordered: bool = False  # it is given the columns of `with_order`


def first_steps(settings: DatasetSettings) -> list[Step]:
    """What is done once, before the filters: `--dedup`, `--max_user_events`."""
    keep = {
        "exact": partial(first_of, same=["user", "item", "time"]),
        "repeats": partial(first_of, same=["user", "item"]),
        "consecutive": without_consecutive_repeats,
    }
    steps = []
    if settings.dedup != "none":
        ordered = settings.dedup == "consecutive"
        steps.append(_step(settings, "dedup", keep[settings.dedup], ordered=ordered))
    if settings.max_user_events:
        most = partial(of_users_within, most=settings.max_user_events)
        steps.append(_step(settings, "max_user_events", most, "raise it"))
    return steps


def filter_steps(settings: DatasetSettings) -> list[Step]:
    """The filters that are repeated together until none drops an event."""
    filters = {
        "min_user_events": of_users_with,
        "min_item_events": of_items_with,
        "min_domains": of_users_in_domains,
    }
    return [
        _step(settings, name, partial(keep, least=getattr(settings, name)))
        for name, keep in filters.items()
        if getattr(settings, name) > 1
    ]


def length_steps(settings: DatasetSettings) -> list[Step]:
    """What `--max_len` asks for."""
    if not settings.max_len:
        return []
    keep = partial(newest, length=settings.max_len)
    return [_step(settings, "max_len", keep, ordered=True)]


def _step(
    settings: DatasetSettings,
    name: str,
    keep: Callable[[Table], Table],
    way_out: str = "lower it",
    ordered: bool = False,
) -> Step:
    """The step of a flag, under the flag's name."""
    return Step(
        name, keep, f"--{name} {getattr(settings, name)} leaves no event; {way_out}", ordered
    )


def empty_selection(settings: DatasetSettings, in_time: int) -> str:
    """What to tell the user when no event is in the part of the log that was asked for."""
    late = f"no event up to --strd_ym {settings.strd_ym}; take a later month"
    if in_time:
        return f"--domains {shlex.join(settings.domains)} have {late}"
    return f"the log has {late}"
