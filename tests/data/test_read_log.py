"""Raw formats: what a person may put into the raw folder, and the events that are read from it."""

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.config.dataset_settings import DatasetSettings
from src.dataset.build import transforms
from tests.support import raw_reading
from tests.support.data_logs import (
    HEADER,
    MONTH,
    card_of,
    fail,
    make,
    random_log,
    sequences_of,
    write_log,
)


def read(folder, **settings):
    """The events of a raw folder as (user, item, domain, time), sorted, and its notes."""
    _, raw, _, events = raw_reading.read(folder, **settings)
    return events, raw.notes


@pytest.mark.parametrize("name", ["e.csv", "e.tsv", "e.csv.gz", "e.tsv.gz", "e.csv.zst"])
def test_text_tables_are_read_alike(tmp_path, name):
    rows = random_log(events=30)
    assert read(write_log(tmp_path / name, rows))[0] == sorted(rows)


def test_a_parquet_table_is_read_like_text(tmp_path):
    rows = random_log(events=30)
    columns = dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    assert read(tmp_path)[0] == sorted(rows)


def test_ids_stay_as_they_are_written(tmp_path):
    rows = [("007", "1e5", "NULL", 1), ("7", "00", "nan", 2), ("1.0", "NA #1", "# x", 3)]
    assert read(write_log(tmp_path / "e.csv", rows))[0] == sorted(rows)


def test_whole_seconds_may_be_written_as_floats(tmp_path):
    times = ["1.5e9", "1500000001.0", " 1500000002 ", "0", "+5"]
    rows = [(f"u{n}", "i", "d", time) for n, time in enumerate(times)]
    actual = read(write_log(tmp_path / "e.csv", rows))[0]
    assert [row[3] for row in actual] == [1_500_000_000, 1_500_000_001, 1_500_000_002, 0, 5]


def test_quoted_fields_blank_lines_byte_order_mark_and_windows_lines(tmp_path):
    text = '\ufeffuser_id,item_id,domain,unix_time\r\n"a,b","say ""x""",d,1\r\n\r\nu,i,d,2\r\n'
    (tmp_path / "e.csv").write_bytes(text.encode())
    assert read(tmp_path)[0] == [("a,b", 'say "x"', "d", 1), ("u", "i", "d", 2)]


def test_column_names_and_order_are_free(tmp_path):
    rows = [(5, "x", "d", "i", "u")]
    folder = write_log(tmp_path / "e.csv", rows, ("ts", "rating", "cat", "asin", "who"))
    named = {"user_col": "who", "item_col": "asin", "domain_col": "cat", "time_col": "ts"}
    assert read(folder, **named)[0] == [("u", "i", "d", 5)]


def test_only_leading_comment_lines_are_comments(tmp_path):
    rows = [("#u", "i # j", "d", 1)]
    comments = '# generated: by a test: truly\n#seed:7\n# no pair, {"a": 1, "b": ["c\n'
    actual, notes = read(write_log(tmp_path / "e.csv", rows, comments=comments))
    assert actual == rows
    assert notes == {"generated": "by a test: truly", "seed": "7"}


def test_without_a_domain_column_the_file_names_are_the_domains(tmp_path):
    header = ("user_id", "item_id", "unix_time")
    write_log(tmp_path / "Books.v2.csv.gz", [("u", "1", 5)], header)
    write_log(tmp_path / "Video Games.tsv", [("u", "2", 6)], header)
    (tmp_path / "README.md").write_text("ignored")
    (tmp_path / "meta.json").write_text("{}")
    assert read(tmp_path)[0] == [("u", "1", "Books.v2", 5), ("u", "2", "Video Games", 6)]


def test_two_files_cannot_both_be_one_domain(tmp_path, capsys):
    header = ("user_id", "item_id", "unix_time")
    for name in ("raw/Books.csv", "raw/Books.tsv"):
        write_log(tmp_path / name, [("u", "1", 5)], header)
    assert "both name domain Books" in fail(capsys, tmp_path / "raw", tmp_path / "out")


def test_several_files_with_a_domain_column_are_one_log(tmp_path):
    rows = random_log(events=30)
    write_log(tmp_path / "part-1.csv", rows[:10])
    write_log(tmp_path / "part-2.tsv.gz", rows[10:])
    assert read(tmp_path)[0] == sorted(rows)


# --- the released format ------------------------------------------------------------------------

SEQUENCES = "\tuser_id\titem\ttype\tunix_time\tlist_len\n"
USERS = ["0\tA1\tx,y,x\tBooks,Toys,Books\t5,5,9\t3\n", "1\tA2\ty\tToys\t7\t1\n"]


def released(folder, users=USERS, items="xy", types=("Books", "Toys")):
    folder.mkdir(exist_ok=True)
    (folder / "amazon_seq.txt").write_text(SEQUENCES + "".join(users))
    for name, column, words in (("voca_item", "item", items), ("voca_type", "type", types)):
        lines = [f"{n}\t{word}\t1\n" for n, word in enumerate(words)]
        (folder / f"{name}.txt").write_text(f"\t{column}\tcnt\n" + "".join(lines))
    return folder


def test_released_sequences_become_events(tmp_path):
    assert read(released(tmp_path))[0] == [
        ("A1", "x", "Books", 5),
        ("A1", "x", "Books", 9),
        ("A1", "y", "Toys", 5),
        ("A2", "y", "Toys", 7),
    ]


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ([USERS[0], "1\tA2\tz\tToys\t7\t1\n"], "row 3: item 'z' is not in voca_item.txt"),
        (["0\tA2\ty\tGames\t7\t1\n"], "row 2: type 'Games' is not in voca_type.txt"),
        ([USERS[0], "1\tA2\ty,x\tToys\t7\t1\n"], "row 3: the lists of user 'A2'"),
        ([USERS[0], "1\tA2\ty\tToys\t7\t2\n"], "row 3: the lists of user 'A2'"),
        ([USERS[0], "1\tA2\ty\tToys\tnow\t1\n"], "row 3: unix_time 'now'"),
        ([USERS[0], "1\tA2\ty,\tToys,Toys\t7,8\t2\n"], "row 3: item '' is not in voca_item.txt"),
        ([], "amazon_seq.txt is empty"),
    ],
)
def test_faults_of_released_sequences(tmp_path, capsys, users, words):
    raw = released(tmp_path / "raw", users)
    assert words in fail(capsys, raw, tmp_path / "out")


def test_released_format_has_its_own_column_names(tmp_path, capsys):
    raw = released(tmp_path / "raw")
    assert "--user_col" in fail(capsys, raw, tmp_path / "out", "--user_col=who")


def test_a_missing_vocabulary(tmp_path, capsys):
    raw = released(tmp_path / "raw")
    (raw / "voca_type.txt").unlink()
    assert "voca_type.txt is missing" in fail(capsys, raw, tmp_path / "out")


# --- names and types that get in the way ---------------------------------------------------------


def test_columns_of_a_parquet_file_may_be_called_as_the_readers_own(tmp_path):
    rows = random_log(events=30)
    users, items, domains, times = map(list, zip(*rows, strict=True))
    table = pa.table({"user_id": users, "row": items, "file": domains, "unix_time": times})
    pq.write_table(table, tmp_path / "e.parquet")
    named = {"item_col": "row", "domain_col": "file"}
    assert read(tmp_path, **named)[0] == sorted(rows)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_path_is_no_pattern(tmp_path, suffix):
    for name, user in (("a[bc]", "right"), ("ab", "wrong")):
        (tmp_path / name).mkdir()
        rows = [(user, "i", "d", 1)]
        if suffix == "csv":
            write_log(tmp_path / name / "e.csv", rows)
        else:
            columns = dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=True))
            pq.write_table(pa.table(columns), tmp_path / name / "e.parquet")
    assert read(tmp_path / "a[bc]")[0] == [("right", "i", "d", 1)]


def test_ids_that_are_floats_are_whole_numbers_and_nan_is_none(tmp_path, capsys):
    users = [1.0, 2.0, float("nan"), 1e15]
    columns = {"user_id": users, "item_id": list("abab"), "domain": ["d"] * 4}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(columns | {"unix_time": [MONTH] * 4}), tmp_path / "raw" / "e.parquet")
    make(tmp_path / "raw", tmp_path / "out", "--max_rejected=0.5")
    assert set(sequences_of(tmp_path / "out")) == {"1", "2", "1000000000000000"}
    assert card_of(tmp_path / "out")["rejected"] == {"user_id is empty": 1}


def test_ids_of_bytes_are_refused(tmp_path, capsys):
    columns = {"user_id": [b"u"], "item_id": ["i"], "domain": ["d"], "unix_time": [MONTH]}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "raw" / "e.parquet")
    assert "bytes as ids" in fail(capsys, tmp_path / "raw", tmp_path / "out")


def test_nested_values_of_parquet_are_no_ids(tmp_path, capsys):
    columns = {"user_id": ["u"], "item_id": [{"id": 0}], "domain": ["d"], "unix_time": [MONTH]}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "raw" / "e.parquet")
    line = fail(capsys, tmp_path / "raw", tmp_path / "out")
    assert "nested values as ids in column 'item_id'" in line


def test_a_damaged_page_of_a_parquet_file_is_told_in_one_line(tmp_path, capsys):
    rows = random_log(events=4000)
    columns = dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=True))
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "e.parquet"
    pq.write_table(pa.table(columns), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[60:600] = b"\xff" * 540
    path.write_bytes(bytes(content))
    fail(capsys, tmp_path / "raw", tmp_path / "out")


def test_a_very_long_domain_has_a_file(tmp_path):
    names = ["товары для дома " * 20, "товары для дома " * 20 + "!"]
    rows = [("u", f"i{n}", name, MONTH + n) for name in names for n in range(3)]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    assert list(card_of(tmp_path / "out")["domains"]) == sorted(names)
    assert len(list((tmp_path / "out" / "single").iterdir())) == 2


def test_recboles_three_parts_of_a_log_are_one_domain(tmp_path):
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    for n, part in enumerate(("train", "valid", "test")):
        (tmp_path / f"books.{part}.inter").write_text(f"{header}u\ti{n}\t{n}.0\n")
    actual = read(tmp_path)[0]
    assert actual == [("u", f"i{n}", "books", n) for n in range(3)]


# --- one definition for every engine ------------------------------------------------------------


@pytest.mark.parametrize("split", transforms.SPLITS)
def test_every_step_can_be_written_for_spark(split):
    """The steps are portable expressions: Ibis finds each operation in Spark's language too.

    `test_spark.py` runs them, where Spark is.
    """
    columns = dict.fromkeys((*HEADER[:3], "file"), "string")
    columns |= dict.fromkeys(("unix_time", "row", "index_in_row"), "int64")
    log = ibis.table(columns, name="events")
    events = log.filter(transforms.up_to(log, MONTH), transforms.in_domains(log, ("a",)))
    users, items = transforms.user_ids(events), transforms.item_ids(events, shared=True)
    numbered = transforms.numbered_events(events, users, items, as_logged=True)
    ordered = transforms.with_ties_hashed(transforms.with_order(numbered, ["item"]), users, items)
    settings = DatasetSettings(
        data_name="t", strd_ym="201401", dedup="consecutive", max_user_events=9,
        min_user_events=2, min_item_events=2, min_domains=2, max_len=5,
    )  # fmt: skip
    chosen = [
        *transforms.first_steps(settings), *transforms.filter_steps(settings),
        *transforms.length_steps(settings),
    ]  # fmt: skip
    assert len(chosen) == 6
    for step in chosen:
        ordered = step.keep(ordered)
    ordered = transforms.first_of(ordered, ["user", "item"])
    cuts = {"valid_from": MONTH, "test_from": MONTH + 1} if split == "temporal" else {}
    placed = transforms.SPLITS[split](ordered, **cuts)
    kept = transforms.remaining_users(placed), transforms.remaining_items(placed)
    assert "SHA2(" in ibis.to_sql(transforms.renumbered(placed, *kept), dialect="pyspark")
    assert transforms.domains_with_one_item(kept[1]).columns == ("domain",)
