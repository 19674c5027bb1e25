"""From events to sequences: cut-off, repeats, filters, order, split and numbers, by the command."""

import hashlib
from collections import Counter, defaultdict

import ibis
import pyarrow.parquet as pq
import pytest

from src.dataset.engine.duckdb_engine import open_duckdb
from src.dataset.store.folder import TEST, TRAIN, VALID, open_dataset
from tests.support.data_logs import (
    DAY,
    MONTH,
    card_of,
    events_of,
    make,
    random_log,
    sequences_of,
    write_log,
)


@pytest.fixture
def log(tmp_path):
    """A raw folder with a random log in it, and its rows."""
    rows = random_log()
    return write_log(tmp_path / "raw" / "events.csv", rows), rows


def test_a_stored_step_has_the_columns_and_types_of_its_table(tmp_path):
    with open_duckdb(1, "", tmp_path) as engine:
        table = ibis.range(5).unnest().name("n").as_table()
        sums = table.agg(**{"a sum": ibis._.n.sum(), "least": ibis._.n.min().cast("int8")})
        stored = engine.materialise(sums)  # DuckDB itself adds int64 up to int128
        assert stored.schema() == engine.backend.table(stored.op().name).schema() == sums.schema()
        assert stored.to_pyarrow().to_pylist() == [{"a sum": 10, "least": 0}]


# --- order and split ----------------------------------------------------------------------------


def tie_hash(user, item, domain):
    """SHA-256 of (key, user, item, domain), fields length-prefixed, written out with hashlib."""
    fields = [b"syncrec tie order 1", *(text.encode() for text in (user, item, domain))]
    return hashlib.sha256(b"".join(b"%d:%s" % (len(f), f) for f in fields)).digest()


def test_events_go_by_time_then_by_the_hash_of_user_item_and_domain(log, tmp_path):
    raw, rows = log
    make(raw, tmp_path / "out")
    expected = defaultdict(list)
    for user, item, domain, time in sorted(rows, key=lambda row: (row[3], tie_hash(*row[:3]))):
        expected[user].append((item, domain, time))
    actual = {
        u: [event[:3] for event in events] for u, events in sequences_of(tmp_path / "out").items()
    }
    assert actual == expected
    assert list(actual) == sorted(expected)


def test_as_logged_keeps_the_order_of_files_and_rows_among_ties(tmp_path):
    rows = [("u", f"i{n}", "d", MONTH) for n in (5, 3, 9, 1)]
    write_log(tmp_path / "raw" / "b.csv", rows[2:])
    raw = write_log(tmp_path / "raw" / "a.tsv", rows[:2])
    make(raw, tmp_path / "out", "--tie_order=as_logged")
    assert [item for item, *_ in sequences_of(tmp_path / "out")["u"]] == ["i5", "i3", "i9", "i1"]


def test_the_last_event_is_the_test_target_and_the_one_before_validation(tmp_path):
    rows = [
        (user, f"i{day}", "d", MONTH + DAY * day)
        for user, length in (("one", 1), ("two", 2), ("three", 3), ("five", 5))
        for day in range(length)
    ]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    split = {u: [event[3] for event in s] for u, s in sequences_of(tmp_path / "out").items()}
    assert split == {
        "one": [TRAIN],
        "two": [TRAIN, TRAIN],
        "three": [TRAIN, VALID, TEST],
        "five": [TRAIN, TRAIN, TRAIN, VALID, TEST],
    }


# --- filters ------------------------------------------------------------------------------------


def brute_force_core(rows, users, items, domains):
    """Drop one bad user or item at a time until there is none."""
    rows = list(rows)
    while True:
        per_user = Counter(row[0] for row in rows)
        per_item = Counter(row[1:3] for row in rows)
        active = {user: len({r[2] for r in rows if r[0] == user}) for user in per_user}
        bad = next((u for u in per_user if per_user[u] < users or active[u] < domains), None)
        if bad is not None:
            rows = [row for row in rows if row[0] != bad]
            continue
        bad = next((i for i in per_item if per_item[i] < items), None)
        if bad is None:
            return Counter(rows)
        rows = [row for row in rows if row[1:3] != bad]


@pytest.mark.parametrize(("users", "items", "domains"), [(9, 7, 0), (0, 9, 3), (14, 0, 0)])
def test_filters_reach_the_fixed_point_of_a_brute_force_search(tmp_path, users, items, domains):
    rows = random_log(seed=3, events=300)
    raw = write_log(tmp_path / "raw" / "e.csv", rows)
    flags = [f"--min_user_events={users}", f"--min_item_events={items}", f"--min_domains={domains}"]
    make(raw, tmp_path / "out", *flags)
    expected = brute_force_core(rows, users, items, domains)
    assert 0 < sum(expected.values()) < len(rows)
    assert events_of(tmp_path / "out") == expected


def test_every_dropped_row_has_a_reason(log, tmp_path):
    raw, rows = log
    flags = ["--domains", "Books", "été", "--dedup=exact", "--min_user_events=5"]
    make(raw, tmp_path / "out", *flags, "--min_item_events=6", "--max_len=7", month="201401")
    card = card_of(tmp_path / "out")
    names = ["after_cutoff", "other_domains", "dedup", "min_user_events", "min_item_events"]
    assert list(card["dropped"]) == ["rejected", *names, "max_len"]
    assert card["dropped"]["after_cutoff"] == sum(row[3] >= MONTH + 31 * DAY for row in rows)
    assert card["rows"] == len(rows) == card["events"] + sum(card["dropped"].values())
    assert list(card["domains"]) == ["Books", "été"]


def test_the_cut_off_is_the_last_second_of_the_month_in_utc(tmp_path):
    end = MONTH + 31 * DAY
    rows = [("u", f"i{k}", "d", end - 2 + k) for k in range(4)]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out", month="201401")
    assert [event[2] for event in sequences_of(tmp_path / "out")["u"]] == [end - 2, end - 1]


def test_dedup_exact_keeps_one_of_equal_rows(log, tmp_path):
    raw, rows = log
    make(raw, tmp_path / "out", "--dedup=exact")
    assert len(set(rows)) < len(rows)
    assert events_of(tmp_path / "out") == Counter(set(rows))
    assert card_of(tmp_path / "out")["audit"]["duplicates"]["events"] == 0


def test_dedup_consecutive_keeps_the_first_of_a_run(tmp_path):
    rows = [("u", item, "d", MONTH + day) for day, item in enumerate("aabbbab")]
    rows += [("u", "b", "other", MONTH + 7), ("u", "c", "other", MONTH + 8)]  # another item
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out", "--dedup=consecutive")
    actual = [(item, time - MONTH) for item, _, time, _ in sequences_of(tmp_path / "out")["u"]]
    assert actual == [("a", 0), ("b", 2), ("a", 5), ("b", 6), ("b", 7), ("c", 8)]


def test_max_len_keeps_the_newest_events_of_the_whole_order(log, tmp_path):
    raw, _ = log
    make(raw, tmp_path / "all")
    make(raw, tmp_path / "short", "--max_len=4")
    whole, short = sequences_of(tmp_path / "all"), sequences_of(tmp_path / "short")
    assert {u: [e[:3] for e in s[-4:]] for u, s in whole.items()} == {
        u: [e[:3] for e in s] for u, s in short.items()
    }


# --- items and domains --------------------------------------------------------------------------


def test_an_item_id_in_two_domains_is_two_items(tmp_path):
    rows = [("u", item, domain, MONTH) for domain in "ab" for item in ("1", "2")]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    actual = [(row["item"], row["domain"], row["item_id"], row["count"]) for row in items]
    assert actual == [(1, "a", "1", 1), (2, "a", "2", 1), (3, "b", "1", 1), (4, "b", "2", 1)]


def test_shared_items_go_to_the_domain_with_most_events(tmp_path):
    where = {"x": "aab", "y": "ba", "z": "bba", "w": "bb"}  # y ties: the first name
    rows = [
        (f"u{n}", item, domain, MONTH + n)
        for item, domains in where.items()
        for n, domain in enumerate(domains)
    ]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out", "--shared_items")
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    actual = [(row["item_id"], row["domain"], row["count"]) for row in items]
    assert actual == [("x", "a", 3), ("y", "a", 2), ("w", "b", 2), ("z", "b", 3)]
    assert card_of(tmp_path / "out")["domains"]["a"]["events"] == 5


def test_ids_are_numbered_in_byte_order(tmp_path):
    ids = ["é", "Z", "a", "_", "10", "9", "ﬀ", "𝄞", "B b"]
    rows = [(user, item, "d", MONTH) for user in ids for item in ids]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    expected = sorted(ids, key=str.encode)
    assert data.user_ids.to_pylist() == data.item_ids.to_pylist() == expected
