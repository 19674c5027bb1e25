"""The three splits: by hand, against an oracle in pandas, and the mistakes in asking for them."""

import json

import ibis
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from src.config.dataset_settings import DatasetSettings
from src.dataset.build.sequences import find_cuts
from src.dataset.build.transforms import SPLITS, start_of_newest
from src.dataset.engine.duckdb_engine import open_duckdb
from src.dataset.store.folder import TEST, TRAIN, VALID
from src.io.errors import UserError
from tests.support.data_logs import (
    DAY,
    MONTH,
    card_of,
    fail,
    make,
    random_log,
    sequences_of,
    write_log,
)

ONE, DOMAIN, TIME = NAMES = ("leave_one_out", "leave_one_out_per_domain", "temporal")
PER_DOMAIN, TEMPORAL = f"--split={DOMAIN}", f"--split={TIME}"


def splits_of(folder) -> dict[str, list[int]]:
    """{user_id: the split of each event, in order}."""
    return {user: [event[3] for event in s] for user, s in sequences_of(folder).items()}


def write_days(folder, users: dict[str, list[tuple[int, str]]]):
    """A raw folder with an event at day, domain of each user; items differ, two of each domain."""
    rows = [
        (user, f"i{n % 2}", domain, MONTH + DAY * day)
        for user, events in users.items()
        for n, (day, domain) in enumerate(events)
    ]
    return write_log(folder / "e.csv", rows)


# ------------------------------------------------------------------------ by hand


def test_leave_one_out_per_domain_holds_out_the_last_two_of_each_user_and_domain(tmp_path):
    users = {
        "both": [(day, domain) for day, domain in enumerate("aababbba")],
        "few": [(0, "a"), (1, "b"), (2, "a"), (3, "b"), (4, "b")],
        "one": [(0, "a")],
    }
    make(write_days(tmp_path / "raw", users), tmp_path / "out", PER_DOMAIN)
    assert splits_of(tmp_path / "out") == {
        # a  a      b      a      b      b      b     a
        "both": [TRAIN, TRAIN, TRAIN, VALID, TRAIN, VALID, TEST, TEST],
        # a  b      a      b      b: two events in a are training data
        "few": [TRAIN, TRAIN, TRAIN, VALID, TEST],
        "one": [TRAIN],
    }
    order = [event[1:3] for event in sequences_of(tmp_path / "out")["both"]]
    assert order == [(domain, MONTH + DAY * day) for day, domain in users["both"]]


TIED = {"u": [0, 1, 5, 6, 9], "v": [2, 3, 4, 6, 6], "w": [7]}  # days; three events on day 6


@pytest.mark.parametrize(
    "flags",
    [
        ("--valid_from=20140106", "--test_from=20140107"),
        # of 11 events, newest first on days 9 7 6 6 6 5 4 …, the third and the sixth
        ("--valid_share=.27", "--test_share=.28"),
    ],
    ids=["dates", "shares"],
)
def test_temporal_cuts_everybody_at_the_same_times_and_never_between_equal_ones(tmp_path, flags):
    users = {user: [(day, "a") for day in days] for user, days in TIED.items()}
    make(write_days(tmp_path / "raw", users), tmp_path / "out", TEMPORAL, *flags)
    assert splits_of(tmp_path / "out") == {
        "u": [TRAIN, TRAIN, VALID, TEST, TEST],
        "v": [TRAIN, TRAIN, TRAIN, TEST, TEST],
        "w": [TEST],  # a user of the test alone, and more than one target a user
    }
    split = card_of(tmp_path / "out")["split"]
    assert split["protocol"] == "temporal"
    assert split["valid_from"] == "2014-01-06T00:00:00Z"
    assert split["test_from"] == "2014-01-07T00:00:00Z"
    assert split["targets"] == {"a": {"valid": 1, "test": 5}}


def test_a_month_begins_with_its_first_second_in_utc(tmp_path):
    february = MONTH + 31 * DAY
    rows = [("u", f"i{k % 2}", "a", february - 2 + k) for k in range(4)]
    rows += [("u", "i0", "a", february + 28 * DAY)]
    flags = (TEMPORAL, "--valid_from=201402", "--test_from=201403")
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out", *flags)
    assert splits_of(tmp_path / "out")["u"] == [TRAIN, TRAIN, VALID, VALID, TEST]


def test_shares_are_a_tenth_each_unless_asked_for(tmp_path):
    rows = [(f"u{n % 3}", f"i{n % 5}", "a", MONTH + n) for n in range(40)]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out", TEMPORAL)
    split = card_of(tmp_path / "out")["split"]
    assert (split["valid_events"], split["test_events"]) == (4, 4)
    assert split["valid_from"] == "2014-01-01T00:00:32Z"
    assert split["test_from"] == "2014-01-01T00:00:36Z"


# ------------------------------------------------------------------------ against an oracle


def oracle(log: pd.DataFrame, split: str, valid_share: float, test_share: float) -> list[int]:
    """The split of each event of a log in order of user and position."""
    if split == TIME:
        times, n = np.sort(log.time), len(log)
        valid, test = (
            times[n - round(share * n)] for share in (valid_share + test_share, test_share)
        )
        return np.select([log.time >= test, log.time >= valid], [TEST, VALID]).tolist()
    groups = log.groupby(["user"] if split == ONE else ["user", "domain"])
    later, size = groups.cumcount(ascending=False), groups["position"].transform("size")
    held = (size >= 3) & (later < 2)
    return np.where(held, np.where(later == 0, TEST, VALID), TRAIN).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def engine(folder):
    with open_duckdb(1, "", folder) as engine:
        yield engine.backend


@st.composite
def logs(draw) -> pd.DataFrame:
    """Users' events in three domains, with many equal times, in order of user and position."""
    events = draw(
        st.lists(
            st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.integers(0, 12)), min_size=9
        )
    )
    log = pd.DataFrame(events, columns=["user", "domain", "time"])
    log = log.sort_values(["user", "time"], kind="stable", ignore_index=True)
    own = log.groupby("user")
    return log.assign(position=own.cumcount(), size=own["time"].transform("size"))


@examples(max_examples=25, deadline=None)
@given(logs(), st.sampled_from([0.1, 0.25, 0.4]), st.sampled_from([0.1, 0.2, 0.4]))
def test_every_split_is_that_of_the_oracle(engine, folder, log, valid_share, test_share):
    log.sample(frac=1, random_state=0).to_parquet(folder / "log.parquet", index=False)
    table = engine.read_parquet(folder / "log.parquet")
    for name in NAMES:
        shares = {"valid_share": valid_share, "test_share": test_share} if name == TIME else {}
        settings = DatasetSettings(data_name="t", strd_ym="201412", split=name, **shares)
        expected = oracle(log, name, valid_share, test_share)
        if name == TIME and set(expected) != {TRAIN, VALID, TEST}:
            with pytest.raises(UserError, match="leaves no"):
                find_cuts(table, settings)
            continue
        actual = SPLITS[name](table, **find_cuts(table, settings))
        assert set(actual.columns) == {*log.columns, "split"}
        ordered = actual.order_by(["user", "position"]).to_pyarrow()
        assert ordered["split"].to_pylist() == expected


def test_no_training_event_is_as_late_as_a_target_of_the_temporal_split(tmp_path):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log(seed=5))
    make(raw, tmp_path / "out", TEMPORAL)
    times = {part: [] for part in (TRAIN, VALID, TEST)}
    for events in sequences_of(tmp_path / "out").values():
        for *_, time, part in events:
            times[part].append(time)
    assert max(times[TRAIN]) < min(times[VALID]) <= max(times[VALID]) < min(times[TEST])
    assert max(map(len, times.values())) == len(times[TRAIN])


# ------------------------------------------------------------------------ the same everywhere


@pytest.mark.parametrize("split", NAMES[1:])
def test_neither_the_order_of_the_rows_nor_threads_change_a_split(tmp_path, split):
    rows = random_log(seed=2)
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "a", f"--split={split}")
    shuffled = write_log(tmp_path / "raw2" / "e.tsv.gz", rows[::-1][9:] + rows[::-1][:9])
    make(shuffled, tmp_path / "b", f"--split={split}", "--threads=4")
    cards = [card_of(tmp_path / name) for name in "ab"]
    assert cards[0]["sha256"] == cards[1]["sha256"]
    assert cards[0]["split"] == cards[1]["split"]
    assert cards[0]["audit"] == cards[1]["audit"]


def test_every_split_is_said_in_the_sql_of_another_engine():
    """Spark's, of which nothing runs here. An offset would be written as a row number over no
    order at all, which is not exact."""
    columns = dict.fromkeys(("user", "domain", "time", "position", "size"), "int64")
    table = ibis.table(columns, name="events")
    made = [SPLITS[name](table) for name in NAMES[:2]]
    made += [SPLITS[TIME](table, 1, 2), start_of_newest(table, 5)]
    for expression in made:
        assert "ORDER BY NULL" not in str(ibis.to_sql(expression, dialect="pyspark"))


def test_a_folder_from_before_the_splits_came_is_reused(tmp_path, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log())
    make(raw, tmp_path / "out")
    card = card_of(tmp_path / "out")
    for name in ("valid_from", "test_from", "valid_share", "test_share"):
        del card["options"][name]
    del (
        card["split"]["targets"],
        card["split"]["cold_test_targets"],
        card["split"]["cold_test_users"],
    )
    for name in ("own_future_leaks", "same_time_context", "repeat_targets"):
        del card["audit"][name]
    (tmp_path / "out" / "data_card.json").write_text(json.dumps(card))
    capsys.readouterr()
    make(raw, tmp_path / "out")
    assert "reusing" in capsys.readouterr().out
    assert card_of(tmp_path / "out") == card
    line = fail(capsys, raw, tmp_path / "out", TEMPORAL)
    assert "made with different options (--split leave_one_out)" in line


# ------------------------------------------------------------------------ mistakes


DATES = ("--valid_from=201401", "--test_from=20140115")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (DATES, "--valid_from needs --split temporal; --split leave_one_out has no cut in time"),
        (("--test_share=.2", PER_DOMAIN), "--test_share needs --split temporal"),
        ((TEMPORAL, DATES[0]), "--valid_from alone is not enough; give both"),
        ((TEMPORAL, DATES[1]), "--test_from alone is not enough; give both"),
        ((TEMPORAL, *DATES, "--test_share=.2"), "--valid_from and --test_share contradict"),
        (
            (TEMPORAL, "--valid_from=201402", "--test_from=20140201"),
            "--valid_from 201402 is not before --test_from 20140201",
        ),
        (
            (TEMPORAL, "--valid_from=20140230", DATES[1]),
            "--valid_from '20140230' is not a month or day; write YYYYMM or YYYYMMDD",
        ),
        ((TEMPORAL, DATES[0], "--test_from=2014"), "--test_from '2014' is not a month or day"),
        ((TEMPORAL, "--valid_share=0"), "--valid_share must be between 0 and 1, not 0.0"),
        ((TEMPORAL, "--test_share=1"), "--test_share must be between 0 and 1, not 1.0"),
        ((TEMPORAL, "--test_share=nan"), "--test_share must be between 0 and 1, not nan"),
        (
            (TEMPORAL, "--valid_share=.5", "--test_share=.5"),
            "--valid_share 0.5 and --test_share 0.5 leave nothing to train on",
        ),
        ((TEMPORAL, "--valid_from=201312", "--test_from=201402"), "leaves no training event"),
        ((TEMPORAL, "--valid_from=201401", "--test_from=201402"), "leaves no training event"),
        ((TEMPORAL, "--valid_from=201403", "--test_from=201404"), "leaves no validation event"),
        ((TEMPORAL, "--valid_from=201402", "--test_from=201404"), "leaves no test event"),
        ((TEMPORAL, "--valid_share=.01", "--test_share=.3"), "leaves no validation event"),
        (("--split=random",), "argument --split: invalid choice: 'random'"),
    ],
)
def test_cut_offs_that_contradict_each_other_or_the_log(tmp_path, capsys, flags, said):
    """The log has an event on each of 40 days from 2014-01-01 on, and many on the last ones."""
    rows = [("u", f"i{n % 3}", "a", MONTH + DAY * min(n, 39)) for n in range(60)]
    raw = write_log(tmp_path / "raw" / "e.csv", rows)
    assert said in fail(capsys, raw, tmp_path / "out", *flags)


def test_cut_offs_without_events_are_told_with_the_times_of_the_log(tmp_path, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", [("u", f"i{n}", "a", MONTH + n) for n in range(9)])
    flags = (TEMPORAL, "--valid_from=20140101", "--test_from=20140102")
    line = fail(capsys, raw, tmp_path / "out", *flags)
    for part in ("from 2014-01-01T00:00:00Z", "the test at 2014-01-02", "to 2014-01-01T00:00:08Z"):
        assert part in line
