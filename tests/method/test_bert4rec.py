"""BERT4Rec: what is masked, what the loss of a step is, and the encoder one sequence at a time."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.baselines.bert4rec import LAST_ALONE, BERT4Rec, masked_targets
from src.io.errors import UserError
from tests.support.builders import (
    make_dataset,
    named_model,
    random_times,
    random_users,
    train_batch,
)

SIZES = (6, 5, 9, 4)


make_model = partial(named_model, name="bert4rec")


def long_batch(users: int, events: int):
    """Users with equally many events in one domain."""
    items = np.random.default_rng(0).integers(1, 7, (users, events))
    dataset = make_dataset([(row.tolist(), [0] * events) for row in items], (6,))
    return train_batch(dataset, max_len=events)


def output_by_hand(
    model: BERT4Rec, items: list[int | None], domains: list[int], seconds: list[int], place: int
) -> torch.Tensor:
    """The output [H] at a masked place of one sequence; every item that is None is masked."""
    embed, hidden = model.encoder.embed, model.settings.hidden
    tokens = torch.stack([embed.start[0] if i is None else model.item_table[i] for i in items])
    last = len(items) - 1
    for t in range(len(items)):
        position = last - t if model.settings.positions == "end" else t
        tokens[t] = tokens[t] + embed.position[position]
        if model.settings.reads_time:
            age = -1 if t == 0 else seconds[t] - seconds[t - 1]
            tokens[t] = tokens[t] + embed.interval(torch.tensor([age]))[0]
        if model.settings.target_domain_query:
            tokens[t] = tokens[t] + model.query[domains[t]]
    x = embed.norm(tokens)  # [T, H]
    for layer in model.encoder.transformer.layers:
        w = layer.weights()
        query, key, value = (x @ w.project_in[0] + w.project_in_bias[0]).split(hidden, 1)
        attended = (query @ key.T / math.sqrt(hidden)).softmax(1) @ value
        x = x + attended @ w.project_out[0] + w.project_out_bias[0]
        x = F.layer_norm(x, [hidden]) * w.attention_norm[0] + w.attention_norm_bias[0]
        wide = F.gelu(x @ w.widen[0] + w.widen_bias[0])
        x = x + wide @ w.narrow[0] + w.narrow_bias[0]
        x = F.layer_norm(x, [hidden]) * w.output_norm[0] + w.output_norm_bias[0]
    return x[place]


CHANGES = [
    {},
    {"positions": "start", "kernels": "plain"},
    {"time_embedding": "interval", "target_domain_query": True},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_ranked_target_is_a_mask_after_its_context(changes):
    users = random_users(3, domain_sizes=SIZES)
    times = random_times(users)
    dataset = make_dataset(users, SIZES, times=times)
    model, batch = make_model(dataset, **changes).eval(), train_batch(dataset)
    slots = batch.cross.target_slots
    events = zip(batch.cross.sequence_ids[slots], batch.cross.positions[slots], strict=True)
    with torch.no_grad():
        for output, (user, place) in zip(model.outputs(batch, "cross"), events, strict=True):
            items, domains = users[user]
            context = [*items[:place], None]
            expected = output_by_hand(model, context, domains, times[user].tolist(), int(place))
            torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes", [*CHANGES, {"loss": "gbce", "negatives": 2}], ids=str)
def test_the_loss_of_a_step_is_that_of_its_masked_events(changes):
    """A domain's masked targets stand for all of its targets, and the others have no loss."""
    users = random_users(3, domain_sizes=SIZES)
    times = random_times(users)
    dataset = make_dataset(users, SIZES, times=times)
    model = make_model(dataset, **changes).train()
    batch = train_batch(dataset, negatives=model.settings.drawn_negatives or 1)
    weights = torch.linspace(0.5, 2.0, len(batch.targets)).double()
    torch.manual_seed(5)
    masked = set(masked_targets(batch, batch.cross, 0.2).tolist())
    torch.manual_seed(5)
    step = model(batch, {"cross": weights})
    losses = step.by_path["cross"]
    torch.testing.assert_close(step.objective, weights @ losses)

    events = [(u, t) for u, (items, _) in enumerate(users) for t in range(len(items))]
    order = np.argsort([users[u][1][t] for u, t in events], kind="stable")
    rows = {events[event]: row for row, event in enumerate(order)}
    seen = [
        [None if rows[u, t] in masked else item for t, item in enumerate(items)]
        for u, (items, _) in enumerate(users)
    ]
    assert 0 < len(masked) < len(events)
    for (u, t), row in rows.items():
        if row not in masked:
            assert losses[row] == 0
            continue
        item, domain = users[u][0][t], users[u][1][t]
        of_domain = [r for (v, s), r in rows.items() if users[v][1][s] == domain]
        share = len(of_domain) / len(masked.intersection(of_domain))
        output = output_by_hand(model, seen[u], users[u][1], times[u].tolist(), t)
        first, end = dataset.item_starts[domain : domain + 2]
        if model.settings.loss == "ce":
            scores = output @ model.item_table[first:end].T
            expected = F.cross_entropy(scores, torch.tensor(item - int(first)))
        else:
            rate = 2 / (int(end - first) - 1)
            power = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
            down = F.softplus(model.item_table[batch.negatives[row]] @ output).sum()
            expected = (power * F.softplus(-output @ model.item_table[item]) + down) / 3
        torch.testing.assert_close(losses[row], share * expected)


def test_a_masked_item_is_read_by_its_own_loss_alone():
    users = random_users(3, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    batch, model = train_batch(dataset), make_model(dataset).train()

    def losses() -> torch.Tensor:
        torch.manual_seed(5)
        return model(batch).by_path["cross"]

    torch.manual_seed(5)
    masked, before = masked_targets(batch, batch.cross, 0.2).tolist(), losses()
    for row, item in enumerate(batch.targets.tolist()):
        domain = int(batch.cross.domains[batch.cross.target_slots[row]])
        first, end = dataset.item_starts[domain : domain + 2].tolist()
        batch.targets[row] = first + (item - first + 1) % (end - first)
        changed = (losses() != before).nonzero()[:, 0].tolist()
        batch.targets[row] = item
        if row in masked:
            assert changed == [row]
        else:  # the masked events before and after it read it
            assert row not in changed


def test_both_sides_of_a_masked_event_are_read():
    dataset = make_dataset([([1, 2, 3, 4, 5], [0] * 5)], SIZES)
    model, batch = make_model(dataset).eval(), train_batch(dataset)
    middle = batch.cross.target_slots[2:3]
    outputs = []
    for other in (None, 0, 4):
        events = batch.cross.inputs.new_zeros(len(batch.cross.inputs))
        events[batch.cross.target_slots] = batch.targets
        if other is not None:
            events[batch.cross.target_slots[other]] = 6
        outputs.append(model.states(batch.cross, events, middle))
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_the_mask_rate_and_the_share_of_last_events_alone(rate):
    users, events = 2000, 30
    batch = long_batch(users, events)
    view, masked = batch.cross, torch.zeros(users, events)
    torch.manual_seed(0)
    rows = view.target_slots[masked_targets(batch, view, rate)]
    masked[view.sequence_ids[rows], view.positions[rows]] = 1
    alone = (masked.sum(1) == 1) & (masked[:, -1] == 1)
    assert alone.double().mean() == pytest.approx(LAST_ALONE, abs=0.02)  # 3 standard errors
    of_others = masked[~alone]
    assert of_others.mean() == pytest.approx(rate, abs=0.01)
    torch.testing.assert_close(of_others.mean(0), torch.full((events,), rate), rtol=0, atol=0.05)


def test_every_sequence_and_every_domain_of_a_batch_has_a_masked_event():
    users = random_users(5, count=50, domain_sizes=SIZES)
    users.append(([1, 7, 2], [0, 1, 0]))
    batch = train_batch(make_dataset(users, SIZES))
    for view in (batch.cross, batch.single):
        for seed in range(20):
            torch.manual_seed(seed)
            slots = view.target_slots[masked_targets(batch, view, 1e-9)]
            sequences, domains = view.sequence_ids[slots], view.domains[slots]
            assert sequences.unique().tolist() == list(range(view.sequences))
            assert domains.unique().tolist() == [0, 1, 2, 3]
    alone = train_batch(make_dataset([([1, 7, 2], [0, 1, 0])], SIZES))
    for seed in range(20):  # a domain's only event is masked even where the last one alone is
        torch.manual_seed(seed)
        assert 2 in masked_targets(alone, alone.cross, 1e-9).tolist()


@pytest.mark.parametrize("rate", [0.0, 1.0, math.nan])
def test_a_mask_rate_out_of_bounds_is_refused(rate):
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    with pytest.raises(UserError, match=r"--bert4rec_mask_rate must lie in \(0, 1\), not"):
        make_model(dataset, bert4rec_mask_rate=rate)
