"""Inputs as people of this field have them: each gives the right events, or one line that helps."""

import shlex
from pathlib import Path

import pytest

from tests.support.data_logs import card_of, fail, make

CASES = Path(__file__).parent / "cases"
EVENTS = 72  # in most cases
HM = ("--user_col=customer_id", "--item_col=article_id", "--time_col=t_dat")
READ = {  # case: (flags, domains, events)
    "01-amazon2023-split-files/raw": ((), ["Toys_and_Games"], EVENTS),
    "02-dates-as-numbers/yyyymmdd": (("--time_unit=yyyymmdd",), ["Books", "Toys"], EVENTS),
    "02-dates-as-numbers/mmdd": (("--time_unit=mmdd",), ["Books", "Toys"], EVENTS),
    "06-one-file-without-domain/raw": ((), ["Books"], EVENTS),
    "07-side-files/raw": ((), ["hm"], EVENTS),
    "07-side-files/raw/transactions_train.csv": ((), ["hm"], EVENTS),
    "08-delimiters-headers/semi": ((), ["Books", "Toys"], EVENTS),
    "08-delimiters-headers/pipe": ((), ["Books", "Toys"], EVENTS),
    "08-delimiters-headers/blank": ((), ["Books", "Toys"], EVENTS),
    "08-delimiters-headers/utf16": ((), ["Books", "Toys"], 6),
    "08-delimiters-headers/gz": ((), ["Books", "Toys"], EVENTS),
    "09-json-lines/own": ((), ["Books", "Toys"], EVENTS),
    "09-json-lines/goodreads": ((), ["poetry"], 12),
    "09-json-lines/yelp": ((), ["yelp"], 12),
    "09-json-lines/steam": ((), ["steam"], 12),
}


@pytest.mark.parametrize("case", READ)
def test_a_case_is_read(tmp_path, case):
    flags, domains, events = READ[case]
    make(CASES / case, tmp_path / "out", *flags, month="201412")
    card = card_of(tmp_path / "out")
    assert list(card["domains"]) == domains
    assert (card["rows"], card["events"], card["rejected"]) == (events, events, {})


def test_the_parts_of_a_published_split_share_their_items(tmp_path):
    make(CASES / "01-amazon2023-split-files/raw", tmp_path / "out")
    card = card_of(tmp_path / "out")
    assert (card["users"], card["items"], card["events"]) == (12, 12, EVENTS)


@pytest.mark.parametrize(("folder", "unit"), [("yyyymmdd", "yyyymmdd"), ("mmdd", "mmdd")])
def test_the_cut_off_counts_for_dates_as_numbers(tmp_path, capsys, folder, unit):
    raw = CASES / "02-dates-as-numbers" / folder
    make(raw, tmp_path / "out", f"--time_unit={unit}", month="201405")
    days = card_of(tmp_path / "out")["time_range"]
    assert (days["first"], days["last"]) == ("2014-05-13T00:00:00Z", "2014-05-28T00:00:00Z")
    line = fail(capsys, raw, tmp_path / "none", f"--time_unit={unit}", month="201404")
    assert "201404" in line


def test_side_files_of_an_unknown_log_are_named_with_the_way_out(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in (CASES / "07-side-files/raw").iterdir():
        name = path.name.replace("transactions_train", "sales")
        (raw / name).write_bytes(path.read_bytes())
    line = fail(capsys, raw, tmp_path / "out", *HM)
    assert "articles.csv has no column 'customer_id'" in line
    way_out = shlex.split(line.rpartition("leave files without events out: ")[2])
    make(raw, tmp_path / "out", *HM, *way_out)
    assert card_of(tmp_path / "out")["events"] == EVENTS


def test_a_file_without_a_header_takes_the_names_of_its_columns(tmp_path, capsys):
    raw = CASES / "08-delimiters-headers/nohead"
    make(raw, tmp_path / "taobao")  # its name and lines are those of a known log
    assert card_of(tmp_path / "taobao")["rows"] == EVENTS
    line = fail(capsys, raw, tmp_path / "out", "--format=table")
    assert "its first line looks like data, not like a header" in line
    names = "--columns=user_id,item_id,domain,-,unix_time"
    make(raw, tmp_path / "out", "--format=table", names)
    assert card_of(tmp_path / "out")["rows"] == EVENTS
