"""From raw events to ordered, split and numbered ones: each step declared once, in Ibis.

An event table has the columns user_id, item_id, domain (strings), unix_time (int64), and where the
event stood: file (string), row, place (int64). Each function takes and returns such a table and
runs nothing, unless its docstring says so; all orders are by bytes, the same in every engine.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import ibis
from ibis import _
from ibis.expr.types import IntegerScalar, StringValue, Table

from src.dataset.folder import TEST, TRAIN, VALID
from src.dataset.settings import DatasetSettings

TIE_KEY = "syncrec tie order 1"  # another key would be another, equally meaningless order
IDENTITY = ["domain", "item_id"]
LOGGED = ["file", "row", "place"]


@ibis.udf.scalar.builtin
def bit_length(text: str) -> int:
    """The engine's own: bits of a string in UTF-8 (engines disagree about `length`)."""


def up_to(events: Table, end: int) -> Table:
    """Events before the second `end`."""
    return events.filter(_.unix_time < end)


def in_domains(events: Table, domains: tuple[str, ...]) -> Table:
    """Events of the named domains."""
    return events.filter(_.domain.isin(domains))


def share_items(events: Table) -> Table:
    """One item an id: all its events move to the domain where most of them are.

    Of domains with equally many events, the first by name.
    """
    counts = events.group_by(["item_id", "domain"]).agg(n=_.count())
    best = ibis.window(group_by="item_id", order_by=[ibis.desc("n"), ibis.asc("domain")])
    homes = (
        counts.mutate(rank=ibis.row_number().over(best))
        .filter(_.rank == 0)
        .select("item_id", home="domain")
    )
    moved = events.inner_join(homes, "item_id").mutate(domain=_.home)
    return moved.select(events.columns)


def tie_hash(user: StringValue, item: StringValue, domain: StringValue) -> StringValue:
    """SHA-256 of (TIE_KEY, user, item, domain) in hex; a field is written `bytes:text`."""
    fields = [ibis.literal(TIE_KEY), user, item, domain]
    prefixed = [(bit_length(field) // 8).cast("string") + ":" + field for field in fields]
    return ibis.literal("").concat(*prefixed).hexdigest("sha256")


def with_order(events: Table, tie_order: str) -> Table:
    """Add `position`, the place of an event among its user's, from 0.

    By time; events of equal time by `tie_hash` (`hashed`) or as the log has them (`as_logged`).
    Exact duplicates tie in the hash too: they are interchangeable.
    """
    if tie_order == "as_logged":
        ties = LOGGED
    else:
        events = events.mutate(tie=tie_hash(events.user_id, events.item_id, events.domain))
        ties = ["tie"]
    window = ibis.window(group_by="user_id", order_by=["unix_time", *ties])
    return events.mutate(position=ibis.row_number().over(window))


def without_exact_repeats(events: Table) -> Table:
    """Of events with the same user, item, domain and time, the first in the log."""
    same = ibis.window(group_by=["user_id", *IDENTITY, "unix_time"], order_by=LOGGED)
    first = events.mutate(copy=ibis.row_number().over(same)).filter(_.copy == 0)
    return first.select(events.columns)


def without_consecutive_repeats(events: Table, tie_order: str) -> Table:
    """Events whose item is not that of the user's event before."""
    window = ibis.window(group_by="user_id", order_by="position")
    before = {f"{name}_before": _[name].lag().over(window) for name in IDENTITY}
    ordered = with_order(events, tie_order).mutate(**before)
    repeated = (_.item_id == _.item_id_before) & (_.domain == _.domain_before)
    return ordered.filter(~repeated.fill_null(False)).select(events.columns)


def of_users_with(events: Table, least: int) -> Table:
    """Events of users that have at least `least`."""
    users = events.group_by("user_id").agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(users, "user_id")


def of_items_with(events: Table, least: int) -> Table:
    """Events of items that have at least `least`."""
    items = events.group_by(IDENTITY).agg(n=_.count()).filter(_.n >= least)
    return events.semi_join(items, IDENTITY)


def of_users_in_domains(events: Table, least: int) -> Table:
    """Events of users active in at least `least` domains."""
    users = events.group_by("user_id").agg(n=_.domain.nunique()).filter(_.n >= least)
    return events.semi_join(users, "user_id")


def newest(events: Table, length: int, tie_order: str) -> Table:
    """The last `length` events of each user."""
    ordered = with_order(events, tie_order)
    size = _.position.max().over(ibis.window(group_by="user_id")) + 1
    return ordered.mutate(size=size).filter(_.position >= _.size - length).select(events.columns)


def hold_out_last(ordered: Table, within: list[str]) -> Table:
    """Add `split`: in each group of equal `within` the last event TEST, the one before VALID.

    The others are TRAIN, and a group of fewer than 3 events entirely: nothing would be left to
    learn from.
    """
    backwards = ibis.window(group_by=within, order_by=ibis.desc("position"))
    counted = ordered.mutate(
        later=ibis.row_number().over(backwards),
        size=_.position.count().over(ibis.window(group_by=within)),
    )
    split = ibis.cases(
        (counted.size < 3, TRAIN), (counted.later == 0, TEST), (counted.later == 1, VALID),
        else_=TRAIN,
    )  # fmt: skip
    return counted.mutate(split=split.cast("int8")).drop("later", "size")


def temporal(ordered: Table, valid_from: int, test_from: int) -> Table:
    """Add `split`: events from second `test_from` on TEST, from `valid_from` on VALID, else TRAIN.

    Events of one time are on one side of a cut, whoever's they are.
    """
    split = ibis.cases(
        (ordered.unix_time >= test_from, TEST), (ordered.unix_time >= valid_from, VALID),
        else_=TRAIN,
    )  # fmt: skip
    return ordered.mutate(split=split.cast("int8"))


def start_of_newest(events: Table, count: int) -> IntegerScalar:
    """The latest time that at least `count` events do not come before.

    From the counts of the distinct times: ORDER BY with OFFSET, which says the same, is not exact
    in every engine.
    """
    newest_first = ibis.cumulative_window(order_by=ibis.desc("unix_time"))
    counts = events.group_by("unix_time").agg(n=_.count())
    reached = counts.mutate(newest=_.n.sum().over(newest_first))
    return reached.filter(_.newest >= count).unix_time.max()


def domain_ids(events: Table) -> Table:
    """[domains] domain_number, domain: numbered from 0 by name."""
    names = events.select("domain").distinct()
    numbered = names.mutate(domain_number=ibis.row_number().over(order_by="domain"))
    return numbered.select("domain_number", "domain")


def item_ids(events: Table) -> Table:
    """[items] item, item_id, domain, count: numbered from 1 by (domain, item_id), so that the
    items of a domain are neighbours."""
    items = events.group_by(IDENTITY).agg(count=_.count())
    numbered = items.mutate(item=ibis.row_number().over(order_by=IDENTITY) + 1)
    return numbered.select("item", "item_id", "domain", "count")


def user_ids(events: Table) -> Table:
    """[users] user, user_id: numbered from 0 by user_id."""
    users = events.select("user_id").distinct()
    numbered = users.mutate(user=ibis.row_number().over(order_by="user_id"))
    return numbered.select("user", "user_id")


def numbered_events(ordered: Table, users: Table, items: Table, domains: Table) -> Table:
    """[events] user, item, domain, time, split: numbers in place of ids, by user, then in order."""
    joined = (
        ordered.inner_join(users, "user_id")
        .inner_join(items, IDENTITY)
        .inner_join(domains, "domain")
    )
    return joined.order_by(["user", "position"]).select(
        user=_.user.cast("int64"),
        item=_.item.cast("int32"),
        domain=_.domain_number.cast("int16"),
        time=_.unix_time,
        split=_.split,
    )


# Each adds `split` to a table with `position`; `temporal` is also told where its cuts are.
SPLITS: dict[str, Callable[..., Table]] = {
    "leave_one_out": partial(hold_out_last, within=["user_id"]),
    "leave_one_out_per_domain": partial(hold_out_last, within=["user_id", "domain"]),
    "temporal": temporal,
}


@dataclass(frozen=True)
class Step:
    """A step that drops events."""

    reason: str  # the card's word for what it dropped
    keep: Callable[[Table], Table]
    when_empty: str  # what to tell the user when nothing is left


def selection_steps(settings: DatasetSettings, end: int) -> list[Step]:
    """Which part of the log is meant: events before second `end`, and the domains."""
    late = f"no event up to --strd_ym {settings.strd_ym}; take a later month"
    steps = [Step("after_cutoff", partial(up_to, end=end), f"the log has {late}")]
    if settings.domains:
        keep = partial(in_domains, domains=settings.domains)
        empty = f"--domains {shlex.join(settings.domains)} have {late}"
        steps.append(Step("other_domains", keep, empty))
    return steps


def dedup_steps(settings: DatasetSettings) -> list[Step]:
    """What `--dedup` asks for."""
    keep = {
        "exact": without_exact_repeats,
        "consecutive": partial(without_consecutive_repeats, tie_order=settings.tie_order),
    }
    if settings.dedup == "none":
        return []
    return [_filter(settings, "dedup", keep[settings.dedup])]


def filter_steps(settings: DatasetSettings) -> list[Step]:
    """The filters that are repeated together until none drops an event."""
    filters = {
        "min_user_events": of_users_with,
        "min_item_events": of_items_with,
        "min_domains": of_users_in_domains,
    }
    return [
        _filter(settings, name, partial(keep, least=getattr(settings, name)))
        for name, keep in filters.items()
        if getattr(settings, name) > 1
    ]


def length_steps(settings: DatasetSettings) -> list[Step]:
    """What `--max_len` asks for."""
    if not settings.max_len:
        return []
    keep = partial(newest, length=settings.max_len, tie_order=settings.tie_order)
    return [_filter(settings, "max_len", keep)]


def _filter(settings: DatasetSettings, name: str, keep: Callable[[Table], Table]) -> Step:
    """The step of a flag, under the flag's name."""
    return Step(name, keep, f"--{name} {getattr(settings, name)} leaves no event; lower it")
