"""MML: two halves of one item table; targets across domains and crops are those of plain loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.baselines.mml import ACROSS, CROP, TEMPERATURE, cropped, sources_across
from src.io.errors import UserError
from src.runs.warm_start import carry_over
from tests.support.builders import events_of, make_dataset, named_model, random_users, train_batch

SIZES = (6, 5, 9, 4)


make_model = partial(named_model, name="mml")


def cross_entropy(model, state, item: int, domain: int, half: int) -> torch.Tensor:
    """The loss of one target, scored by the first or the second half of the item table."""
    first, end = model.item_starts[domain : domain + 2]
    scores = state @ model.item_table[first:end].chunk(2, 1)[half].T
    return F.cross_entropy(scores, torch.tensor(item - first))


@pytest.mark.parametrize("half", [0, 1])
def test_each_encoder_reads_its_half_of_the_item_table_alone(half):
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    model, batch = make_model(dataset), train_batch(dataset)
    before = model.states(batch)
    with torch.no_grad():
        part = model.item_table.chunk(2, 1)[half]
        part.add_(torch.rand_like(part))
    after = model.states(batch)
    assert not torch.allclose(before[half], after[half])
    assert torch.equal(before[1 - half], after[1 - half])
    for number, states in enumerate(after):
        model.zero_grad()
        states[:, 0].sum().backward()
        halves = model.item_table.grad.chunk(2, 1)
        assert halves[number].abs().sum() > 0
        assert halves[1 - number].abs().sum() == 0


def test_the_single_states_are_those_of_the_domain_alone():
    items, domains = [1, 7, 2, 12, 8, 3, 13, 1], [0, 1, 0, 2, 1, 0, 2, 0]
    dataset = make_dataset([(items, domains)], SIZES)
    model, batch = make_model(dataset), train_batch(dataset)
    mixed, single = model.states(batch)
    assert torch.equal(model.outputs(batch, "cross"), torch.cat([mixed, single], 1))
    for domain in range(3):
        kept = [item for item, of in zip(items, domains, strict=True) if of == domain]
        alone = train_batch(make_dataset([(kept, [domain] * len(kept))], SIZES))
        rows = [row for row, (_, time) in enumerate(events_of(batch)) if domains[time] == domain]
        torch.testing.assert_close(single[rows], model.states(alone)[1])
    single[:, 0].sum().backward()
    used = model.single.embed.start.grad.abs().sum(1) > 0
    assert used.tolist() == [True, True, True, False]  # a start token for each domain


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_a_target_is_predicted_from_both_views_by_their_halves(kernels):
    users = random_users(5, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    model, batch = make_model(dataset, kernels=kernels), train_batch(dataset)
    states, losses = model.states(batch), model(batch)
    expected = []
    for row, (user, time) in enumerate(events_of(batch)):
        item, domain = users[user][0][time], users[user][1][time]
        parts = [cross_entropy(model, states[half][row], item, domain, half) for half in (0, 1)]
        expected.append(sum(parts))
    torch.testing.assert_close(losses.by_path["cross"], torch.stack(expected).detach())
    (wanted,) = torch.autograd.grad(sum(expected), model.item_table)
    (given,) = torch.autograd.grad(losses.objective, model.item_table)
    torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize("seed", range(4))
def test_targets_across_domains_are_those_of_a_loop_over_events(seed):
    # sequences so long that tiles have empty slots between them; others of one and two events
    long = [user for user in random_users(seed, 90, SIZES) if len(user[0]) > 10]
    users = [([1, 2], [0, 0]), ([3], [0]), ([3, 8], [0, 1]), *long]
    dataset = make_dataset(users, SIZES)
    model, batch = make_model(dataset), train_batch(dataset)
    _, single = model.states(batch)
    row_of = {event: row for row, event in enumerate(events_of(batch))}
    pairs, losses = {}, []
    for user, (items, domains) in enumerate(users):
        for time in range(1, len(items)):
            domain = domains[time - 1]
            later = [t for t in range(time, len(items)) if domains[t] == domain]
            if domains[time] == domain or not later:
                continue
            # the next event of the domain: its state has read the event before `time`, no later one
            pairs[row_of[user, time]] = source = row_of[user, later[0]]
            target = domains[time]
            state = single[source] @ model.maps.weight[target] + model.maps.bias[target, 0]
            losses.append(cross_entropy(model, model.map_norm(state), items[time], target, half=1))
    sources, valid = sources_across(batch)
    assert {row: int(sources[row]) for row in valid.nonzero()[:, 0].tolist()} == pairs
    assert len(pairs) > 20
    across = model(batch).auxiliary[ACROSS]
    torch.testing.assert_close(across, torch.stack(losses).mean())


def test_without_a_change_of_domain_nothing_is_predicted_across():
    dataset = make_dataset([([1, 2, 3], [0, 0, 0]), ([7, 8], [1, 1])], SIZES)
    across = make_model(dataset)(train_batch(dataset)).auxiliary[ACROSS]
    assert across.item() == 0.0
    across.backward()  # several processes need a gradient of all


@pytest.mark.parametrize("positions", ["end", "start"])
def test_the_contrast_is_that_of_the_crops_alone(positions):
    """A crop is encoded as the newest events of a user who had no others, without a start token."""
    users = random_users(3, count=8, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    model, batch = make_model(dataset, positions=positions), train_batch(dataset)
    mixed, _ = model.states(batch)
    torch.manual_seed(5)
    draws = torch.rand(len(users), dtype=torch.float64).tolist()
    newest, crops = [], []
    row_of = {event: row for row, event in enumerate(events_of(batch))}
    for user, ((items, _), draw) in enumerate(zip(users, draws, strict=True)):
        inputs = len(items) - 1
        start = int(draw * inputs)
        kept = items[:inputs][start : start + int(CROP * inputs) + 1]
        newest.append(mixed[row_of[user, inputs]])
        crops.append(encoded(model, kept, positions))
    torch.manual_seed(5)
    loss = model.contrast(batch, mixed, model.tables()[0])
    terms = []
    for user, state in enumerate(newest):
        cosines = [F.cosine_similarity(state, crop, dim=0) / TEMPERATURE for crop in crops]
        terms.append(torch.stack(cosines).logsumexp(0) - cosines[user])
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def encoded(model, items: list[int], positions: str) -> torch.Tensor:
    """h^x after these items, by the mixed encoder's parts, without a start token unless there is no
    item."""
    embed, layers = model.mixed.embed, model.mixed.transformer.layers
    x = model.item_table[items].chunk(2, 1)[0] if items else embed.start
    count = len(x)
    from_end = torch.arange(count).flip(0)
    from_start = torch.arange(count) + (1 if items else 0)
    x = embed.norm(x + embed.position[from_end if positions == "end" else from_start])
    for layer in layers:
        w = layer.weights()
        query, key, value = (x @ w.project_in[0] + w.project_in_bias[0]).chunk(3, 1)
        scores = query @ key.T / math.sqrt(x.shape[1])
        seen = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf).softmax(1)
        x = x + seen @ value @ w.project_out[0] + w.project_out_bias[0]
        x = F.layer_norm(x, x.shape[1:], w.attention_norm[0, 0], w.attention_norm_bias[0, 0])
        fed = F.gelu(x @ w.widen[0] + w.widen_bias[0]) @ w.narrow[0] + w.narrow_bias[0]
        x = F.layer_norm(x + fed, x.shape[1:], w.output_norm[0, 0], w.output_norm_bias[0, 0])
    return x[-1]


def test_a_crop_begins_anywhere_and_ends_within_the_inputs():
    users = [([1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5], [0] * 11)] * 400
    batch = train_batch(make_dataset(users, SIZES))
    ends = batch.cross.target_slots[batch.last_targets[batch.last_rows]]
    view, slots = cropped(batch.cross, ends)
    last = batch.cross.positions[slots]
    ids = view.sequence_ids[ends[:, None] + torch.arange(-10, 1)]  # [users, slots of a user]
    begins = (ids != torch.arange(400)[:, None]).sum(1).tolist()  # slots before the crop
    assert set(begins) == set(range(1, 11))
    assert last.tolist() == [min(begin + 9, 10) for begin in begins]


def test_terms_of_weight_0_are_left_out_and_draw_nothing():
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    model = make_model(dataset, mml_across=0.0, mml_contrast=0.0)
    before = torch.get_rng_state()
    assert model(train_batch(dataset)).auxiliary == {}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_domain_starts_fresh_and_the_others_from_the_former_run():
    former, now = (
        make_model(make_dataset(random_users(5, domain_sizes=sizes), sizes))
        for sizes in (SIZES, (*SIZES, 3))
    )
    rows, domains = former.item_table.shape[0], np.array([0, 1, 2, 3, -1])
    items = np.array([*range(rows), -1, -1, -1])
    fresh, weights = now.state_dict(), former.state_dict()
    merged = carry_over(fresh, weights, items, domains, now.rows_of)
    for name in ("maps.weight", "maps.bias", "single.embed.start"):
        assert torch.equal(merged[name][:4], weights[name])
        assert torch.equal(merged[name][4], fresh[name][4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mml_across": -1.0}, "--mml_across must be at least 0"),
        ({"mml_contrast": math.nan}, "--mml_contrast must be at least 0"),
        ({"hidden": 12, "heads": 4}, "--hidden 12 in halves"),
    ],
)
def test_what_it_does_not_have_is_refused(changes, message):
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    with pytest.raises(UserError, match=message):
        make_model(dataset, **changes)
