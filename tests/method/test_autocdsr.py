"""AutoCDSR: its penalty against a loop, its weight against a search, its gradients whole."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.baselines.autocdsr import FOLLOWED, PENALTY, PREFERENCES, penalty_weight
from src.objective.step_losses import target_losses
from tests.method.test_sequence_models import SIZES
from tests.support.builders import (
    make_dataset,
    named_model,
    random_times,
    random_users,
    train_batch,
)

COSINES = [-1.0, -0.99, -0.5, 0.0, 0.3, 0.5, 0.8, 0.999, 1.0]


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def attention_by_hand(model, items):
    """The attention weights [T, T] of one user, for each layer and head; that of the start token is
    in row and column 0."""
    embed, found = model.encoder.embed, []
    tokens = torch.stack([embed.start[0], *(model.item_table[item] for item in items[:-1])])
    x = embed.norm(tokens + embed.position[: len(items)].flip(0))
    for layer in model.encoder.transformer.layers:
        w, heads = layer.weights(), model.settings.heads
        joint = x @ w.project_in[0] + w.project_in_bias[0]
        query, key, value = joint.view(len(x), 3, heads, -1).unbind(1)
        outputs = []
        for head in range(heads):
            scores = query[:, head] @ key[:, head].T / query.shape[-1] ** 0.5
            later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
            found.append(scores.masked_fill(later, -torch.inf).softmax(1))
            outputs.append(found[-1] @ value[:, head])
        branch = torch.cat(outputs, 1) @ w.project_out[0] + w.project_out_bias[0]
        x = F.layer_norm(x + branch, x.shape[1:]) * w.attention_norm[0] + w.attention_norm_bias[0]
        branch = F.gelu(x @ w.widen[0] + w.widen_bias[0]) @ w.narrow[0] + w.narrow_bias[0]
        x = F.layer_norm(x + branch, x.shape[1:]) * w.output_norm[0] + w.output_norm_bias[0]
    return found


@pytest.mark.parametrize("changes", [{}, {"layers": 1, "heads": 2}, {"layers": 3, "heads": 4}])
def test_the_penalty_is_the_mean_attention_between_two_domains(changes):
    users = random_users(3, count=9, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES)
    model = named_model(dataset, "autocdsr", **changes)
    weights = []
    for items, domains in users:
        inputs = [None, *domains[:-1]]  # the start token belongs to no domain
        for matrix in attention_by_hand(model, items):
            for now, before in itertools.combinations_with_replacement(range(len(inputs)), 2):
                one, other = inputs[now], inputs[before]
                if one is not None and other is not None and one != other:
                    weights.append(matrix[max(now, before), min(now, before)])
    outputs, penalty = model.outputs_and_penalty(train_batch(dataset), "cross")
    torch.testing.assert_close(penalty, torch.stack(weights).mean(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(outputs, model.outputs(train_batch(dataset), "cross"))


def test_a_user_of_one_domain_has_no_penalty():
    dataset = make_dataset([([1, 2, 3, 2], [0, 0, 0, 0])], SIZES)
    losses = named_model(dataset, "autocdsr")(train_batch(dataset))
    assert losses.auxiliary[PENALTY] == 0.0
    assert torch.isfinite(losses.shown["attention_weight"])


def test_it_starts_as_sasrec():
    dataset = make_dataset(random_users(3, domain_sizes=SIZES), SIZES)
    one, other = (named_model(dataset, name).state_dict() for name in ("autocdsr", "sasrec"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------ the weight


@pytest.mark.parametrize("cosine", COSINES)
def test_while_recommendation_loses_more_the_weight_has_a_closed_form(cosine):
    weight = penalty_weight(*float64(cosine, 0.04, 3.0))
    torch.testing.assert_close(weight, float64((1 - 2 * cosine) / (2 - cosine))[0])


@pytest.mark.parametrize("cosine", COSINES[1:-1])
def test_without_a_constraint_two_unit_gradients_weigh_the_same(cosine):
    """The min-norm weights, clip(⟨g2 − g1, g2⟩ / |g1 − g2|², 0, 1) and the rest, are ½ each."""
    assert penalty_weight(*float64(cosine, 1.0, 0.3)) == pytest.approx(1.0)


@pytest.mark.parametrize("recommendation", [3.0, 0.7, 0.3])
@pytest.mark.parametrize("cosine", [-0.9, -0.2, 0.4, 0.7])
def test_the_weight_is_that_of_the_nearest_mixture_of_gradients(recommendation, cosine):
    """Found by drawing mixtures; two, one and no constraints are active."""
    gradients = np.array([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]])  # attention first
    losses, rows = np.array([1.0, recommendation]), [np.eye(2)[0], np.eye(2)[1]]
    for preference in np.array(PREFERENCES):
        constraint = preference - PREFERENCES[FOLLOWED]
        if constraint @ losses > 0:
            rows.append(constraint)
    assert len(rows) == 2 + (recommendation > 0.5) + (recommendation > 1)
    rng, rows = np.random.default_rng(0), np.array(rows)
    mixtures = rng.dirichlet(np.full(len(rows), 0.3), 200_000) @ rows  # multiples of the gradients
    attention, other = mixtures[np.linalg.norm(mixtures @ gradients, axis=1).argmin()]
    weight = penalty_weight(*float64(cosine, 1.0, recommendation))
    assert weight.item() == pytest.approx(attention / other, abs=0.02)


# ------------------------------------------------------------------------ gradients


def step(model, batch, coefficients=None):
    """Gradients of the objective and the penalty, by the model's own terms."""
    model.zero_grad()
    losses = model(batch, coefficients)
    (losses.objective + losses.auxiliary[PENALTY]).backward()
    return losses, {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("kernels", ["fused", "plain"])
@pytest.mark.parametrize("changes", [{}, {"loss": "sampled"}, {"time_embedding": "interval"}])
def test_the_gradient_is_that_of_the_loss_and_the_weighed_penalty(kernels, changes):
    users = random_users(5, count=20, domain_sizes=SIZES)
    dataset = make_dataset(users, SIZES, times=random_times(users))
    model = named_model(dataset, "autocdsr", kernels=kernels, heads=2, **changes)
    batch = train_batch(dataset, negatives=model.settings.drawn_negatives or 1)
    coefficients = {"cross": torch.linspace(0.5, 2.0, len(batch.targets)).double()}
    losses, gradients = step(model, batch, coefficients)
    outputs, penalty = model.outputs_and_penalty(batch, "cross")
    settings = dataclasses.replace(model.settings, kernels="plain")  # goes backward twice
    loss, _ = target_losses(
        settings, batch, outputs, model.item_table, model.item_starts, coefficients["cross"]
    )
    shared = {n: p for n, p in model.named_parameters() if n != "item_table"}
    tasks = [  # in the other order, and in one piece
        torch.autograd.grad(task, shared.values(), retain_graph=True, allow_unused=True)
        for task in (penalty, loss)
    ]
    reached = [(a, r) for a, r in zip(*tasks, strict=True) if a is not None]
    attention = torch.cat([a.flatten() for a, _ in reached])
    recommendation = torch.cat([r.flatten() for _, r in reached])[attention != 0]
    attention = attention[attention != 0]
    cosine = F.cosine_similarity(attention, recommendation, 0)
    weight = losses.shown["attention_weight"]
    torch.testing.assert_close(weight, (1 - 2 * cosine) / (2 - cosine))
    model.zero_grad()
    (loss + weight * penalty).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)
    torch.testing.assert_close(losses.objective, loss.detach())
    torch.testing.assert_close(losses.auxiliary[PENALTY], (weight * penalty).detach())


def test_a_pass_for_the_penalty_alone_weighs_it_as_the_whole_step():
    """PCGrad asks for the domains' gradients first, then for what is left."""
    dataset = make_dataset(random_users(5, domain_sizes=SIZES), SIZES)
    model, batch = named_model(dataset, "autocdsr"), train_batch(dataset)
    ones = torch.ones(len(batch.targets)).double()
    whole, gradients = step(model, batch, {"cross": ones})
    rest, penalty_gradients = step(model, batch, {"cross": torch.zeros_like(ones)})
    assert rest.objective == 0.0
    torch.testing.assert_close(rest.auxiliary, whole.auxiliary)
    model.zero_grad()
    model(batch, {"cross": ones}).objective.backward()
    for name, parameter in model.named_parameters():
        total = parameter.grad + penalty_gradients[name]
        torch.testing.assert_close(total, gradients[name], msg=name)
