"""What training reads of each split, tiny runs on the new splits, and the audit of the targets."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import make_dataset as data_command
from src.baselines.markov import Markov
from src.baselines.popularity import Popularity
from src.config.names import PROTOCOLS, RELEASED
from src.config.settings import Settings
from src.dataset.batching.windows import training_dataset
from src.dataset.build.card import make_card
from src.dataset.build.sequences import Sequences
from src.dataset.store.folder import TEST, TRAIN, VALID, open_dataset
from src.evaluation.targets import split_targets
from src.training.processes import Process
from tests.support.builders import make_dataset, random_users
from tests.support.command_runs import DOMAINS, make_log, train
from tests.support.data_logs import card_of, sequences_of
from trainers import Trainer

SIZES = (6, 5, 9, 4)
PER_DOMAIN, TEMPORAL = "leave_one_out_per_domain", "temporal"


def per_domain(seed: int):
    """Random users; of each domain where a user has three events the last two are held out."""
    dataset = make_dataset(random_users(seed, count=11, longest=24), SIZES)
    split = np.zeros_like(dataset.split)
    for start, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True):
        for domain in range(len(SIZES)):
            own = [e for e in range(start, end) if dataset.domains[e] == domain]
            if len(own) >= 3:
                split[own[-2:]] = VALID, TEST
    return dataclasses.replace(dataset, split=split)


def temporal(seed: int):
    """Random users of random times, some with ties; the last ones begin after the cuts."""
    dataset = make_dataset(random_users(seed, count=11, longest=24), SIZES)
    rng = np.random.default_rng(seed)
    times = []
    for user, length in enumerate(np.diff(dataset.offsets)):
        first = {9: 60, 10: 85}.get(user, 0)
        times.extend(sorted(rng.integers(first, 100, length).tolist()))
    times = np.array(times)
    split = np.select([times >= 80, times >= 60], [TEST, VALID], TRAIN).astype(np.int8)
    card = dataset.card | {"split": {"protocol": TEMPORAL}}
    return dataclasses.replace(dataset, times=times, split=split, card=card)


MAKERS = {PER_DOMAIN: per_domain, TEMPORAL: temporal}


def epoch_batches(dataset, folder, **options) -> tuple[Trainer, list]:
    """Train an epoch; the trainer, and every batch that a step of it was given."""
    defaults = {"hidden": 8, "layers": 1, "heads": 2, "experts_cross": 2, "batch_size": 3}
    settings = Settings(**(defaults | {"grad_accum": 2, "max_len": 5, "device": "cpu"} | options))
    torch.manual_seed(0)
    trainer = Trainer(settings, dataset, folder, Process(torch.device("cpu")))
    seen, step = [], trainer.train_step

    def noted(step_batches):
        seen.extend(step_batches)
        return step(step_batches)

    trainer.train_step = noted
    trainer.train_epoch()
    return trainer, seen


def view_sequences(batch, view) -> list[tuple]:
    """(inputs, targets, domains) of each sequence of a view, in the order of its positions."""
    targets = torch.zeros_like(view.inputs)
    targets[view.target_slots] = batch.targets
    found = []
    for number in range(view.sequences):
        slots = torch.nonzero(view.sequence_ids == number)[:, 0]
        slots = slots[view.positions[slots].argsort()]
        assert view.positions[slots].tolist() == list(range(len(slots)))
        parts = view.inputs[slots], targets[slots], view.domains[slots]
        found.append(tuple(tuple(part.tolist()) for part in parts))
    return found


def oracle(dataset, max_len: int, context: str) -> dict[str, Counter]:
    """The sequences of each view, from lists: training events alone, in time order."""
    expected = {"cross": Counter(), "single": Counter()}
    for start, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True):
        known = [
            (int(dataset.items[e]), int(dataset.domains[e]))
            for e in sorted(range(start, end), key=lambda e: dataset.times[e])
            if dataset.split[e] == TRAIN
        ]
        if context == "own":
            kept, had = [], Counter()
            for item, domain in reversed(known):
                if had[domain] < max_len:
                    kept.insert(0, (item, domain))
                had[domain] += 1
        else:
            kept = known[-max_len:]
        by_domain = [[event for event in kept if event[1] == d] for d in range(len(SIZES))]
        for view, sequences in (("cross", [kept]), ("single", by_domain)):
            for sequence in filter(None, sequences):
                items, domains = zip(*sequence, strict=True)
                expected[view][((0, *items[:-1]), items, domains)] += 1
    return expected


# ------------------------------------------------------------------------ what a step is given


@pytest.mark.parametrize("context", ["paired", "own"])
@pytest.mark.parametrize("max_len", [4, 30])
@pytest.mark.parametrize("split", MAKERS)
def test_an_epoch_has_the_newest_training_events_in_both_views_and_no_other(
    split, max_len, context, tmp_path
):
    dataset = MAKERS[split](seed=max_len)
    options = {"sdsr_context": "own", "mode": "sdsr"} if context == "own" else {}
    trainer, seen = epoch_batches(dataset, tmp_path, max_len=max_len, **options)
    assert len(seen) == -(-len(trainer.loader.users) // 3) > 2
    expected = oracle(dataset, max_len, context)
    for view in ("cross", "single"):
        actual = [row for batch in seen for row in view_sequences(batch, getattr(batch, view))]
        assert Counter(actual) == expected[view]


def test_per_domain_training_events_behind_held_out_ones_are_trained_on():
    """What the oracle above would not need: without such events the test would be an easy one."""
    dataset = per_domain(seed=4)
    behind = sum(
        (np.diff((dataset.split[start:end] == TRAIN).astype(int)) > 0).any()
        for start, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    )
    assert behind >= 5
    part, ends = training_dataset(dataset)
    assert part is not dataset and (part.split == TRAIN).all()
    assert part.offsets[1:].tolist() == ends.tolist()
    assert len(part.items) == (dataset.split == TRAIN).sum()
    assert len(part.times) == 0
    part, _ = training_dataset(dataset, times=True)
    assert part.times.tolist() == dataset.times[dataset.split == TRAIN].tolist()


LONG = [(items, domains) for items, domains in random_users(2) if len(items) >= 2]


@pytest.mark.parametrize(
    "dataset",
    [
        *(make_dataset(LONG, SIZES, held_out=held_out) for held_out in range(3)),
        temporal(seed=1),
        *(per_domain(seed=4).only_domain(d) for d in range(len(SIZES))),
    ],
    ids=["none", "last", "last two", "temporal", *(f"only domain {d}" for d in range(len(SIZES)))],
)
def test_where_training_events_come_first_training_reads_the_dataset_itself(dataset):
    part, ends = training_dataset(dataset)
    assert part is dataset
    for start, end, stop in zip(dataset.offsets[:-1], ends, dataset.offsets[1:], strict=True):
        assert (dataset.split[start:end] == TRAIN).all()
        assert not (dataset.split[end:stop] == TRAIN).any()


def test_users_without_a_training_event_are_left_out_of_training_and_still_ranked(tmp_path):
    dataset = temporal(seed=1)
    trainer, _ = epoch_batches(dataset, tmp_path)
    late = [
        user for user in range(11) if dataset.times[dataset.offsets[user]] >= 60
    ]  # whose first event is held out
    assert {9, 10} <= set(late) < set(range(11))
    assert trainer.loader.users.tolist() == [user for user in range(11) if user not in late]
    targets = split_targets(dataset, "test")
    assert {9, 10} <= set(targets.users.tolist())
    assert trainer.validate(targets)["cross"]["users"]["n"] == (dataset.split == TEST).sum()


# ------------------------------------------------------------------------ nothing from later


def changed(dataset, events):
    """The dataset with another item, of another domain, and another time at some events."""
    items, domains, times = (x.copy() for x in (dataset.items, dataset.domains, dataset.times))
    domains[events] = (domains[events] + 1) % len(SIZES)
    items[events] = dataset.item_starts[domains[events]]
    times[events] += 1
    return dataclasses.replace(dataset, items=items, domains=domains, times=times)


def equal(first, second) -> bool:
    """Whether two batches, or parts of them, hold the same."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        return all(equal(getattr(first, name), getattr(second, name)) for name in names)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@pytest.mark.parametrize("split", MAKERS)
def test_held_out_events_change_no_training_batch_no_weight_and_no_baseline(split, tmp_path):
    dataset = MAKERS[split](seed=6)
    trainer, before = epoch_batches(dataset, tmp_path)
    held = np.flatnonzero(dataset.split != TRAIN)
    training = np.flatnonzero(dataset.split == TRAIN)[-1:]  # one of them is seen everywhere
    for events, same in ((held, True), (training, False)):
        other = changed(dataset, events)
        again, after = epoch_batches(other, tmp_path)
        assert equal(before, after) == same
        weights = (one.model.state_dict() for one in (trainer, again))
        assert all(map(equal, *(part.values() for part in weights))) == same
        popularity = (Popularity.fit(data).counts.tolist() for data in (dataset, other))
        assert equal(*popularity) == same
        transitions = (Markov.fit(data).transitions.toarray() for data in (dataset, other))
        assert np.array_equal(*transitions) == same


# ------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The dataset folder of each split."""
    folder = tmp_path_factory.mktemp("split")
    raw = make_log(folder / "raw")
    more = {PER_DOMAIN: (), TEMPORAL: ("--valid_share=.3", "--test_share=.3")}
    for split, own in more.items():
        data_command.main(
            ["--data_name=tiny", "--strd_ym=202402", f"--raw_dir={raw}", "--threads=1",
             f"--out_dir={folder / split}", f"--split={split}", *own]
        )  # fmt: skip
    return {split: folder / split for split in more}


@pytest.mark.parametrize(
    ("split", "mode"),
    [
        (PER_DOMAIN, "syncrec"),
        (TEMPORAL, "sdsr_separate"),
        pytest.param(PER_DOMAIN, "sdsr_separate", marks=pytest.mark.nightly),
        pytest.param(TEMPORAL, "syncrec", marks=pytest.mark.nightly),
    ],
)
def test_a_run_ranks_every_target_of_the_card_under_all_protocols(folders, split, mode, tmp_path):
    run = train(folders[split], tmp_path, "run", f"--mode={mode}", "--max_len=4")
    counts = card_of(folders[split])["split"]
    results = json.loads((run / "results.json").read_text())
    protocols = [name for name in PROTOCOLS if mode == "syncrec" or name != RELEASED]
    ranks = pq.read_table(run / "ranks.parquet").to_pandas()
    assert (ranks.tied >= 1).all() and (ranks.better + ranks.tied <= ranks.candidates).all()
    groups = dict(iter(ranks.groupby(["split", "protocol", "path"], observed=True)))
    for part in ("valid", "test"):
        assert list(results[part]) == protocols
        by_domain = {domain: counts["targets"][domain][part] for domain in DOMAINS}
        assert all(by_domain.values())
        assert sum(by_domain.values()) == counts[f"{part}_events"]
        for protocol, paths in results[part].items():
            for path, actual in paths.items():
                assert {domain: actual[domain]["n"] for domain in DOMAINS} == by_domain
                assert actual["users"]["n"] == counts[f"{part}_events"]
                assert np.isfinite(actual["macro"]["ndcg@10"])
                rows = groups.pop((part, protocol, path))
                assert rows.target.tolist() == list(range(counts[f"{part}_events"]))
                assert rows.user_id.value_counts().max() > 1
                assert rows.domain.value_counts().to_dict() == by_domain
    assert not groups


def test_the_temporal_runs_above_rank_users_whom_training_does_not_know(folders):
    sequences = sequences_of(folders[TEMPORAL])
    late = {u for u, events in sequences.items() if all(event[3] != TRAIN for event in events)}
    assert late
    split = card_of(folders[TEMPORAL])["split"]
    targets = sum(event[3] == TEST for user in late for event in sequences[user])
    assert split["cold_test_users"] == targets > 0


# ------------------------------------------------------------------------ the audit


def audit_of(sequences: Sequences) -> dict:
    return card(sequences)["audit"]


def card(sequences: Sequences) -> dict:
    options = {"split": TEMPORAL, "tie_order": "hashed"}
    return make_card(sequences, provenance={}, options=options, dropped={})


def by_hand(users: list[list[tuple]], items: dict[str, int]) -> Sequences:
    """Users' events (item, time, split); `items` are the numbers of items of each domain."""
    kinds = np.repeat(np.arange(len(items)), list(items.values())).astype(np.int16)
    events = np.array([event for own in users for event in own])
    return Sequences(
        domain_names=list(items),
        item_ids=pa.chunked_array([[f"i{n}" for n in range(1, len(kinds) + 1)]]),
        item_domains=kinds,
        item_counts=pa.chunked_array([np.bincount(events[:, 0], minlength=len(kinds) + 1)[1:]]),
        user_ids=pa.chunked_array([[f"u{n}" for n in range(len(users))]]),
        offsets=np.concatenate([[0], np.cumsum([len(own) for own in users])]),
        items=events[:, 0].astype(np.int32),
        domains=kinds[events[:, 0] - 1],
        times=events[:, 1],
        split=events[:, 2].astype(np.int8),
    )


LOG = [  # items 1 … 4 of a, 5 and 6 of b; (item, time, split)
    # a repeated item; then an unknown item, with an event of its time before it
    [(1, 0, TRAIN), (2, 1, TRAIN), (1, 5, TEST), (3, 5, TEST)],
    # a repeat of a validation event, whose item no training event has
    [(2, 0, TRAIN), (5, 3, VALID), (5, 6, TEST)],
    # a user without training events: an unknown item, and the same again
    [(3, 6, TEST), (3, 7, TEST)],
    [(2, 2, TRAIN), (6, 3, VALID), (1, 8, TEST)],
]


def test_what_training_does_not_know_is_counted_by_hand():
    assert card(by_hand(LOG, {"a": 4, "b": 2}))["split"] == {
        "protocol": TEMPORAL,
        "valid_events": 2,
        "test_events": 6,
        "targets": {"a": {"valid": 0, "test": 5}, "b": {"valid": 2, "test": 1}},
        "cold_test_items": 2,
        "cold_test_targets": 4,
        "cold_test_users": 2,
    }


@pytest.mark.parametrize(
    ("user", "place", "leaks", "own"),
    [
        (None, None, 0, 0),
        (0, 3, 0, 1),  # a training event at 5 beside the user's own target of that very time
        (2, 1, 4, 1),  # at 7, later than 5, 5, 6 and the user's own 6
        (3, 2, 5, 0),  # at 8, later than all that are left
    ],
)
def test_a_planted_leak_is_found_with_its_counts(user, place, leaks, own):
    users = [list(events) for events in LOG]
    if user is not None:
        users[user][place] = (*users[user][place][:2], TRAIN)
    audit = audit_of(by_hand(users, {"a": 4, "b": 2}))
    targets = 6 - (user is not None)
    assert audit["future_leaks"] == {"events": leaks, "share": round(leaks / targets, 6)}
    assert audit["own_future_leaks"] == {"events": own, "share": round(own / targets, 6)}


def test_repeats_and_equal_times_of_targets_by_hand():
    audit = audit_of(by_hand(LOG, {"a": 4, "b": 2}))
    assert audit["repeat_targets"] == {"events": 3, "share": 0.5}
    assert audit["same_time_context"] == {"events": 1, "share": round(1 / 6, 6)}
    assert audit["ties"]["events"] == 2


def test_every_leak_that_is_planted_in_a_temporal_folder_is_found(folders):
    assert all(
        card_of(folders[TEMPORAL])["audit"][name] == {"events": 0, "share": 0.0}
        for name in ("future_leaks", "own_future_leaks")
    )
    data = open_dataset(folders[TEMPORAL])
    kinds = np.repeat(np.arange(len(DOMAINS)), np.diff(data.item_starts)).astype(np.int16)
    clean = Sequences(
        data.domain_names, data.item_ids, kinds, pa.chunked_array([np.bincount(data.items)[1:]]),
        data.user_ids, data.offsets,
        *(np.array(getattr(data, name)) for name in ("items", "domains", "times", "split")),
    )  # fmt: skip
    assert audit_of(clean) == card_of(folders[TEMPORAL])["audit"]
    held = np.flatnonzero(clean.split != TRAIN)
    for event in np.random.default_rng(0).choice(held, 8, replace=False):
        split = clean.split.copy()
        split[event] = TRAIN
        audit = audit_of(dataclasses.replace(clean, split=split))
        targets = [
            (user, time)
            for user, time, part in zip(clean.users, clean.times, split, strict=True)
            if part == TEST
        ]
        late, whose = clean.times[event], clean.users[event]
        leaks = sum(late > time for _, time in targets)
        own = sum(user == whose and late >= time for user, time in targets)
        assert audit["future_leaks"]["events"] == leaks
        assert audit["own_future_leaks"]["events"] == own
