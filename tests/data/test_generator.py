"""The generator plants what it says (preset planted), and the bundled log is what it writes."""

import dataclasses
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from src.dataset.generator import log_file
from src.dataset.generator.__main__ import main
from src.dataset.generator.log_file import FILE_NAME
from src.dataset.generator.planted import (
    SHIFTS,
    SyntheticConfig,
    SyntheticLog,
    generate,
    header,
    write_log,
)
from src.io.errors import run_command
from src.io.paths import ROOT

BUNDLED = ROOT / "src" / "dataset" / "raw" / "amazon" / FILE_NAME
SMALL = SyntheticConfig(users=60, events=12, clusters=4, cluster_items=5)


@pytest.fixture(scope="module")
def log() -> SyntheticLog:
    return generate(SyntheticConfig())


def lines_of(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def by_user(log: SyntheticLog) -> np.ndarray:
    """Places of the events by user, in time order."""
    return np.lexsort((log.times, log.users))


def run(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["generator", *flags])
    run_command(main)


def test_the_bundled_log_is_what_the_defaults_and_its_header_write(tmp_path, monkeypatch):
    command = next(line for line in lines_of(BUNDLED) if line.startswith("# command: "))
    named = command.split("src.dataset.generator ")[1].replace("DIR", str(tmp_path / "b")).split()
    for name, flags in (("a", ["--out", str(tmp_path / "a")]), ("b", named)):
        run(monkeypatch, *flags)
        assert lines_of(tmp_path / name / FILE_NAME) == lines_of(BUNDLED)


def test_the_bundled_log_is_small():
    assert BUNDLED.stat().st_size <= 2 * 1024**2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    files = [
        write_log(config, generate(config), tmp_path / name).read_bytes()
        for name, config in [
            ("a", SMALL),
            ("b", SMALL),
            ("c", dataclasses.replace(SMALL, seed=43)),
        ]
    ]
    assert files[0] == files[1] != files[2]
    assert [file.name for file in (tmp_path / "a").iterdir()] == [FILE_NAME]


def test_a_file_says_that_it_is_generated_and_what_is_planted(log, tmp_path):
    lines = lines_of(write_log(SyntheticConfig(), log, tmp_path))
    keys = dict(line[2:].split(": ", 1) for line in lines if line.startswith("#"))
    assert list(keys) == list(header(SyntheticConfig()))
    assert "not real behaviour" in keys["generated"]
    planted = json.loads(keys["planted_relatedness"])
    assert sorted(planted.values()) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert json.loads(keys["planted_sequential"]) == list(planted)
    rows = [line.split(",") for line in lines[len(keys) + 1 :]]
    assert lines[len(keys)] == "user_id,item_id,domain,unix_time"
    assert all(item.startswith(f"{domain}-") for _, item, domain, _ in rows)
    assert all(user.startswith("g") and domain.startswith("gen_") for user, _, domain, _ in rows)


def test_the_order_of_relatedness_is_not_that_of_the_names():
    config = SyntheticConfig()
    assert list(config.domains) == sorted(config.domains)
    ranks = np.argsort(np.argsort(config.relatedness))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.2


def test_times_are_distinct_rising_and_some_lie_after_the_cut_off(log):
    assert (np.diff(log.times) > 0).all()
    assert log.times[0] >= log_file.FIRST_SECOND
    assert log.times[-1] < log_file.END_SECOND
    january = np.mean(log.times >= 1_704_067_200)  # 2024-01-01
    assert 0 < january < 0.02


def test_sizes_are_as_asked_and_do_not_follow_relatedness(log):
    lengths = np.bincount(log.users)
    assert (lengths.min(), lengths.max()) == (20, 60)
    assert log.item_slots.shape == (5, 300)
    assert (np.sort(log.item_slots, axis=1) == np.arange(300)).all()
    events = np.bincount(log.domains)
    assert events.max() / events.min() < 1.1


def test_events_take_an_item_at_the_interest_or_a_few_places_on_in_its_ring(log):
    slots, ring = log.item_slots[log.domains, log.items], SyntheticConfig().cluster_items
    signal = ~log.noise
    assert (slots[signal] // ring == log.interests[signal] // ring).all()
    steps = (slots[signal] - log.interests[signal]) % ring
    assert set(np.unique(steps)) == set(range(SHIFTS))
    assert np.mean(log.noise) == pytest.approx(SyntheticConfig().noise, abs=0.01)


def test_relatedness_is_the_share_of_users_that_read_the_shared_interest(log):
    assert log.related.mean(axis=0) == pytest.approx(SyntheticConfig().relatedness, abs=0.04)


def other_domain_hits(log: SyntheticLog) -> tuple[np.ndarray, np.ndarray]:
    """[D] how often an event lies in the cluster of the user's event before, where that is of
    another domain, and how often it would if the two were independent."""
    order, ring = by_user(log), SyntheticConfig().cluster_items
    users, domains = log.users[order], log.domains[order]
    clusters = (log.item_slots[log.domains, log.items] // ring)[order]
    switch = np.flatnonzero((users[1:] == users[:-1]) & (domains[1:] != domains[:-1])) + 1
    hits, chance = [], []
    for domain in range(len(log.item_slots)):
        now = switch[domains[switch] == domain]
        here, there = clusters[now], clusters[now - 1]
        hits.append(np.mean(here == there))
        chance.append(sum(np.mean(here == c) * np.mean(there == c) for c in np.unique(here)))
    return np.array(hits), np.array(chance)


def test_other_domains_tell_more_the_more_related_and_nothing_at_zero(log):
    hits, chance = other_domain_hits(log)
    relatedness = np.array(SyntheticConfig().relatedness)
    gain = (hits - chance)[np.argsort(relatedness)]
    assert (np.diff(gain) > 0).all()
    assert abs(gain[0]) < 0.015  # about three standard errors of 4,000 events
    assert gain[-1] > 0.08


def test_a_domain_alone_looks_the_same_at_every_relatedness(log):
    order, ring = by_user(log), SyntheticConfig().cluster_items
    clusters = log.item_slots[log.domains, log.items] // ring
    stays = []
    for domain in range(len(log.item_slots)):
        own = order[log.domains[order] == domain]
        follows = log.users[own][1:] == log.users[own][:-1]
        stays.append(np.mean((clusters[own][1:] == clusters[own][:-1])[follows]))
    assert np.ptp(stays) < 0.03


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "OUT", "--relatedness", "1", "0"], "2 values for 5 --domains"),
        (["--out", "OUT", "--domains", "a", "a", "--relatedness", "1", "0"], "repeats a name"),
        (["--out", "OUT", "--domains", "a,b", "--relatedness", "1"], "'a,b'"),
        (["--out", "OUT", "--noise", "1.5"], "--noise has the value 1.5"),
        (["--out", "OUT", "--relatedness", *"0000", "nan"], "--relatedness has the value nan"),
        (["--out", "OUT", "--users", "0"], "--users 0 is too small"),
        (["--out", "OUT", "--seed", "-1"], "--seed -1 is negative"),
        ([], "--out is missing"),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(
    tmp_path, monkeypatch, capsys, flags, words
):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        flags = [str(out) if flag == "OUT" else flag for flag in flags]
        run(monkeypatch, "--preset=planted", *flags)
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.startswith("error: ") and line.count("\n") == 1 and words in line
    assert not out.exists()
