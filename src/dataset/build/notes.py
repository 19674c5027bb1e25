"""Notes on data that is probably not what it seems: what times, names and ids give away.

They refuse nothing: row numbers as times, or domains without a common user, are lawful. Each note
is a line on the console and in data_card.md, and an entry of `data_notes` of data_card.json.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa

from src.config.dataset_settings import as_date
from src.dataset.build.id_notes import Note, equal_spellings, missing_words, note, rounded_ids
from src.dataset.build.sequences import Sequences
from src.dataset.store.folder import TEST
from src.io.json_schema import repr_short

FIRST_YEAR = 365 * 86_400  # no shop of 1970 has kept such a log
FEW_SHARED = 0.01  # share of users in two domains below which hardly anything can be transferred
MANY_DUPLICATES = 0.01
# With 100 targets, a difference of .04 to .06 in NDCG@10 is found in 80 % of tests at 5 %: paired
# differences of single targets have a standard deviation of .14 to .2 (results/*_differences.csv).
FEW_TARGETS = 100


def data_notes(
    sequences: Sequences, totals: dict, counts: Counter, named_by_files: bool
) -> tuple[list[Note], dict[str, int]]:
    """The notes of a dataset, and `similar_ids` of the card; `totals` and `counts` are those of
    `card.py`."""
    users, items = sequences.user_ids, sequences.item_ids
    by_domain = np.searchsorted(sequences.item_domains, np.arange(len(sequences.domain_names) + 1))
    parts = [items.slice(a, b - a) for a, b in pairwise(by_domain)]
    user_notes, similar_users = equal_spellings([users], "user_ids", "user ids")
    item_notes, similar_items = equal_spellings(parts, "item_ids", "item ids of a domain")
    item_events = sequences.item_counts.to_numpy()
    notes = chain(
        time_notes(totals, counts, len(sequences.times)),
        name_notes(sequences.domain_names, totals["events"], named_by_files),
        user_notes,
        rounded_ids(users, "user_ids", "user ids"),
        missing_words(users, np.diff(sequences.offsets), "user_ids", "user id"),
        item_notes,
        rounded_ids(items, "item_ids", "item ids"),
        missing_words(items, item_events, "item_ids", "item id"),
        sharing_notes(sequences, totals),
        duplicate_notes(sequences, counts),
        size_notes(sequences.domain_names, counts),
    )
    return list(notes), {"users": similar_users, "items": similar_items}


# --- times --------------------------------------------------------------------------------------

# {digits of a number of seconds: what it reads as, and the bound of what follows the day}; the
# second and last are numbers of milliseconds cut to seconds, so that the end is missing
DATE_FORMS = {
    8: ("YYYYMMDD", 1), 9: ("YYYYMMDDhhmm", 3), 10: ("YYYYMMDDhh", 24), 11: ("YYYYMMDDhhmmss", 240)
}  # fmt: skip
DAY_OF_YEAR = "MMDD"
DATE_REMEDIES = {
    "YYYYMMDD": ("--time_unit yyyymmdd", "reads them as days"),
    DAY_OF_YEAR: ("--time_format", "reads dates, but these lack the year: add it"),
}  # fmt: skip


def date_form(first: int, last: int) -> str:
    """The form of dates as which both times read; empty if they do not."""
    digits = len(str(first))
    form, _bound = DATE_FORMS.get(digits, (DAY_OF_YEAR, 1))
    alike = form == DAY_OF_YEAR or len(str(last)) == digits
    return form if alike and read_as_dates(np.array([first, last]), form).all() else ""


def read_as_dates(times: np.ndarray, form: str) -> np.ndarray:
    """[n] which of the times read as dates of a form, of DATE_FORMS or DAY_OF_YEAR."""
    digits, bound = next(
        ((digits, bound) for digits, (name, bound) in DATE_FORMS.items() if name == form), (8, 1)
    )
    day, rest = np.divmod(times, 10 ** (digits - 8))
    year, month_and_day = np.divmod(day, 10_000)
    month, day_of_month = np.divmod(month_and_day, 100)
    right_year = year == 0 if form == DAY_OF_YEAR else (year >= 1970) & (year < 2100)
    right_day = (month >= 1) & (month <= 12) & (day_of_month >= 1) & (day_of_month <= 31)
    return right_year & right_day & (rest < bound)


def time_notes(totals: dict, counts: Counter, events: int) -> Iterator[Note]:
    """Times in 1970, and times that read as dates."""
    first, early, form = int(totals["first"]), totals["early"], totals["date_form"]
    example = f"{first} = {as_date(first)}"
    if form and counts["dates"] == events:
        flag, advice = DATE_REMEDIES.get(form, ("--time_format", "reads them"))
        year = " in 1970" if early == events else ""
        yield note(
            "times_as_dates", f"times{year} that read as dates {form}",
            events, events, example, flag, advice,
        )  # fmt: skip
    elif early == events:
        yield note(
            "times_in_1970", "times in 1970: dates, or row numbers, read as seconds", early, events,
            example, "--time_unit",
            "or --time_format reads dates; by row numbers, only the order is right, not the months",
        )  # fmt: skip
    elif early:
        yield note(
            "times_in_1970", "times in 1970 beside later ones", early, events, example, "",
            "0 often stands for a missing time: leave these rows out of the log",
        )  # fmt: skip


# --- domains ------------------------------------------------------------------------------------

SPLITS = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
    "dev": "valid", "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
MONTHS = (
    "jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|"
    "nov(ember)?|dec(ember)?"
)
PERIOD = re.compile(
    r"(.*[^0-9a-z])?(19|20)[0-9]{2}[-_. ]?(0[1-9]|1[0-2])([-_. ]?(0[1-9]|[12][0-9]|3[01]))?"
    rf"|(19|20)[0-9]{{2}}([-_. ]?q[1-4])?|({MONTHS})([-_. ]*[0-9]{{2,4}})?"
    rf"|[0-9]{{2,4}}[-_. ]?({MONTHS})"
)


def name_notes(names: list[str], events: np.ndarray, named_by_files: bool) -> Iterator[Note]:
    """What the names of the domains [D] give away; events [D]."""
    count = len(names)
    if named_by_files:
        yield note(
            "domains_from_file_names", "domains named after their files", count, count,
            repr_short(names[0]), "--domain_col", "names a column instead",
        )  # fmt: skip
    lower = [name.strip().casefold() for name in names]
    parts = [SPLITS.get(re.split(r"[-_. ]", name)[-1]) for name in lower]
    if len(set(parts) - {None}) > 1:
        first = next(name for name, part in zip(names, parts, strict=True) if part)
        yield note(
            "split_names_as_domains", "domains with the name of a split",
            count - parts.count(None), count, repr_short(first), "--domain_col",
            "names a column of domains; the split is made by --split",
        )  # fmt: skip
    if all(PERIOD.fullmatch(name) for name in lower):
        yield note(
            "months_as_domains", "domains with the name of a month, a day or a year", count, count,
            repr_short(names[0]), "--domain_col", "names a column of domains",
        )  # fmt: skip
    texts = pa.chunked_array([names], pa.string())
    yield from equal_spellings([texts], "domains", "domains")[0]
    yield from missing_words(texts, events, "domains", "domain", perhaps_too=False)


def sharing_notes(sequences: Sequences, totals: dict) -> Iterator[Note]:
    """Domains that have hardly any user in common."""
    names, users = sequences.domain_names, len(sequences.user_ids)
    shared, elsewhere = totals["shared_users"], totals["elsewhere"]
    if len(names) == 1:
        yield note(
            "one_domain", "domains: with a single one, nothing can be transferred", 1, 1,
            repr_short(names[0]), "--domain_col", "names the column of the domains",
        )  # fmt: skip
    elif shared < FEW_SHARED * users:
        number = "no user is" if not shared else "hardly any user is"
        ids = [repr_short(first_user(sequences, d)) for d in (0, 1)]
        yield note(
            "no_shared_users", f"{number} active in two domains, so nothing can be transferred",
            shared, users, f"{ids[0]} in {names[0]}, {ids[1]} in {names[1]}", "--user_col",
            "names the column of the users, who must have the same ids in all domains",
        )  # fmt: skip
    else:
        active = totals["active"].diagonal()
        alone = np.flatnonzero(elsewhere < FEW_SHARED * active)
        if len(alone):
            yield note(
                "domains_without_shared_users", "domains whose users are hardly ever active in "
                "another one", len(alone), len(names),
                f"{names[alone[0]]} shares {elsewhere[alone[0]]} of {active[alone[0]]} users",
                "--user_col", "names the column of the users; do they have the same ids there?",
            )  # fmt: skip


def first_user(sequences: Sequences, domain: int) -> str:
    """The id of the first user with an event in a domain."""
    for part in sequences.parts():
        events = np.flatnonzero(part.domains == domain)
        if len(events):
            user = np.searchsorted(part.offsets, events[0], side="right") - 1
            return part.user_ids[int(user)].as_py()
    raise ValueError(f"domain {domain} has no event")


def size_notes(names: list[str], counts: Counter) -> Iterator[Note]:
    """Domains with too few test targets."""
    targets = [counts[TEST, d] for d in range(len(names))]
    small = [d for d, count in enumerate(targets) if count < FEW_TARGETS]
    if small:
        flag = f"--min_domain_targets {FEW_TARGETS}"
        advice = "of main.py leaves them out of the mean over domains"
        if len(small) == len(names):
            flag, advice = "", "use a longer or a larger log"
        yield note(
            "tiny_domains", f"domains with fewer than {FEW_TARGETS} test targets, too few to see a "
            "difference", len(small), len(names), f"{names[small[0]]} with {targets[small[0]]}",
            flag, advice,
        )  # fmt: skip


# --- events -------------------------------------------------------------------------------------


def duplicate_notes(sequences: Sequences, counts: Counter) -> Iterator[Note]:
    """Events that repeat another one."""
    events = len(sequences.times)
    if counts["duplicates"] > MANY_DUPLICATES * events:
        yield note(
            "duplicates", "events that repeat the user, item and time of an earlier one",
            counts["duplicates"], events, first_duplicate(sequences), "--dedup exact", "drops them",
        )  # fmt: skip


def first_duplicate(sequences: Sequences) -> str:
    """The first event that repeats another one."""
    for part in sequences.parts():
        events = np.stack([part.users, part.times, part.items])  # [3, events]
        order = np.lexsort(events[::-1])
        same = (np.diff(events[:, order], axis=1) == 0).all(0)
        if same.any():
            event = int(order[1:][same].min())
            user = np.searchsorted(part.offsets, event, side="right") - 1
            item = sequences.item_ids[int(part.items[event]) - 1].as_py()
            ids = f"user {repr_short(part.user_ids[int(user)].as_py())}, item {repr_short(item)}"
            return f"{ids}, {as_date(part.times[event])}"
    raise ValueError("no event repeats another one")
