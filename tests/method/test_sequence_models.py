"""Every trained baseline: packed as one user at a time, causal, all of it learns; SASRec is
SyNCRec's model with one expert."""

import numpy as np
import pytest
import torch

from src.config.modes import DEFAULT_MODEL, MODES
from src.config.names import MODELS
from tests.support.builders import (
    events_of,
    make_dataset,
    named_model,
    random_times,
    random_users,
    train_batch,
)

SIZES = (6, 5, 9, 4)
CASES = [
    (name, mode)
    for name, model in MODELS.items()
    for mode in model.modes
    if name != DEFAULT_MODEL and not MODES[mode].per_domain
]


def by_event(batch, outputs, path):
    """{(user, t): output [H]} of a batch whose users are in the order of the cross view."""
    return dict(zip(events_of(batch), outputs, strict=True))


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_outputs_are_those_of_each_user_alone(name, mode):
    users = random_users(3, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    model = named_model(dataset, name, mode).eval()
    for path in model.settings.paths:
        batch = train_batch(dataset)
        together = by_event(batch, model.outputs(batch, path), path)
        for user in range(dataset.users):
            one = train_batch(dataset, [user])
            alone = by_event(one, model.outputs(one, path), path)
            for (_, time), output in alone.items():
                torch.testing.assert_close(together[user, time], output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "mode"), CASES)
@pytest.mark.parametrize("positions", ["end", "start"])
def test_a_later_item_changes_no_earlier_output(name, mode, positions):
    events = ([1, 2, 7, 3, 8, 4], [0, 0, 1, 0, 1, 0])
    for change in range(1, len(events[0])):
        later = list(events[0])
        later[change] = later[change] % 6 + 1 if events[1][change] == 0 else 9
        one, other = (make_dataset([(items, events[1])], SIZES) for items in (events[0], later))
        model = named_model(one, name, mode, positions=positions).eval()
        for path in model.settings.paths:
            batches = train_batch(one), train_batch(other)
            before, after = (by_event(b, model.outputs(b, path), path) for b in batches)
            differs = [t for _, t in before if not torch.equal(before[0, t], after[0, t])]
            assert all(time > change for time in differs)
            assert change == 5 or differs  # the last event is nobody's input


@pytest.mark.parametrize(("name", "mode"), CASES)
@pytest.mark.parametrize("asked", [False, True])
def test_queries_are_the_last_outputs_and_read_the_domain_where_declared(name, mode, asked):
    users = random_users(5, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    model, batch = named_model(dataset, name, mode, target_domain_query=asked), train_batch(dataset)
    others = []  # another domain of the last target, which is no input
    for items, domains in users:
        domain = (domains[-1] + 1) % 4
        item = int(dataset.item_starts[domain])
        others.append(([*items[:-1], item], [*domains[:-1], domain]))
    other = train_batch(make_dataset(others, SIZES, times=random_times(users)))
    model.eval()
    for path in model.settings.paths:
        with torch.no_grad():
            outputs, queries = model.outputs(batch, path), model.queries(batch, path)
            again = model.queries(other, path)
        expected = outputs[batch.last_targets][batch.last_rows]
        torch.testing.assert_close(queries, expected, rtol=1e-9, atol=1e-9)
        same = torch.isclose(queries, again, rtol=1e-9, atol=1e-9).all(1)
        assert (~same if model.reads_domain(path) else same).all()
        assert model.reads_domain(path) or not asked


@pytest.mark.parametrize(("name", "mode"), CASES)
@pytest.mark.parametrize("loss", ["ce", "bce", "gbce", "sampled"])
@pytest.mark.parametrize("asked", [False, True])
def test_every_parameter_learns(name, mode, loss, asked):
    users = random_users(5, count=20, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    model = named_model(dataset, name, mode, loss=loss, target_domain_query=asked).train()
    losses = model(train_batch(dataset, negatives=model.settings.drawn_negatives or 1))
    objective = losses.objective
    for term, value in losses.auxiliary.items():
        objective = objective + model.auxiliary_weights[term] * value
    objective.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_coefficients_weigh_the_targets(name, mode):
    users = random_users(5, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    model, batch = named_model(dataset, name, mode).eval(), train_batch(dataset)
    weights = torch.linspace(0.5, 2.0, len(batch.targets)).double()
    losses = model(batch, dict.fromkeys(model.settings.paths, weights))
    expected = sum((weights * values).sum() for values in losses.by_path.values())
    torch.testing.assert_close(losses.objective, expected)
    for values in losses.by_path.values():
        assert values.shape == weights.shape


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_process_without_users_has_losses_of_nothing(name, mode):
    """A process may have no user in a batch; it must take the step with the others."""
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    model = named_model(dataset, name, mode).train()
    losses = model(train_batch(dataset, np.array([], dtype=int)))
    terms = sum(losses.auxiliary.values(), start=losses.objective)
    terms.backward()
    assert terms.item() == 0.0
    assert all(len(values) == 0 for values in losses.by_path.values())


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_what_grows_with_items_or_domains_is_named(name, mode):
    """Otherwise a new run would start from another one's rows by position (--init_from)."""
    shapes = {}
    for size in ((3, 2), (6, 2), (2, 3)):
        dataset = make_dataset([([1], [0])], size[:1] * size[1])
        parts = named_model(dataset, name, mode).state_dict()
        shapes[size] = {part: value.shape for part, value in parts.items()}
    model = named_model(dataset, name, mode)
    for part, shape in shapes[3, 2].items():
        wanted = "items" if shapes[6, 2][part] != shape else "whole"
        if wanted == "whole" and shapes[2, 3][part] != shape:
            wanted = "domains"
        assert model.rows_of(part) == wanted, part


@pytest.mark.parametrize("name", [name for name in MODELS if name != DEFAULT_MODEL])
def test_with_intervals_a_model_depends_on_times(name):
    users = random_users(5, domain_sizes=SIZES)
    first, second = (make_dataset(users, SIZES, times=random_times(users, seed)) for seed in (0, 1))
    model = named_model(first, name, time_embedding="interval").eval()
    one, other = (model.outputs(train_batch(data), "cross") for data in (first, second))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("mode", MODELS["sasrec"].modes)
@pytest.mark.parametrize("time_embedding", ["none", "interval"])
def test_sasrec_is_syncrec_with_one_expert_bit_for_bit(mode, time_embedding):
    users = random_users(6, count=12, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    if MODES[mode].per_domain:
        dataset = dataset.only_domain(2)
    changes = {"time_embedding": time_embedding, "dropout": 0.3, "target_domain_query": True}
    sasrec = named_model(dataset, "sasrec", mode, **changes)
    alone = {"experts_cross": 1, "experts_single": 0, "gate": "none", "towers": False}
    syncrec = named_model(dataset, "syncrec", mode, **alone, **changes)
    (path,) = sasrec.settings.paths
    parts = {f"tasks.{path}.": "encoder.embed.", f"experts.{path}.": "encoder.transformer."}
    weights = {}
    for name, value in syncrec.state_dict().items():
        for former, now in parts.items():
            name = name.replace(former, now)
        weights[name] = value
    sasrec.load_state_dict(weights)
    batch, results = train_batch(dataset), []
    for model in (syncrec.train(), sasrec.train()):
        torch.manual_seed(0)
        step = model(batch)
        step.objective.backward()
        results.append((step.by_path[path], model.item_table.grad))
    assert len(batch.targets)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
