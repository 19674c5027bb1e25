"""What the command tells before training: the card without a folder, filters, what is odd."""

from collections import Counter

import pytest

from src.dataset.build.selection import MAX_DOMAINS
from tests.support.data_logs import MONTH, card_of, fail, make, random_log, sequences_of, write_log


@pytest.fixture
def raw(tmp_path):
    return write_log(tmp_path / "raw" / "e.csv", random_log())


def said(capsys, *arguments, **options):
    """The lines that the command prints."""
    capsys.readouterr()
    make(*arguments, **options)
    return capsys.readouterr().out.splitlines()


def test_describe_prints_the_card_and_writes_nothing(raw, tmp_path, capsys):
    spill = tmp_path / "spill"
    spill.mkdir()
    flags = ("--min_user_events=3", f"--temp_dir={spill}")
    described = said(capsys, raw, tmp_path / "out", *flags, "--describe")
    assert described[-1] == "nothing was written (--describe)"
    assert not (tmp_path / "out").exists()
    assert list(spill.iterdir()) == []
    made = said(capsys, raw, tmp_path / "out", *flags)
    assert made[-1].startswith("dataset folder: ")
    assert described[:-1] == made[:-1]


def fewest_users(folder):
    """Users of the domain that has fewest in a dataset folder."""
    events = {(user, e[1]) for user, own in sequences_of(folder).items() for e in own}
    return min(Counter(domain for _, domain in events).values())


def test_suggest_names_the_strongest_filters_that_keep_enough_users(raw, tmp_path, capsys):
    lines = said(capsys, raw, tmp_path / "none", "--suggest=20")
    assert not (tmp_path / "none").exists()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    rows = [dict(zip(table[0], row, strict=True)) for row in table[2:]]
    assert len({row["--min_domains"] for row in rows}) == 3
    flags = next(line for line in lines if line.startswith("the strongest")).split(": ")[1].split()
    make(raw, tmp_path / "out", *flags)
    assert fewest_users(tmp_path / "out") >= 20
    card = card_of(tmp_path / "out")
    enough = [row for row in rows if int(row["fewest users"]) >= 20]
    assert len(enough) < len(rows)
    strongest = min(enough, key=lambda row: int(row["events"].replace(",", "")))
    for column in ("users", "items", "events"):
        assert strongest[column].replace(",", "") == str(card[column])
    assert strongest["fewest users"] == str(fewest_users(tmp_path / "out"))


def test_suggest_says_when_nothing_keeps_enough(tmp_path, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log(events=30))
    lines = said(capsys, raw, tmp_path / "none", "--suggest=1000")
    assert "no choice keeps 1,000 users in every domain" in lines


def test_ids_that_differ_in_case_or_spaces_stay_different_and_are_told(tmp_path, capsys):
    names = ["Ann", "ann", "ann ", "bob"]
    rows = [
        (user, item, "d", MONTH + n) for n, user in enumerate(names) for item in ("x", "X", "y")
    ]
    lines = said(capsys, write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    assert sorted(sequences_of(tmp_path / "out")) == sorted(names)
    assert card_of(tmp_path / "out")["similar_ids"] == {"users": 2, "items": 1}
    assert any(line.startswith("note: user ids that equal another one but for") for line in lines)


def test_equal_item_ids_of_two_domains_are_not_similar(tmp_path):
    rows = [("u", item, domain, MONTH) for domain in "de" for item in "xy"]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    assert card_of(tmp_path / "out")["similar_ids"]["items"] == 0


def test_events_of_a_domain_with_one_item_are_left_out_and_told(tmp_path, capsys):
    rows = random_log()
    lone = [("u1", "lone", "tiny", MONTH)] * 5
    make(write_log(tmp_path / "few" / "e.csv", rows), tmp_path / "few_out")
    raw = write_log(tmp_path / "raw" / "e.csv", rows + lone)
    lines = said(capsys, raw, tmp_path / "out")
    card = card_of(tmp_path / "out")
    assert card["dropped"]["lone_item"] == 5
    assert card["sha256"] == card_of(tmp_path / "few_out")["sha256"]
    assert any(line.startswith("NOTE: 5 events of domains with only one item") for line in lines)


def test_users_and_items_that_need_the_left_out_events_go_too(tmp_path):
    """u has three events with the lone one, two without: below --min_user_events."""
    rows = [*random_log(), ("v", "lone", "tiny", MONTH)]
    rows += [("v", "000", "Books", MONTH), ("v", "001", "Books", MONTH)]
    raw = write_log(tmp_path / "raw" / "e.csv", rows)
    make(raw, tmp_path / "out", "--min_user_events=3")
    assert "v" not in sequences_of(tmp_path / "out")
    assert card_of(tmp_path / "out")["dropped"]["min_user_events"] == 2


def test_ten_thousand_domains_by_mistake_are_refused(tmp_path, capsys):
    rows = [(f"u{n % 9}", f"i{n % 7}", f"d{n}", MONTH + n) for n in range(10_000)]
    line = fail(capsys, write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    assert f"more than {MAX_DOMAINS} domains" in line
    assert "--domain_col" in line


def test_bots_go_before_the_filters(tmp_path):
    rows = random_log()
    bot = [("bot", item, domain, time + n) for n, (_, item, domain, time) in enumerate(rows[:60])]
    make(write_log(tmp_path / "few" / "e.csv", rows), tmp_path / "few_out", "--min_item_events=9")
    raw = write_log(tmp_path / "raw" / "e.csv", rows + bot)
    make(raw, tmp_path / "out", "--min_item_events=9", "--max_user_events=50")
    card = card_of(tmp_path / "out")
    assert card["dropped"]["max_user_events"] == 60
    assert card["sha256"] == card_of(tmp_path / "few_out")["sha256"]


def test_domain_names_with_slash_comma_or_quote_are_kept(tmp_path):
    names = ["a/b", "c,d", 'e"f', "../up", " g"]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    rows = [("u", f"i{n}", domain, MONTH + n) for domain in quoted for n in range(2)]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    assert list(card_of(tmp_path / "out")["domains"]) == sorted(names)
    files = {path.parent for path in (tmp_path / "out").rglob("*.parquet")}
    assert files == {tmp_path / "out", tmp_path / "out" / "single"}
    assert len(list((tmp_path / "out" / "single").iterdir())) == len(names)


def test_rejected_rows_are_kept_counted_and_sampled(tmp_path, capsys):
    rows = random_log(events=50)
    bad = [("", "1", "Books", MONTH), ("u", "1", "Books", "soon"), ("u", "1", "Books", -1)]
    raw = write_log(tmp_path / "raw" / "e.csv", [*rows, *bad])
    lines = said(capsys, raw, tmp_path / "out", "--max_rejected=0.1")
    card = card_of(tmp_path / "out")
    assert card["dropped"]["rejected"] == sum(card["rejected"].values()) == 3
    assert card["rows"] == 53
    table = (tmp_path / "out" / "rejected.csv").read_text().splitlines()
    assert table[0] == "file,row,reason,text"
    assert [line.split(",")[:2] for line in table[1:]] == [["e.csv", str(n)] for n in (52, 53, 54)]
    (note,) = [line for line in lines if line.startswith("NOTE: raw rows were rejected (")]
    assert note.endswith("; see the sample in rejected.csv")


def test_describe_shows_a_rejected_row_instead_of_a_file_that_is_not_written(tmp_path, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", [*random_log(events=50), ("", "1", "Books", MONTH)])
    lines = said(capsys, raw, tmp_path / "out", "--max_rejected=0.1", "--describe")
    assert "rejected.csv" not in "\n".join(lines)
    (note,) = [line for line in lines if line.startswith("NOTE: raw rows were rejected (")]
    assert note.endswith(f"; the first is e.csv row 52, user_id is empty: ',1,Books,{MONTH}'")


def test_without_rejected_rows_there_is_no_such_file(raw, tmp_path):
    make(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "rejected.csv").exists()
    assert card_of(tmp_path / "out")["rejected"] == {}
