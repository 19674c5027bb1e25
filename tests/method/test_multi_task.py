"""Shared bottom, MMoE and PLE: one target at a time by their equations; who trains what; cost."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from src.baselines.sasrec import SASRec
from src.config.names import MODELS, load
from src.config.settings import settings_class
from src.config.validation import check_settings
from src.io.errors import UserError
from tests.support.builders import make_dataset, random_users, train_batch

SIZES = (6, 5, 9, 4)
NAMES = ("shared_bottom", "mmoe", "ple")
CASES = [
    ("shared_bottom", {}),
    ("mmoe", {}),
    ("mmoe", {"mmoe_experts": 2}),
    ("ple", {}),
    ("ple", {"ple_layers": 1, "ple_shared": 3}),
    ("ple", {"ple_layers": 3, "ple_own": 2, "ple_shared": 2}),
]


def make_model(item_starts, name, dtype=torch.float64, noise=0.3, **changes):
    """A small model without dropout, with weights so large that every part shows."""
    settings = settings_class(name, "lc_ntg")(
        **({"model": name, "hidden": 8, "dropout": 0.0, "max_len": 16} | changes)
    )
    check_settings(settings)
    model = load(MODELS[name].path)(settings, [int(start) for start in item_starts]).to(dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    return model


@pytest.fixture
def dataset():
    return make_dataset(random_users(5, count=20, domain_sizes=SIZES), SIZES)


def targets_of(batch, domain: int) -> slice:
    """The targets of a domain, in the canonical order."""
    return slice(sum(batch.counts[:domain]), sum(batch.counts[: domain + 1]))


# ---------------------------------------------------------------- the equations, by hand


def block(stack, number: int, x):
    """LN(x + W₂ GELU(W₁ x + b₁) + b₂) of one row [H]."""
    wide = F.gelu(stack.first.weight[number].T @ x + stack.first.bias[number, 0])
    total = x + stack.second.weight[number].T @ wide + stack.second.bias[number, 0]
    deviation = total - total.mean()
    normed = deviation / (deviation.square().mean() + 1e-5).sqrt()
    return normed * stack.norm.weight[number, 0] + stack.norm.bias[number, 0]


def mixture(gate, experts: list):
    """Σ_k g_k · expert_k, from the logits [K]."""
    shares = gate.exp() / gate.exp().sum()
    return sum(share * expert for share, expert in zip(shares, experts, strict=True))


def by_hand(model, x, domain: int):
    """What ranks the items for one target, from the encoder's state at it [H]."""
    settings = model.settings
    if settings.model == "mmoe":
        experts = [block(model.experts, k, x) for k in range(settings.mmoe_experts)]
        x = mixture(model.gate.weight[domain].T @ x, experts)
    if settings.model == "ple":
        task, shared = x, x
        for number, layer in enumerate(model.layers, 1):
            experts = [block(own, domain, task) for own in layer.own]
            experts += [block(layer.shared, k, shared) for k in range(settings.ple_shared)]
            if number < settings.ple_layers:
                shared = mixture(layer.shared_gate.weight[0].T @ shared, experts)
            task = mixture(layer.gate.weight[domain].T @ task, experts)
        x = task
    return block(model.towers, domain, x)


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_outputs_are_those_of_one_target_at_a_time_by_the_equations(dataset, name, changes):
    model, batch = make_model(dataset.item_starts, name, **changes), train_batch(dataset)
    outputs, states = model.outputs(batch, "cross"), SASRec.outputs(model, batch, "cross")
    rows = 0
    for domain in range(4):
        for row in range(*targets_of(batch, domain).indices(len(outputs))):
            expected = by_hand(model, states[row], domain)
            torch.testing.assert_close(outputs[row], expected, rtol=1e-9, atol=1e-9)
            rows += 1
    assert rows == len(batch.targets)


@pytest.mark.parametrize("name", NAMES)
def test_encoder_and_items_begin_as_those_of_a_sasrec(name):
    weights = make_model((1, 7, 12), name, noise=0).state_dict()
    sasrec = make_model((1, 7, 12), "sasrec", noise=0).state_dict()
    for part, value in sasrec.items():
        assert torch.equal(weights.pop(part), value)
    assert not {part for part in weights if part.startswith(("encoder", "item_table"))}


# ---------------------------------------------------------------- who reads and trains what


def domain_parts(model) -> dict[str, torch.nn.Parameter]:
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if model.rows_of(name) == "domains"
    }


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_targets_train_the_parts_of_their_domain_and_the_shared_ones(dataset, name, changes):
    model, batch = make_model(dataset.item_starts, name, **changes), train_batch(dataset)
    for domain in range(4):
        model.zero_grad()
        model.outputs(batch, "cross")[targets_of(batch, domain)].square().sum().backward()
        own = domain_parts(model)
        for part, parameter in model.named_parameters():
            moved = parameter.grad.reshape(len(parameter), -1).abs().sum(1) > 0
            if part in own:
                assert moved.tolist() == [number == domain for number in range(4)], part
            elif part != "item_table":
                assert moved.any(), part


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_no_target_reads_a_part_of_another_domain(dataset, name, changes):
    model, batch = make_model(dataset.item_starts, name, **changes), train_batch(dataset)
    before = model.outputs(batch, "cross")
    for domain in range(4):
        with torch.no_grad():
            for parameter in domain_parts(model).values():
                parameter[domain] += torch.randn_like(parameter[domain])
        after = model.outputs(batch, "cross")
        changed = (after != before).any(1)
        assert changed[targets_of(batch, domain)].all()
        assert changed.sum() == batch.counts[domain]
        before = after


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_warm_start_finds_the_rows_of_items_and_domains(name, changes):
    """The rows that a fifth domain, and its three items, add."""
    four, five = (
        make_model(starts, name, **changes)
        for starts in ((1, 7, 12, 21, 25), (1, 7, 12, 21, 25, 28))
    )
    more = dict(five.named_parameters())
    for part, parameter in four.named_parameters():
        added = {"domains": 1, "items": 3, "whole": 0}[four.rows_of(part)]
        assert more[part].shape == (len(parameter) + added, *parameter.shape[1:]), part
        assert added != 1 or len(parameter) == 4


# ---------------------------------------------------------------- size and cost


def extra_parameters(name: str, domains: int, changes: dict) -> int:
    """Beyond SASRec, as the docstrings count them, at H 8."""
    own, shared, layers, experts = (
        changes.get(key, default)
        for key, default in {
            "ple_own": 1,
            "ple_shared": 1,
            "ple_layers": 2,
            "mmoe_experts": 4,
        }.items()
    )
    block = 2 * 8**2 + 4 * 8
    if name == "mmoe":
        return (experts + domains) * block + domains * 8 * experts
    if name == "ple":
        layer = (domains * own + shared) * block + domains * 8 * (own + shared)
        return layers * layer + (layers - 1) * 8 * (own + shared) + domains * block
    return domains * block


@pytest.mark.parametrize(("name", "changes"), CASES)
@pytest.mark.parametrize("domains", [2, 28])
def test_the_parts_beyond_sasrec_have_the_stated_numbers_of_parameters(name, changes, domains):
    starts = range(1, 4 + 3 * domains, 3)
    model, sasrec = make_model(starts, name, **changes), make_model(starts, "sasrec")
    sizes = [sum(part.numel() for part in one.parameters()) for one in (model, sasrec)]
    assert sizes[0] - sizes[1] == extra_parameters(name, domains, changes)


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_step_costs_the_same_however_many_domains_there_are(name, changes):
    """The multiplications of a forward and a backward pass on the same events, whose 60 items are
    in one domain, or in 60."""
    users, operations = random_users(3, count=20, domain_sizes=(60,)), []
    for domains in (1, 60):
        size = 60 // domains
        spread = [(items, [(item - 1) // size for item in items]) for items, _ in users]
        dataset = make_dataset(spread, (size,) * domains)
        model, batch = make_model(dataset.item_starts, name, **changes), train_batch(dataset)
        assert sum(count > 0 for count in batch.counts) > domains // 2
        with FlopCounterMode(display=False) as counter:
            model.outputs(batch, "cross").sum().backward()
        operations.append(counter.get_total_flops())
    assert operations[0] == operations[1] > 0


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "mmoe", "mmoe_experts": 0}, "--mmoe_experts must be between 1 and 64, not 0"),
        ({"model": "ple", "ple_layers": 65}, "--ple_layers must be between 1 and 64, not 65"),
        ({"model": "ple", "ple_own": 0}, "--ple_own must be between 1 and 64"),
        ({"model": "ple", "ple_shared": -1}, "--ple_shared must be between 1 and 64"),
        ({"model": "ple", "mode": "sdsr_separate"}, "--model ple has no --mode sdsr_separate"),
        ({"model": "shared_bottom", "mode": "syncrec"}, "has no --mode syncrec; give cdsr"),
    ],
)
def test_what_they_do_not_have_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_model((1, 7), changes["model"], **changes)
