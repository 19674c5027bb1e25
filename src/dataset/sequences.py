"""All users' sequences in memory: what the events become, before they are written."""

import shlex
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from ibis.backends import BaseBackend
from ibis.expr.types import Table

from src.dataset import events as steps
from src.dataset.engine import materialise, release, rows
from src.dataset.folder import ARRAYS
from src.dataset.settings import DatasetSettings, as_date, cutoff, first_second, month_of
from src.errors import UserError


@dataclass(frozen=True)
class Sequences:
    """Numbered events, by user and then in order, and the ids behind the numbers."""

    domain_names: list[str]  # D
    item_ids: pa.ChunkedArray  # [items] strings; item i stands at i - 1
    item_domains: np.ndarray  # [items] int16
    user_ids: pa.ChunkedArray  # [users] strings
    offsets: np.ndarray  # [users + 1] int64
    items: np.ndarray  # [events] int32
    domains: np.ndarray  # [events] int16
    times: np.ndarray  # [events] int64
    split: np.ndarray  # [events] int8
    cuts: dict[str, int] = field(default_factory=dict)  # those of `find_cuts`

    @property
    def users(self) -> np.ndarray:
        """[events] int64: whose event it is."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def select_events(
    engine: BaseBackend, events: Table, settings: DatasetSettings
) -> tuple[Table, dict[str, int]]:
    """Run the steps that drop events; what remains, and {reason: events dropped}.

    `events` must be materialised; it is released. The filters are repeated until a whole round
    drops nothing. UserError when nothing remains.
    """
    dropped: dict[str, int] = {}
    _check_choice(events, settings)

    def run(events: Table, step: steps.Step) -> Table:
        kept = materialise(engine, step.keep(events))
        remaining = rows(kept)
        dropped[step.reason] = dropped.get(step.reason, 0) + rows(events) - remaining
        if not remaining:
            raise UserError(step.when_empty)
        release(engine, events)
        return kept

    for step in steps.selection_steps(settings, cutoff(settings.strd_ym)):
        events = run(events, step)
    if settings.shared_items:
        shared = materialise(engine, steps.share_items(events))
        release(engine, events)
        events = shared
    for step in steps.dedup_steps(settings):
        events = run(events, step)
    before = None
    while before != (before := rows(events)):
        for step in steps.filter_steps(settings):
            events = run(events, step)
    for step in steps.length_steps(settings):
        events = run(events, step)
    return events, dropped


def build_sequences(engine: BaseBackend, events: Table, settings: DatasetSettings) -> Sequences:
    """Order, split and number the events.

    UserError for a domain with one item, and for cuts in time that leave a part without events.
    """
    cuts = find_cuts(events, settings)
    ordered = steps.SPLITS[settings.split](steps.with_order(events, settings.tie_order), **cuts)
    domains = materialise(engine, steps.domain_ids(events))
    items = materialise(engine, steps.item_ids(events))
    users = materialise(engine, steps.user_ids(events))
    numbered = steps.numbered_events(ordered, users, items, domains).to_pyarrow()
    columns = {name: numbered[name].to_numpy() for name in numbered.column_names}
    names = domains.order_by("domain_number").to_pyarrow()["domain"].to_pylist()
    item_table = items.inner_join(domains, "domain").order_by("item").to_pyarrow()
    sequences = Sequences(
        domain_names=names,
        item_ids=item_table["item_id"],
        item_domains=item_table["domain_number"].to_numpy().astype(ARRAYS["domains"]),
        user_ids=users.order_by("user").to_pyarrow()["user_id"],
        offsets=np.concatenate([[0], np.cumsum(np.bincount(columns["user"]))]).astype(np.int64),
        items=columns["item"].astype(ARRAYS["items"]),
        domains=columns["domain"].astype(ARRAYS["domains"]),
        times=columns["time"].astype(ARRAYS["times"]),
        split=columns["split"].astype(ARRAYS["split"]),
        cuts=cuts,
    )
    _check_domains(sequences)
    return sequences


def find_cuts(events: Table, settings: DatasetSettings) -> dict[str, int]:
    """The seconds `valid_from` and `test_from` of a temporal split; nothing for the other splits.

    Without dates, the times of the events at the shares; events of the very time of a cut are
    all after it. UserError when a part would have no event.
    """
    if settings.split != "temporal":
        return {}
    if settings.valid_from:
        dates = {"valid_from": settings.valid_from, "test_from": settings.test_from}
        cuts = {name: first_second(date, name) for name, date in dates.items()}
    else:
        shares = {
            "valid_from": settings.valid_share + settings.test_share,
            "test_from": settings.test_share,
        }
        total = rows(events)
        cuts = {
            name: steps.start_of_newest(events, round(share * total)).to_pyarrow().as_py()
            for name, share in shares.items()
        }
    _check_cuts(events, cuts)
    return cuts


def _check_cuts(events: Table, cuts: dict[str, int]) -> None:
    """Each of the three parts has an event."""
    times = events.unix_time
    parts = {
        "training": times < cuts["valid_from"],
        "validation": (times >= cuts["valid_from"]) & (times < cuts["test_from"]),
        "test": times >= cuts["test_from"],
    }
    counts = events.agg(**{name: part.sum() for name, part in parts.items()}).to_pyarrow()
    for name in parts:
        if not counts[name][0].as_py():
            first, last = (
                as_date(time.to_pyarrow().as_py()) for time in (times.min(), times.max())
            )
            raise UserError(
                f"--split temporal leaves no {name} event: validation from "
                f"{as_date(cuts['valid_from'])}, test from {as_date(cuts['test_from'])}, and the "
                f"events run from {first} to {last}; choose other dates or shares"
            )


def _check_choice(events: Table, settings: DatasetSettings) -> None:
    """The month is not before the log, and the domains asked for are in it."""
    known = events.select("domain").distinct().order_by("domain").to_pyarrow()["domain"].to_pylist()
    unknown = sorted(set(settings.domains) - set(known))
    if unknown:
        raise UserError(
            f"--domains {' '.join(unknown)}: no such domain in the log; it has {', '.join(known)}"
        )
    first = events.unix_time.min().to_pyarrow().as_py()
    if first >= cutoff(settings.strd_ym):
        raise UserError(
            f"--strd_ym {settings.strd_ym} is before the first event of the log; "
            f"its first month is {month_of(first)}"
        )


def _check_domains(sequences: Sequences) -> None:
    """A domain with one item cannot be ranked: every score is right."""
    names = sequences.domain_names
    taken = {"macro", "users"} & set(names)
    if taken:
        raise UserError(
            f"domain {taken.pop()!r} has the name of a mean in the results; rename it in the log"
        )
    lone = np.flatnonzero(np.bincount(sequences.item_domains, minlength=len(names)) == 1)
    if len(lone):
        others = [name for d, name in enumerate(names) if d not in lone]
        way_out = (
            f"leave it out with --domains {shlex.join(others)}" if others else "use another log"
        )
        raise UserError(
            f"domain {names[lone[0]]!r} has one item only, which cannot be ranked; {way_out}"
        )
