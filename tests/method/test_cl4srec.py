"""CL4SRec: the changes of a sequence, the encoder's state of a changed copy, and InfoNCE."""

import csv
import math
from functools import partial

import numpy as np
import pytest
import torch

from src.baselines.cl4srec import CONTRASTIVE, changed_copy, draw_changes, info_nce
from src.config.settings import settings_class
from src.io.errors import UserError
from tests.support.builders import (
    make_dataset,
    named_model,
    random_times,
    random_users,
    train_batch,
)
from tests.support.command_runs import make_data, train

SIZES = (6, 5, 9, 4)


make_model = partial(named_model, name="cl4srec")


# ------------------------------------------------------------------------ InfoNCE


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_info_nce_is_that_of_a_slow_loop(temperature):
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 5, dtype=torch.float64)
    copies, expected = [*first, *second], 0.0
    for anchor in range(8):
        scores = [math.exp(float(copies[anchor] @ other) / temperature) for other in copies]
        others = sum(scores) - scores[anchor]
        expected -= math.log(scores[(anchor + 4) % 8] / others) / 8
    assert float(info_nce(first, second, temperature)) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 1])
def test_without_another_sequence_the_loss_is_0_and_has_a_gradient(count):
    first, second = torch.randn(2, count, 5, requires_grad=True)
    loss = info_nce(first, second, 1.0)
    loss.backward()
    assert loss.item() == 0.0


# ------------------------------------------------------------------------ changes


def test_a_crop_a_mask_and_a_reordering_have_the_sizes_of_the_paper():
    events = torch.arange(21).repeat(200)
    settings = settings_class("cl4srec", "lc_ntg")(model="cl4srec", max_len=24)
    torch.manual_seed(0)
    changes = draw_changes(events, settings.max_len, settings)
    kinds = {"crop": 0, "mask": 0, "reorder": 0}
    starts = []
    for row, count in enumerate(events.tolist()):
        source, masked = changes.source[row].tolist(), changes.masked[row].tolist()
        start, plain = int(changes.start[row]), list(range(count + 1))
        moved = [place for place in plain if source[place] != place]
        if start:
            kinds["crop"] += 1
            kept = source[start + 1 : count + 1]
            assert len(kept) == max(1, math.floor(0.6 * count))
            assert kept == list(range(kept[0], kept[0] + len(kept)))
            assert kept[0] >= 1 and kept[-1] <= count
            assert source[start] == 0 and not any(masked)
            starts.append((count, kept[0]))
        elif any(masked):
            kinds["mask"] += 1
            assert sum(masked) == math.floor(0.3 * count) == sum(masked[1 : count + 1])
            assert not moved
        elif moved:
            kinds["reorder"] += 1
            assert moved[-1] - moved[0] < math.floor(0.6 * count)
            assert moved[0] > 0
            assert sorted(source[: count + 1]) == plain
    # a third of the 4,200 sequences each; a crop shows from 2 events on, the others from 4 on
    assert kinds == {
        "crop": pytest.approx(1400 * 19 / 21, abs=100),
        "mask": pytest.approx(1400 * 17 / 21, abs=100),
        "reorder": pytest.approx(1400 * 17 / 21, abs=100),
    }
    # a crop may begin at every event from which enough are left
    assert {first for count, first in starts if count == 10} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "start", "target_domain_query": True},
        {"time_embedding": "interval"},
        {"cl4srec_crop": 0.0, "cl4srec_mask": 1.0, "cl4srec_reorder": 1.0},
    ],
    ids=str,
)
def test_a_copy_has_the_state_of_a_sequence_that_was_so_from_the_start(changes):
    """Cropped events, masked ones and shuffled ones, each user alone, with an item of each domain
    as the mask."""
    users = random_users(3, count=30, domain_sizes=SIZES)
    times = random_times(users)
    dataset = make_dataset(users, SIZES, times=times)
    model, masks = make_model(dataset, **changes).eval(), dataset.item_starts[:-1].tolist()
    with torch.no_grad():
        model.item_table[masks] = model.mask
    batch = train_batch(dataset)
    events = torch.tensor([len(items) - 1 for items, _ in users])
    torch.manual_seed(9)
    drawn = draw_changes(events, model.settings.max_len, model.settings)
    torch.manual_seed(9)
    with torch.no_grad():
        states = iter(model.copy_states(batch.cross))
    crops = 0
    for user, (items, domains) in enumerate(users):
        if len(items) == 1:
            continue  # no input event
        start, places = int(drawn.start[user]), range(1, len(items))
        crops += start > 0
        source = [int(drawn.source[user, place]) - 1 for place in places if place > start]
        masked = [bool(drawn.masked[user, place]) for place in places if place > start]
        seconds = np.diff(times[user])[source]  # from each event to the next one
        changed = [
            masks[domains[event]] if hide else items[event]
            for hide, event in zip(masked, source, strict=True)
        ]
        sequence = [*changed, items[-1]], [*(domains[event] for event in source), domains[-1]]
        alone = make_dataset([sequence], SIZES, times=[np.cumsum([0, *seconds])])
        with torch.no_grad():
            (expected,) = model.outputs(train_batch(alone), "cross", last=True)
        torch.testing.assert_close(next(states), expected, rtol=1e-9, atol=1e-9)
    assert next(states, None) is None
    assert crops > 3


def test_a_copy_leaves_the_view_as_it_is():
    dataset = make_dataset(random_users(3, domain_sizes=SIZES), SIZES)
    batch, same = train_batch(dataset), train_batch(dataset)
    changed_copy(batch.cross, make_model(dataset).settings)
    for name in ("inputs", "positions", "sequence_ids", "intervals", "domains"):
        assert torch.equal(getattr(batch.cross, name), getattr(same.cross, name))


# ------------------------------------------------------------------------ training


def test_with_weight_0_it_is_sasrec_bit_for_bit():
    dataset = make_dataset(random_users(3, domain_sizes=SIZES), SIZES)
    changes, batch, results = {"dropout": 0.3}, train_batch(dataset), []
    model = make_model(dataset, cl4srec_weight=0.0, **changes)
    sasrec = named_model(dataset, "sasrec", **changes)
    weights = model.state_dict()
    del weights["mask"]
    sasrec.load_state_dict(weights)
    for one in (model.train(), sasrec.train()):
        torch.manual_seed(0)
        step = one(batch)
        assert step.auxiliary == {}
        step.objective.backward()
        results.append((step.by_path["cross"], one.item_table.grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_the_targets_losses_are_sasrecs_and_the_contrastive_loss_comes_on_top():
    dataset = make_dataset(random_users(3, domain_sizes=SIZES), SIZES)
    batch, model = train_batch(dataset), make_model(dataset, cl4srec_temperature=2.0)
    torch.manual_seed(4)
    with torch.no_grad():
        step = model.train()(batch)
    expected = model.eval()(batch)  # without dropout
    torch.testing.assert_close(step.by_path["cross"], expected.by_path["cross"])
    torch.testing.assert_close(step.objective, expected.objective)
    torch.manual_seed(4)
    with torch.no_grad():
        first, second = model.copy_states(batch.cross), model.copy_states(batch.cross)
    assert not torch.equal(first, second)  # two draws
    torch.testing.assert_close(step.auxiliary[CONTRASTIVE], info_nce(first, second, 2.0))


def test_metrics_csv_has_the_contrastive_loss(tmp_path):
    run = train(make_data(tmp_path), tmp_path / "runs", "run", "--model=cl4srec")
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "contrastive_loss"]
    assert [row["split"] for row in rows] == ["train"]
    assert 0 < float(rows[0]["value"]) < 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cl4srec_crop": 1.5}, r"--cl4srec_crop must lie in \[0, 1\], not 1.5"),
        ({"cl4srec_mask": -0.1}, r"--cl4srec_mask must lie in \[0, 1\], not -0.1"),
        ({"cl4srec_reorder": math.nan}, r"--cl4srec_reorder must lie in \[0, 1\], not nan"),
        ({"cl4srec_weight": -1.0}, r"--cl4srec_weight must lie in \[0, 1e6\], not -1"),
        ({"cl4srec_temperature": 0.0}, r"--cl4srec_temperature must lie in \[1e-6, 1e6\], not 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(changes, message):
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    with pytest.raises(UserError, match=message):
        make_model(dataset, **changes)
