"""Contexts of old and new events: what make_dataset.py makes of the whole log."""

import random

import numpy as np
import pyarrow as pa
import pytest

from src.dataset.store.folder import open_dataset
from src.io.errors import UserError
from src.serving.contexts import History
from src.serving.new_events import match_events, read_new_events
from tests.support.data_logs import (
    DAY,
    HEADER,
    MONTH,
    events_of,
    make,
    random_log,
    sequences_of,
    write_log,
)  # fmt: skip


def as_table(rows) -> pa.Table:
    return pa.table(dict(zip(HEADER, zip(*rows, strict=True), strict=True)))


def contexts_of(history: History, size: int = 1000) -> dict[str, list[tuple]]:
    """{user_id: [(item_id, domain, time), …]} of all users, `size` at a time."""
    events = {}
    for start in range(0, history.users, size):
        block = history.contexts(np.arange(start, min(start + size, history.users)))
        items = block.item_ids.to_pylist()
        for row, user_id in enumerate(block.user_ids.to_pylist()):
            part = range(*block.offsets[row : row + 2])
            events[user_id] = [
                (items[block.items[e] - 1], block.domain_names[block.domains[e]], block.times[e])
                for e in part
            ]
    return events


def whole(folder) -> dict[str, list[tuple]]:
    return {user: [event[:3] for event in row] for user, row in sequences_of(folder).items()}


OPTIONS = {
    "as it is": (),
    "as logged": ("--tie_order=as_logged",),
    "exact": ("--dedup=exact",),
    "consecutive": ("--dedup=consecutive",),
    "repeats": ("--dedup=repeats",),
    "newest": ("--max_len=5",),
    "strip": ("--strip", "--fold_case"),
}


@pytest.mark.parametrize("form", OPTIONS)
def test_the_contexts_are_those_of_a_dataset_of_the_whole_log(tmp_path, form):
    """New events of any time, of new users too, some of which the dataset has already.

    What `--dedup consecutive` has dropped could come back between new events, and what `--max_len`
    has dropped is new again: there the new events are the latest, and none is known.
    """
    late = form in ("consecutive", "newest")
    rows = sorted(set(random_log(events=500)), key=lambda row: (row[3], row))
    if not late:
        random.Random(1).shuffle(rows)
    old, new = rows[:300], rows[300:]
    old = [row for row in old if row[0] not in ("u03", "u17")]  # users of the new events alone
    write_log(tmp_path / "old" / "a.csv", old)
    make(tmp_path / "old", tmp_path / "ds", *OPTIONS[form])
    known = {(item, domain.lower()) for _, item, domain, _ in events_of(tmp_path / "ds")}
    new = [row for row in new if (row[1], row[2].lower()) in known]
    assert {row[0] for row in new} >= {"u03", "u17"}
    if form == "strip":
        new = [(f" {user.upper()}", f"{item} ", domain.upper(), t) for user, item, domain, t in new]
    write_log(tmp_path / "whole" / "a.csv", old)
    write_log(tmp_path / "whole" / "b.csv", new)
    make(tmp_path / "whole", tmp_path / "all", *OPTIONS[form])
    dataset = open_dataset(tmp_path / "ds")
    repeated = [] if late else old[::3]
    matched = match_events(dataset, as_table([*new, *repeated]))
    assert matched.skipped == {"unknown domains": 0, "unknown items": 0}
    history = History(dataset, matched.events)
    assert contexts_of(history) == whole(tmp_path / "all")
    assert contexts_of(history, size=4) == whole(tmp_path / "all")
    every = history.contexts(np.arange(history.users))
    assert every.repeated >= len(repeated)
    if form in ("as it is", "as logged", "exact", "newest", "strip"):
        assert every.repeated == len(repeated)
    assert history.user_ids.to_pylist()[: dataset.users] == dataset.user_ids.to_pylist()
    assert matched.events.user_ids.to_pylist() == ["u03", "u17"]


def test_without_new_events_the_contexts_are_the_dataset(tmp_path):
    make(write_log(tmp_path / "raw" / "a.csv", random_log()), tmp_path / "ds")
    dataset = open_dataset(tmp_path / "ds")
    assert contexts_of(History(dataset), size=7) == whole(tmp_path / "ds")
    assert History(dataset).end == dataset.times.max() + DAY


def test_equal_new_events_are_as_many_as_they_are(tmp_path):
    """Two of one item in a basket: a dataset without --dedup has both."""
    make(write_log(tmp_path / "raw" / "a.csv", random_log()), tmp_path / "ds")
    dataset = open_dataset(tmp_path / "ds")
    item = dataset.item_ids[0].as_py()
    row = ("v", item, dataset.domain_names[0], MONTH)
    history = History(dataset, match_events(dataset, as_table([row, row])).events)
    assert contexts_of(history)["v"] == [row[1:]] * 2


def test_what_the_dataset_does_not_know_is_counted_and_skipped(tmp_path):
    make(write_log(tmp_path / "raw" / "a.csv", random_log()), tmp_path / "ds")
    dataset = open_dataset(tmp_path / "ds")
    item, domain = dataset.item_ids[0].as_py(), dataset.domain_names[0]
    rows = [
        ("v", item, domain, MONTH), ("v", "x\n1", domain, MONTH), ("v", item, "Toys", MONTH),
        ("w", "x2", domain, MONTH), ("w", "x2", "Toys", MONTH),
    ]  # fmt: skip
    matched = match_events(dataset, as_table(rows))
    assert matched.skipped == {"unknown domains": 2, "unknown items": 2}
    assert matched.lines("new.csv") == [
        "new.csv: 5 events of 2 users, 2 of whom the dataset does not have",
        f"new.csv: 2 events of unknown domains are skipped (first: {item} in Toys)",
        f"new.csv: 2 events of unknown items are skipped (first: x 1 in {domain})",
    ]
    contexts = contexts_of(History(dataset, matched.events))
    assert contexts["v"] == [(item, domain, MONTH)]
    assert contexts["w"] == []


def test_a_shared_item_is_known_in_every_domain(tmp_path):
    rows = [("u", "a", "A", MONTH), ("u", "b", "B", MONTH), ("u", "c", "A", 9), ("u", "d", "B", 9)]
    make(write_log(tmp_path / "raw" / "a.csv", rows), tmp_path / "ds", "--shared_items")
    dataset = open_dataset(tmp_path / "ds")
    matched = match_events(dataset, as_table([("v", "a", "B", 5), ("v", "e", "B", 6)]))
    assert matched.skipped == {"unknown domains": 0, "unknown items": 1}
    assert contexts_of(History(dataset, matched.events))["v"] == [("a", "A", 5)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop_columns("domain"), "there is no domain among user_id, item_id"),
        (lambda table: table.set_column(1, "item_id", pa.array([None], pa.string())),
         "item_id is missing in 1 of them"),
        (lambda table: table.set_column(3, "unix_time", pa.array([1.5])), "whole seconds"),
        (lambda table: table.set_column(3, "unix_time", pa.array([1_700_000_000_000])),
         "unix_time 1700000000000 is no time .* not milliseconds"),
        (lambda table: table.set_column(3, "unix_time", pa.array([-1])), "unix_time -1 is no time"),
    ],
)  # fmt: skip
def test_a_table_that_is_no_events(tmp_path, change, said):
    make(write_log(tmp_path / "raw" / "a.csv", random_log()), tmp_path / "ds")
    with pytest.raises(UserError, match=said):
        match_events(open_dataset(tmp_path / "ds"), change(as_table([("u", "1", "A", 5)])))


def test_a_file_is_read_as_the_log_was_unless_flags_say_otherwise(tmp_path):
    header = ("who", "what", "shop", "day")
    rows = [(u, i, d, f"{1 + t % 28:02d}.02.2014") for u, i, d, t in random_log()]
    write_log(tmp_path / "raw" / "a.csv", rows, header)
    as_read = ("--user_col=who", "--item_col=what", "--domain_col=shop", "--time_col=day",
               "--time_format=%d.%m.%Y")  # fmt: skip
    make(tmp_path / "raw", tmp_path / "ds", *as_read)
    dataset = open_dataset(tmp_path / "ds")
    day, item, domain = 1_391_212_800, rows[0][1], rows[0][2]  # 1 February
    write_log(tmp_path / "same.tsv", [("v", item, domain, "01.02.2014")], header)
    write_log(tmp_path / "other.csv", [("v", item, domain, day * 1000)], ("who", "id", "shop", "t"))
    given = {"item_col": "id", "time_col": "t", "time_unit": "milliseconds"}
    for name, flags in (("same.tsv", {}), ("other.csv", given)):
        matched, notes = read_new_events(str(tmp_path / name), dataset, flags)
        assert "read as table" in notes[0]
        assert contexts_of(History(dataset, matched.events))["v"] == [(item, domain, day)]


def test_rows_of_other_types_of_events_do_not_count(tmp_path):
    header = (*HEADER, "event")
    rows = [(*row, "buy") for row in random_log()]
    make(write_log(tmp_path / "raw" / "a.csv", rows, header), tmp_path / "ds", "--events=buy")
    dataset = open_dataset(tmp_path / "ds")
    new = [("v", *rows[0][1:4], "buy"), ("v", *rows[1][1:4], "look")]
    write_log(tmp_path / "new.csv", new, header)
    matched, notes = read_new_events(str(tmp_path / "new.csv"), dataset, {})
    assert matched.rows == 1
    assert any("1 rows are left out (other_events)" in line for line in notes)
    matched, _ = read_new_events(str(tmp_path / "new.csv"), dataset, {"events": ("look",)})
    assert contexts_of(History(dataset, matched.events))["v"] == [rows[1][1:4]]
