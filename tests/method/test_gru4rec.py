"""GRU4Rec: the packed batch gives what one sequence at a time gives; nothing later leaks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.baselines.gru4rec import GRU4Rec
from src.config.settings import settings_class
from src.config.validation import check_settings
from src.io.errors import UserError
from tests.support.builders import make_dataset, random_users, train_batch

SIZES = (6, 5, 9, 4)


def make_model(dataset, **changes) -> GRU4Rec:
    defaults = {"model": "gru4rec", "hidden": 8, "dropout": 0.0, "max_len": 16}
    settings = settings_class("gru4rec", "lc_ntg")(**(defaults | changes))
    check_settings(settings)
    model = GRU4Rec(settings, dataset.item_starts.tolist()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def states_by_hand(model, items: list[int]) -> torch.Tensor:
    """The state before each event of one sequence [T, H], one step at a time."""
    tokens = [model.start, *(model.item_table[item] for item in items[:-1])]
    states, hidden = [], None
    for token in tokens:
        output, hidden = model.gru(token[None, None], hidden)
        states.append(model.output(output[0, 0]))
    return torch.stack(states)


@pytest.mark.parametrize("changes", [{}, {"gru4rec_layers": 2, "gru4rec_output": True}])
def test_outputs_and_losses_are_those_of_one_user_at_a_time(changes):
    torch.manual_seed(0)
    users = random_users(3, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    model = make_model(dataset, **changes)
    batch = train_batch(dataset)
    expected = torch.cat([states_by_hand(model, items) for items, _ in users])
    events = [pair for items, domains in users for pair in zip(items, domains, strict=True)]
    order = np.argsort([domain for _, domain in events], kind="stable")
    outputs = model.outputs(batch, "cross")
    torch.testing.assert_close(outputs, expected[order], rtol=1e-10, atol=1e-10)
    losses = model(batch).by_path["cross"]
    for row, event in enumerate(order):
        item, domain = events[event]
        first, end = dataset.item_starts[domain : domain + 2]
        scores = outputs[row] @ model.item_table[first:end].T
        target = torch.tensor(item - int(first))
        torch.testing.assert_close(losses[row], F.cross_entropy(scores, target))


def test_a_later_event_changes_no_earlier_output():
    torch.manual_seed(1)
    first = make_dataset([([1, 2, 3, 7], [0, 0, 0, 1])], SIZES)
    second = make_dataset([([1, 2, 4, 8], [0, 0, 0, 1])], SIZES)
    model = make_model(first)
    one, two = (model.outputs(train_batch(data), "cross") for data in (first, second))
    assert torch.equal(one[:3], two[:3])  # those before the third event and earlier ones
    assert not torch.equal(one[3], two[3])


def test_every_parameter_learns_and_the_item_table_from_inputs_and_scores():
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    model = make_model(dataset)
    losses = model(train_batch(dataset))
    losses.objective.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "syncrec"}, "--model gru4rec has no --mode syncrec"),
        ({"gru4rec_layers": 0}, "--gru4rec_layers must be between 1 and 64"),
    ],
)
def test_what_it_does_not_have_is_refused(changes, message):
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    with pytest.raises(UserError, match=message):
        make_model(dataset, **changes)
