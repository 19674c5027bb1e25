"""The data step against thirty lines of plain Python, on random small logs: equal to the row."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from src.dataset.store.folder import TEST, TRAIN, VALID, open_dataset
from src.io.errors import UserError
from tests.support.data_logs import DAY, HEADER, MONTH, card_of, make

END = MONTH + 31 * DAY  # of --strd_ym 201401


def tie(event):
    """SHA-256 of (key, user, item, domain), each field with its length, as 12 hex digits."""
    fields = ["syncrec tie order 1", *event[:3]]
    text = "".join(f"{len(field.encode())}:{field}" for field in fields)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def reference(rows, users, items, domains, dedup, bots, longest):
    """{user: [(user, item, domain, time)] in order} that the options leave."""
    rows = sorted((r for r in rows if r[3] < END), key=lambda r: (r[0].encode(), r[3], tie(r)))
    if dedup == "consecutive":
        rows = [r for b, r in zip([None, *rows], rows, strict=False) if not b or b[:3] != r[:3]]
    elif dedup != "none":
        width = {"exact": 4, "repeats": 3}[dedup]
        rows = list({r[:width]: r for r in reversed(rows)}.values())[::-1]
    many = Counter(r[0] for r in rows)
    rows = [r for r in rows if not bots or many[r[0]] <= bots]
    while True:
        per_user, per_item = Counter(r[0] for r in rows), Counter(r[1:3] for r in rows)
        active = Counter(user for user, _ in {(r[0], r[2]) for r in rows})
        width = Counter(domain for _, domain in per_item)
        kept = [
            r for r in rows
            if per_user[r[0]] >= users and per_item[r[1:3]] >= items
            and active[r[0]] >= domains and width[r[2]] > 1
        ]  # fmt: skip
        if len(kept) == len(rows):
            break
        rows = kept
    by_user = {}
    for row in rows:
        by_user.setdefault(row[0], []).append(row)
    by_user = {user: own[-longest:] for user, own in by_user.items()}  # -0 keeps all
    width = Counter(d for _, d in {r[1:3] for own in by_user.values() for r in own})
    by_user = {user: [r for r in own if width[r[2]] > 1] for user, own in by_user.items()}
    return {user: own for user, own in by_user.items() if own}


def held_out(own, split):
    """The split of each of a user's events."""
    parts = []
    for place, event in enumerate(own):
        group = [p for p, e in enumerate(own) if split == "leave_one_out" or e[2] == event[2]]
        last = {0: TEST, 1: VALID}.get(len(group) - 1 - group.index(place), TRAIN)
        parts.append(TRAIN if len(group) < 3 else last)
    return parts


IDS = st.sampled_from(["a", "b", "c", "é", "B", " a", "10", "9", "x,y", "𝄞"])
EVENTS = st.lists(
    st.tuples(IDS, IDS, st.sampled_from(["d", "e/f", "é"]), st.integers(0, 40)),
    min_size=3,
    max_size=60,
)
FILTERS = {
    "min_user_events": st.integers(0, 4),
    "min_item_events": st.integers(0, 4),
    "min_domains": st.integers(0, 2),
    "dedup": st.sampled_from(["none", "exact", "repeats", "consecutive"]),
    "max_user_events": st.sampled_from([0, 12]),
    "max_len": st.sampled_from([0, 0, 5]),
}
SPLITS = st.sampled_from(["leave_one_out", "leave_one_out_per_domain"])
OPTIONS = st.fixed_dictionaries({**FILTERS, "split": SPLITS})


def write(folder, rows, files):
    """The rows in some CSV files."""
    folder.mkdir(parents=True)
    for number in range(files):
        quoted = [[f'"{field}"' for field in row] for row in rows[number::files]]
        lines = [",".join(row) for row in [list(HEADER), *quoted]]
        (folder / f"{number}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def over_random_logs(examples):
    """Run a test on so many random logs and options, always the same ones."""

    def decorate(test):
        drawn = given(events=EVENTS, options=OPTIONS, files=st.integers(1, 3), order=st.randoms())
        return settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )(drawn(test))

    return decorate


@over_random_logs(10)
def test_every_array_is_that_of_the_reference(tmp_path_factory, events, options, files, order):
    check_arrays(tmp_path_factory, events, options, files, order)


@pytest.mark.nightly
@over_random_logs(150)
def test_the_arrays_of_many_logs(tmp_path_factory, events, options, files, order):
    check_arrays(tmp_path_factory, events, options, files, order)


def check_arrays(tmp_path_factory, events, options, files, order):
    """The command's arrays, ids and counts of a shuffled log are those of the reference."""
    rows = [(user, item, domain, MONTH + DAY * day) for user, item, domain, day in events]
    expected = reference(rows, *(options[name] for name in FILTERS))
    folder = tmp_path_factory.mktemp("log")
    order.shuffle(rows)
    flags = [f"--{name}={value}" for name, value in options.items()]
    arguments = (write(folder / "raw", rows, files), folder / "out", *flags)
    if not expected:
        try:
            make(*arguments, month="201401")
        except UserError:
            return
        raise AssertionError("the reference leaves nothing")
    make(*arguments, month="201401")
    data = open_dataset(folder / "out")
    users = sorted(expected, key=str.encode)
    items = sorted({r[1:3] for own in expected.values() for r in own},
                   key=lambda i: (i[1].encode(), i[0].encode()))  # fmt: skip
    flat = [event for user in users for event in expected[user]]
    number = {item: place for place, item in enumerate(items, 1)}
    names = sorted({domain for _, domain in items}, key=str.encode)
    assert data.user_ids.to_pylist() == users
    assert data.item_ids.to_pylist() == [item for item, _ in items]
    assert data.domain_names == names
    assert data.offsets.tolist() == np.cumsum([0, *(len(expected[u]) for u in users)]).tolist()
    assert data.items.tolist() == [number[event[1:3]] for event in flat]
    assert data.domains.tolist() == [names.index(event[2]) for event in flat]
    assert data.times.tolist() == [event[3] for event in flat]
    parts = [part for user in users for part in held_out(expected[user], options["split"])]
    assert data.split.tolist() == parts
    card = card_of(folder / "out")
    assert card["rows"] == len(rows) == card["events"] + sum(card["dropped"].values())
