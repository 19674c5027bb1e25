"""What the data card says of a split: counts by hand, and a leak planted on purpose is found."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.dataset.build.card import audit, count_parts, count_totals, split_counts
from src.dataset.build.sequences import Sequences
from src.dataset.store.folder import TEST, TRAIN, VALID
from tests.support.data_logs import DAY, MONTH, card_of, make, random_log, write_log


def make_sequences(users: list[list[tuple[int, int, int]]], item_domains: list[int]) -> Sequences:
    """Sequences of (item, time, split) events; the items from 1 on have these domains."""
    events = [event for user in users for event in user]
    items, times, split = (np.array(column) for column in zip(*events, strict=True))
    return Sequences(
        domain_names=["a", "b"],
        item_ids=pa.chunked_array([[f"i{n}" for n in range(len(item_domains))]]),
        item_domains=np.array(item_domains, dtype=np.int16),
        item_counts=pa.chunked_array([np.bincount(items, minlength=len(item_domains) + 1)[1:]]),
        user_ids=pa.chunked_array([[f"u{n}" for n in range(len(users))]]),
        offsets=np.concatenate([[0], np.cumsum([len(user) for user in users])]),
        items=items.astype(np.int32),
        domains=np.array(item_domains, dtype=np.int16)[items - 1],
        times=times.astype(np.int64),
        split=split.astype(np.int8),
    )


# Items 1 to 4 are of domain a, 5 and 6 of b. Training before time 10, the test from 20 on.
TEMPORAL = make_sequences(
    [
        [(1, 1, TRAIN), (5, 2, TRAIN), (2, 12, VALID), (1, 20, TEST), (3, 20, TEST)],
        [(2, 9, TRAIN), (2, 9, TRAIN), (6, 25, TEST), (2, 26, TEST)],
        [(4, 15, VALID), (4, 30, TEST)],
        [(5, 30, TEST), (5, 30, TEST)],  # at the time of the last event of the user before
    ],
    [0, 0, 0, 0, 1, 1],
)


def audit_of(sequences: Sequences) -> dict[str, dict]:
    return audit(count_parts(sequences, count_totals(sequences)), len(sequences.items))


def events_of(sequences: Sequences) -> dict[str, int]:
    return {name: count["events"] for name, count in audit_of(sequences).items()}


def test_targets_and_what_training_does_not_know_of_them():
    counts = count_parts(TEMPORAL, count_totals(TEMPORAL))
    assert split_counts(TEMPORAL, counts) == {
        "valid_events": 2,
        "test_events": 7,
        "targets": {"a": {"valid": 2, "test": 4}, "b": {"valid": 0, "test": 3}},
        "cold_test_items": 3,  # 3, 6 and 4; 4 is of a validation target, which is no training
        "cold_test_targets": 3,
        "cold_test_users": 3,  # targets of the last two users
    }


def test_the_audit_of_a_temporal_split():
    actual = audit_of(TEMPORAL)
    assert events_of(TEMPORAL) == {
        "ties": 6,
        "ties_across_domains": 0,
        "future_leaks": 0,
        "own_future_leaks": 0,
        "same_time_context": 2,  # item 3 after 1, and 5 after 5; the two at 9 are no targets
        "repeat_targets": 4,  # 1, 2, 4 and the second 5
        "duplicates": 2,
    }
    assert actual["repeat_targets"]["share"] == round(4 / 7, 6)
    assert actual["ties"]["share"] == round(6 / 13, 6)


@pytest.mark.parametrize(
    ("place", "leaks", "own"),
    [
        (4, 0, 1),  # item 3 at 20, the time of the user's other target; later than nobody's
        (8, 3, 1),  # item 2 at 26: later than the targets at 20, 20 and 25, the last one's own
        (10, 4, 0),  # item 4 at 30: later than four targets of others
    ],
)
def test_a_leak_that_is_planted_is_found(place, leaks, own):
    """One test event given to training: what a wrong split would do."""
    split = TEMPORAL.split.copy()
    assert split[place] == TEST
    split[place] = TRAIN
    actual = events_of(replace(TEMPORAL, split=split))
    assert (actual["future_leaks"], actual["own_future_leaks"]) == (leaks, own)


def test_counting_and_writing_in_parts_changes_nothing(tmp_path, monkeypatch):
    """Users a few at a time in place of millions: the same card, tables and hash."""
    raw = write_log(tmp_path / "raw" / "e.csv", random_log())
    make(raw, tmp_path / "whole")
    monkeypatch.setattr("src.dataset.build.sequences.CHUNK", 20)
    make(raw, tmp_path / "parts")
    assert card_of(tmp_path / "parts") == card_of(tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*.parquet"):
        other = tmp_path / "parts" / path.relative_to(tmp_path / "whole")
        assert pq.read_table(other).equals(pq.read_table(path)), path.name
    assert pq.ParquetFile(tmp_path / "parts" / "cross.parquet").num_row_groups > 10


def test_the_users_own_future_is_in_the_training_data_of_a_split_of_each_domain(tmp_path):
    """The last of a is at day 2, and training events of b follow until day 4."""
    days = {"a": [0, 1, 2], "b": [3, 4, 5, 6]}
    rows = [
        ("u", f"{domain}{day % 2}", domain, MONTH + DAY * day)
        for domain, own in days.items()
        for day in own
    ]
    raw = write_log(tmp_path / "raw" / "e.csv", rows)
    leaks = {}
    for split in ("leave_one_out", "leave_one_out_per_domain", "temporal"):
        flags = ("--valid_share=.2", "--test_share=.2") if split == "temporal" else ()
        make(raw, tmp_path / split, f"--split={split}", *flags)
        audited = card_of(tmp_path / split)["audit"]
        leaks[split] = audited["own_future_leaks"], audited["future_leaks"]
    none, one = {"events": 0, "share": 0.0}, {"events": 1, "share": 0.5}
    assert leaks == {
        "leave_one_out": (none, none),
        "leave_one_out_per_domain": (one, one),
        "temporal": (none, none),
    }


def test_the_card_for_a_person_says_what_the_audit_says(tmp_path, capsys):
    rows = [(f"u{n % 3}", f"i{n * n % 11}", "ab"[n % 2], MONTH + DAY * (n // 5)) for n in range(60)]
    raw = write_log(tmp_path / "raw" / "e.csv", rows)
    make(
        raw,
        tmp_path / "out",
        "--split=temporal",
        *("--valid_from=20140106", "--test_from=20140109"),
    )
    console = capsys.readouterr().out.splitlines()
    markdown = (tmp_path / "out" / "data_card.md").read_text().splitlines()
    card = card_of(tmp_path / "out")
    names = ("future_leaks", "own_future_leaks", "same_time_context", "repeat_targets")
    counts = [card["audit"][name] for name in names]
    assert counts[2] != counts[3] != counts[0]
    said = [f"{count['events']} ({count['share']:.1%})" for count in counts]
    lines = [line for line in console if line.startswith("test targets ")]
    assert [line.rpartition(": ")[2] for line in lines] == said
    lines = [line for line in markdown if line.startswith("- Test targets ")]
    assert [line.rpartition(": ")[2] for line in lines] == [f"{text}." for text in said]
    assert any("validation from 2014-01-06T00:00:00Z, test from 2014-01-09" in x for x in console)
    assert any("from 2014-01-09T00:00:00Z on are test targets" in line for line in markdown)
    targets = card["split"]["targets"]["a"]
    assert targets == {"valid": 7, "test": 10}
    row = next(line for line in markdown if line.startswith("| a |"))
    assert row == "| a | 3 | 6 | 30 | 10.00 | 7 | 10 |"
    assert ["a", "3", "6", "30", "10.00", "7", "10"] in [line.split() for line in console]
