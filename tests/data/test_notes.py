"""Notes on data that is probably not what it seems: each kind on logs that have it, none on others.

Most logs are sequences in memory, with the card that is made of them; the command is run on one log
of each kind.
"""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from src.dataset.build.card import make_card
from src.dataset.build.notes import FEW_TARGETS
from src.dataset.store.card_text import data_note
from src.dataset.store.folder import Dataset
from tests.support.data_logs import DAY, MONTH, card_of, make, random_log, shared_log, write_log
from tests.support.noted_logs import notes_of, plain_log, renamed, sequences_from

CASES = Path(__file__).parent / "cases"
BUNDLED = Path(__file__).parents[2] / "src" / "dataset" / "raw" / "amazon"


def lines_of(capsys, *arguments, **options) -> list[str]:
    """The lines of the command that are notes."""
    capsys.readouterr()
    make(*arguments, **options)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]


def test_a_log_in_order_has_no_note():
    assert notes_of(plain_log()) == {}
    assert notes_of(plain_log(domains=("a", "b", "c", "d", "e"))) == {}


# --- times --------------------------------------------------------------------------------------


def with_times(time) -> list[tuple]:
    return [(*row[:3], time(n)) for n, row in enumerate(plain_log())]


def day(n: int) -> datetime:
    return datetime(2014, 5, 13, 7, 30, 21, tzinfo=UTC) + timedelta(days=n % 50, minutes=n)


DATES = {
    "YYYYMMDD": lambda n: int(f"{day(n):%Y%m%d}"),
    "YYYYMMDDhhmm": lambda n: int(f"{day(n):%Y%m%d%H%M}") // 1000,  # as milliseconds
    "YYYYMMDDhh": lambda n: int(f"{day(n):%Y%m%d%H}"),
    "YYYYMMDDhhmmss": lambda n: int(f"{day(n):%Y%m%d%H%M%S}") // 1000,
    "MMDD": lambda n: int(f"{day(n):%m%d}"),
}
EARLY = {
    "row numbers": lambda n: n,
    "row numbers from a million": lambda n: 1_000_000 + n,
    "days of two years": lambda n: 1 + n * 4 % 711,
    "days since 1970": lambda n: 16_000 + n,
    "hours since 1970": lambda n: 390_000 + n,
    "minutes since 1970": lambda n: 23_000_000 + n,
    "one time for all": lambda n: 0,
}
REAL = {
    "seconds": lambda n: MONTH + n,
    "days": lambda n: MONTH + n * DAY,
    "seconds of 1971": lambda n: 366 * DAY + n,
    "seconds that begin like a date": lambda n: 2014_05_13_00 + 37 * n,
    "far in the future": lambda n: 4_000_000_000 + n,
}


@pytest.mark.parametrize("form", DATES)
def test_times_that_read_as_dates_are_noted(form):
    note = notes_of(with_times(DATES[form]))["times_as_dates"]
    assert note["what"].endswith(f"that read as dates {form}")
    assert (note["count"], note["of"], note["share"]) == (180, 180, 1.0)
    expected = "--time_unit yyyymmdd" if form == "YYYYMMDD" else "--time_format"
    assert note["flag"] == expected
    assert note["example"].startswith(str(min(DATES[form](n) for n in range(180))))


@pytest.mark.parametrize("kind", EARLY)
def test_times_of_the_year_1970_are_noted(kind):
    (note,) = notes_of(with_times(EARLY[kind])).values()
    assert (note["key"], note["count"], note["flag"]) == ("times_in_1970", 180, "--time_unit")


@pytest.mark.parametrize("zeros", [1, 2, 5, 50, 179])
def test_times_of_1970_beside_others_are_counted(zeros):
    (note,) = notes_of(with_times(lambda n: 0 if n < zeros else MONTH + n)).values()
    assert (note["key"], note["count"], note["flag"]) == ("times_in_1970", zeros, "")
    assert "missing time" in note["advice"]


@pytest.mark.parametrize("kind", REAL)
def test_other_times_are_not_noted(kind):
    assert notes_of(with_times(REAL[kind])) == {}


# --- names of domains ---------------------------------------------------------------------------

SPLIT_NAMES = [
    ("train", "valid", "test"), ("Train", "Test"), ("training", "validation"),
    ("Books.train", "Books.test"), ("ratings_train", "ratings_dev", "ratings_eval"),
]  # fmt: skip
NO_SPLIT_NAMES = [
    ("Test", "Books"), ("train", "training"), ("Trains", "Tests"), ("Development", "Evaluation"),
    ("Toys", "contest", "valid_"),
]  # fmt: skip
PERIODS = [
    ("2014-01", "2014-02"), ("201401", "201402", "201403"), ("January", "february"),
    ("log_2014_01", "log_2014_02"), ("2013", "2014"), ("2014-01-31", "2014-02-28"),
    ("Jan 2014", "Feb 2014"), ("events-20140101", "events-20140102"), ("2014q1", "2014Q2"),
]  # fmt: skip
NO_PERIODS = [
    ("May", "Books"), ("2014-13", "2014-14"), ("c01", "c02"), ("Marches", "Decks"),
    ("1", "12"), ("PS4 2014 games", "PS5"),
]  # fmt: skip


@pytest.mark.parametrize("names", SPLIT_NAMES)
def test_names_of_splits_are_noted(names):
    (note,) = notes_of(plain_log(domains=names)).values()
    assert (note["key"], note["count"]) == ("split_names_as_domains", len(names))


@pytest.mark.parametrize("names", PERIODS)
def test_names_of_months_days_and_years_are_noted(names):
    (note,) = notes_of(plain_log(domains=names)).values()
    assert (note["key"], note["count"]) == ("months_as_domains", len(names))


@pytest.mark.parametrize("names", [*NO_SPLIT_NAMES, *NO_PERIODS])
def test_other_names_are_not_noted(names):
    assert notes_of(plain_log(domains=names)) == {}


@pytest.mark.parametrize(
    ("names", "case", "blanks"),
    [
        (("Books", "books", "Toys"), 1, 0),
        (("Books", "BOOKS", "bOOKS"), 2, 0),
        (("Books", "Books ", "Toys"), 0, 1),
        (("Books", "\tBooks", "Books\u00a0"), 0, 2),
        (("Été", "ÉTÉ", " été"), 2, 0),  # ' été' is 'été' only then
        (("Books", " books", "Toys", "toys"), 2, 0),
        (("Books", "Books ", "books"), 1, 1),
    ],
)
def test_domains_that_differ_in_case_or_blanks_are_noted(names, case, blanks):
    notes = notes_of(plain_log(domains=names))
    keys = {"domains_case": case, "domains_blanks": blanks}
    assert {key: note["count"] for key, note in notes.items()} == {
        k: n for k, n in keys.items() if n
    }
    flags = {"domains_case": "--fold_case", "domains_blanks": "--strip"}
    if not blanks and any(name != name.strip() for name in names):  # one alone does not do
        flags["domains_case"] = "--strip --fold_case"
    assert all(note["flag"] == flags[key] for key, note in notes.items())


@pytest.mark.parametrize(
    "names", [("a", "b"), ("Books", "Book"), ("x y", "xy"), ("é", "e"), ("I", "l")]
)
def test_domains_that_differ_in_letters_are_not_noted(names):
    assert notes_of(plain_log(domains=names)) == {}


def test_domains_named_after_files_are_noted(tmp_path, capsys):
    rows = [(user, item, time) for user, item, _, time in plain_log()]
    header = ("user_id", "item_id", "unix_time")
    for n, name in enumerate(("Books", "Toys", "Games")):
        write_log(tmp_path / "raw" / f"{name}.csv", rows[n::3], header)
    lines = lines_of(capsys, tmp_path / "raw", tmp_path / "out")
    expected = "note: domains named after their files (3 of 3, first: 'Books'); --domain_col"
    assert any(line.startswith(expected) for line in lines)
    assert card_of(tmp_path / "out")["data_notes"][0]["key"] == "domains_from_file_names"
    named = [(*row[:2], "Books", row[2]) for row in rows]
    write_log(tmp_path / "column" / "Books.csv", named)  # a column that says the same
    lines_of(capsys, tmp_path / "column", tmp_path / "out2")
    keys = [note["key"] for note in card_of(tmp_path / "out2")["data_notes"]]
    assert "domains_from_file_names" not in keys


# --- users in several domains -------------------------------------------------------------------


def in_one_domain(users: int, others: int = 0, prefix: bool = True) -> list[tuple]:
    """Users of one domain each, but for the `others`, who are in both."""
    rows = []
    for n in range(users):
        for e in range(4):
            domain = ("Books", "Toys")[(n + (e if n < others else 0)) % 2]
            user = f"{domain[0]}{n:04d}" if prefix and n >= others else f"{n:04d}"
            rows.append((user, f"i{n % 9}{e}", domain, MONTH + 3600 * (n + 50 * e)))
    return rows


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        (in_one_domain(40), 0),
        (in_one_domain(40, prefix=False), 0),
        (in_one_domain(300, others=2), 2),
        (in_one_domain(1000, others=9), 9),
        (renamed(0, lambda user, n: f"{user}.0" if n % 2 else f"x{user}"), 0),  # n % 2: the domain
        ([(f"{d}{item}", user, d, time) for user, item, d, time in plain_log()], 0),
    ],
)
def test_no_or_hardly_any_user_in_two_domains_is_noted(rows, shared):
    note = notes_of(rows)["no_shared_users"]
    users = len({row[0] for row in rows})
    assert (note["count"], note["of"], note["flag"]) == (shared, users, "--user_col")
    first = {d: min(row[0] for row in rows if row[2] == d) for d in ("Books", "Toys")}
    assert note["example"] == f"{first['Books']!r} in Books, {first['Toys']!r} in Toys"


@pytest.mark.parametrize("others", [4, 10, 200, 400])
def test_users_of_two_domains_that_are_enough_are_not_noted(others):
    assert notes_of(in_one_domain(400, others)) == {}


@pytest.mark.parametrize("lone", [1, 2, 3, 4, 5])
def test_domains_apart_from_the_others_are_noted(lone):
    rows = plain_log()
    for d in range(lone):
        rows += [(f"x{d}-{row[0]}", row[1], f"Lone{d}", row[3]) for row in plain_log(users=8)]
    (note,) = notes_of(rows).values()
    assert (note["key"], note["count"], note["of"]) == (
        "domains_without_shared_users",
        lone,
        lone + 2,
    )
    assert note["example"] == "Lone0 shares 0 of 8 users"


@pytest.mark.parametrize(
    ("domains", "shared"),
    [
        ([[0, 0], [1, 1, 1], [0], [1]], False),
        ([[0], [1], [0], [1]], False),
        ([[0, 0, 0]], False),
        ([[0, 1]], True),
        ([[0], [1], [1, 1, 0]], True),
        ([[2, 2, 2, 2], [1, 1], [0, 2]], True),
        ([[2, 2, 0, 2], [1, 1], [0]], True),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_whether_a_dataset_has_a_user_in_two_domains(monkeypatch, domains, shared, chunk):
    monkeypatch.setattr("src.dataset.store.folder.CHUNK", chunk)
    rows = [(f"u{n}", f"i{e}", f"d{d}", MONTH + e)
            for n, own in enumerate(domains) for e, d in enumerate(own)]  # fmt: skip
    made = sequences_from(rows)
    arrays = {
        name: getattr(made, name) for name in ("offsets", "items", "domains", "times", "split")
    }
    dataset = Dataset(Path(), {}, made.domain_names, np.array([1]), **arrays)
    assert dataset.shares_users() == shared


def test_a_single_domain_is_noted():
    (note,) = notes_of(plain_log(domains=("Books",))).values()
    assert (note["key"], note["count"], note["flag"]) == ("one_domain", 1, "--domain_col")


# --- duplicates, tiny domains -------------------------------------------------------------------


@pytest.mark.parametrize("copies", [2, 3, 10, 90, 180])
def test_duplicates_above_a_share_are_noted(copies):
    rows = plain_log()
    (note,) = notes_of(rows + rows[:copies]).values()
    assert (note["key"], note["count"], note["of"]) == ("duplicates", copies, 180 + copies)
    assert note["flag"] == "--dedup exact"
    user, item, _, time = min(rows[:copies], key=lambda row: (row[0], row[3]))
    assert (
        note["example"]
        == f"user '{user}', item '{item}', {datetime.fromtimestamp(time, UTC):%FT%TZ}"
    )


@pytest.mark.parametrize("copies", [0, 1])
def test_a_few_duplicates_are_not_noted(copies):
    assert notes_of(plain_log() + plain_log()[:copies]) == {}


@pytest.mark.parametrize("tests", [1, 2, 10, 50, FEW_TARGETS - 1])
def test_domains_with_few_test_targets_are_noted(tests):
    """Each user's last event is the test target: in Toys for `tests` users, else in Books."""
    rows = [
        (f"u{n:03d}", f"i{(n + e) % 5}", ("Toys" if n < tests else "Books") if e == 3 else
         ("Books", "Toys")[e % 2], MONTH + 3600 * e + n)
        for n in range(tests + FEW_TARGETS)
        for e in range(4)
    ]  # fmt: skip
    options = {"tie_order": "hashed", "split": "leave_one_out"}
    card = make_card(sequences_from(rows), provenance={}, options=options, dropped={})
    (note,) = card["data_notes"]
    assert (note["key"], note["count"], note["of"]) == ("tiny_domains", 1, 2)
    assert note["example"] == f"Toys with {tests}"
    assert note["flag"] == f"--min_domain_targets {FEW_TARGETS}"
    more = [
        (f"v{row[0]}", row[1], "Toys" if row[2] == "Books" else "Books", row[3]) for row in rows
    ]
    card = make_card(sequences_from(rows + more), provenance={}, options=options, dropped={})
    assert card["data_notes"] == []


# --- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("yyyymmdd", "note: times in 1970 that read as dates YYYYMMDD (72 of 72, first: 20140513 = "
         "1970-08-22T02:35:13Z); --time_unit yyyymmdd reads them as days"),
        ("mmdd", "note: times in 1970 that read as dates MMDD (72 of 72, first: 513 = "
         "1970-01-01T00:08:33Z); --time_format reads dates, but these lack the year: add it"),
        ("no_shared_users", "note: no user is active in two domains, so nothing can be transferred "
         "(0 of 22, first: 'Bu00' in Books, 'Tu00' in Toys); --user_col names the column of the "
         "users, who must have the same ids in all domains"),
    ],
)  # fmt: skip
def test_the_cases_are_noted_on_the_console_and_in_both_cards(tmp_path, capsys, case, line):
    (tmp_path / "raw").mkdir()
    shutil.copy(CASES / f"{case}.csv", tmp_path / "raw" / "e.csv")
    described = lines_of(capsys, tmp_path / "raw", tmp_path / "out", "--describe")
    lines = lines_of(capsys, tmp_path / "raw", tmp_path / "out")
    assert described == lines
    assert lines[0] == line
    card = card_of(tmp_path / "out")
    assert [data_note(note) for note in card["data_notes"]] == lines
    assert card["notes"] == {}  # those of the log itself
    markdown = (tmp_path / "out" / "data_card.md").read_text().splitlines()
    assert [text for text in markdown if text.startswith("note: ")] == lines
    assert lines_of(capsys, tmp_path / "raw", tmp_path / "out") == lines  # of the reused folder


def test_notes_are_of_the_events_that_are_kept(tmp_path, capsys):
    rows = [
        *random_log(),
        ("null", "001", "Books", MONTH),
        ("u 1", "001", "Books", MONTH + 99 * DAY),
    ]
    raw = write_log(tmp_path / "raw" / "e.csv", rows)
    assert "user id" in "".join(lines_of(capsys, raw, tmp_path / "out"))
    lines = lines_of(capsys, raw, tmp_path / "few", "--min_user_events=2")
    assert "user id" not in "".join(lines)


def test_the_bundled_log_has_no_note(tmp_path, capsys):
    assert lines_of(capsys, BUNDLED, tmp_path / "out", month="202312") == []


def test_abxi_has_no_note(tmp_path, capsys):
    assert (
        lines_of(capsys, shared_log("abxi"), tmp_path / "out", "--describe", month="201407") == []
    )
