"""Mistakes of a user: one clear line, exit status 2, nothing half-written; through the command."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from make_dataset import main
from src.io.errors import run_command
from tests.support.data_logs import DAY, HEADER, MONTH, fail, make, random_log, write_log

ROWS = [(f"u{n % 3}", f"i{n}", "ab"[n % 2], MONTH + n) for n in range(12)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_missing_raw_folder(tmp_path, out, capsys):
    line = fail(capsys, tmp_path / "nowhere", out)
    assert "nowhere does not exist" in line
    assert "--raw_dir" in line


def test_a_raw_folder_that_holds_no_log(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.txt", ROWS)
    line = fail(capsys, raw, out)
    assert "holds no raw log, only e.txt" in line
    assert "--raw_dir FILE" in line
    make(raw / "e.txt", out)  # a file of any suffix, where it is named itself
    assert "no log of format syncrec" in fail(capsys, raw, out, "--format=syncrec")


@pytest.mark.parametrize(
    ("column", "flag"),
    [("user_id", "--user_col"), ("item_id", "--item_col"), ("unix_time", "--time_col")],
)
def test_a_missing_column(tmp_path, out, capsys, column, flag):
    header = [name.replace(column, "other") for name in HEADER]
    line = fail(capsys, write_log(tmp_path / "raw" / "e.csv", ROWS, header), out)
    for part in ("e.csv", repr(column), ", ".join(header), flag):
        assert part in line


def test_all_missing_columns_are_named_at_once(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS, ("who", "what", "shop", "at"))
    line = fail(capsys, raw, out)
    assert "no column 'user_id', 'item_id', 'unix_time' (its columns: who, what, shop, at)" in line
    assert "name the right one with --user_col, --item_col, --time_col" in line
    assert "and that of the domain, if there is one, with --domain_col" in line


def test_a_domain_column_that_is_missing_where_a_flag_names_it(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS, ("user_id", "item_id", "type", "unix_time"))
    assert "--domain_col" in fail(capsys, raw, out, "--domain_col=kind")
    make(raw, out, "--domain_col=type")


@pytest.mark.parametrize("time", ["yesterday", "12.5.", "1388534400000", "0x10", "nan", "1_000"])
def test_an_unparseable_time_is_told_with_its_row_as_an_editor_counts(tmp_path, out, capsys, time):
    rows = [("u", "i", "a", MONTH, '"two\nlines"'), ("u", "i", "a", time, "")]
    rows = [*((*row, "") for row in ROWS[:2]), *rows, *((*row, "") for row in ROWS[2:])]
    comments = "# one: 1\n# two\n"
    raw = write_log(tmp_path / "raw" / "e.csv.gz", rows, (*HEADER, "said"), comments)
    line = fail(capsys, raw, out)
    assert "e.csv.gz row 8: unix_time" in line  # 2 comments, header, 2 rows, 2 lines of one row
    assert time in line


@pytest.mark.parametrize("place", range(3))
def test_an_empty_id(tmp_path, out, capsys, place):
    row = ["u", "i", "a", MONTH]
    row[place] = ""
    raw = write_log(tmp_path / "raw" / "e.tsv", [*ROWS, tuple(row)])
    assert f"e.tsv row 14: {HEADER[place]} is empty" in fail(capsys, raw, out)


def test_a_null_id_in_a_parquet_file(tmp_path, out, capsys):
    columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
    columns["item_id"][4] = None
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "raw" / "e.parquet")
    assert "e.parquet row 5: item_id is empty" in fail(capsys, tmp_path / "raw", out)


def test_a_torn_row(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", [*ROWS, ("u", "i", "a")], comments="# a\n")
    assert "row 15: too few columns: 'u,i,a'" in fail(capsys, raw, out)


@pytest.mark.parametrize("content", ["", "# note: nothing else\n", ",".join(HEADER) + "\n"])
def test_an_empty_file(tmp_path, out, capsys, content):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "e.csv").write_text(content)
    assert "e.csv is empty" in fail(capsys, tmp_path / "raw", out)


@pytest.mark.parametrize("name", ["e.parquet", "e.csv.gz"])
def test_a_corrupt_file(tmp_path, out, capsys, name):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(b"\x1f\x8bPAR1 nonsense")
    assert f"{name} cannot be read" in fail(capsys, tmp_path / "raw", out)


def test_a_file_that_is_not_utf8_far_from_its_head(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS * 2000)
    with (raw / "e.csv").open("ab") as file:
        file.write(b"u,caf\xe9,a,1\n")
    line = fail(capsys, raw, out, "--max_rejected=0")
    assert "e.csv row 24002: not UTF-8" in line
    make(raw, out)  # one row in 24,001 does not stop a run


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_a_share_that_is_none(tmp_path, out, capsys, share):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    assert "--max_rejected must be between 0 and 1" in fail(
        capsys, raw, out, f"--max_rejected={share}"
    )


@pytest.mark.parametrize("month", ["2014", "201413", "2014-12", "201400", "december", "999912"])
def test_an_unknown_form_of_month(tmp_path, out, capsys, month):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    line = fail(capsys, raw, out, month=month)
    assert "--strd_ym" in line
    assert month in line


def test_a_month_before_the_first_event(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    assert "choose 201401, its first month" in fail(capsys, raw, out, month="201312")


def test_names_that_are_no_folder_names(capsys):
    for flags in (["--data_name=../up", "--strd_ym=201401"], ["--data_name=a"], []):
        with pytest.raises(SystemExit) as stopped:
            run_command(lambda flags=flags: main(flags))
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith("error: --")


def test_a_log_of_domains_with_one_item(tmp_path, out, capsys):
    rows = [(f"u{n % 3}", domain, domain, MONTH + n) for n, domain in enumerate("abab")]
    line = fail(capsys, write_log(tmp_path / "raw" / "e.csv", rows), out)
    assert "every domain has only one item" in line


@pytest.mark.parametrize("flag", ["min_user_events", "min_item_events", "min_domains"])
def test_a_filter_that_leaves_nobody(tmp_path, out, capsys, flag):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log())
    assert f"--{flag} 99 leaves no event" in fail(capsys, raw, out, f"--{flag}=99")


def test_an_unknown_domain_and_one_without_events_yet(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", [*ROWS, ("u", "i", "late", MONTH + 90 * DAY)])
    line = fail(capsys, raw, out, "--domains", "a", "Boks")
    assert "Boks" in line
    assert "a, b, late" in line
    line = fail(capsys, raw, out, "--domains", "late", month="201402")
    assert "--domains late have no event up to --strd_ym 201402" in line


def test_a_negative_number(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    assert "--max_len -1 is negative" in fail(capsys, raw, out, "--max_len=-1")


def test_a_folder_of_other_options_or_of_another_log_stays_as_it_is(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    make(raw, out)
    line = fail(capsys, raw, out, "--min_user_events=2")
    assert "different options (--min_user_events 0)" in line
    assert "--variant" in line
    write_log(tmp_path / "raw" / "e.csv", ROWS[:-1])
    line = fail(capsys, raw, out)
    assert "a different raw log" in line
    assert "--variant" in line


def test_a_folder_of_another_version(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    make(raw, out)
    card = json.loads((out / "data_card.json").read_text())
    (out / "data_card.json").write_text(json.dumps(card | {"format": 0}))
    assert "has format 0" in fail(capsys, raw, out)


def test_a_damaged_folder_and_a_folder_of_something_else(tmp_path, out, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    assert "is not a dataset folder" in fail(capsys, raw, raw)
    make(raw, out)
    (out / "sequences" / "split.npy").unlink()
    assert "is damaged" in fail(capsys, raw, out)


def test_nothing_is_left_when_writing_fails(tmp_path, out, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("src.dataset.build.writer._cross_table", interrupt)
    raw = write_log(tmp_path / "raw" / "e.csv", ROWS)
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: make(raw, out))
    assert stopped.value.code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
