"""Forms in which people have their logs: separators, packing, encodings, dates, side files."""

import bz2
import gzip
import io
import json
import tarfile
import zipfile

import pytest

from src.io.errors import UserError
from tests.data.test_times import FORMATS, parquet
from tests.support import raw_reading
from tests.support.data_logs import HEADER, card_of, events_of, fail, make, write_log

ROWS = [("u1", "i1", "Books", 1_399_999_999), ("u2", "i2", "Toys", 1_400_000_000)]
EVENTS = sorted(ROWS)
CSV = "\n".join(",".join(map(str, row)) for row in [HEADER, *ROWS]) + "\n"


def zipped(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return stream.getvalue()


def tarred(mode="w:gz", **files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("_dot_", "."))
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def json_lines(rows=ROWS):
    return "".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\n" for row in rows)


# --- what is read -------------------------------------------------------------------------------

READ = {
    "semicolons": ("a.csv", CSV.replace(",", ";"), {}),
    "bars": ("a.csv", CSV.replace(",", "|"), {}),
    "tabs in .csv": ("a.csv", CSV.replace(",", "\t"), {}),
    "commas in .tsv": ("a.tsv", CSV, {}),
    "a separator of its own": ("a.csv", CSV.replace(",", "^"), {"delimiter": "^"}),
    "a tab, spelled": ("a.csv", CSV.replace(",", "\t"), {"delimiter": "tab"}),
    "blanks around the names": ("a.csv", CSV.replace(",item_id,", " , item_id ,"), {}),
    "commas in the name of another column": (
        "a.csv",
        "".join(
            f"{line};{end}\n"
            for line, end in zip(
                CSV.replace(",", ";").splitlines(), ('"a,b,c,d,e"', "", ""), strict=True
            )
        ),
        {},
    ),
    "no header": ("a.csv", CSV.partition("\n")[2], {"columns": ",".join(HEADER)}),
    "no header, a column too many": (
        "a.csv",
        "".join(f"x,{line}\n" for line in CSV.splitlines()[1:]),
        {"columns": f"-, {', '.join(HEADER)}"},
    ),
    "no header, semicolons": (
        "a.csv",
        CSV.partition("\n")[2].replace(",", ";"),
        {"columns": ",".join(HEADER)},
    ),
    "gzip under another name": ("a.csv", gzip.compress(CSV.encode()), {}),
    "a plain file named .gz": ("a.csv.gz", CSV, {}),
    "bzip2": ("a.csv.bz2", bz2.compress(CSV.encode()), {}),
    "zip": ("a.zip", zipped(folder__a_dot_csv=CSV), {}),
    "zip with the debris of a Mac": ("a.zip", zipped(a_dot_csv=CSV, __MACOSX___a_dot_csv="x"), {}),
    "tar.gz": ("a.tar.gz", tarred(a_dot_csv=CSV), {}),
    "tgz": ("a.tgz", tarred(a_dot_csv=CSV), {}),
    "tar": ("a.tar", tarred("w", a_dot_csv=CSV), {}),
    "UTF-16, little endian": ("a.csv", CSV.encode("utf-16"), {}),
    "UTF-16, big endian": ("a.csv", b"\xfe\xff" + CSV.encode("utf-16-be"), {}),
    "UTF-16 in gzip": ("a.csv.gz", gzip.compress(CSV.encode("utf-16")), {}),
    "JSON lines": ("a.jsonl", json_lines(), {}),
    "JSON lines under any name": ("events", gzip.compress(json_lines().encode()), {}),
    "JSON lines in .json.gz": ("a.json.gz", gzip.compress(json_lines().encode()), {}),
}


IN_A_FOLDER = ("semicolons", "no header", "zip", "tgz", "JSON lines in .json.gz")  # some of them


@pytest.mark.parametrize("form", READ)
def test_a_form_is_read_in_a_folder_and_as_a_file(tmp_path, form):
    name, data, flags = READ[form]
    path = put(tmp_path / "raw" / name, data)
    if form in IN_A_FOLDER:
        assert raw_reading.read(path.parent, **flags)[3] == EVENTS
    with raw_reading.duck(tmp_path / "file") as engine:
        assert raw_reading.read_with(engine, path, **flags)[3] == EVENTS


def test_a_detected_separator_is_said(tmp_path, capsys):
    text = CSV.replace(",", ";") + "u1;i3;Books;5\n"
    path = put(tmp_path / "raw" / "a.csv", text)
    assert raw_reading.read(path.parent)[1].remarks == ("columns separated by a semicolon",)
    make(path.parent, tmp_path / "out", "--describe")
    assert "columns separated by a semicolon" in capsys.readouterr().out


def test_json_lines_take_the_flags_of_columns(tmp_path):
    rows = [{"who": 1, "what": i, "at": time, "shop": "a"} for i, time in ((7, 5), (8, 6))]
    put(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    flags = {"user_col": "who", "item_col": "what", "time_col": "at", "domain_col": "shop"}
    events = raw_reading.read(tmp_path, **flags)[3]
    assert events == [("1", "7", "a", 5), ("1", "8", "a", 6)]


MIXED = [("u1", item, "Books", time) for time, item in enumerate(("B00X", 7, "7", "007"))]


def test_an_id_is_the_same_as_a_number_and_as_text(tmp_path):
    """DuckDB's own reader quotes all ids of such a file: findings/duckdb_json_quoted_ids.sh."""
    path = put(tmp_path / "raw" / "a.jsonl", json_lines(MIXED))
    assert [item for _, item, _, _ in raw_reading.read(path.parent)[3]] == ["007", "7", "7", "B00X"]


def test_spark_reads_such_ids_alike(tmp_path, spark):
    path = put(tmp_path / "a.jsonl", json_lines(MIXED))
    events = raw_reading.read_with(spark, path)[3]
    assert [item for _, item, _, _ in events] == ["007", "7", "7", "B00X"]


def test_one_file_without_a_domain_column_is_a_domain(tmp_path):
    header = ("user_id", "item_id", "unix_time")
    for name in ("Books.csv", "Books.jsonl", "Books.tsv.gz", "Books.parquet", "Books.zip"):
        folder = tmp_path / name.replace(".", "-")
        rows = [("u", "i", 5)]
        if name.endswith("jsonl"):
            put(folder / name, json.dumps(dict(zip(header, rows[0], strict=True))) + "\n")
        elif name.endswith("parquet"):
            parquet(folder / name, **{key: [x] for key, x in zip(header, rows[0], strict=True)})
        elif name.endswith("zip"):
            put(folder / name, zipped(Books_dot_csv="user_id,item_id,unix_time\nu,i,5\n"))
        else:
            write_log(folder / name, rows, header)
        _, raw, _, events = raw_reading.read(folder)
        assert events == [("u", "i", "Books", 5)]
        assert raw.domains_by_name  # which is noted on the console and in the card


SPLITS = {
    "table": ("Toys.{}.csv", "user_id,item_id,unix_time\nu{},i,{}\n", 1),
    "JSON lines": ("Toys.{}.jsonl", '{{"user_id":"u{}","item_id":"i","unix_time":{}}}\n', 1),
    "amazon2023": ("Toys.{}.csv.gz", "user_id,parent_asin,rating,timestamp\nu{},i,5.0,{}\n", 1000),
    "amazon2023 with history": (
        "Toys.{}.csv", "user_id,parent_asin,rating,timestamp,history\nu{},i,5.0,{},\n", 1000,
    ),
    "amazon2014": ("ratings_Toys.{}.csv", "u{},B00000001X,5.0,{}\n", 1),
    "movies": ("Toys.{}.tsv", "user_id\titem_id\tunix_time\nu{}\ti\t{}\n", 1),
}  # fmt: skip


@pytest.mark.parametrize("form", SPLITS)
def test_the_files_of_a_published_split_are_one_domain(tmp_path, form):
    name, text, factor = SPLITS[form]
    for n, part in enumerate(("train", "valid", "test")):
        data = text.format(n, (1_400_000_000 + n) * factor).encode()
        path = tmp_path / "raw" / name.format(part)
        put(path, gzip.compress(data) if path.suffix == ".gz" else data)
    events = raw_reading.read(tmp_path / "raw")[3]
    assert [(user, domain, time) for user, _, domain, time in events] == [
        (f"u{n}", "Toys", 1_400_000_000 + n) for n in range(3)
    ]
    whole = tmp_path / "raw" / name.replace(".{}", "")
    whole.write_bytes((tmp_path / "raw" / name.format("test")).read_bytes())
    with pytest.raises(UserError, match="both name domain Toys"):
        raw_reading.read(tmp_path / "raw")


# --- filters and side files ---------------------------------------------------------------------


def shop_log(path):
    header = (*HEADER, "event", "stars")
    rows = [
        ("u1", "i1", "a", 1, "view", ""),
        ("u1", "i2", "a", 2, "purchase", 5),
        ("u2", "i1", "a", 3, "purchase", 2.5),
        ("", "i1", "a", 4, "view", 3),  # not asked for, so no fault
        ("u2", "i3", "b", 5, " purchase", "x"),
        ("u3", "i3", "b", 6, "purchase", 4),
        ("u3", "i4", "b", 7, "cart", 4),
    ]
    return write_log(path, rows, header)


def test_events_of_some_types_and_ratings_are_kept(tmp_path):
    folder = shop_log(tmp_path / "raw" / "a.csv")
    _, _, parsed, events = raw_reading.read(folder, events=("purchase", "cart"))
    assert [item for _, item, _, _ in events] == ["i2", "i1", "i3", "i3", "i4"]
    assert (parsed.filtered, parsed.rejected) == ({"other_events": 2}, {})
    flags = {"events": ("purchase",), "rating_col": "stars", "min_rating": 4.0}
    _, _, parsed, events = raw_reading.read(folder, **flags)
    assert [item for _, item, _, _ in events] == ["i2", "i3"]
    assert parsed.filtered == {"other_events": 3, "min_rating": 2}
    make(folder, tmp_path / "out", "--events", "purchase", "cart")
    dropped = card_of(tmp_path / "out")["dropped"]
    assert (dropped["rejected"], dropped["other_events"]) == (0, 2)
    assert sum(dropped.values()) + sum(events_of(tmp_path / "out").values()) == 7


def test_a_type_that_no_event_has_is_refused_with_those_it_has(tmp_path, capsys):
    folder = shop_log(tmp_path / "raw" / "a.csv")
    line = fail(capsys, folder, tmp_path / "out", "--events=buy")
    assert "--events buy (the log has purchase, view, cart)" in line
    line = fail(capsys, folder, tmp_path / "out", "--min_rating=3")
    assert "no column 'rating'" in line
    assert "--rating_col" in line


SIDE = {
    "articles.csv": ("key,group\ni1,Books\ni2,Toys|Games\ni3,\n", "key:group:|"),
    "articles.tsv": ("i1\tx\tBooks\ni2\ty\tToys|Games\ni3\tz\t\n", "1:3:|"),
    "articles.json": (
        '{"key": "i1", "group": "Books"}\n{"key": "i2", "group": "Toys|Games"}\nbroken\n',
        "key:group:|",
    ),
}


@pytest.mark.parametrize("name", SIDE)
def test_the_domain_comes_from_another_table(tmp_path, name):
    text, columns = SIDE[name]
    put(tmp_path / "raw" / name, text)
    rows = [("u1", "i2", 6), ("u2", "i1", 5), ("u3", "i3", 7), ("u4", "i9", 8)]
    write_log(tmp_path / "raw" / "log.csv", rows, ("user_id", "item_id", "unix_time"))
    _, _, parsed, events = raw_reading.read(
        tmp_path / "raw", domain_from=f"{name}:{columns}", max_rejected=0.5
    )
    assert events == [("u1", "i2", "Toys", 6), ("u2", "i1", "Books", 5)]
    assert parsed.rejected == {"domain is empty": 2}
    assert [(row["file"], row["row"]) for row in parsed.sample] == [("log.csv", 4), ("log.csv", 5)]


def test_a_side_file_is_recorded_and_its_faults_are_refused(tmp_path, capsys):
    rows = [("u1", "i2", 6), ("u2", "i1", 5), ("u2", "i2", 7)]
    raw = write_log(tmp_path / "raw" / "log.csv", rows, ("user_id", "item_id", "unix_time"))
    put(raw / "side.csv", "key,group\ni1,Books\ni2,Books\ni2,Books\n")
    make(raw, tmp_path / "out", "--domain_from=side.csv:key:group")
    assert [file["name"] for file in card_of(tmp_path / "out")["raw_files"]] == [
        "log.csv",
        "side.csv",
    ]
    put(raw / "side.csv", "key,group\ni1,Books\ni2,Books\ni2,Toys\n")
    out = tmp_path / "other"
    twice = "has 2 values of group for key 'i2'"
    assert twice in fail(capsys, raw, out, "--domain_from=side.csv:key:group")
    assert "no column 'kind'" in fail(capsys, raw, out, "--domain_from=side.csv:key:kind")
    assert "there is no file other.csv" in fail(
        capsys, raw, out, "--domain_from=other.csv:key:group"
    )
    assert "FILE:KEY:COLUMN" in fail(capsys, raw, out, "--domain_from=side.csv")
    put(raw / "side.csv", "key,group\ni1,Books\n")
    assert "the table of --domain_from has no domain for this item: add it" in fail(
        capsys, raw, out, "--domain_from=side.csv:key:group"
    )


# --- what is refused, and the way out ------------------------------------------------------------


def test_a_file_without_a_header_is_named_with_its_remedy(tmp_path, capsys):
    raw = put(tmp_path / "raw" / "a.csv", CSV.partition("\n")[2]).parent
    line = fail(capsys, raw, tmp_path / "out")
    assert "its first line looks like data, not like a header (u1, i1, Books, 1399999999)" in line
    assert "--columns" in line
    line = fail(capsys, raw, tmp_path / "out", "--columns=user_id,item_id,unix_time")
    assert "4 columns (u1, i1, Books, 1399999999), but --columns names 3" in line
    assert "name each column once" in fail(capsys, raw, tmp_path / "out", "--columns=a,a,b,c")


def test_a_side_file_is_named_with_what_leaves_it_out(tmp_path, capsys):
    rows = [("u1", "i1", 5), ("u1", "i2", 6), ("u2", "i2", 6)]
    raw = tmp_path / "raw"
    for name in ("log_1.csv", "log_2.csv"):
        write_log(raw / name, rows, ("user_id", "item_id", "unix_time"))
    put(raw / "items.csv", "item_id,price\ni1,2\n")
    line = fail(capsys, raw, tmp_path / "out")
    assert (
        "items.csv has no column 'user_id' (its columns: item_id, price), but log_1.csv has" in line
    )
    assert line.endswith("leave files without events out: --exclude items.csv\n")
    make(raw, tmp_path / "out", "--exclude", "items.csv")
    put(raw / "more" / "a b.csv", "x,y\n1,2\n")
    assert "--exclude items.csv 'more/a b.csv'" in fail(capsys, raw, tmp_path / "other")
    make(raw, tmp_path / "other", "--exclude", "items.csv", "more/*")


def test_an_archive_of_several_tables_is_refused_with_their_names(tmp_path, capsys):
    raw = put(tmp_path / "raw" / "a.zip", zipped(a_dot_csv=CSV, b_dot_csv=CSV)).parent
    line = fail(capsys, raw, tmp_path / "out")
    assert "a.zip holds 2 files (a.csv, b.csv); unpack it" in line


@pytest.mark.parametrize("name", ["a.zip", "a.csv.bz2", "a.csv.gz", "a.tar.gz"])
def test_a_truncated_archive_is_refused(tmp_path, capsys, name):
    data = {
        "a.zip": zipped(a_dot_csv=CSV),
        "a.csv.bz2": bz2.compress(CSV.encode()),
        "a.csv.gz": gzip.compress(CSV.encode()),
        "a.tar.gz": tarred(a_dot_csv=CSV),
    }[name]
    raw = put(tmp_path / "raw" / name, data[: len(data) * 2 // 3]).parent
    assert name in fail(capsys, raw, tmp_path / "out")


def test_what_is_no_json_object_is_named(tmp_path, capsys):
    raw = put(tmp_path / "raw" / "a.json", "[1, 2]\n").parent
    assert "the first line of a.json is no JSON object" in fail(capsys, raw, tmp_path / "out")
    put(raw / "a.jsonl", "not json\n")
    assert "no JSON object" in fail(capsys, raw, tmp_path / "out")
    put(raw / "a.jsonl", json_lines())
    line = fail(capsys, raw, tmp_path / "out", "--user_col=who")
    assert "no column 'who'" in line


@pytest.mark.parametrize("form", ["%d.%m", "%Y-%m-%d %Q", "%d.%m.%Y %I:%M", "%d.%m.%Y %d", "%"])
def test_a_format_of_dates_that_cannot_be_meant_is_refused(tmp_path, capsys, form):
    raw = write_log(tmp_path / "raw" / "a.csv", ROWS)
    assert "--time_format" in fail(capsys, raw, tmp_path / "out", f"--time_format={form}")


def test_a_relative_folder_with_a_malformed_row(tmp_path, capsys, monkeypatch):
    raw = write_log(tmp_path / "raw" / "a.csv", [*ROWS, ("u", "i", "a", 1, 2)])
    monkeypatch.chdir(raw.parent)
    for folder in ("raw", "./raw", "../" + raw.parent.name + "/raw", "raw/a.csv", "raw/*.csv"):
        line = fail(capsys, folder, tmp_path / "out")
        assert "too many columns: 1" in line
        assert "a.csv row 4" in line


TABLE = "user_id,item_id,domain,unix_time\nu,i,a,1\n"
TOO_FEW = "too few columns"
MALFORMED = {  # where the command is given the log, its file, its bytes, the line and the fault
    "too few columns": ("raw", "a.csv", TABLE + "u,i\n", 3, TOO_FEW),
    "an open quote": ("./raw/", "a.csv", TABLE + 'u,"i,a,1\n', 3, "unclosed quote"),
    "not UTF-8": ("link", "a.csv", TABLE.encode() + b"u,caf\xe9,a,1\n", 3, "not UTF-8"),
    "in gzip": ("sub/../raw", "a.csv.gz", gzip.compress((TABLE + "u,i\n").encode()), 3, TOO_FEW),
    "in a zip": ("raw", "a.zip", zipped(a_dot_csv=TABLE + "u,i\n"), 3, TOO_FEW),
    "in UTF-16": ("raw/a.csv", "a.csv", (TABLE + "u,i\n").encode("utf-16"), 3, TOO_FEW),
    "under comments": ("link", "a.csv", "# x\n# y\n" + TABLE + "u,i\n", 5, TOO_FEW),
    "between tabs": ("raw/*", "a.tsv", (TABLE + "u,i\n").replace(",", "\t"), 3, TOO_FEW),
    "in a folder below": ("raw/**/*", "my log/b c.csv", TABLE + "u,i\n", 3, TOO_FEW),
    "JSON lines": ("raw", "a.jsonl", json_lines() + "[1]\n", 3, "not a JSON object"),
    "a known log": (
        "./raw", "A.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\nu\n", 3,
        TOO_FEW,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", MALFORMED)
def test_a_malformed_row_in_a_relative_folder_has_its_line(tmp_path, monkeypatch, form):
    place, name, data, row, reason = MALFORMED[form]
    put(tmp_path / "raw" / name, data)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("raw")
    monkeypatch.chdir(tmp_path)
    with raw_reading.duck(tmp_path / "duck") as engine:
        (fault,) = raw_reading.read_with(engine, place, max_rejected=1.0)[2].sample
    assert (fault["file"], fault["row"], fault["reason"]) == (name, row, reason)


# --- both engines -------------------------------------------------------------------------------


@pytest.mark.nightly
def test_spark_reads_the_forms_alike(tmp_path, spark):
    for form, (name, data, flags) in READ.items():
        path = put(tmp_path / form.replace(" ", "_") / name, data)
        assert raw_reading.read_with(spark, path, **flags)[3] == EVENTS, form


@pytest.mark.nightly
def test_spark_reads_dates_and_filters_alike(tmp_path, spark):
    for form, texts in FORMATS.items():
        rows = [(f"u{n}", "i", "a", f'"{text}"') for n, text in enumerate(texts)]
        folder = write_log(tmp_path / str(len(form)) / f"{abs(hash(form))}" / "a.csv", rows)
        expected = raw_reading.read(folder, time_format=form)[3]
        assert raw_reading.read_with(spark, folder, time_format=form)[3] == expected, form
    folder = shop_log(tmp_path / "shop" / "a.csv")
    put(folder / "side.csv", "key,group\ni1,Books\ni2,Toys\ni3,Toys\ni4,Toys|Games\n")
    flags = {"events": ("purchase", "cart"), "domain_from": "side.csv:key:group:|"}
    expected = raw_reading.read(folder, **flags)
    actual = raw_reading.read_with(spark, folder, **flags)
    assert (actual[2].filtered, actual[3]) == (expected[2].filtered, expected[3])
