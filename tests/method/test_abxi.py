"""ABXI: the packed batch gives what the equations give, one user and one event at a time."""

import pytest
import torch
import torch.nn.functional as F

from src.config.validation import check_settings
from src.io.errors import UserError
from tests.method.test_sequence_models import SIZES, by_event
from tests.support.builders import make_dataset, named_model, random_users, train_batch


def norm(x, weights, row=0):
    return F.layer_norm(x, x.shape[-1:], weights.weight[row, 0], weights.bias[row, 0])


def swiglu(x, blocks, row=0):
    return (F.silu(x @ blocks.gate[row]) * (x @ blocks.up[row])) @ blocks.down[row]


def attended(x, layer, heads):
    """Causal attention of one sequence [T, H], one query and head at a time."""
    maps, size = layer.attention, x.shape[1] // heads
    joint = x @ maps.project_in.weight[0] + maps.project_in.bias[0]
    query, key, value = joint.view(len(x), 3, heads, size).unbind(1)
    rows = []
    for now in range(len(x)):
        parts = []
        for head in range(heads):
            scores = torch.stack([query[now, head] @ key[t, head] for t in range(now + 1)])
            weights = (scores / size**0.5).softmax(0)
            parts.append(sum(weights[t] * value[t, head] for t in range(now + 1)))
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ maps.project_out.weight[0] + maps.project_out.bias[0]


def states(model, items, domain=None):
    """h before each event of one sequence, the mixed one or that of a domain: [T, H]."""
    embed = model.embed
    tokens = [embed.start[0], *(model.item_table[item] for item in items[:-1])]
    positions = [embed.position[len(items) - 1 - t] for t in range(len(items))]
    x = embed.norm(torch.stack(tokens) + torch.stack(positions))
    for layer in model.layers:
        adapter, row = (layer.cross, 0) if domain is None else (layer.single, domain)
        m = norm(x + attended(x, layer, model.settings.heads), layer.attention_norm)
        low_rank = m @ adapter.down[row] @ adapter.up[row]
        x = norm(m + swiglu(m, layer.feed_forward) + low_rank, adapter.norm, row)
    return x


def outputs_by_hand(model, items, domains):
    """{t: the query for event t} of one user."""
    mixed, queries = states(model, items), {}
    for d in set(domains):
        times = [t for t, domain in enumerate(domains) if domain == d]
        own = states(model, [items[t] for t in times], d)
        for number, t in enumerate(times):
            h, output = mixed[t], model.cross_output
            branches = swiglu(h, model.cross_projection) + h @ output.down[d] @ output.up[d]
            queries[t] = norm(h + branches, output.norm, d)
            if number:  # an event of d came before
                projected = own[number] + swiglu(own[number], model.single_projection, d)
                queries[t] = queries[t] + norm(projected, model.single_output, d)
    return queries


@pytest.mark.parametrize("changes", [{}, {"layers": 1, "heads": 2}, {"layers": 3, "heads": 4}])
def test_outputs_are_those_of_the_equations(changes):
    users = random_users(3, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    model = named_model(dataset, "abxi", abxi_rank=3, **changes)
    batch = train_batch(dataset)
    outputs = by_event(batch, model.outputs(batch, "cross"), "cross")
    for user, (items, domains) in enumerate(users):
        for t, expected in outputs_by_hand(model, items, domains).items():
            torch.testing.assert_close(outputs[user, t], expected, rtol=1e-9, atol=1e-9)


def untouched(dataset):
    """A model as it is built, in float64."""
    model = named_model(dataset, "abxi")
    fresh = type(model)(model.settings, dataset.item_starts.tolist()).double()
    model.load_state_dict(fresh.state_dict())
    return model


def test_the_adapters_are_zero_maps_at_first_and_learn():
    dataset = make_dataset(random_users(3, domain_sizes=SIZES), SIZES)
    model, batch = untouched(dataset), train_batch(dataset)
    before = model.outputs(batch, "cross")
    adapters = [model.cross_output, *(a for one in model.layers for a in (one.cross, one.single))]
    with torch.no_grad():
        for adapter in adapters:
            adapter.down.normal_()
    assert torch.equal(model.outputs(batch, "cross"), before)
    model(batch).objective.backward()
    assert all((adapter.up.grad != 0).any() for adapter in adapters)
    assert len({tuple(adapter.down.shape) for adapter in adapters}) == 2  # of one and of D


def test_the_single_view_counts_from_the_second_event_of_a_domain_on():
    users = [([1, 7, 2, 8, 3, 12], [0, 1, 0, 1, 0, 2])]  # the first of each domain: t = 0, 1, 5
    dataset = make_dataset(users, SIZES)
    model, batch = named_model(dataset, "abxi"), train_batch(dataset)
    before = by_event(batch, model.outputs(batch, "cross"), "cross")
    with torch.no_grad():
        model.single_output.bias.add_(1.0)
    after = by_event(batch, model.outputs(batch, "cross"), "cross")
    same = {t for _, t in before if torch.equal(before[0, t], after[0, t])}
    assert same == {0, 1, 5}
    for t in (2, 3, 4):
        torch.testing.assert_close(after[0, t], before[0, t] + 1)


@pytest.mark.parametrize("rank", [0, -1, 2**17])
def test_a_rank_out_of_bounds_is_refused(rank):
    dataset = make_dataset(random_users(3, domain_sizes=SIZES), SIZES)
    with pytest.raises(UserError, match="--abxi_rank must be between 1 and 65536, not"):
        check_settings(named_model(dataset, "abxi", abxi_rank=rank).settings)
