"""C2DSR: both views add up; infomax is that of a loop over users and domains."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.baselines.c2dsr import INFOMAX, SHARED
from src.io.errors import UserError
from src.runs.warm_start import carry_over
from tests.support.builders import events_of, make_dataset, named_model, random_users, train_batch

SIZES = (6, 5, 9, 4)


make_model = partial(named_model, name="c2dsr")


def test_the_output_adds_the_state_of_the_domain_alone_to_that_of_all_events():
    items, domains = [1, 7, 2, 12, 8, 3, 13, 1], [0, 1, 0, 2, 1, 0, 2, 0]
    dataset = make_dataset([(items, domains)], SIZES)
    model, batch = make_model(dataset), train_batch(dataset)
    mixed, single = model.states(batch)
    assert torch.equal(model.outputs(batch, "cross"), mixed + single)
    for domain in range(3):
        kept = [item for item, of in zip(items, domains, strict=True) if of == domain]
        alone = train_batch(make_dataset([(kept, [domain] * len(kept))], SIZES))
        rows = [row for row, (_, time) in enumerate(events_of(batch)) if domains[time] == domain]
        mixed_alone, single_alone = model.states(alone)
        torch.testing.assert_close(single[rows], single_alone)
        assert not torch.allclose(mixed[rows], mixed_alone)
    single[:, 0].sum().backward()
    used = model.single.embed.start.grad.abs().sum(1) > 0
    assert used.tolist() == [True, True, True, False]  # a start token for each domain


@pytest.mark.parametrize("seed", range(4))
def test_infomax_is_that_of_a_loop_over_users_and_domains(seed):
    users = random_users(8, count=9, domain_sizes=SIZES, absent=(1,))
    dataset = make_dataset(users, SIZES)
    model, batch = make_model(dataset), train_batch(dataset)
    mixed, single = model.states(batch)
    torch.manual_seed(seed)
    loss = model.infomax(batch, mixed, single)

    torch.manual_seed(seed)
    drawn = [0, 2, 3][int(torch.randint(3, ()))]  # nobody has an event of domain 1
    inputs = model.corrupted_inputs(batch.cross.inputs, drawn)
    replaced = [list(items) for items, _ in users]
    view = batch.cross
    for user, position, item in zip(view.sequence_ids, view.positions, inputs, strict=True):
        if user < len(users) and position > 0:  # the input at position p is event p − 1
            replaced[user][position - 1] = int(item)
    others = [(items, domains) for items, (_, domains) in zip(replaced, users, strict=True)]
    corrupted, _ = model.states(train_batch(make_dataset(others, SIZES)))

    states = {}
    for row, (user, time) in enumerate(events_of(batch)):
        domain = users[user][1][time]
        states.setdefault((user, domain), []).append((single[row], mixed[row], corrupted[row]))
    terms = []
    for (user, domain), rows in states.items():
        if domain == drawn or (user, drawn) not in states:
            continue
        r = sum(row[0] for row in rows) / len(rows)
        of_drawn = states[user, drawn]
        c, c_false = (sum(row[part] for row in of_drawn) / len(of_drawn) for part in (1, 2))
        up, down = (r @ model.critics[domain] @ other for other in (c, c_false))
        terms.append(-torch.log(torch.sigmoid(up)) - torch.log(1 - torch.sigmoid(down)))
    assert len(terms) > 5
    torch.testing.assert_close(loss, sum(terms) / len(terms))


def test_inputs_outside_a_domain_become_random_items_of_their_own_domains():
    users = random_users(2, count=300, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    model, inputs = make_model(dataset), train_batch(dataset).cross.inputs
    changed = model.corrupted_inputs(inputs, 2)
    domains, after = (
        np.searchsorted(dataset.item_starts, items.numpy(), side="right") - 1
        for items in (inputs, changed)
    )
    assert (domains == after).all()
    kept = (domains == 2) | (domains == -1)
    assert torch.equal(inputs[kept], changed[kept])
    for domain in (0, 1, 3):
        first, end = dataset.item_starts[domain : domain + 2].tolist()
        here = torch.from_numpy(domains == domain)
        for item in range(first, end):  # whatever an item was, it becomes any of the domain
            seen = changed[here & (inputs == item)].unique()
            assert seen.tolist() == list(range(first, end))


def test_users_of_one_domain_are_not_contrasted():
    dataset = make_dataset([([1, 2, 3], [0, 0, 0]), ([7, 8], [1, 1]), ([4], [0])], SIZES)
    losses = make_model(dataset)(train_batch(dataset))
    assert losses.auxiliary[INFOMAX].item() == 0.0
    losses.auxiliary[INFOMAX].backward()  # several processes need a gradient of all


def test_the_mixed_view_has_a_loss_of_its_own():
    users = random_users(5, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    model, batch = make_model(dataset), train_batch(dataset)
    mixed, _ = model.states(batch)
    expected = []
    for row, (user, time) in enumerate(events_of(batch)):
        first, end = dataset.item_starts[users[user][1][time] :][:2].tolist()
        scores = mixed[row] @ model.item_table[first:end].T
        expected.append(F.cross_entropy(scores, torch.tensor(users[user][0][time] - first)))
    shared = model(batch).auxiliary[SHARED]
    torch.testing.assert_close(shared, torch.stack(expected).mean())


def test_terms_of_weight_0_are_left_out_and_draw_nothing():
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    model = make_model(dataset, c2dsr_weight=0.0, c2dsr_shared=0.0)
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
    for name in ("critics", "single.embed.start"):
        assert torch.equal(merged[name][:4], weights[name])
        assert torch.equal(merged[name][4], fresh[name][4])


@pytest.mark.parametrize("name", ["c2dsr_weight", "c2dsr_shared"])
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_weights_out_of_bounds_are_refused(name, value):
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    with pytest.raises(UserError, match=f"--{name} must be"):
        make_model(dataset, **{name: value})
