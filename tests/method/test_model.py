"""The packed model is the method: equal to a slow oracle, gradients owned, nothing leaks."""

import numpy as np
import pytest
import torch

from models import MIM_LOSS
from src.dataset.batching.loader import Loader
from src.nn.tiles import tiles_of
from src.objective.sc_mim import sc_mim
from tests import oracle
from tests.support.builders import (
    losses_with_gradient,
    make_dataset,
    make_model,
    random_times,
    random_users,
    train_batch,
)

SIZES = (6, 5, 9, 4)
VARIANTS = {
    "default": {},
    "plain kernels": {"kernels": "plain"},
    "bce": {"loss": "bce"},
    "positions from the start": {"positions": "start"},
    "time intervals": {"time_embedding": "interval"},
    "one layer, two heads": {"layers": 1, "heads": 2},
    "sequence gate": {"gate": "sequence"},
    "no gate": {"gate": "none"},
    "softmax over all items": {"softmax_items": "all"},
    "domain query": {"target_domain_query": True},
    "cross view per domain": {"cross_per_domain": True, "target_domain_query": True},
    "towers alone per domain": {"cross_per_domain": True, "gate": "none"},
    "no towers": {"towers": False},
    "no stop-gradient": {"stop_gradient": False},
    "shared experts": {"share_experts": True},
    "released": {"share_experts": True, "gate": "sequence", "loss": "bce"},
}
# the ways in which the cross view is told the domain of the target
TOLD = [{"target_domain_query": True}, {"cross_per_domain": True}]


def target_order(users):
    """(user, t) of each target in the batch's canonical order."""
    rows = [
        (domains[t], user, t)
        for user, (_, domains) in enumerate(users)
        for t in range(len(domains))
    ]
    return [(user, t) for _, user, t in sorted(rows)]


def both_ways(users, dtype, sizes=SIZES, **settings):
    """The losses and gradients of the packed model and of the oracle on the same weights."""
    times = random_times(users)
    dataset = make_dataset(users, sizes, times=times)
    batch = train_batch(dataset)
    model = make_model(dataset, dtype=dtype, **settings)
    order = target_order(users)
    negatives = dict(zip(order, batch.negatives[:, 0].tolist(), strict=True))
    weights = torch.linspace(0.5, 2.0, len(order), dtype=dtype)  # so that no target hides
    fast = model(batch, {"single": weights, "cross": weights.flip(0)})
    expected = oracle.losses(model, users, negatives, times)
    slow = [torch.stack([expected[target][view] for target in order]) for view in (0, 1)]
    slow_mim = oracle.mim(model, users, expected)
    slow_objective = (weights * slow[0]).sum() + (weights.flip(0) * slow[1]).sum()

    def gradients(objective, mim):
        model.zero_grad()
        (objective + mim).backward()
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in model.named_parameters()
        }

    outputs = {
        "h_single": (model.outputs(batch, "single"), torch.stack([expected[p][2] for p in order])),
        "h_cross": (model.outputs(batch, "cross"), torch.stack([expected[p][3] for p in order])),
        "single": (fast.by_path["single"], slow[0]),
        "cross": (fast.by_path["cross"], slow[1]),
        "objective": (fast.objective, slow_objective),
        "mim": (fast.auxiliary[MIM_LOSS], slow_mim.to(dtype)),
    }
    grads = gradients(fast.objective, fast.auxiliary[MIM_LOSS]), gradients(slow_objective, slow_mim)
    return outputs, grads


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda name: name.replace(" ", "-"))
def test_the_packed_model_equals_the_loop_over_domains_and_experts(variant, dtype):
    outputs, (fast, slow) = both_ways(random_users(1), dtype, **VARIANTS[variant])
    for name, (got, expected) in outputs.items():
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, msg=name)
    for name, expected in slow.items():
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(fast[name] / scale, expected / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [1, 2])
def test_ragged_users_and_absent_domains_change_nothing_of_that(seed):
    users = random_users(seed + 10, count=2 + 3 * seed, absent=(1,) if seed % 2 else (0, 3))
    outputs, (fast, slow) = both_ways(users, torch.float64)
    for got, expected in outputs.values():
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for name, expected in slow.items():
        torch.testing.assert_close(fast[name], expected, rtol=1e-5, atol=1e-5)


def test_long_sequences_in_several_attention_groups_equal_the_oracle():
    users = random_users(5, count=4, longest=2) + random_users(6, count=3, longest=16)
    outputs, _ = both_ways(users, torch.float64)
    for got, expected in outputs.values():
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------ ownership of experts


@pytest.mark.parametrize("task", ["single", "cross"])
def test_an_expert_gets_exactly_no_gradient_from_the_task_that_does_not_own_it(task):
    dataset = make_dataset(random_users(2), SIZES)
    model = make_model(dataset)
    losses_with_gradient(model, train_batch(dataset))[task].sum().backward()
    other = "single" if task == "cross" else "cross"
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in other_parameters(model, other))
    for expert_gradient in model.experts[task].layers[0].widen.weight.grad:
        assert expert_gradient.abs().max() > 0  # each expert of the owner learns


def other_parameters(model, task):
    return [*model.experts[task].parameters(), *model.tasks[task].parameters()]


def test_without_stop_gradient_both_tasks_train_all_experts():
    dataset = make_dataset(random_users(2), SIZES)
    model = make_model(dataset, stop_gradient=False)
    losses_with_gradient(model, train_batch(dataset))["cross"].sum().backward()
    assert model.experts["single"].layers[0].widen.weight.grad.abs().max() > 0


def test_the_mutual_information_loss_trains_only_the_experts_of_each_view():
    dataset = make_dataset(random_users(3), SIZES)
    model = make_model(dataset)
    batch = train_batch(dataset)
    single = model.outputs(batch, "single")
    cross = model.outputs(batch, "cross").detach()
    loss, _ = sc_mim(single, cross, batch.pair_lengths, batch.mim_pairs, model.critics, 1.0)
    loss.backward()
    assert model.experts["single"].layers[0].widen.weight.grad.abs().max() > 0
    assert model.experts["cross"].layers[0].widen.weight.grad is None


def test_the_item_table_learns_from_both_tasks():
    dataset = make_dataset(random_users(2), SIZES)
    model = make_model(dataset)
    for loss in losses_with_gradient(model, train_batch(dataset)).values():
        (gradient,) = torch.autograd.grad(loss.sum(), model.item_table, retain_graph=True)
        assert gradient.abs().max() > 0


def test_the_experts_start_distinct_and_share_experts_makes_them_one():
    dataset = make_dataset(random_users(2), SIZES)
    model = make_model(dataset)
    weight = model.experts["cross"].layers[0].widen.weight
    assert (weight[0] - weight[1]).abs().max() > 0.1
    shared = make_model(dataset, share_experts=True)
    assert shared.tasks["single"].gate is shared.tasks["cross"].gate
    batch = train_batch(dataset)
    view = batch.cross
    inputs = shared.embed(view, "cross", shared.item_rows(view.inputs))
    tiles = tiles_of(view.tiles, view.sequence_ids, inputs.dtype)
    alone = shared.experts["shared"](inputs, inputs.new_ones(len(inputs), 1), tiles)
    mixture = shared.acmoe(inputs, view, torch.arange(len(inputs)), "cross")
    torch.testing.assert_close(mixture, alone)  # the mixture is its single encoder


def test_a_lone_task_owns_as_many_experts_as_the_pair():
    dataset = make_dataset(random_users(2), SIZES)
    pair = make_model(dataset)
    for mode, task in (("cdsr", "cross"), ("sdsr", "single")):
        lone = make_model(dataset, mode=mode)
        assert list(lone.experts) == [task]
        assert lone.experts[task].stack == sum(e.stack for e in pair.experts.values())


# ------------------------------------------------------------------------ nothing leaks


def outputs_by_target(model, users, times=None):
    """h of every target in both views: {(task, user, t): h}."""
    batch = train_batch(make_dataset(users, SIZES, times=times))
    order = target_order(users)
    return {
        (task, *target): row
        for task in ("single", "cross")
        for target, row in zip(order, model.outputs(batch, task), strict=True)
    }


def changed(before, after):
    return {key for key in before if (before[key] - after[key]).abs().max() > 1e-9}


def changed_pairs(before, after):
    """Like `changed`, where the two logs differ in which (task, user, t) they hold."""
    both = before.keys() & after.keys()
    return changed({key: before[key] for key in both}, after)


def swap_item(items, domains, t):
    """x_t becomes another item of its domain."""
    starts = np.concatenate([[1], 1 + np.cumsum(SIZES)])
    first, size = starts[domains[t]], SIZES[domains[t]]
    items = list(items)
    items[t] = int(first + (items[t] - first + 1) % size)
    return items


@pytest.mark.parametrize("positions", ["end", "start"])
@pytest.mark.parametrize("told", [{}, *TOLD], ids=["no query", *map(", ".join, TOLD)])
def test_no_score_depends_on_its_own_target_or_on_anything_later(told, positions):
    """Counted from the end, positions tell how many targets follow in the view, not which."""
    users = random_users(4, count=3, longest=10)
    users[1] = (users[1][0] + [3, 8, 13, 2], users[1][1] + [0, 1, 2, 0])
    dataset = make_dataset(users, SIZES)
    model = make_model(dataset, positions=positions, **told)
    before = outputs_by_target(model, users)
    items, domains = users[1]
    for t in range(len(items)):
        other = [users[0], (swap_item(items, domains, t), domains), users[2]]
        moved = changed(before, outputs_by_target(model, other))
        assert all(user == 1 and other > t for _, user, other in moved)
        if t + 1 < len(items):
            assert ("cross", 1, t + 1) in moved  # what comes later does see it
        # everything after t replaced, domains included
        later = [(12 - i) % 6 + 1 for i in range(len(items) - t - 1)]
        future = (items[: t + 1] + later, domains[: t + 1] + [0] * len(later))
        after = outputs_by_target(model, [users[0], future, users[2]])
        for earlier in range(t + 1):
            domain = domains[earlier]
            as_many = future[1][t + 1 :].count(domain) == domains[t + 1 :].count(domain)
            for task in ("single", "cross") if positions == "start" or as_many else ("cross",):
                kept = before[task, 1, earlier] - after[task, 1, earlier]
                assert kept.abs().max() < 1e-12


def test_no_score_depends_on_the_time_of_anything_later_than_its_target():
    """Its own time counts: that is when the question is asked."""
    users = [([1, 7, 2, 3, 8], [0, 1, 0, 0, 1]), ([4, 5], [0, 0])]
    times = random_times(users)
    model = make_model(make_dataset(users, SIZES), time_embedding="interval")
    before = outputs_by_target(model, users, times)
    for t in range(5):
        later = times[0] + np.where(np.arange(5) >= t, 10**9, 0)
        moved = changed(before, outputs_by_target(model, users, [later, times[1]]))
        assert all(user == 0 and other >= t for _, user, other in moved)
        assert (("cross", 0, t) in moved) == (t > 0)  # a first event has no interval
        assert (("single", 0, t) in moved) == (t > 1)


@pytest.mark.parametrize("told", [{}, *TOLD], ids=["no query", *map(", ".join, TOLD)])
def test_the_cross_view_sees_the_targets_domain_only_where_it_is_told(told):
    items, domains = [1, 2, 3], [0, 0, 0]
    other = ([1, 2, 8], [0, 0, 1])
    dataset = make_dataset([(items, domains)], SIZES)
    model = make_model(dataset, **told)
    before = outputs_by_target(model, [(items, domains)])
    after = outputs_by_target(model, [other])
    assert (("cross", 0, 2) in changed_pairs(before, after)) is bool(told)
    assert model.reads_domain("cross") is bool(told)


def test_the_sequence_gate_leaks_the_targets():
    users = random_users(4, count=2, longest=8)
    users[0] = ([1, 2, 3, 7, 8, 1], [0, 0, 0, 1, 1, 0])
    model = make_model(make_dataset(users, SIZES), gate="sequence")
    before = outputs_by_target(model, users)
    other = [(swap_item(*users[0], 3), users[0][1]), users[1]]
    moved = changed(before, outputs_by_target(model, other))
    assert ("cross", 0, 0) in moved and ("cross", 0, 3) in moved  # before and at the change


def test_a_users_batch_mates_change_nothing():
    users = random_users(7, count=5)
    model = make_model(make_dataset(users, SIZES))
    alone = outputs_by_target(model, users[:1])
    among = outputs_by_target(model, users)
    for key, value in alone.items():
        torch.testing.assert_close(among[key], value, rtol=0, atol=1e-12)


ALONE = {
    "cdsr": {"mode": "cdsr"},
    "sdsr": {"mode": "sdsr"},
    "sdsr, own context": {"mode": "sdsr", "sdsr_context": "own"},
}


@pytest.mark.parametrize("variant", [*VARIANTS, *ALONE])
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_a_process_without_a_user_in_the_batch_adds_nothing(variant, loss):
    options = (VARIANTS | ALONE)[variant] | {"loss": loss}
    if loss == "bce":
        options["softmax_items"] = "domain"
    dataset = make_dataset(random_users(1, longest=20), SIZES)
    model = make_model(dataset, **options)
    loader = Loader(
        dataset, torch.device("cpu"), rank=1, processes=2, batch_size=1024,
        max_len=model.settings.max_len, seed=1, context=model.settings.sdsr_context,
        share_mim_counts=model.settings.compares_views, times=model.settings.reads_time,
    )  # fmt: skip
    batch = loader.batch([loader.users, loader.users[:0]], epoch=0)
    assert batch.domain_counts.tolist() == [0] * len(SIZES)
    others = torch.randn(3, 2 * model.settings.hidden, dtype=torch.float64)  # another process's
    none = torch.zeros(0, dtype=torch.float64)
    losses = model(
        batch, dict.fromkeys(model.tasks, none), lambda rows: [others for _ in batch.mim_pairs]
    )
    (losses.objective + sum(losses.auxiliary.values())).backward()
    assert losses.objective.item() == 0
    assert list(losses.auxiliary) == [MIM_LOSS] * (model.settings.mode == "syncrec")
    assert all(value.item() != 0 for value in losses.auxiliary.values())
    for name, parameter in model.named_parameters():
        if name != "critics" and parameter.grad is not None:
            assert not parameter.grad.any(), name
