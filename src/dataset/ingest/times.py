"""Times of raw events: which form they have, and how each form becomes seconds.

Portable expressions, so that every engine reads the same: integer arithmetic and fixed positions
in the text, no date functions, which disagree between engines.
"""

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from src.dataset.ingest.time_format import MONTHS, compile_format

MISSING, SECONDS, MILLISECONDS, MICROSECONDS, NANOSECONDS, DATE, OTHER = range(7)  # forms

LAST_SECOND = 253_402_300_799  # the end of the year 9999
PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
NUMBER_FORMS = (SECONDS, MILLISECONDS, MICROSECONDS, NANOSECONDS)
FORM_OF = {**dict(zip(PER_SECOND, NUMBER_FORMS, strict=True)), "iso": DATE}
# Units in which a whole number is a date: its first and last value, and what a year adds to it
DAY_NUMBERS = {"yyyymmdd": (10_000_101, 99_991_231, 0), "mmdd": (101, 1231, 10_000)}
FORMATTED = "format"  # the unit of a log whose dates --time_format describes

# Numbers below the first bound are seconds (up to the year 5138), below the next milliseconds, ….
BOUNDS = (10**11, 10**14, 10**17)
LARGEST = 9 * 10**18  # safely within an int64

WHOLE = r"^[+-]?[0-9]{1,19}$"
REAL = r"^[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?$"
ISO = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)? ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
)
ZONE = r"[+-][0-9]{2}(:?[0-9]{2})?$"


def with_times(
    table: ir.Table, unit: str = "auto", time_format: str = "", year: int = 1970
) -> ir.Table:
    """The table with `number` and `form` added, from `unix_time`: text, number, timestamp or date.

    number: int64, in the unit of its form (fractions are cut off downwards), seconds since 1970 UTC
    for DATE, null for MISSING and OTHER. form: one of the constants above, int8. A `time_format`
    describes texts, with the directives of strptime; the `unit` mmdd has no year but the given one.
    """
    dtype = table.unix_time.type()
    if time_format:
        timed = _of_format(table, time_format)
    elif dtype.is_string():
        timed = _of_text(table)
    elif dtype.is_timestamp():
        # without `truncate` DuckDB rounds to the nearest second; before 1970 engines differ
        seconds = table.unix_time.truncate("s").epoch_seconds().cast("int64")
        early = table.unix_time < ibis.timestamp("1970-01-01 00:00:00", timezone=dtype.timezone)
        number = early.ifelse(-1, seconds)
        timed = table.mutate(number=number, form=_present(table.unix_time, DATE))
    elif dtype.is_integer():
        form = ibis.cases(*_sizes(table.unix_time), else_=NANOSECONDS)
        timed = table.mutate(number=table.unix_time, form=_present(table.unix_time, form))
    else:
        number = _whole_part(
            table.unix_time
        )  # null for NaN, which is how pandas writes a missing one
        form = number.isnull().ifelse(MISSING, _form_of_real(table.unix_time))
        timed = table.mutate(number=number, form=form)
    timed = timed.mutate(number=timed.number.cast("int64"), form=timed.form.cast("int8"))
    return _as_days(timed, unit, year) if unit in DAY_NUMBERS else timed


def seconds_of_day(day: ir.StringValue) -> ir.IntegerValue:
    """Seconds since 1970 UTC of a text YYYY-MM-DD; null for another text."""
    year, month, number = (
        _only(day, "^[0-9]{4}-[0-9]{2}-[0-9]{2}$").substr(start, length).try_cast("int64")
        for start, length in ((0, 4), (5, 2), (8, 2))
    )
    exists = month.between(1, 12) & number.between(1, 31)
    return exists.ifelse(_days_since_1970(year, month, number) * 86_400, None)


def majority_unit(rows: Mapping[int, int], requested: str) -> str:
    """The unit of a log: the requested one, or for `auto` that of most rows (ties: the first).

    `rows` is the number of rows of each form.
    """
    if requested != "auto":
        return requested
    return max(FORM_OF, key=lambda unit: rows.get(FORM_OF[unit], 0))


def accepted_forms(unit: str, requested: str) -> tuple[int, ...]:
    """The forms that are times of a log in this unit; a requested unit accepts any size."""
    if unit in (*DAY_NUMBERS, FORMATTED):
        return (DATE,)
    return (FORM_OF[unit],) if unit == "iso" or requested == "auto" else NUMBER_FORMS


def largest_time(unit: str) -> int:
    """The last time of the year 9999 in a unit, as far as an int64 holds it."""
    per_second = PER_SECOND.get(unit, 1)
    return min((LAST_SECOND + 1) * per_second - 1, 2**63 - 1)


def in_seconds(number: ir.IntegerValue, unit: str) -> ir.IntegerValue:
    """Whole seconds of a number that is not negative."""
    per_second = PER_SECOND.get(unit, 1)
    if per_second == 1:
        return number
    # the remainder goes first: a division of large integers is not exact in every engine
    return ((number - number % per_second) / per_second).cast("int64")


def _present(column: ir.Column, form: ir.IntegerValue | int) -> ir.IntegerValue:
    return column.isnull().ifelse(MISSING, form)


def _sizes(number: ir.NumericValue) -> list[tuple[ir.BooleanValue, int]]:
    """The form of a number by its size; NANOSECONDS is what remains."""
    return [
        ((number < bound) & (number > -bound), form)
        for bound, form in zip(BOUNDS, NUMBER_FORMS[:-1], strict=True)
    ]


def _whole_part(real: ir.FloatingValue) -> ir.IntegerValue:
    """The whole part if an int64 can hold it, else null, also for NaN and infinity.

    Not by `isnan`: DuckDB answers it from the statistics of Parquet files, which ignore NaN. A
    non-finite number minus itself is not 0.
    """
    finite = (real - real == 0) & (real.abs() < LARGEST)
    return finite.ifelse(real, None).floor()


def _form_of_real(real: ir.FloatingValue) -> ir.IntegerValue:
    return ibis.cases(
        (_whole_part(real).isnull(), OTHER),
        *_sizes(real),
        else_=NANOSECONDS,
    )


def _of_text(table: ir.Table) -> ir.Table:
    """Step by step: `view` keeps Ibis from writing each step out wherever the next uses it."""
    columns = table.columns
    table = table.mutate(_text=table.unix_time.strip()).view()
    # each branch sees only texts of its own form: other casts would fail, or be lenient
    table = table.mutate(_whole=_only(table._text, WHOLE).try_cast("int64")).view()
    rest = table._whole.isnull().ifelse(table._text, None)  # almost empty in most logs
    table = table.mutate(_real=_only(rest, REAL).try_cast("float64"), _date=_only(rest, ISO)).view()
    table = _with_seconds(table)
    form = ibis.cases(
        (table._text.isnull() | (table._text == ""), MISSING),
        *[(table._whole.notnull() & is_size, form) for is_size, form in _sizes(table._whole)],
        (table._whole.notnull(), NANOSECONDS),
        (table._real.notnull(), _form_of_real(table._real)),
        (table._seconds.notnull(), DATE),
        else_=OTHER,
    )
    number = ibis.coalesce(table._whole, _whole_part(table._real), table._seconds)
    return table.select(*columns, number=number, form=form).view()


def _only(text: ir.StringValue, pattern: str) -> ir.StringValue:
    return text.re_search(pattern).ifelse(text, None)


def _with_seconds(table: ir.Table) -> ir.Table:
    """Add `_seconds` since 1970 UTC of `_date`, a text of the form ISO.

    Null for a day or time that does not exist.
    """
    columns = table.columns
    date = table._date
    parts = {"_year": (0, 4), "_month": (5, 2), "_day": (8, 2)}
    clock = {"_hour": (11, 2), "_minute": (14, 2), "_second": (17, 2)}
    zone = date.substr(10).re_extract(ZONE, 0)  # "" without a zone: UTC
    table = table.mutate(
        **{name: date.substr(*part).try_cast("int64") for name, part in parts.items()},
        **{name: date.substr(*part).try_cast("int64").fill_null(0) for name, part in clock.items()},
        _ahead=_minutes_ahead(zone),
    ).view()
    table = table.mutate(_seconds=_seconds_of_parts(table))
    return table.select(*columns, "_seconds").view()


def _of_format(table: ir.Table, time_format: str) -> ir.Table:
    """`number` and `form` of texts in the form that `time_format` describes."""
    pattern, groups = compile_format(time_format)
    columns = table.columns
    table = table.mutate(_text=table.unix_time.cast("string").strip()).view()
    matches = _only(table._text, pattern)
    extracted = {part: matches.re_extract(pattern, group) for part, group in groups.items()}
    table = table.mutate(**{f"_{part}_text": text for part, text in extracted.items()}).view()

    def number(part: str) -> ir.IntegerValue:
        return table[f"_{part}_text"].try_cast("int64") if part in groups else ibis.literal(0)

    year, month, hour = number("year"), number("month"), number("hour")
    if "short_year" in groups:  # as POSIX: 69 to 99 are of the last century
        short = number("short_year")
        year = short + (short >= 69).ifelse(1900, 2000)
    if "month_name" in groups:
        name = table._month_name_text.substr(0, 3).lower()
        month = name.cases(*((word, n) for n, word in enumerate(MONTHS, start=1)), else_=0)
    if "half" in groups:
        hour_of_12 = number("hour_of_12")
        is_hour = hour_of_12.between(1, 12)  # another hour does not exist
        afternoon = (table._half_text.lower() == "pm").ifelse(12, 0)
        hour = is_hour.ifelse(hour_of_12 % 12 + afternoon, 24)
    zone = table._zone_text if "zone" in groups else ibis.literal("")
    table = table.mutate(
        _year=year,
        _month=month,
        _day=number("day"),
        _hour=hour,
        _minute=number("minute"),
        _second=number("second"),
        _ahead=_minutes_ahead(zone.re_extract(ZONE, 0)),
    ).view()
    table = table.mutate(_seconds=_seconds_of_parts(table)).view()
    form = ibis.cases(
        (table._text.isnull() | (table._text == ""), MISSING),
        (table._seconds.notnull(), DATE),
        else_=OTHER,
    )
    return table.select(*columns, number=table._seconds, form=form).view()


def _as_days(timed: ir.Table, unit: str, year: int) -> ir.Table:
    """Numbers YYYYMMDD, or MMDD of a `year`, as the DATE that they name; others become OTHER."""
    first, last, added = DAY_NUMBERS[unit]
    columns = [name for name in timed.columns if name not in ("number", "form")]
    is_number = timed.form.isin(NUMBER_FORMS) & timed.number.between(first, last)
    timed = timed.mutate(_number=is_number.ifelse(timed.number, None) + added * year).view()
    nothing = ibis.literal(0, "int64")
    timed = timed.mutate(
        _year=timed._number // 10_000,
        _month=timed._number // 100 % 100,
        _day=timed._number % 100,
        _hour=nothing,
        _minute=nothing,
        _second=nothing,
        _ahead=nothing,
    ).view()
    timed = timed.mutate(_seconds=_seconds_of_parts(timed)).view()
    form = ibis.cases(
        (timed.form == MISSING, MISSING), (timed._seconds.notnull(), DATE), else_=OTHER
    )
    return timed.select(*columns, number=timed._seconds, form=form.cast("int8")).view()


def _minutes_ahead(zone: ir.StringValue) -> ir.IntegerValue:
    """Minutes of a zone +HH, +HHMM or +HH:MM ahead of UTC; 0 for ""."""
    minutes = zone.substr(1, 2).try_cast("int64").fill_null(0) * 60
    minutes += (zone.length() > 3).ifelse(zone.right(2).try_cast("int64"), 0).fill_null(0)
    return (zone.substr(0, 1) == "-").ifelse(-minutes, minutes)


def _seconds_of_parts(table: ir.Table) -> ir.IntegerValue:
    """Seconds since 1970 UTC of _year, _month, _day, _hour, _minute, _second and the zone's minutes
    _ahead; null for a day or time that does not exist."""
    year, month = table._year, table._month
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    days = ibis.cases((month == 2, leap.ifelse(29, 28)), (month.isin([4, 6, 9, 11]), 30), else_=31)
    exists = month.between(1, 12) & table._day.between(1, days) & (table._hour < 24)
    exists = exists & (table._minute < 60) & (table._second < 60)
    exists = exists & table._ahead.between(-24 * 60 + 1, 24 * 60 - 1)
    seconds = _days_since_1970(year, month, table._day) * 86_400
    seconds += table._hour * 3600 + (table._minute - table._ahead) * 60 + table._second
    return exists.ifelse(seconds, None).cast("int64")


def _days_since_1970(
    year: ir.IntegerValue, month: ir.IntegerValue, day: ir.IntegerValue
) -> ir.IntegerValue:
    """Days of the Gregorian calendar; years are counted from March, so that leap days come last."""
    year = (month <= 2).ifelse(year - 1, year)
    month = (month > 2).ifelse(month - 3, month + 9)  # from 0, March
    leap_days = year // 4 - year // 100 + year // 400
    to_march_0000 = 719_468
    return 365 * year + leap_days + (153 * month + 2) // 5 + (day - 1) - to_march_0000
