"""From raw events to numbered, filtered, ordered and split ones: Ibis expressions.

A raw event table has the columns user_id, item_id, domain (strings), unix_time (int64), and the
position in the log: file (string), row, index_in_row (int64). Numbering turns it into a table of
NUMBERS, with the position in the log if `--tie_order as_logged` needs it. Every function takes and
returns tables and runs nothing; all orders are by bytes, the same in every engine.
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
from src.dataset.store.tie_order import TIE_DIGITS, TIE_KEY

IDENTITY = ["domain", "item_id"]
NUMBERS = ["user", "item", "domain", "time"]
LOGGED = ["file", "row", "index_in_row"]


@ibis.udf.scalar.builtin
def bit_length(text: str) -> int:  # type: ignore[empty-body]
    """The engine's function: bits of a string in UTF-8 (engines disagree about `length`)."""


# --- months and domains ----------------------------------------------------------------------


def up_to(events: Table, end: int) -> BooleanValue:
    """[events] whether an event is before the second `end`."""
    return events.unix_time < end


def in_domains(events: Table, domains: tuple[str, ...]) -> BooleanValue:
    """[events] whether an event is in one of the domains; all are, if none is named."""
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
    """[(domain, item_id)] its item: item, domain_number, home (the item's domain), item_fields.

    Items are numbered from 1 by (home, item_id), so that the items of a domain are contiguous,
    domains from 0 by name. An item's home is the domain where it occurs, or with `shared` the
    domain where its id occurs most often (ties: the first by name): then an id is one item.
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
    """The first hexadecimal digits of SHA-256 of the fields (TIE_KEY, user, item, domain).

    The fields of users and items are built once per user and item, not once per event.
    """
    return (user_fields + item_fields).hexdigest("sha256").substr(0, TIE_DIGITS)


def numbered_events(events: Table, users: Table, items: Table, as_logged: bool) -> Table:
    """[events] user (int64), item (int32), domain (int16), time (int64); with `as_logged` also the
    position in the log."""
    joined = events.inner_join(users, "user_id").inner_join(items, IDENTITY)
    logged = {name: _[name] for name in LOGGED if as_logged}
    return joined.select(
        user=_.user, item=_.item, domain=_.domain_number, time=_.unix_time, **logged
    )


def remaining_users(events: Table) -> Table:
    """[users] user, new_user, events: renumbered from 0 in the old order."""
    counts = events.group_by("user").agg(events=_.count())
    return counts.mutate(new_user=ibis.row_number().over(order_by="user").cast("int64"))


def remaining_items(events: Table) -> Table:
    """[items] item, new_item, domain, new_domain, count: renumbered in the old order."""
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
    """The first of the events that are equal in the columns `same`, which hold user and item.

    Without a position in the log, those of equal time are duplicates: it does not matter which
    stays.
    """
    order = [name for name in ["time", *LOGGED] if name in events.columns and name not in same]
    window = ibis.window(group_by=same, order_by=order)
    first = events.mutate(copy=ibis.row_number().over(window)).filter(_.copy == 0)
    return first.select(events.columns)


def without_consecutive_repeats(ordered: Table) -> Table:
    """Events whose item differs from that of the user's previous event."""
    window = ibis.window(group_by="user", order_by="position")
    marked = ordered.mutate(item_before=_.item.lag().over(window))
    return marked.filter((_.item != _.item_before).fill_null(True))


def users_with_at_least(events: Table, least: int) -> Table:
    """Events of users with at least `least` events."""
    users = events.group_by("user").agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(users, "user")


def users_with_at_most(events: Table, most: int) -> Table:
    """Events of users with at most `most` events."""
    users = events.group_by("user").agg(n=_.count()).filter(_.n <= most)
    return events.semi_join(users, "user")


def items_with_at_least(events: Table, least: int) -> Table:
    """Events of items with at least `least` events."""
    items = events.group_by("item").agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(items, "item")


def users_in_at_least(events: Table, least: int) -> Table:
    """Events of users active in at least `least` domains."""
    active = events.select("user", "domain").distinct()
    users = active.group_by("user").agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(users, "user")


def domains_with_one_item(items: Table) -> Table:
    """[domains] domain: those of `remaining_items` with a single item, where nothing is ranked."""
    return items.group_by("domain").agg(n=_.count()).filter(_.n == 1).select("domain")


def newest_events(ordered: Table, length: int) -> Table:
    """The last `length` events of each user."""
    return ordered.filter(_.position >= _.size - length)


# --- order and split ----------------------------------------------------------------------------


def with_order(events: Table, ties: list[str]) -> Table:
    """Add `position`, the index of an event in its user's sequence, from 0; `size`, its length; and
    `tied`, whether another event has its time. The order is by time, then by `ties`."""
    order = ibis.window(group_by="user", order_by=["time", *ties])
    tied = (_.time.lag().over(order) == _.time) | (_.time.lead().over(order) == _.time)
    return events.mutate(
        position=ibis.row_number().over(order).cast("int64"),
        size=_.count().over(ibis.window(group_by="user")).cast("int64"),
        tied=tied.fill_null(False),
    )


def with_ties_hashed(ordered: Table, users: Table, items: Table) -> Table:
    """Order events of one user and time by `tie_hash` instead of their previous order.

    If two hashes are equal, the item decides; if it is equal too, they are duplicates. Only events
    that share their time are hashed: `ordered` is from `with_order`, users from `user_ids`, items
    from `item_ids`.
    """
    fields = items.select("item", "item_fields").distinct()  # an id can occur in several domains
    tied = ordered.filter(_.tied).inner_join(users.select("user", "user_fields"), "user")
    tied = tied.inner_join(fields, "item")
    hashed = tied.mutate(tie=tie_hash(tied.user_fields, tied.item_fields))
    same = ["user", "time"]
    rank = ibis.row_number().over(ibis.window(group_by=same, order_by=["tie", "item"]))
    first = _.position.min().over(ibis.window(group_by=same))
    settled = hashed.mutate(position=(first + rank).cast("int64")).select(ordered.columns)
    return ordered.filter(~_.tied).union(settled)


def hold_out_last(ordered: Table) -> Table:
    """Add `split`: the last event of each user is TEST, the one before it VALID.

    The others are TRAIN, as are all events of a user with fewer than 3: nothing would be left to
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
    """Add `split` by the number of later events and of events in all."""
    split = ibis.cases((size < 3, TRAIN), (later == 0, TEST), (later == 1, VALID), else_=TRAIN)
    return events.mutate(split=split.cast("int8"))


def temporal(ordered: Table, valid_from: int, test_from: int) -> Table:
    """Add `split`: TEST from second `test_from` on, VALID from `valid_from` on, else TRAIN.

    Events of one time are on the same side of a cut, whichever users they belong to.
    """
    split = ibis.cases(
        (ordered.time >= test_from, TEST), (ordered.time >= valid_from, VALID), else_=TRAIN
    )
    return ordered.mutate(split=split.cast("int8"))


def start_of_newest(events: Table, count: int) -> IntegerScalar:
    """The latest time that at least `count` events are not before.

    From the counts of the distinct times: the equivalent ORDER BY with OFFSET is not exact in every
    engine.
    """
    newest_first = ibis.cumulative_window(order_by=ibis.desc("time"))
    counts = events.group_by("time").agg(n=_.count())
    reached = counts.mutate(newest=_.n.sum().over(newest_first))
    return reached.filter(_.newest >= count).time.max()


# Each adds `split` to a table of `with_order`; `temporal` also takes its cuts.
SPLITS: dict[str, Callable[..., Table]] = {
    "leave_one_out": hold_out_last,
    "leave_one_out_per_domain": hold_out_last_of_each_domain,
    "temporal": temporal,
}


# --- the steps of the flags ---------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A step that drops numbered events."""

    reason: str  # under which the card counts the dropped events
    keep: Callable[[Table], Table]
    empty_error: str  # the error message if nothing is left
    needs_order: bool = False  # whether `keep` reads the columns of `with_order`


def first_steps(settings: DatasetSettings) -> list[Step]:
    """Steps that run once, before the filters: `--dedup`, `--max_user_events`."""
    keep: dict[str, Callable[[Table], Table]] = {
        "exact": partial(first_of, same=["user", "item", "time"]),
        "repeats": partial(first_of, same=["user", "item"]),
        "consecutive": without_consecutive_repeats,
    }
    steps = []
    if settings.dedup != "none":
        needs_order = settings.dedup == "consecutive"
        steps.append(_step(settings, "dedup", keep[settings.dedup], needs_order=needs_order))
    if settings.max_user_events:
        most = partial(users_with_at_most, most=settings.max_user_events)
        steps.append(_step(settings, "max_user_events", most, "raise it"))
    return steps


def filter_steps(settings: DatasetSettings) -> list[Step]:
    """The filters, which are repeated until none drops an event."""
    filters: dict[str, Callable[..., Table]] = {
        "min_user_events": users_with_at_least,
        "min_item_events": items_with_at_least,
        "min_domains": users_in_at_least,
    }
    return [
        _step(settings, name, partial(keep, least=getattr(settings, name)))
        for name, keep in filters.items()
        if getattr(settings, name) > 1
    ]


def length_steps(settings: DatasetSettings) -> list[Step]:
    """The step of `--max_len`."""
    if not settings.max_len:
        return []
    keep = partial(newest_events, length=settings.max_len)
    return [_step(settings, "max_len", keep, needs_order=True)]


def _step(
    settings: DatasetSettings,
    name: str,
    keep: Callable[[Table], Table],
    remedy: str = "lower it",
    needs_order: bool = False,
) -> Step:
    """The step of a flag, with the flag's name as its reason."""
    return Step(
        name, keep, f"--{name} {getattr(settings, name)} leaves no event; {remedy}", needs_order
    )


def empty_selection(settings: DatasetSettings, in_time: int) -> str:
    """The error message if no event is in the selected months and domains."""
    late = f"no event up to --strd_ym {settings.strd_ym}; choose a later month"
    if in_time:
        return f"--domains {shlex.join(settings.domains)} have {late}"
    return f"the log has {late}"
