"""Notes on the spelling of ids: equal but for blanks, case or `.0`; rounded; words for "missing".

All work is on whole columns in memory, with a few passes of Arrow over them; only ids that are
noted are looked at one by one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.dataset.store.spelling import Strings, in_lower_case, without_blanks
from src.io.json_schema import repr_short

Note = dict[str, Any]  # an entry of `data_notes` of data_card.json


def note(
    key: str, what: str, count: int, of: int, example: str, flag: str = "", advice: str = ""
) -> Note:
    """An entry of the card: `count` of `of` things are `what`, the first of them is `example`; what
    to do is `flag`, which may be empty, and `advice`, which follows it in the sentence."""
    share = round(count / of, 6) if of else 0.0
    return {
        "key": key, "what": what, "count": int(count), "of": int(of), "share": share,
        "example": example, "flag": flag, "advice": advice,
    }  # fmt: skip


# --- equal but for the spelling -----------------------------------------------------------------


def without_point_zero(texts: Strings) -> Strings:
    """Whole numbers without the `.0` that a tool adds when it holds them as floating point."""
    if not pc.any(pc.ends_with(texts, ".0")).as_py():
        return texts
    return pc.replace_substring_regex(texts, r"^([+-]?[0-9]+)\.0$", r"\1")


# {key: (what differs, how it goes away, flag, advice)}, each on the result of the one before
SPELLINGS: dict[str, tuple[str, Callable[[Strings], Strings], str, str]] = {
    "blanks": ("the blanks around them", without_blanks, "--strip", "makes them one"),
    "case": ("upper and lower case", in_lower_case, "--fold_case", "makes them one"),
    "point_zero": (
        "a trailing .0", without_point_zero, "", "write them as whole numbers where you export them"
    ),
}  # fmt: skip


def equal_spellings(
    columns: list[pa.ChunkedArray], name: str, plural: str
) -> tuple[list[Note], int]:
    """A note for each of SPELLINGS that keeps texts apart, and the number of texts that differ from
    another one only in blanks or case.

    `columns` holds distinct texts, which are compared within each; `name` begins the keys.
    """
    counts, examples = dict.fromkeys(SPELLINGS, 0), dict.fromkeys(SPELLINGS, "")
    lower_case_alone = 0  # merged by it without the steps before
    for texts in columns:
        simplest: Strings = texts
        for _what, simplify, _flag, _advice in SPELLINGS.values():
            simplest = simplify(simplest)
        if len(pc.unique(simplest)) == len(texts):
            continue
        before = texts
        for key, (_what, simplify, _flag, _advice) in SPELLINGS.items():
            after = simplify(before)
            merged = len(pc.unique(before)) - len(pc.unique(after))
            if merged and not counts[key]:
                examples[key] = repr_short(_first_merged(texts, before, after))
            counts[key] += merged
            before = after
        lower_case_alone += len(texts) - len(pc.unique(in_lower_case(texts)))
    total = sum(map(len, columns))
    spellings = dict(SPELLINGS)
    if lower_case_alone < counts["case"]:
        what, fold, flag, _advice = spellings["case"]
        spellings["case"] = f"{what}, some also blanks", fold, f"--strip {flag}", "make them one"
    notes = [
        note(
            f"{name}_{key}", f"{plural} that equal another one but for {what}", counts[key], total,
            examples[key], flag, advice,
        )
        for key, (what, _simplify, flag, advice) in spellings.items()
        if counts[key]
    ]  # fmt: skip
    return notes, counts["blanks"] + counts["case"]


def _first_merged(texts: Strings, before: Strings, after: Strings) -> str:
    """The first text that a step changed into one that another text has, too."""
    chunks = after.dictionary_encode().chunks  # with one dictionary
    numbers = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
    shared = np.bincount(numbers)[numbers] > 1
    changed = pc.not_equal(before, after).to_numpy(zero_copy_only=False)
    return texts[int(np.argmax(shared & changed))].as_py()


# --- rounded numbers ----------------------------------------------------------------------------

EXACT = 2**53  # a double holds every whole number up to here
LONG = r"^[0-9]{16,19}$"
SCIENTIFIC = r"^[+-]?[0-9]([.,][0-9]+[eE][+-]?|[eE]\+)[0-9]+$"  # not the hexadecimal 5e12
FEWEST = 20  # multiples of a unit, and how many standard deviations more than chance gives
DEVIATIONS = 6
# Of rounded numbers, a quarter or more are no multiple of two units. Of ids that end in zeros for
# another reason, such as a time and a counter, nearly all are.
NO_MORE = 0.125


def rounded_ids(ids: pa.ChunkedArray, name: str, plural: str) -> Iterator[Note]:
    """A note if a tool has written ids as floating point: `1.23457E+18`, or whole numbers above
    2^53 that a double holds, or prints, as they stand."""
    scientific = ids.filter(pc.match_substring_regex(ids, SCIENTIFIC))
    long = ids.filter(pc.greater_equal(pc.binary_length(ids), 16))
    long = long.filter(pc.match_substring_regex(long, LONG))
    is_rounded = _rounded(pc.cast(long, pa.uint64()).to_numpy())
    count = len(scientific) + int(is_rounded.sum())
    if count:
        first = scientific[0] if len(scientific) else long[int(np.argmax(is_rounded))]
        yield note(
            f"{name}_rounded", f"{plural} that a tool has rounded as floating-point numbers", count,
            len(ids), repr_short(first.as_py()), "",
            "export them as text: rounding makes different ids one",
        )  # fmt: skip


def _rounded(numbers: np.ndarray) -> np.ndarray:
    """[n] which of the numbers of 16 to 19 digits were rounded; none unless there are many.

    They are multiples of a unit: the spacing of doubles of their size, where whole numbers were
    held as such (pandas, Parquet), or the power of ten after 17 digits (JavaScript) or 15
    (spreadsheets).
    """
    large = numbers > EXACT
    spacing = np.spacing(numbers.astype(np.float64)).astype(np.uint64)
    digits = np.char.str_len(numbers.astype("U20"))
    rounded = np.zeros(len(numbers), dtype=bool)
    for unit, base in (
        (spacing, 2),
        (_power_of_ten(digits - 17), 10),
        (_power_of_ten(digits - 15), 10),
    ):
        possible = large & (unit > 1)
        unit = np.where(possible, unit, 1)
        multiple = possible & (numbers % unit == 0)
        no_more = multiple & (numbers // unit % base != 0)
        chance = 1 / unit[possible]
        expected = chance.sum() + DEVIATIONS * np.sqrt((chance * (1 - chance)).sum())
        count = multiple.sum()
        if count >= max(FEWEST, expected) and no_more.sum() >= NO_MORE * count:
            rounded |= multiple
    return rounded


def _power_of_ten(exponents: np.ndarray) -> np.ndarray:
    return np.power(np.uint64(10), np.maximum(exponents, 0).astype(np.uint64))


# --- words for a missing id ---------------------------------------------------------------------


def _in_all_cases(*words: str) -> list[str]:
    return [form for word in words for form in (word, word.upper(), word.capitalize())]


# No system gives these as ids: tools write them for a missing one.
MISSING = [
    *_in_all_cases("null", "none", "undefined", "n/a", "#n/a", "(null)", "<null>", "[null]"),
    "nan", "NaN", "NAN", "NaT", "<NA>", "\\N", "-1", "-1.0", "00000000-0000-0000-0000-000000000000",
]  # fmt: skip
# These may be ids: 0 where numbers begin at 0, Na where names have two letters. They are noted if
# they have far more events than any other.
PERHAPS_MISSING = [
    *_in_all_cases("na", "nil", "unknown", "anonymous", "guest", "missing", "empty", "default"),
    "0", "0.0", "-", "?", ".",
]  # fmt: skip
DOMINANT, FEWEST_EVENTS = 2, 10


def missing_words(
    texts: pa.ChunkedArray, events: np.ndarray, name: str, plural: str, perhaps_too: bool = True
) -> Iterator[Note]:
    """A note if events have a word for "missing" as their id; texts and events [n].

    Without `perhaps_too` only words of MISSING count.
    """
    found = pc.is_in(texts, value_set=pa.array(MISSING)).to_numpy().astype(bool)
    perhaps = pc.is_in(texts, value_set=pa.array(PERHAPS_MISSING)).to_numpy().astype(bool)
    if perhaps_too and perhaps.any():
        most = events[~(perhaps | found)].max(initial=0)  # of another id
        found |= perhaps & (events >= max(FEWEST_EVENTS, DOMINANT * most))
    if found.any():
        example = repr_short(texts[int(np.argmax(found))].as_py())
        yield note(
            f"{name}_missing", f'events with a word for "missing" as {plural}',
            events[found].sum(), events.sum(), example, "",
            "leave these rows out of the log: together they look like one",
        )  # fmt: skip
