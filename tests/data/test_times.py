"""Times: units, fractions, dates as numbers and in a form of their own, and the end of the log."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import raw_reading
from tests.support.data_logs import card_of, fail, make, write_log


def parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


FORMATS = {
    "%d.%m.%Y": ["13.05.2014", "3.5.2014"],
    "%d.%m.%Y %H:%M": ["13.05.2014 16:53", "01.01.1970 00:00", "29.02.2000 23:59"],
    "%a %b %d %H:%M:%S %z %Y": [
        "Tue Apr 03 18:00:09 +0000 2012",
        "Fri Nov 25 00:30:00 -0700 2016",
        "Sat Jan 01 00:30:00 +0530 2000",
    ],
    "%m/%d/%Y %I:%M:%S %p": ["1/11/2019 9:05:58 AM", "1/1/2019 12:00:00 AM", "1/2/2019 12:01:0 PM"],
    "%B %d, %Y": ["November 5, 2011", "May 31, 2024"],
    "%Y/%m/%d %H:%M:%S.%f": ["2014/05/13 16:53:20.999999"],
    "%y%m%d%H%M%S": ["140513165320", "990101000000"],
    "%d/%b/%Y:%H:%M:%S %z": ["10/Oct/2000:13:55:36 -0700"],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_of_dates_reads_as_strptime_does(tmp_path, form):
    rows = [(f"u{n}", "i", "a", f'"{text}"') for n, text in enumerate(FORMATS[form])]
    write_log(tmp_path / "a.csv", rows)
    events = raw_reading.read(tmp_path, time_format=form)[3]
    moments = [datetime.strptime(text, form) for text in FORMATS[form]]
    expected = [
        int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        for moment in moments
    ]
    assert [time for *_, time in events] == expected


def test_what_is_no_date_in_the_format_is_rejected(tmp_path):
    texts = [
        "31.04.2014",
        "1.13.2014",
        "2014-05-13",
        "13.05.2014 ",
        "x13.05.2014",
        "",
        "00.01.2014",
    ]
    write_log(tmp_path / "a.csv", [(f"u{n}", "i", "a", text) for n, text in enumerate(texts)])
    _, _, parsed, events = raw_reading.read(tmp_path, time_format="%d.%m.%Y", max_rejected=1.0)
    assert events == [("u3", "i", "a", 1_399_939_200)]
    assert parsed.rejected == {"time is not in the form of --time_format": 5, "time is empty": 1}
    assert parsed.times == "dates %d.%m.%Y in column unix_time"


GUESSES = {
    "17.08.2024 12:58": "%d.%m.%Y %H:%M",
    "11/13/2019 9:05:58 AM": "%m/%d/%Y %I:%M:%S %p",
    "13/11/2019": "%d/%m/%Y",
    "Tue Apr 03 18:00:09 +0000 2012": "%a %b %d %H:%M:%S %z %Y",
    "November 5, 2011": "%B %d, %Y",
}


@pytest.mark.parametrize("text", GUESSES)
def test_dates_that_need_a_format_are_refused_with_it(tmp_path, capsys, text):
    raw = write_log(
        tmp_path / "raw" / "a.csv", [("u", f"i{n}", "a", f'"{text}"') for n in range(3)]
    )
    line = fail(capsys, raw, tmp_path / "out")
    assert (
        f"if these are dates, describe them with --time_format '{GUESSES[text]}'"
        in line.replace(f" {GUESSES[text]};", f" '{GUESSES[text]}';")
    )
    make(raw, tmp_path / "out", f"--time_format={GUESSES[text]}", month="202412")


def test_what_is_no_date_at_all_is_refused_with_the_page_to_read(tmp_path, capsys):
    raw = write_log(tmp_path / "raw" / "a.csv", [("u", f"i{n}", "a", "soon") for n in range(3)])
    assert "--time_format (docs/data.md); or fix them" in fail(capsys, raw, tmp_path / "out")


def test_hours_of_twelve_that_no_clock_shows_are_rejected(tmp_path):
    texts = ["1/1/2019 0:00 AM", "1/1/2019 13:00 PM", "1/1/2019 1:00 pm"]
    write_log(tmp_path / "a.csv", [(f"u{n}", "i", "a", text) for n, text in enumerate(texts)])
    events = raw_reading.read(tmp_path, time_format="%m/%d/%Y %I:%M %p", max_rejected=1.0)[3]
    assert events == [("u2", "i", "a", 1_546_347_600)]


@pytest.mark.parametrize("as_parquet", [False, True])
def test_whole_numbers_can_be_dates(tmp_path, as_parquet):
    numbers = [20140513, 19700101, 20141301, 20140230, 513]
    columns = {"user_id": [f"u{n}" for n in range(5)], "item_id": ["i"] * 5, "domain": ["a"] * 5}
    if as_parquet:
        parquet(tmp_path / "a.parquet", **columns, unix_time=numbers)
    else:
        write_log(tmp_path / "a.csv", list(zip(*columns.values(), numbers, strict=True)))
    _, _, parsed, events = raw_reading.read(tmp_path, time_unit="yyyymmdd", max_rejected=1.0)
    assert events == [("u0", "i", "a", 1_399_939_200), ("u1", "i", "a", 0)]
    assert parsed.rejected == {"time is not in the form YYYYMMDD": 3}
    events = raw_reading.read(tmp_path, time_unit="mmdd", max_rejected=1.0)[3]  # of --strd_ym
    assert events == [("u4", "i", "a", 1_399_939_200)]


def test_fractions_of_a_second_are_cut_off(tmp_path):
    texts = ["1400000000.9", "1.4000000019e9", "0.5", "-0.5", "1400000000"]
    write_log(
        tmp_path / "csv" / "a.csv", [(f"u{n}", "i", "a", text) for n, text in enumerate(texts)]
    )
    columns = {"user_id": [f"u{n}" for n in range(5)], "item_id": ["i"] * 5, "domain": ["a"] * 5}
    parquet(tmp_path / "parquet" / "a.parquet", **columns, unix_time=[*map(float, texts)])
    for folder in ("csv", "parquet"):
        _, _, parsed, events = raw_reading.read(tmp_path / folder, max_rejected=0.2)
        assert [time for *_, time in events] == [1_400_000_000, 1_400_000_001, 0, 1_400_000_000]
        assert parsed.rejected == {"time is before 1970": 1}


def test_half_a_second_before_1970_is_rejected(tmp_path):
    moments = pa.array([-500, 500, -1, 0], pa.timestamp("ms"))
    columns = {"user_id": ["u", "v", "w", "x"], "item_id": ["i"] * 4, "domain": ["a"] * 4}
    parquet(tmp_path / "a.parquet", **columns, unix_time=moments)
    _, _, parsed, events = raw_reading.read(tmp_path, max_rejected=0.5)
    assert events == [("v", "i", "a", 0), ("x", "i", "a", 0)]
    assert parsed.rejected == {"time is before 1970": 2}


def test_the_log_can_end_within_the_month(tmp_path, capsys):
    rows = [("u", f"i{n}", "a", 1_386_547_200 + n) for n in (-2, -1, 0)]  # 9 December 2013, 0:00
    raw = write_log(tmp_path / "raw" / "a.csv", rows)
    make(raw, tmp_path / "out", "--until=2013-12-08", month="201312")
    card = card_of(tmp_path / "out")
    assert (card["cutoff"], card["events"]) == ("2013-12-08T23:59:59Z", 2)
    assert card["dropped"]["after_cutoff"] == 1
    line = fail(capsys, raw, tmp_path / "other", "--until=2013-12-08", month="201401")
    assert "not in the month --strd_ym 201401" in line
    assert "write YYYY-MM-DD" in fail(capsys, raw, tmp_path / "other", "--until=8.12.2013")
