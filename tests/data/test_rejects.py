"""Raw rows that cannot be used: counted by reason, sampled with their rows, and never silent."""

import csv
import gzip
import json
import re
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.dataset.ingest.rejects import enough
from src.io.errors import UserError
from tests.support import raw_reading
from tests.support.data_logs import HEADER, MONTH, fail, make, write_log

GOOD = b"u1,i1,a,1400000000\n"
TIMES = {
    "seconds": ["1400000000", "1.4e9", " 1400000000 ", "1400000000.0", "1400000000.999"],
    "milliseconds": ["1400000000999", "1400000000000.7", "1.400000000001e12"],
    "microseconds": ["1400000000999999"],
    "nanoseconds": ["1400000000999999999"],
    "ISO": [
        "2014-05-13", "2014-05-13T16:53:20Z", "2014-05-13 18:53:20+02:00", "2014-05-13T16:53",
        "2014-05-13 16:53:20.999", "2014-05-13 11:23:20-0530", "2014-05-13 16:53:20 UTC",
    ],
}  # fmt: skip
NO_DAYS = ["2014-02-29", "2014-13-01", "2014-05-13T24:00", "2014-05-13T16:60", "13.05.2014"]


def log(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(",".join(HEADER).encode() + b"\n" + b"".join(rows))
    return path.parent


def faults(parsed):
    return [(row["row"], row["reason"]) for row in parsed.sample]


def test_each_fault_is_counted_and_placed(tmp_path):
    folder = log(
        tmp_path / "raw" / "e.csv",
        GOOD,
        b"u,caf\xe9,a,1400000000\n",
        b"u,i,a\n\n",
        b'u,"said ""so""",a,1400000000\n',
        b"u,i,a,1400000000,5\n",
        b'u,"two\nlines",a,1400000000\n',
        b"u,i\0i,a,1400000000\n",
        b" \t,i,a,1400000000\n",
        b"u,,a,1400000000\n",
        b"u,i,,1400000000\n",
        b"u,i,a,\n",
        b"u,i,a,soon\n",
        b"u,i,a,1400000000000\n",
        b"u,i,a,-1\n",
        b"u,i,a,2014-05-13\n",
    )
    _, _, parsed, events = raw_reading.read(folder, max_rejected=1.0)
    assert events == [("u", 'said "so"', "a", 1_400_000_000), ("u1", "i1", "a", 1_400_000_000)]
    unit = "time is not in seconds since 1970"
    assert faults(parsed) == [
        (3, "not UTF-8"),
        (4, "too few columns"),
        (7, "too many columns"),
        (8, "line break or NUL in an id"),
        (10, "line break or NUL in an id"),
        (11, "user_id is empty"),
        (12, "item_id is empty"),
        (13, "domain is empty"),
        (14, "time is empty"),
        (15, "time is neither a number nor an ISO date"),
        (16, unit),
        (17, "time is before 1970"),
        (18, unit),
    ]
    assert parsed.rows == 15 == len(events) + sum(parsed.rejected.values())
    assert list(parsed.rejected.items())[:2] == [("line break or NUL in an id", 2), (unit, 2)]
    assert parsed.sample[1]["text"] == "u,i,a"
    assert parsed.sample[9]["text"] == "u,i,a,soon"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_are_lines_also_under_comments_and_in_packed_files(tmp_path, end):
    rows = [("u", "i", "a", MONTH)] * 3 + [("u", "", "a", MONTH), ("u", "i", "a", "x"), ("u", "i")]
    folder = write_log(tmp_path / "raw" / "e.csv.gz", rows, comments="# a\n# b\n")
    if end != "\n":
        path = folder / "e.csv.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"\n", b"\r\n")))
    parsed = raw_reading.read(folder, max_rejected=1.0)[2]
    assert [row for row, _ in faults(parsed)] == [7, 8, 9]


def test_lines_that_an_open_quote_swallows_are_counted(tmp_path):
    folder = log(
        tmp_path / "raw" / "e.csv", GOOD, b'u,"i,a,1400000000\n', GOOD, GOOD, b'u,"i",a,1\n', GOOD
    )
    _, _, parsed, events = raw_reading.read(folder, max_rejected=1.0)
    assert len(events) == 2
    assert parsed.rejected == {"unclosed quote": 4}
    assert faults(parsed) == [(3, "unclosed quote")]


def test_broken_json_is_placed(tmp_path):
    good = b'{"reviewerID": "u", "asin": "a", "unixReviewTime": 1, "helpful": []}\n'
    (tmp_path / "raw").mkdir()
    lines = [
        good, b"\n", b'{"reviewerID": "caf\xe9", "asin": "a", "unixReviewTime": 1}\n', good,
        b'{"reviewerID": "u"\n', b"[1]\n", b'{"asin": "a", "unixReviewTime": 1}\n',
        good[:-1] + good, good[:30],
    ]  # fmt: skip
    (tmp_path / "raw" / "reviews_Books.json").write_bytes(b"".join(lines))
    parsed = raw_reading.read(tmp_path / "raw", max_rejected=1.0)[2]
    assert faults(parsed) == [
        (3, "not UTF-8"),
        (5, "not a JSON object"),
        (6, "not a JSON object"),
        (7, "user_id is empty"),
        (8, "not a JSON object"),
        (9, "not a JSON object"),
    ]
    assert parsed.rows == 8


def test_ids_and_domains_keep_every_byte(tmp_path):
    domains = ["a/b", "a b", "🎬", "x,y", "été", "A/B", " a/b"]
    rows = [("U" if n % 2 else "u ", f"i{n}", f'"{name}"', MONTH) for n, name in enumerate(domains)]
    events = raw_reading.read(write_log(tmp_path / "raw" / "e.csv", rows))[3]
    assert [(user, domain) for user, _, domain, _ in sorted(events, key=lambda row: row[1])] == [
        ("U" if n % 2 else "u ", name) for n, name in enumerate(domains)
    ]


@pytest.mark.parametrize("unit", TIMES)
def test_times_are_recognised(tmp_path, unit):
    rows = [(f"u{n}", "i", "a", time) for n, time in enumerate(TIMES[unit])]
    _, _, parsed, events = raw_reading.read(write_log(tmp_path / "raw" / "e.csv", rows))
    assert parsed.times.startswith(unit)
    midnight = {"2014-05-13": 1_399_939_200, "2014-05-13T16:53": 1_399_999_980}
    assert [time for *_, time in events] == [
        midnight.get(time, 1_400_000_000) for time in TIMES[unit]
    ]


def test_days_that_are_none_are_faults(tmp_path):
    rows = [("u", "i", "a", "2012-02-29"), *[("u", "i", "a", day) for day in NO_DAYS]]
    folder = write_log(tmp_path / "raw" / "e.csv", rows)
    _, _, parsed, events = raw_reading.read(folder, max_rejected=1.0)
    assert [time for *_, time in events] == [1_330_473_600]
    assert parsed.rejected == {"time is neither a number nor an ISO date": len(NO_DAYS)}


def test_a_unit_that_is_named_is_taken_at_its_word(tmp_path):
    rows = [("u", "i", "a", "1000"), ("u", "i", "a", "2500.5"), ("u", "i", "a", "2014-05-13")]
    folder = write_log(tmp_path / "raw" / "e.csv", rows)
    _, _, parsed, events = raw_reading.read(folder, time_unit="milliseconds", max_rejected=1.0)
    assert [time for *_, time in events] == [1, 2]
    assert parsed.rejected == {"time is not in milliseconds since 1970": 1}
    late = write_log(tmp_path / "late" / "e.csv", [("u", "i", "a", 253_402_300_800), rows[0]])
    parsed = raw_reading.read(late, time_unit="seconds", max_rejected=1.0)[2]
    assert parsed.rejected == {"time is after the year 9999": 1}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int64(), [1_400_000_000_000, None, -(10**12)]),
        (pa.int32(), [1_400_000_000, None, -1]),
        (pa.float64(), [1_400_000_000_999.5, float("nan"), -1e12]),
        (pa.timestamp("us"), [datetime(2014, 5, 13, 16, 53, 20, 9), None, datetime(1969, 1, 1)]),
        (pa.timestamp("ns", "Europe/Berlin"), [datetime.fromtimestamp(14e8, UTC), None, -1]),
        (pa.date32(), [date(2014, 5, 13), None, date(1969, 12, 31)]),
        (pa.string(), ["2014-05-13T16:53:20", None, "1969-12-31"]),
    ],
    ids=str,
)
def test_times_of_parquet_files(tmp_path, kind, values):
    columns = {"user_id": ["u", "v", "w"], "item_id": [1, 2, 3], "domain": ["a"] * 3}
    table = pa.table({**columns, "unix_time": pa.array(values, kind)})
    pq.write_table(table, tmp_path / "e.parquet")
    _, _, parsed, events = raw_reading.read(tmp_path, max_rejected=1.0)
    assert events == [("u", "1", "a", 1_399_939_200 if kind == pa.date32() else 1_400_000_000)]
    assert faults(parsed) == [(2, "time is empty"), (3, "time is before 1970")]


def test_a_large_log_may_have_a_few_bad_rows_and_says_so(tmp_path):
    folder = log(tmp_path / "raw" / "e.csv", GOOD * 2000, b"u,i,a,\n", GOOD)
    parsed = raw_reading.read(folder)[2]
    assert parsed.rejected == {"time is empty": 1}
    assert faults(parsed) == [(2002, "time is empty")]


def test_too_many_bad_rows_stop_with_the_first_of_them(tmp_path, capsys):
    folder = log(tmp_path / "raw" / "e.csv", GOOD * 9, b"u,i,a,x\n", b",i,a,1\n")
    line = fail(capsys, folder, tmp_path / "out")
    assert "2 of 11 raw rows cannot be used" in line
    assert "e.csv row 11: unix_time 'x' is neither a number nor an ISO date" in line
    assert "--max_rejected" in line


BAD = [b"u,i,a,x\n", b",i,a,1400000000\n", b"u,,a,1400000000\n", b"u,i,,1400000000\n", b"u,i,a\n"]


@pytest.mark.parametrize(
    "bad", [1, *(pytest.param(n, marks=pytest.mark.nightly) for n in (2, 3, 4)), len(BAD)]
)
def test_the_refusal_lists_all_reasons_names_the_share_and_leaves_a_sample(tmp_path, capsys, bad):
    folder = log(tmp_path / "raw" / "e.csv", GOOD * 7, GOOD.replace(b"i1", b"i2"), *BAD[:bad])
    line = fail(capsys, folder, tmp_path / "made" / "out")
    reasons = raw_reading.read(folder, max_rejected=1.0)[2].rejected
    assert len(reasons) == bad
    assert all(f"{reason}: 1" in line for reason in reasons)
    sample = tmp_path / "made" / "out-rejected.csv"
    assert line.endswith(f"; see {sample}\n")
    assert [path.name for path in sample.parent.iterdir()] == [sample.name]
    rows = list(csv.DictReader(sample.open(newline="", encoding="utf-8")))
    assert [row["text"] for row in rows] == [text.decode().strip() for text in BAD[:bad]]
    assert [row["row"] for row in rows] == [str(10 + n) for n in range(bad)]
    share = re.search(r"allow them with --max_rejected (\S+) \(now 0\.001\)", line)[1]
    less = float(share) * 0.99
    assert "cannot be used" in fail(
        capsys, folder, tmp_path / "made" / "out", f"--max_rejected={less}"
    )
    make(folder, tmp_path / "made" / "out", f"--max_rejected={share}")
    assert [path.name for path in sample.parent.iterdir()] == ["out"]  # the old sample is gone
    assert (tmp_path / "made" / "out" / "rejected.csv").is_file()


@pytest.mark.parametrize("rows", [3, 7, 999, 1001, 123_457])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_share_that_would_do_is_enough_and_hardly_more(rows, count):
    share = float(enough(count, rows))
    assert count <= share * rows <= count * 1.01


@pytest.mark.parametrize("flag", ["--describe", "--suggest=5"])
def test_a_refusal_of_a_command_that_writes_nothing_leaves_nothing(tmp_path, capsys, flag):
    folder = log(tmp_path / "raw" / "e.csv", GOOD, BAD[0])
    line = fail(capsys, folder, tmp_path / "out", flag)
    assert "1 of 2 raw rows cannot be used" in line
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_sample_that_cannot_be_written_does_not_hide_the_refusal(tmp_path, capsys, monkeypatch):
    folder = log(tmp_path / "raw" / "e.csv", GOOD, BAD[0])

    def full(path, sample):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.dataset.make.write_rejected", full)
    line = fail(capsys, folder, tmp_path / "out")
    assert "1 of 2 raw rows cannot be used" in line
    assert "see " not in line


LINES = {
    "csv": ("e.csv", b"user_id,item_id,domain,unix_time,note\n", [
        b'u,"an ""item""",a,x,',
        b'u,i, ,1400000000,"a quoted, field"',
        b' u ,i,a,,"two\nlines"',
        b'"u\nv",i,a,1400000000,5" pipe',
        b"u,i,a,-5,caf\xc3\xa9",
    ]),
    "tsv": ("e.tsv", b"user_id\titem_id\tdomain\tunix_time\n", [
        b"u\ti\ta\tx", b"\ti\ta\t1400000000", b"u\t \ta\t1400000000", b"u\ti\t\t1", b"u\ti\ta\t",
    ]),
    "comments and gz": ("e.csv.gz", b"# one\n# two\nuser_id,item_id,domain,unix_time\n", [
        b"u,i,a,x", b"u,i,a,-1", b",i,a,1400000000", b"u,,a,1400000000", b"u,i,a,1.5.",
    ]),
    "json": ("reviews_A.json", b"", [
        b'{"reviewerID": "u", "asin": "a", "unixReviewTime": "x", "text": "say \\"no\\""}',
        b'{"reviewerID": "", "asin": "a", "unixReviewTime": 1}',
        b'{"reviewerID": "u",  "asin": "a"}',
        b"[1, 2]",
        b'{"reviewerID": "u\\nv", "asin": "a", "unixReviewTime": 1}',
    ]),
    "not quoted": ("A.inter", b"user_id:token\titem_id:token\ttimestamp:float\n", [
        b'u\t"i\tx', b'u\t5" pipe\t', b"\ti\t1400000000", b"u\t\t1400000000", b"u\ti\t-3",
    ]),
}  # fmt: skip
GOOD_LINES = {
    "csv": b"u,i,a,1400000000,\n", "tsv": b"u\ti\ta\t1400000000\n",
    "comments and gz": GOOD, "not quoted": b"u\ti\t1400000000\n",
    "json": b'{"reviewerID": "u", "asin": "a", "unixReviewTime": 1}\n',
}  # fmt: skip


def check_nested_ids(folder, engine):
    good = {"user_id": "{u}", "item_id": "[7]", "domain": "a", "unix_time": MONTH, "event": "buy"}
    nested = [{"user_id": {"id": 0}}, {"item_id": [7]}, {"domain": []}]
    others = [{"item_id": [], "event": "view"}]  # not wanted: no fault
    folder.mkdir()
    lines = [json.dumps(good | changes) for changes in [{}, *nested, *others]]
    (folder / "e.jsonl").write_text("\n".join(lines) + "\n")
    filters = {"event_col": "event", "events": ("buy",)}
    parsed, events = raw_reading.read_with(engine, folder, max_rejected=1.0, **filters)[2:]
    assert events == [("{u}", "[7]", "a", MONTH)]
    assert parsed.rejected == {"a JSON object or array as an id or domain": 3}
    assert sorted(row["text"] for row in parsed.sample) == sorted(lines[1:4])


def test_objects_and_arrays_in_json_are_no_ids(tmp_path):
    with raw_reading.duck(tmp_path / "raw") as engine:
        check_nested_ids(tmp_path / "raw", engine)


def test_objects_and_arrays_in_json_are_no_ids_for_spark(spark, tmp_path):
    check_nested_ids(tmp_path / "raw", spark)


@pytest.mark.parametrize("kind", LINES)
def test_a_rejected_row_is_kept_as_it_stands_in_the_file(tmp_path, kind):
    name, head, bad = LINES[kind]
    content = head + b"".join(GOOD_LINES[kind] + row + b"\n" for row in bad)
    path = tmp_path / "raw" / name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    sample = raw_reading.read(path.parent, max_rejected=1.0)[2].sample
    assert [row["text"] for row in sample] == [row.decode() for row in bad]


def test_the_line_of_a_quote_that_never_closes_is_the_first(tmp_path):
    folder = log(tmp_path / "raw" / "e.csv", GOOD, b'u,"i,a,1400000000\n', GOOD * 300)
    (row,) = raw_reading.read(folder, max_rejected=1.0)[2].sample
    assert (row["row"], row["text"]) == (3, 'u,"i,a,1400000000')


def test_bytes_that_are_not_utf8_are_kept_as_escapes(tmp_path):
    folder = log(tmp_path / "raw" / "e.csv", GOOD, b"u,caf\xe9,a,1400000000\n")
    (row,) = raw_reading.read(folder, max_rejected=1.0)[2].sample
    assert row["text"] == "u,caf\\xe9,a,1400000000"


@pytest.mark.parametrize("name", ["e.csv.gz", "e.csv.zst"])
def test_a_torn_packed_file_is_never_read_in_part(tmp_path, capsys, name):
    rows = [(f"user {n}", f"item {n * 7919 % 1000}", "a", MONTH + n) for n in range(3000)]
    raw = write_log(tmp_path / "raw" / name, rows)
    whole = (raw / name).read_bytes()
    (raw / name).write_bytes(whole[:-100])
    assert f"{name} cannot be read" in fail(capsys, raw, tmp_path / "out")


def test_the_sample_is_the_same_whatever_the_threads(tmp_path):
    rows = [("u", "i", "a", MONTH if n % 3 else "x") for n in range(9000)]
    folder = write_log(tmp_path / "raw" / "e.csv", rows)
    samples = [
        raw_reading.read(folder, threads=threads, max_rejected=1.0)[2].sample for threads in (1, 2)
    ]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 1000
    assert samples[0][-1]["row"] == 2 + 3 * 999


def test_every_engine_uses_the_same_rows(tmp_path, spark):
    good = ["1400000000", "1.4e9", "12.5", "-1", "", "x", "2014-05-13", "1400000000000"]
    folder = log(
        tmp_path / "raw" / "e.csv",
        *[f"u{n},é,a,{time}\n".encode() for n, time in enumerate(good)],
        b"u,caf\xe9,a,1400000000\n",
        b"u,i,a\nu,i,a,1400000000,5\n",
        b'u,"two\nlines",a,1400000000\n , i ,a,1400000000\nu, i ,a,1400000000\n',
    )
    for unit in ("auto", "milliseconds", "iso"):
        chosen = {"time_unit": unit, "max_rejected": 1.0}
        _, _, parsed, events = raw_reading.read_with(spark, folder, **chosen)
        _, _, ducks, expected = raw_reading.read(folder, **chosen)
        assert events == expected
        assert parsed.rejected == ducks.rejected
        assert {row["row"] for row in parsed.sample} == {None}


def test_spark_refuses_an_order_that_it_does_not_know(tmp_path, spark):
    folder = log(tmp_path / "raw" / "e.csv", GOOD)
    with pytest.raises(UserError, match="--tie_order as_logged needs the order of rows"):
        raw_reading.read_with(spark, folder, tie_order="as_logged")
