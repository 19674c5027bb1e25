"""The data step as its user meets it: commands on raw logs, folders that come out of them."""

import hashlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from src.dataset.store.folder import open_dataset
from tests.support.data_logs import MONTH, card_of, make, random_log, shared_log, write_log

ROOT = Path(__file__).parents[2]


@pytest.fixture
def log(tmp_path):
    """A raw folder with a random log in it, and its rows."""
    rows = random_log()
    return write_log(tmp_path / "raw" / "events.csv", rows), rows


# --- the real logs: the counts that their README states -----------------------------------------

ABXI = {
    "Beauty": (4474, 10379, 50329),
    "Electronics": (4474, 14188, 63800),
    "Grocery_and_Gourmet_Food": (7144, 11837, 83663),
    "Home_and_Kitchen": (7144, 16258, 89885),
}
SAMPLE = {
    "Books": (500, 4528, 4846),
    "Clothing_Shoes_and_Jewelry": (500, 4421, 4765),
    "Sports_and_Outdoors": (500, 2311, 2505),
    "Toys_and_Games": (500, 2382, 2563),
    "Video_Games": (500, 1211, 1444),
}
CIAO_EVENTS = {"c01": 39887, "c02": 21968, "c03": 23923, "c05": 21885, "c10": 30382}

BUNDLED = Path(__file__).parents[2] / "src" / "dataset" / "raw" / "amazon"


@pytest.mark.nightly
def test_abxi_has_the_counts_of_its_readme(tmp_path):
    make(shared_log("abxi"), tmp_path / "out", month="201407")
    card = card_of(tmp_path / "out")
    assert (card["users"], card["items"], card["events"]) == (9624, 52662, 287677)
    actual = {n: (d["users"], d["items"], d["events"]) for n, d in card["domains"].items()}
    assert actual == ABXI
    assert round(card["audit"]["ties"]["share"], 2) == 0.50
    assert round(card["audit"]["ties_across_domains"]["share"], 2) == 0.31


@pytest.mark.nightly
def test_ciao_has_the_counts_of_its_readme(tmp_path):
    make(shared_log("ciao"), tmp_path / "out", month="201104")
    card = card_of(tmp_path / "out")
    assert (card["users"], card["items"], card["events"]) == (7375, 105219, 284086)
    assert list(card["domains"]) == [f"c{d:02d}" for d in range(1, 29)]
    assert {name: card["domains"][name]["events"] for name in CIAO_EVENTS} == CIAO_EVENTS
    assert round(card["audit"]["ties"]["share"], 2) == 0.43
    assert round(card["audit"]["ties_across_domains"]["share"], 2) == 0.32
    assert card["audit"]["duplicates"]["events"] == 355


@pytest.mark.nightly
def test_the_released_sample_has_the_counts_of_its_readme(tmp_path):
    make(shared_log("syncrec_sample") / "raw", tmp_path / "out", month="201810")
    card = card_of(tmp_path / "out")
    assert (card["users"], card["items"], card["events"]) == (500, 14853, 16123)
    actual = {n: (d["users"], d["items"], d["events"]) for n, d in card["domains"].items()}
    assert actual == SAMPLE
    assert card["sequence_length"]["max"] == 516
    assert round(card["audit"]["ties"]["share"], 2) == 0.71
    assert round(card["audit"]["ties_across_domains"]["share"], 2) == 0.52
    assert card["audit"]["duplicates"]["events"] == 337


@pytest.mark.parametrize(
    ("name", "month", "end", "pair"),
    [
        ("bundled", "202206", "2022-07-01", ("gen_Books", "gen_Toys")),
        pytest.param(
            "abxi", "201206", "2012-07-01", ("Beauty", "Grocery_and_Gourmet_Food"),
            marks=pytest.mark.nightly,
        ),
    ],
)  # fmt: skip
def test_an_earlier_month_equals_an_independent_recount(tmp_path, name, month, end, pair):
    folder = BUNDLED if name == "bundled" else shared_log(name)
    make(folder, tmp_path / "out", month=month)
    log = pd.read_csv(
        folder / "interactions.csv.gz",
        dtype={"user_id": str, "item_id": str},
        skiprows=5 if name == "bundled" else 0,  # lines that say that the log is generated
    )
    log = log[log.unix_time < pd.Timestamp(end, tz="UTC").timestamp()]
    card = card_of(tmp_path / "out")
    assert card["users"] == log.user_id.nunique()
    assert card["items"] == len(log[["domain", "item_id"]].drop_duplicates())
    assert card["events"] == len(log)
    for name, part in log.groupby("domain"):
        counts = card["domains"][name]
        expected = (part.user_id.nunique(), part.item_id.nunique(), len(part))
        assert (counts["users"], counts["items"], counts["events"]) == expected
        assert counts["mean_length"] == round(len(part) / part.user_id.nunique(), 4)
    first, second = (set(log.user_id[log.domain == domain]) for domain in pair)
    assert card["overlap"][pair[0]][pair[1]] == len(first & second)


def test_abxi_five_core_has_its_reference_size(tmp_path):
    flags = ["--min_user_events=5", "--min_item_events", "5"]
    make(shared_log("abxi"), tmp_path / "out", *flags, month="201407")
    card = card_of(tmp_path / "out")
    assert (card["users"], card["items"], card["events"]) == (9218, 14228, 209836)


# --- the same content whatever the machine ------------------------------------------------------


def test_neither_shuffling_nor_threads_nor_packing_changes_the_content_hash(log, tmp_path):
    raw, rows = log
    make(raw, tmp_path / "a")
    shuffled = write_log(tmp_path / "raw2" / "e.tsv.gz", rows[::-1][7:] + rows[::-1][:7])
    make(shuffled, tmp_path / "b", "--threads=4")
    assert card_of(tmp_path / "a")["sha256"] == card_of(tmp_path / "b")["sha256"]
    for file in (tmp_path / "a" / "sequences").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "sequences" / file.name).read_bytes()


def test_one_changed_field_changes_the_content_hash(log, tmp_path):
    raw, rows = log
    make(raw, tmp_path / "as it was")
    others = ("another", "another", "Books" if rows[0][2] != "Books" else "été", MONTH + 1)
    for column, other in enumerate(others):
        row = (*rows[0][:column], other, *rows[0][column + 1 :])
        changed = write_log(tmp_path / f"raw {column}" / "e.csv", [row, *rows[1:]])
        make(changed, tmp_path / f"changed {column}")
    hashes = {card_of(card.parent)["sha256"] for card in tmp_path.glob("*/data_card.json")}
    assert len(hashes) == 1 + len(others)


# --- the folder ---------------------------------------------------------------------------------


def test_the_tables_of_the_folder_say_what_the_arrays_say(log, tmp_path):
    raw, rows = log
    make(raw, tmp_path / "out")
    out, data = tmp_path / "out", open_dataset(tmp_path / "out")
    cross = pq.read_table(out / "cross.parquet").to_pylist()
    names = data.domain_names
    assert [row["user"] for row in cross] == list(range(data.users))
    for user, row in enumerate(cross):
        own = slice(data.offsets[user], data.offsets[user + 1])
        assert row["items"] == data.items[own].tolist()
        assert row["times"] == data.times[own].tolist()
        assert row["domains"] == [names[d] for d in data.domains[own]]
    files = {"Books": "Books", "Music & Film": "Music%20%26%20Film", "été": "%C3%A9t%C3%A9"}
    assert {path.stem for path in (out / "single").iterdir()} == set(files.values())
    for name, file in files.items():
        single = pq.read_table(out / "single" / f"{file}.parquet").to_pylist()
        expected = [
            (row["user"], [(i, t) for i, d, t in _events(row) if d == name])
            for row in cross
            if name in row["domains"]
        ]
        assert [
            (row["user"], list(zip(row["items"], row["times"], strict=True))) for row in single
        ] == expected
    users = pq.read_table(out / "users.parquet").to_pylist()
    counts = Counter((row[0], row[2]) for row in rows)
    for row in users:
        assert [row[f"events_{name}"] for name in names] == [
            counts[row["user_id"], n] for n in names
        ]


def _events(row):
    return zip(row["items"], row["domains"], row["times"], strict=True)


def test_the_card_has_the_agreed_keys_and_audits_what_it_describes(tmp_path):
    rows = [
        ("a", "1", "d", MONTH),
        ("a", "1", "d", MONTH),  # tie and exact repeat
        ("a", "2", "e", MONTH),  # tie across domains
        ("a", "3", "d", MONTH + 5),  # validation
        ("a", "9", "e", MONTH + 6),  # test: cold, and later training data exists
        ("b", "1", "d", MONTH + 7),
        ("b", "2", "e", MONTH + 8),
        ("b", "1", "d", MONTH + 9),  # a repeat; test, nothing is later
        ("c", "2", "e", MONTH + 9),  # training, at the time of b's test
        ("c", "3", "d", MONTH + 10),
        ("c", "1", "d", MONTH + 11),
    ]
    make(write_log(tmp_path / "raw" / "e.csv", rows), tmp_path / "out")
    card = card_of(tmp_path / "out")
    agreed = (
        "data_name strd_ym cutoff source raw_files options users items events domains overlap "
        "sequence_length time_range repeats split audit dropped sha256 format notes"
    )
    assert set(agreed.split()) <= set(card)
    assert {name: count["events"] for name, count in card["audit"].items()} == {
        "ties": 3,
        "ties_across_domains": 3,
        "future_leaks": 1,
        "own_future_leaks": 0,
        "same_time_context": 0,
        "repeat_targets": 1,
        "duplicates": 1,
    }
    assert card["repeats"]["events"] == 2
    assert card["split"] == {
        "protocol": "leave_one_out",
        "valid_events": 3,
        "test_events": 3,
        "targets": {"d": {"valid": 2, "test": 2}, "e": {"valid": 1, "test": 1}},
        "cold_test_items": 1,
        "cold_test_targets": 1,
        "cold_test_users": 0,
    }
    assert card["overlap"] == {"d": {"d": 3, "e": 3}, "e": {"d": 3, "e": 3}}
    assert card["sequence_length"] == {"mean": 3.6667, "p50": 3.0, "p95": 4.8, "max": 5}
    assert card["time_range"] == {"first": "2014-01-01T00:00:00Z", "last": "2014-01-01T00:00:11Z"}
    assert card["cutoff"] == "2014-12-31T23:59:59Z"
    assert (
        card["raw_files"][0]["sha256"]
        == hashlib.sha256((tmp_path / "raw" / "e.csv").read_bytes()).hexdigest()
    )


def test_a_generated_log_says_so_on_the_console_and_in_the_cards(log, tmp_path, capsys):
    _, rows = log
    comments = "# generated: by a test\n# planted: Books 1.0\n# free text\n"
    raw = write_log(tmp_path / "g" / "e.csv.gz", rows, comments=comments)
    make(raw, tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert "NOTE: generated log, by a test" in lines
    assert "NOTE: planted: Books 1.0" in lines
    card = card_of(tmp_path / "out")
    assert card["notes"] == {"generated": "by a test", "planted": "Books 1.0"}
    assert card["events"] == len(rows)
    first = (tmp_path / "out" / "data_card.md").read_text().splitlines()[0]
    assert "NOTE: generated log" in first


def test_the_same_command_again_reuses_the_folder(log, tmp_path, capsys):
    raw, _ = log
    make(raw, tmp_path / "out", "--min_user_events=3")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    make(raw, tmp_path / "out", "--min_user_events=3", "--format=table", "--threads=2")
    assert "reusing" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == written


def test_the_command_line_writes_the_default_folder_from_any_directory(tmp_path):
    """A copy of the code in another place, run as a person runs it."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("processed"))
    shutil.copy(ROOT / "make_dataset.py", tmp_path)
    write_log(tmp_path / "src/dataset/raw/small/e.csv", random_log())
    (tmp_path / "src/dataset/raw/small/README.md").write_text("not a table")
    flags = ["--data_name=small", "--strd_ym=201401", "--variant", "v2"]
    done = subprocess.run(
        [sys.executable, "../make_dataset.py", *flags],
        cwd=tmp_path / "src",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where nobody looks
    folder = tmp_path / "src/dataset/processed/small/201401-v2"
    assert str(folder) in done.stdout
    assert np.diff(open_dataset(folder).offsets).min() > 0
