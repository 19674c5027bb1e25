"""Parquet files: ids of floating point, similar names of columns, times with fractions, and ratings
that are no numbers, which DuckDB and Spark read alike."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.io.errors import UserError
from tests.support import raw_reading
from tests.support.data_logs import HEADER, fail

EVENT = {"user_id": ["u"], "item_id": ["i"], "domain": ["a"], "unix_time": [1]}
AS_32_BITS = np.float32


def with_values(column, values, kind=None):
    """The columns of a file of an event per value, which is in one of them."""
    given = np.array(values, kind) if kind is AS_32_BITS else values
    array = given if isinstance(given, pa.Array) else pa.array(given)
    numbers = pa.array(range(1, len(array) + 1))
    columns = {name: pa.array([name[0]] * len(array)) for name in HEADER[:3]}
    return columns | {"unix_time": numbers} | {column: array}


def written(folder, files):
    """A folder with files a, b and c of these columns."""
    folder.mkdir()
    for name, columns in zip("abc", files, strict=False):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def refusal(read, folder, **flags):
    """What is said of a log that is not read, from the name of the file on."""
    with pytest.raises(UserError) as error:
        read(folder, **flags)
    return str(error.value).removeprefix(f"{folder}/")


# ---------------------------------------------------------------- ids of floating point

USERS = [1.0, None, 2.0]  # as pandas writes integers of which one is missing
WHOLE = {  # the column, the values in each file, the ids
    "users": ("user_id", [USERS], "1 2"),
    "items up to the largest": ("item_id", [[2.0**53 - 1, 3.0]], "3 9007199254740991"),
    "domains": ("domain", [[7.0, 1e15]], "1000000000000000 7"),
    "NaN and infinity for none": ("user_id", [[math.nan, math.inf, -math.inf, 5.0]], "5"),
    "below zero": ("item_id", [[-3.0, -0.0]], "-3 0"),
    "32 bits": ("user_id", [np.array([1, 2**24 - 1, math.nan], AS_32_BITS)], "1 16777215"),
    "beside a file of integers": ("user_id", [[1, 2], USERS], "1 1 2 2"),
    "beside a file of text": ("item_id", [["1", "x"], [1.0, 2.0]], "1 1 2 x"),
    "a dictionary": ("item_id", [pa.array([8.0, 9.0]).dictionary_encode()], "8 9"),
    "decimal numbers": ("user_id", [[Decimal(10**20 + 1), Decimal(2)]], "100000000000000000001 2"),
}
INEXACT = {  # the column, the values in each file, the file and the bits named, the first id
    "a half": ("user_id", [[1.5, 2.0]], "a", 53, "1.5"),
    "too large": ("user_id", [[2.0**53, 2.0]], "a", 53, "9007199254740992.0"),
    "too far below zero": ("item_id", [[-(2.0**53), 2.0]], "a", 53, "-9007199254740992.0"),
    "domains": ("domain", [[1.0, 0.1]], "a", 53, "0.1"),
    "32 bits": ("item_id", [np.array([2**24 + 1, 5], AS_32_BITS)], "a", 24, "16777216.0"),
    "another file": ("user_id", [[1.0], [2.5, 2.25]], "b", 53, "2.25"),
    "beside a file of integers": ("user_id", [[1], [1e300]], "b", 53, "1e+300"),
}


def whole_ids(read, folder, form):
    column, files, expected = WHOLE[form]
    events = read(
        written(folder, [with_values(column, values) for values in files]), max_rejected=1.0
    )[3]
    place = HEADER.index(column)
    assert sorted(event[place] for event in events) == expected.split()


def inexact_ids(read, folder, form):
    column, files, file, bits, value = INEXACT[form]
    written(folder, [with_values(column, values) for values in files])
    assert refusal(read, folder) == (
        f"{file}.parquet: column {column!r} has ids of floating point that are not whole numbers "
        f"below 2^{bits} ({value} is one), so different ids may be equal; write them as integers "
        "or text"
    )


@pytest.mark.parametrize("form", WHOLE)
def test_whole_ids_of_floating_point_are_read_as_integers(tmp_path, form):
    whole_ids(raw_reading.read, tmp_path / "raw", form)


@pytest.mark.parametrize("form", INEXACT)
def test_ids_of_floating_point_that_are_no_integers_are_refused(tmp_path, form):
    inexact_ids(raw_reading.read, tmp_path / "raw", form)


def test_inexact_ids_end_the_command_in_one_line(tmp_path, capsys):
    folder = written(tmp_path / "raw", [with_values("user_id", [1.5, 2.0])])
    assert "a.parquet: column 'user_id' has ids of" in fail(capsys, folder, tmp_path / "out")


# ---------------------------------------------------------------- similar names of columns

CONFUSED = {  # the column of the event, the two names in the file, flags
    "other case": ("user_id", ("user_id", "User_ID"), {}),
    "twice": ("user_id", ("user_id", "user_id"), {}),
    "the other one first": ("item_id", ("ITEM_ID", "item_id"), {}),
    "domains": ("domain", ("domain", "Domain"), {}),
    "times": ("unix_time", ("unix_time", "unix_time"), {}),
    "a column that a flag names": ("user_id", ("Kunde", "KUNDE"), {"user_col": "Kunde"}),
    "types": ("event", ("event", "Event"), {"events": ("buy",)}),
    "ratings": ("rating", ("RATING", "rating"), {"min_rating": 1.0}),
}
UNREAD = {"prices": ("price", "Price"), "types that no flag asks for": ("event", "Event")}


def with_names(path, column, names):
    """A file of an event, with two columns of these names in place of one."""
    kept = {name: values for name, values in EVENT.items() if name != column}
    table = pa.table([["1"], ["2"], *kept.values()], names=[*names, *kept])
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def confused_columns(read, folder, form):
    column, (first, second), flags = CONFUSED[form]
    with_names(folder / "b.parquet", column, (first, second))
    assert refusal(read, folder, **flags) == (
        f"b.parquet has two columns {first!r} and {second!r}, which engines confuse; rename or "
        "drop one"
    )


def unread_columns(read, folder, form):
    with_names(folder / "a.parquet", "", UNREAD[form])
    assert read(folder)[3] == [("u", "i", "a", 1)]


@pytest.mark.parametrize("form", CONFUSED)
def test_columns_that_engines_confuse_are_refused(tmp_path, form):
    confused_columns(raw_reading.read, tmp_path / "raw", form)


def test_columns_that_engines_confuse_are_refused_beside_a_good_file(tmp_path):
    written(tmp_path / "raw", [EVENT])
    confused_columns(raw_reading.read, tmp_path / "raw", "other case")


@pytest.mark.parametrize("form", UNREAD)
def test_columns_that_are_not_read_may_have_similar_names(tmp_path, form):
    unread_columns(raw_reading.read, tmp_path / "raw", form)


# ---------------------------------------------------------------- fractions, and before 1970


def instants(unit, *numbers, zone=None):
    return pa.array(numbers, pa.timestamp(unit, zone))


BILLION = 10**9
TIMES = {  # the times, the seconds read, how many are before 1970
    "milliseconds": (instants("ms", -500, 0, 500, 999, 1500, -1), [0, 0, 0, 1], 2),
    "microseconds": (instants("us", -500_000, -1, 600_000, 14 * 10**14 + 999_999),
                     [0, 1_400_000_000], 2),
    "nanoseconds": (instants("ns", -BILLION // 2, -1, 0, BILLION - 1, 14 * 10**17 + BILLION - 1,
                             9 * 10**18 + BILLION - 1),
                    [0, 0, 1_400_000_000, 9 * BILLION], 2),
    "seconds": (instants("s", -1, 0, 1), [0, 1], 1),
    "milliseconds of a zone": (instants("ms", -500, 1999, zone="Asia/Kolkata"), [1], 1),
    "nanoseconds of a zone": (instants("ns", -1, 2 * BILLION - 1, zone="UTC"), [1], 1),
    "days": (pa.array([-1, 0, 1], pa.date32()), [0, 86_400], 1),
    "numbers": (pa.array([-0.5, -1e-9, -0.0, 0.999999, 1.5]), [0, 0, 1], 2),
    "decimal numbers": (pa.array([Decimal("-0.50"), Decimal("1.99")]), [1], 1),
    "text": (pa.array(["1969-12-31T23:59:59.9", "1970-01-01 00:00:00.999999",
                       "1970-01-01T00:30:00+01:00", "1969-12-31 23:59:59.5-00:30"]),
             [0, 1799], 2),
}  # fmt: skip


def cut_times(read, folder, form):
    times, seconds, early = TIMES[form]
    _, _, parsed, events = read(
        written(folder, [with_values("unix_time", times)]), max_rejected=1.0
    )
    assert sorted(time for *_, time in events) == seconds
    assert parsed.rejected == {"time is before 1970": early}


@pytest.mark.parametrize("form", TIMES)
def test_fractions_of_a_second_are_cut_off_and_none_before_1970_is_kept(tmp_path, form):
    cut_times(raw_reading.read, tmp_path / "raw", form)


# ---------------------------------------------------------------- ratings

RATINGS = {  # as events without a rating have them, and two of 2 and 4
    "missing": pa.array([2.0, None, 4.0]),
    "NaN": pa.array([2.0, math.nan, 4.0]),
    "NaN of 32 bits": pa.array([2.0, math.nan, 4.0], pa.float32()),
    "infinity": pa.array([2.0, math.inf, 4.0]),
    "text": pa.array(["2", "NaN", "4"]),
    "text with spaces": pa.array(["2", " nan", " 4"]),
}


def low_ratings(read, folder, form):
    files = [with_values("rating", RATINGS[form])]
    _, _, parsed, events = read(written(folder, files), min_rating=3.0)
    assert [time for *_, time in events] == [3]
    assert parsed.filtered == {"min_rating": 2}


@pytest.mark.parametrize("form", RATINGS)
def test_events_without_a_rating_are_left_out_by_min_rating(tmp_path, form):
    """In DuckDB, as in Spark, NaN is larger than any number."""
    low_ratings(raw_reading.read, tmp_path / "raw", form)


# ---------------------------------------------------------------- the other engine

SAME = (
    (low_ratings, RATINGS),
    (whole_ids, WHOLE),
    (inexact_ids, INEXACT),
    (confused_columns, CONFUSED),
    (unread_columns, UNREAD),
    (cut_times, TIMES),
)


@pytest.mark.parametrize(("check", "forms"), SAME, ids=lambda part: getattr(part, "__name__", ""))
def test_spark_reads_parquet_files_alike(tmp_path, spark, check, forms):
    def read(folder, **flags):
        return raw_reading.read_with(spark, folder, **flags)

    for number, form in enumerate(forms):
        check(read, tmp_path / str(number), form)
