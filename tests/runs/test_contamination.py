"""How many held-out events a former run was trained on, by split and filter."""

import random
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from src.dataset.store.folder import TEST, TRAIN, VALID, open_dataset
from src.runs.contamination import trained_targets
from tests.support.data_logs import DAY, make, sequences_of, write_log

OCTOBER, NOVEMBER = 1_696_118_400, 1_698_796_800  # the first second, UTC


def months_log() -> list[tuple]:
    """Day-grain events of 150 users before and in November 2023, ties and exact repeats among them.

    Many users have one, two or three events, and some are not there in November.
    """
    rng, rows = random.Random(3), []
    for user in range(150):
        counts = (rng.randrange(1, 7), rng.choice([0, 0, 1, 2]))
        for start, count in zip((OCTOBER, NOVEMBER), counts, strict=True):
            for _ in range(count):
                item = min(rng.randrange(30), rng.randrange(30))
                time = start + DAY * rng.randrange(6)
                rows.append((f"u{user:03d}", f"i{item:02d}", rng.choice("AB"), time))
    return rows


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function: the dataset folder of that log up to a month, made with some flags."""
    raw = write_log(tmp_path_factory.mktemp("raw") / "log.csv", months_log())

    @cache
    def made(month: str, *flags: str) -> Path:
        folder = tmp_path_factory.mktemp("data") / "made"
        make(raw, folder, *flags, month=month)
        return folder

    return made


def months(raw: Path, out: Path, *flags: str) -> list[Path]:
    """The dataset folders of October and November of another log."""
    for month in ("202310", "202311"):
        make(raw, out / month, *flags, month=month)
    return [out / "202310", out / "202311"]


def by_hand(former: Path, now: Path) -> dict[str, int]:
    """The same count the slow way; equal events of a user are numbered."""
    trained, leaked = set(), {"valid": 0, "test": 0}
    for user, events in sequences_of(former).items():
        copies = Counter()
        for item, _, time, split in events:
            copies[item, time] += 1
            if split == TRAIN:
                trained.add((user, item, time, copies[item, time]))
    for user, events in sequences_of(now).items():
        copies = Counter()
        for item, _, time, split in events:
            copies[item, time] += 1
            if (user, item, time, copies[item, time]) in trained and split != TRAIN:
                leaked[{VALID: "valid", TEST: "test"}[split]] += 1
    return leaked


def counted(former: Path, now: Path) -> dict[str, int]:
    leaked = trained_targets(open_dataset(former), open_dataset(now))
    assert leaked == by_hand(former, now)
    return leaked


def lengths(folder: Path, within=lambda event: None) -> Counter:
    """{(user, group): events}; a group is what `within` says of an event."""
    return Counter(
        (user, within(event)) for user, events in sequences_of(folder).items() for event in events
    )


SPLITS = [
    ((), lambda event: None),
    (("--split=leave_one_out_per_domain",), lambda event: event[1]),
]


@pytest.mark.parametrize(("split", "within"), SPLITS, ids=["user", "user and domain"])
def test_leave_one_out_leaks_second_events_to_validation_and_nothing_to_the_test(
    folder_of, split, within
):
    """Two events are all training data; with a third, the second of them is held out."""
    former, now = folder_of("202310", *split), folder_of("202311", *split)
    before, after = lengths(former, within), lengths(now, within)
    grown = sum(count == 3 and before[key] == 2 for key, count in after.items())
    assert grown > 0
    assert counted(former, now) == {"valid": grown, "test": 0}


def test_users_of_three_events_leak_nothing_also_where_items_come_back(folder_of):
    """What October's filter dropped may be back in November, before or after what it kept."""
    flags = ("--min_user_events=3", "--min_item_events=5")
    former, now = folder_of("202310", *flags), folder_of("202311", *flags)
    kept = [len(open_dataset(folder).item_ids) for folder in (former, now)]
    assert kept[0] < kept[1]
    assert counted(former, now) == {"valid": 0, "test": 0}


def test_an_item_filter_alone_can_leak_into_the_test(tmp_path):
    """User u's first two items are rare in October, so the third event is all of u's data."""
    rows = [("u", "a", "A", 0), ("u", "b", "A", DAY), ("u", "x", "A", 2 * DAY)]
    rows += [("v", item, "A", day * DAY) for day, item in enumerate("xyxyxy")]
    rows += [("w", item, "A", 40 * DAY) for item in "ab"]
    rows = [(*row[:3], OCTOBER + row[3]) for row in rows]
    raw = write_log(tmp_path / "raw" / "log.csv", rows)
    former, now = months(raw, tmp_path, "--min_item_events=2")
    assert counted(former, now) == {"valid": 0, "test": 1}


def test_a_narrower_filter_leaks_because_last_events_fall_out(folder_of):
    """October's run has all domains; of November's, events that others stood behind are last."""
    former, now = folder_of("202310"), folder_of("202311", "--domains", "A")
    assert min(counted(former, now).values()) > 0


@pytest.mark.parametrize(
    ("first", "leaks"),
    [
        (("202310", "20231004"), False),  # the cuts move on
        (("202311", "20231102"), False),  # or stay
        (("202311", "20231104"), True),  # or go back, which is a mistake
    ],
)
def test_cuts_in_time_leak_nothing_unless_they_go_back(folder_of, first, leaks):
    """Validation begins on a day, the test on the next."""

    def split(month: str, day: str) -> Path:
        cuts = (f"--valid_from={day}", f"--test_from={int(day) + 1}")
        return folder_of(month, "--split=temporal", *cuts)

    assert any(counted(split(*first), split("202311", "20231102")).values()) == leaks


def test_a_run_of_a_later_month_was_trained_on_the_test_of_an_earlier_one(folder_of):
    assert counted(folder_of("202311"), folder_of("202310"))["test"] > 0


def test_an_equal_event_that_is_held_out_is_not_the_one_that_was_trained_on(tmp_path):
    """Four times the same event: two were trained on, the others are held out then and now."""
    raw = write_log(tmp_path / "raw" / "log.csv", [("u", "x", "A", OCTOBER)] * 4
                    + [("v", item, "A", OCTOBER) for item in "xyz"])  # fmt: skip
    former, now = months(raw, tmp_path)
    assert (open_dataset(now).split == TEST).sum() == 2
    assert counted(former, now) == {"valid": 0, "test": 0}
