"""What data_card.md tells to do: commands to paste, and alarming figures."""

import shlex
import shutil
from pathlib import Path

import pytest

from src.dataset.store.card_alarms import alarms
from src.dataset.store.card_text import card_console, card_markdown
from src.runs.command import parse_command
from tests.support.command_runs import data_step
from tests.support.data_logs import MONTH, card_of, make, write_log
from tests.support.noted_logs import plain_log, renamed


def commands_of(folder: Path) -> list[list[str]]:
    """The words of the commands in data_card.md, without `python`."""
    text = (folder / "data_card.md").read_text()
    commands = [shlex.split(block.split("\n```")[0]) for block in text.split("```bash\n")[1:]]
    assert all(command[0] == "python" for command in commands)
    return [command[1:] for command in commands]


def test_the_card_has_commands_to_paste(tmp_path, monkeypatch):
    """As they stand: the same dataset again, the one that the notes suggest, and the run on it."""
    monkeypatch.setattr("src.dataset.make.ROOT", tmp_path)
    rows = renamed(0, lambda user, n: f" {user}" if n % 5 else user)
    rows = renamed(1, lambda item, n: f'"a, {item}{"" if n % 2 else ".0"}"', rows)
    raw = write_log(tmp_path / "raw; x" / "e.csv", [*rows, *rows[:40]])
    flags = [
        "--data_name=t",
        "--strd_ym=201412",
        "--raw_dir",
        str(raw),
        "--domains",
        "Books",
        "Toys",
    ]
    data_step(*flags, "--threads=1", "--min_user_events=2")
    folder = tmp_path / "src" / "dataset" / "processed" / "t"
    again, better, train = commands_of(folder / "201412")
    card = card_of(folder / "201412")
    shutil.rmtree(folder / "201412")
    assert again[0] == better[0] == "make_dataset.py"
    data_step(*again[1:])
    assert card_of(folder / "201412") == card
    data_step(*better[1:])
    keys = {note["key"] for note in card_of(folder / "201412-as-noted")["data_notes"]}
    assert {note["key"] for note in card["data_notes"]} - keys == {"user_ids_blanks", "duplicates"}
    options = card_of(folder / "201412-as-noted")["options"]
    assert options == card["options"] | {"strip": True, "dedup": "exact"}
    assert train == ["main.py", "--data_name=t", "--strd_ym=201412"]
    assert parse_command(train[1:]).settings.data_name == "t"


def test_the_command_to_train_leaves_tiny_domains_out(tmp_path):
    rows = [
        (f"u{n:03d}", f"i{e}", "Games" if e < 3 else "Toys" if n < 9 else "Books", MONTH + e)
        for n in range(200)
        for e in range(4)
    ]  # fmt: skip
    rows += [("u000", "i9", "Toys", MONTH), ("u001", "i9", "Books", MONTH)]
    raw = write_log(tmp_path / "raw" / "e.csv", rows)
    make(raw, tmp_path / "out")
    (_, train) = commands_of(tmp_path / "out")
    assert train == ["main.py", f"--data_dir={tmp_path / 'out'}", "--min_domain_targets", "100"]
    assert parse_command(train[1:]).settings.min_domain_targets == 100


COLD = {  # test targets of cold items, these items, test targets of cold users: as they are shown
    "many": ((280, 129, 7), ("280", "129 items", "7")),
    "one of each": ((1, 1, 1), ("1", "1 item", "1")),
    "none": ((0, 0, 0), ("0", "0 items", "0")),
    "thousands": ((12_000, 1_000, 0), ("12,000", "1,000 items", "0")),
    "users alone": ((0, 0, 9), ("0", "0 items", "9")),
    "an old card": ((None, 129, None), ("", "129 items", "")),
    "an old card of one item": ((None, 1, None), ("", "1 item", "")),
}


@pytest.fixture(scope="module")
def plain_card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    make(write_log(folder / "raw" / "e.csv", plain_log()), folder / "out")
    return card_of(folder / "out")


@pytest.mark.parametrize("form", COLD)
def test_cold_test_targets_are_one_line_on_the_console_and_in_the_card(plain_card, form):
    counts, (targets, items, users) = COLD[form]
    line = f"{targets} whose item has no training event ({items}), {users} whose user has none"
    line = line if targets else f"those of {items} without a training event"
    names = ("cold_test_targets", "cold_test_items", "cold_test_users")
    split = {name: value for name, value in plain_card["split"].items() if name not in names}
    split |= {name: value for name, value in zip(names, counts, strict=True) if value is not None}
    card = plain_card | {"split": split}
    assert f"cold test targets: {line}" in card_console(card).splitlines()
    if targets:  # data_card.md is written with the card, which is never old
        assert f"- Cold test targets: {line}." in card_markdown(card).splitlines()


ALARMING = {
    "ties": "events that share user and time with another",
    "same_time_context": "test targets after an event of the same user and time",
    "own_future_leaks": "test targets with a training event of the same user",
    "future_leaks": "test targets older than a training event of any user",
    "repeat_targets": "test targets of an item the user had before",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A dataset folder of an ordinary log."""
    folder = tmp_path_factory.mktemp("plain")
    make(write_log(folder / "raw" / "e.csv", plain_log()), folder / "out")
    return folder / "out"


@pytest.mark.parametrize("name", ALARMING)
def test_alarming_figures_are_named_with_their_share_and_what_to_do(plain, name):
    card = card_of(plain)
    for audited in ALARMING:
        card["audit"][audited] = {"events": 0, "share": 0.0}
    card["split"] |= {"cold_test_targets": 0, "cold_test_users": 0}
    assert list(alarms(card)) == []
    assert "- none" in card_markdown(card)
    card["audit"][name] = {"events": 9, "share": 0.625}
    (sentence,) = alarms(card)
    assert sentence.startswith(f"62.5% {ALARMING[name]}")
    assert "--" in sentence or "`-" in sentence  # a flag, or protocols
    assert f"- {sentence}" in card_markdown(card).splitlines()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dropped": {"rejected": 5}}, "rows rejected"),
        ({"dropped": {"after_cutoff": 150}}, "rows after the cut-off"),
        ({"split": {"cold_test_targets": 15}}, "test targets whose item has no training event"),
        ({"split": {"cold_test_users": 15}}, "test targets whose user has no training event"),
    ],
)
def test_alarming_counts_are_shares_of_rows_or_targets(change, words):
    card = {
        "rows": 200, "dropped": {}, "audit": {name: {"share": 0.0} for name in ALARMING},
        "split": {"test_events": 30, "cold_test_targets": 0, "cold_test_users": 0},
    }  # fmt: skip
    for key, values in change.items():
        card[key] |= values
    (sentence,) = alarms(card)
    value = next(iter(next(iter(change.values())).values()))
    assert sentence.startswith(f"{value / (200 if 'rows' in words else 30):.1%} {words}: ")
