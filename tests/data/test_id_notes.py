"""Notes on ids: equal but for their spelling, rounded, or words for a missing one."""

import random

import pytest

from tests.support.noted_logs import notes_of, plain_log, renamed

COLUMNS = {"user_ids": 0, "item_ids": 1}


def with_ids(column: str, ids: list[str]) -> list[tuple]:
    """The plain log with these ids in the first rows of a domain, one a row."""
    rows, position = plain_log(), COLUMNS[column]
    chosen = [n for n, row in enumerate(rows) if row[2] == "Books"]
    for n, text in zip(chosen, ids, strict=False):
        rows[n] = (*rows[n][:position], text, *rows[n][position + 1 :])
    return rows


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(
    ("ids", "counts"),
    [
        (["Ann", "ann"], {"case": 1}),
        (["ann", " ann", "ann "], {"blanks": 2}),
        (["Ann", "ann", "ann "], {"case": 1, "blanks": 1}),
        (["Ann ", "ann"], {"case": 1}),
        (["12", "12.0"], {"point_zero": 1}),
        (["12", "12.0", "-7", "-7.0", " 12"], {"point_zero": 2, "blanks": 1}),
        (["A\u00a0", "A", "\u2003A"], {"blanks": 2}),
        (["ΣΑΣ", "σασ", "σας"], {"case": 2}),
        (["İ", "i̇"], {"case": 1}),
    ],
)
def test_ids_that_differ_in_case_blanks_or_point_zero_are_noted(column, ids, counts):
    notes = notes_of(with_ids(column, ids))
    assert {key.removeprefix(f"{column}_"): note["count"] for key, note in notes.items()} == counts
    flags = {"case": "--fold_case", "blanks": "--strip", "point_zero": ""}
    if "Ann " in ids:  # lower case alone does not make them one
        flags["case"] = "--strip --fold_case"
    for key in counts:
        assert notes[f"{column}_{key}"]["flag"] == flags[key]
        assert notes[f"{column}_{key}"]["example"] in [repr(text) for text in ids]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(
    "ids", [["12", "12.00"], ["12.0", "120"], ["x", "x.0"], ["a b", "ab"], ["ö", "oe"], ["01", "1"]]
)
def test_ids_that_differ_otherwise_are_not_noted(column, ids):
    assert notes_of(with_ids(column, ids)) == {}


def test_equal_item_ids_of_two_domains_are_two_items():
    rows = plain_log()
    changed = [(user, item.upper() if d == "Toys" else item, d, t) for user, item, d, t in rows]
    assert notes_of(changed) == {}


# --- rounded ids --------------------------------------------------------------------------------

RANDOM = random.Random(0)
BIG = [RANDOM.randrange(10**18, 9 * 10**18) for _ in range(60)]
SMALLER = [RANDOM.randrange(2**53, 2**54) for _ in range(60)]
CLOCK = [(int(1.4e12) + 7919 * n << 22) + (n % 31 << 12) for n in range(60)]  # a time and a machine
ROUNDED = {
    "doubles printed in full": [str(int(float(n))) for n in BIG],
    "doubles just above 2^53": [str(int(float(n))) for n in SMALLER],
    "doubles printed by JavaScript": [
        str(int(f"{float(n):.16e}"[:-4].replace(".", ""))) + "00" for n in BIG
    ],
    "15 digits of a spreadsheet": [str(n)[:15] + "0000" for n in BIG],
    "half of them": [str(int(float(n))) if k % 2 else str(n) for k, n in enumerate(BIG)],
    "scientific": [f"{n:.5E}" for n in BIG],
    "scientific with a comma": [f"{n:.5E}".replace(".", ",") for n in BIG],
    "scientific, one digit": [f"{k % 9 + 1}E+{18 + k // 9}" for k in range(60)],
}
NOT_ROUNDED = {
    "19 digits": [str(n) for n in BIG],
    "16 digits": [str(n) for n in SMALLER],
    "a time and zeros": [str(n) for n in CLOCK],
    "nanoseconds of milliseconds": [str((1_400_000_000_123 + 977 * n) * 10**6) for n in range(60)],
    "hexadecimal like 5e12": [f"{k}e{k + 3}" for k in range(1, 61)],
    "barcodes": [str(4_006_381_333_931 + n * 10) for n in range(60)],
    "few": [str(int(float(n))) for n in BIG[:9]],
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", ROUNDED)
def test_rounded_ids_are_noted(column, kind):
    notes = notes_of(with_ids(column, ROUNDED[kind]))
    note = notes.pop(f"{column}_rounded")
    assert notes == {}
    expected = {"half of them": 30}.get(kind, 60)
    assert expected <= note["count"] <= expected + 3  # by chance, others are doubles
    assert note["example"].strip("'") in ROUNDED[kind]


@pytest.mark.parametrize("kind", NOT_ROUNDED)
def test_long_ids_as_such_are_not_noted(kind):
    assert notes_of(with_ids("user_ids", NOT_ROUNDED[kind])) == {}


# --- words for a missing id ---------------------------------------------------------------------

WORDS = [
    "null", "NULL", "None", "nan", "NaN", "N/A", "undefined", "<NA>", "\\N", "-1", "(null)", "NaT",
    "00000000-0000-0000-0000-000000000000",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_words_for_a_missing_id_are_noted(word):
    for column, position in COLUMNS.items():
        (note,) = notes_of(renamed(position, lambda text, n: word if n < 7 else text)).values()
        assert (note["key"], note["count"], note["of"]) == (f"{column}_missing", 7, 180)
        assert note["example"] == repr(word)
    notes = notes_of(renamed(2, lambda text, n: word if n < 90 else text))
    assert notes["domains_missing"]["count"] == 90


@pytest.mark.parametrize("word", ["0", "NA", "na", "unknown", "guest", "?", "anonymous"])
def test_words_that_may_be_ids_are_noted_if_they_dominate(word):
    for column, position in COLUMNS.items():
        (note,) = notes_of(renamed(position, lambda text, n: word if n < 40 else text)).values()
        assert (note["key"], note["count"]) == (f"{column}_missing", 40)
        assert notes_of(renamed(position, lambda text, n: word if n < 6 else text)) == {}
    assert notes_of(plain_log(domains=(word, "Books"))) == {}


@pytest.mark.parametrize("word", ["Nan", "Nat", "nonesuch", "nulla", "-10", "Noah", "1", "00"])
def test_other_words_are_not_noted(word):
    assert notes_of(renamed(0, lambda user, n: word if n < 40 else user)) == {}
