"""The losses are those of the method: LC-NTG traced by hand, SC-MIM, and both step losses."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import MIM_LOSS, SyNCRec
from src.config.settings import Settings
from src.objective import lc_ntg, sc_mim, step_losses
from src.training.epoch_statistics import EpochStatistics
from src.training.processes import Process
from tests.support.builders import (
    losses_with_gradient,
    make_dataset,
    make_model,
    random_users,
    train_batch,
)
from trainers import Trainer

SIZES = (6, 5, 9, 4)
STATE = torch.tensor([0.4, -0.1, 0.3, -0.6], dtype=torch.float64)


def make_trainer(dataset, folder, **settings) -> Trainer:
    """A trainer of a small float64 model without dropout, warm-up, clipping or SC-MIM."""
    defaults = {
        "hidden": 8, "dropout": 0.0, "max_len": 16, "warmup_steps": 0, "clip_norm": 0.0,
        "sc_mim": False, "precision": "float64", "gap": "training",
    }  # fmt: skip
    torch.manual_seed(0)
    settings = Settings(**(defaults | settings))
    trainer = Trainer(settings, dataset, folder, Process(torch.device("cpu")))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return trainer


def run_step(trainer, step_batches) -> EpochStatistics:
    """The statistics of an epoch that is this one step."""
    trainer.train_step(step_batches)
    return trainer.end_epoch()


def gradients(model) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_same_gradients(got, expected):
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


# ------------------------------------------------------------------------ LC-NTG, the functions


def test_three_steps_of_the_gap_state_by_hand():
    """D 3, α .8, β .2, τ .5, floor .25; the third domain has no target at first, then the first."""
    state = torch.full((3,), 1 / 3, dtype=torch.float64)
    steps = [  # sums of l_single − l_cross, targets, φ, s after the step
        ((2.0, -1.0, 0.0), (4, 2, 0), (0.5, -0.5, math.nan), (0.366667, 0.166667, 0.333333)),
        ((1.0, 3.0, -3.0), (2, 3, 1), (0.5, 1.0, -3.0), (0.393333, 0.333333, -0.333333)),
        ((0.0, -4.0, -1.0), (0, 2, 1), (math.nan, -2.0, -1.0), (0.393333, -0.133333, -0.466667)),
    ]
    for sums, counts, gap, after in steps:
        sums, counts = torch.tensor(sums).double(), torch.tensor(counts).double()
        phi = sums / counts
        torch.testing.assert_close(phi, torch.tensor(gap).double(), equal_nan=True)
        state = lc_ntg.lc_ntg_update(state, phi, counts, alpha=0.8, beta=0.2)
        torch.testing.assert_close(state, torch.tensor(after).double(), rtol=0, atol=1e-6)
    gamma = lc_ntg.lc_ntg_gamma(state, temperature=0.5)
    weights = lc_ntg.lc_ntg_weights(gamma, floor=0.25)
    # e^(s / τ) = e^.786667, e^−.266667, e^−.933333 = 2.196063, .765928, .393240; sum 3.355231
    expected = torch.tensor([0.654519, 0.228279, 0.117202]).double()
    torch.testing.assert_close(gamma, expected, rtol=0, atol=2e-6)
    expected = torch.tensor([1.722668, 0.763628, 0.513704]).double()
    torch.testing.assert_close(weights, expected, rtol=0, atol=4e-6)


def test_a_domains_weight_falls_as_its_gap_falls_and_never_below_the_floor():
    weights_by_gap = []
    for gap in (2.0, 0.5, 0.0, -0.5, -2.0, -50.0):
        gaps = torch.tensor([0.0, gap, 0.2, -0.2])
        state = lc_ntg.lc_ntg_update(torch.full((4,), 0.25), gaps, torch.ones(4), 0.9, 0.1)
        weights_by_gap.append(lc_ntg.lc_ntg_weights(lc_ntg.lc_ntg_gamma(state, 0.3), floor=0.2))
    falling = [float(weights[1]) for weights in weights_by_gap]
    assert all(before > after for before, after in itertools.pairwise(falling))
    assert falling[-1] == pytest.approx(0.2, abs=1e-6)
    for weights in weights_by_gap:
        assert float(weights.sum()) == pytest.approx(4)  # the mean weight stays 1


@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0])
def test_a_uniform_state_weighs_all_domains_one(floor):
    gamma = lc_ntg.lc_ntg_gamma(torch.full((3,), 0.7), temperature=0.1)
    weights = lc_ntg.lc_ntg_weights(gamma, floor)
    torch.testing.assert_close(weights, torch.ones(3))


def test_the_cross_loss_divides_by_the_weights_of_its_targets():
    values = torch.tensor([1.0, 3.0, 5.0, 2.0])  # two targets of domain 0, one each of 1 and 3
    counts = torch.tensor([2, 1, 0, 1])
    weights = torch.tensor([0.5, 2.0, 9.0, 1.0])
    sums = step_losses.domain_sums(values, counts)
    assert sums.tolist() == [4.0, 5.0, 0.0, 2.0]
    # (.5·1 + .5·3 + 2·5 + 1·2) / (.5 + .5 + 2 + 1); the absent domain's weight is in neither sum
    mean = (sums * step_losses.mean_coefficients(counts, weights)).sum()
    assert float(mean) == pytest.approx(14 / 4)
    for scale in (0.1, 1.0, 7.0):  # γ can't rescale the loss against the other terms
        uniform = torch.full((4,), scale)
        mean = (sums * step_losses.mean_coefficients(counts, uniform)).sum()
        assert float(mean) == pytest.approx(11 / 4)


# ------------------------------------------------------------------------ LC-NTG, in training

ALPHA, BETA, TAU, FLOOR, LAMBDA_SINGLE = 0.6, 0.3, 0.4, 0.25, 0.7
CORRECTION = {
    "lc_ntg_alpha": ALPHA, "lc_ntg_beta": BETA, "lc_ntg_tau": TAU, "lc_ntg_floor": FLOOR,
    "lambda_single": LAMBDA_SINGLE,
}  # fmt: skip


def target_losses(model, step_batches):
    """[(domain, l_single, l_cross)] of every target of a step, one by one."""
    rows = []
    for batch in step_batches:
        losses = losses_with_gradient(model, batch)
        domains = np.repeat(np.arange(len(batch.counts)), batch.counts).tolist()
        rows += list(zip(domains, losses["single"], losses["cross"], strict=True))
    return rows


def objective_by_hand(rows, weights):
    """L_cross + λ_single · L_single from single targets, as the method writes them."""
    cross = sum(weights[d] * l_cross for d, _, l_cross in rows) / sum(weights[d] for d, *_ in rows)
    return cross + LAMBDA_SINGLE * sum(l_single for _, l_single, _ in rows) / len(rows)


def test_four_training_steps_follow_the_equations_with_accumulation(tmp_path):
    """Each step: weights from the state before it, one update with the step's mean gap."""
    users = random_users(21, count=8)
    users[6] = users[7] = ([1, 2, 7], [0, 0, 1])  # the last step has no target of domains 2 and 3
    trainer = make_trainer(make_dataset(users, SIZES), tmp_path, **CORRECTION)
    model = trainer.model
    state = [1 / 4] * 4
    for first, second in (([0, 1], [2]), ([3], [4, 5]), ([1, 2, 3], [0]), ([6], [7])):
        step_batches = [trainer.loader.batch([np.array(part)], 0) for part in (first, second)]
        torch.testing.assert_close(trainer.gap.state.tolist(), state, rtol=0, atol=1e-6)
        shares = [math.exp(s / TAU) for s in state]
        weights = [FLOOR + (1 - FLOOR) * 4 * share / sum(shares) for share in shares]
        rows = target_losses(model, step_batches)
        model.zero_grad()
        objective_by_hand(rows, weights).backward()
        expected = gradients(model)

        run_step(trainer, step_batches)

        assert_same_gradients(gradients(model), expected)
        for domain in range(4):
            gaps = [float(one.detach() - other.detach()) for d, one, other in rows if d == domain]
            if gaps:
                state[domain] = ALPHA * state[domain] + BETA * sum(gaps) / len(gaps)
    torch.testing.assert_close(trainer.gap.state.tolist(), state, rtol=0, atol=1e-6)
    assert {d for d, *_ in rows} == {0, 1}
    assert max(state) - min(state) > 0.05  # the trace moved


@pytest.mark.parametrize("how", [{"lc_ntg": False}, {"lc_ntg_floor": 1.0}], ids=str)
def test_without_the_correction_the_cross_loss_is_the_plain_mean(how, tmp_path):
    dataset = make_dataset(random_users(22), SIZES)
    trainer = make_trainer(dataset, tmp_path, **(CORRECTION | how))
    trainer.gap.state.copy_(STATE)
    batch = trainer.loader.batch([np.arange(dataset.users)], 0)
    losses = losses_with_gradient(trainer.model, batch)
    (losses["cross"].mean() + LAMBDA_SINGLE * losses["single"].mean()).backward()
    expected = gradients(trainer.model)
    run_step(trainer, [batch])
    assert_same_gradients(gradients(trainer.model), expected)


def test_a_beta_of_zero_freezes_the_weights_and_the_default_moves_them(tmp_path):
    dataset = make_dataset(random_users(23, count=11), SIZES)
    for beta in (0.0, None):
        trainer = make_trainer(dataset, tmp_path, batch_size=4, lc_ntg_beta=beta)
        gammas = [row[-2] for row in trainer.train_epoch().transfer_rows(1, dataset.domain_names)]
        spread = float(trainer.gap.gamma.max() - trainer.gap.gamma.min())
        weights = trainer.weighting.weights()
        if beta is None:
            assert spread > 0.01 and max(gammas) - min(gammas) > 0.01
        else:
            assert gammas == pytest.approx([1 / 4] * 4)
            assert spread == 0
            torch.testing.assert_close(weights, torch.ones_like(weights))


def test_two_accumulated_batches_of_n_users_train_like_one_of_2n(tmp_path):
    """A whole epoch, its short last batch included: parameters and gap state."""
    dataset = make_dataset(random_users(23, count=11), SIZES)
    whole = make_trainer(dataset, tmp_path, batch_size=4, optimizer="adam")
    parts = make_trainer(dataset, tmp_path, batch_size=2, grad_accum=2, optimizer="adam")
    for trainer in (whole, parts):
        start = trainer.model.item_table.detach().clone()
        trainer.train_epoch()
        assert trainer.progress.step == 3
        assert (trainer.model.item_table - start).abs().max() > 1e-3
    assert_same_gradients(gradients(parts.model), gradients(whole.model))
    expected = whole.model.state_dict() | {"s": whole.gap.state}
    for name, value in (parts.model.state_dict() | {"s": parts.gap.state}).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_duplicating_the_batch_or_splitting_it_leaves_both_losses_unchanged(loss, tmp_path):
    dataset = make_dataset(random_users(24), SIZES)
    users = np.arange(dataset.users)
    results = []
    for parts in ([users], [np.concatenate([users, users])], [users[:2], users[2:3], users[3:]]):
        trainer = make_trainer(dataset, tmp_path, loss=loss)
        trainer.gap.state.copy_(STATE)
        epoch = run_step(trainer, [trainer.loader.batch([part], 0) for part in parts])
        rows = {row[:3]: row[3] for row in epoch.loss_rows(dataset.domain_names)}
        results.append((gradients(trainer.model), rows, trainer.gap.state.clone()))
    for got, rows, state in results[1:]:
        assert_same_gradients(got, results[0][0])
        assert rows == pytest.approx(results[0][1], rel=1e-5)
        torch.testing.assert_close(state, results[0][2], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------ SC-MIM


def mim_case():
    """Two users with two events of domain 0 each, one with a single one, and one user in domain 1.

    Returns the batch and both views' outputs [N, 2]: by user a₁ = (1, 0), a₂ = (0, 1) and
    c₁ = (1, 0), c₂ = (½, 2) after pooling.
    """
    users = [([1, 2], [0, 0]), ([3, 4, 7, 8], [0, 0, 1, 1]), ([1], [0])]
    batch = train_batch(make_dataset(users, SIZES))
    assert batch.pair_lengths.tolist() == [2, 2, 1, 2]  # domain 0: users 0, 1, 2; domain 1: user 1
    single = torch.tensor([[2.0, 1], [0, -1], [0, 0.5], [0, 1.5], [9, 9], [8, 7], [6, 5]])
    cross = torch.tensor([[1.0, 3], [1, -3], [0, 3], [1, 1], [-9, 5], [4, 3], [2, 1]])
    return batch, single.double(), cross.double()


def test_the_mutual_information_loss_of_a_case_by_hand():
    """aᵀW: (1, 1) and (0, ½); ρ / .5: [[2, 5], [0, 2]]; mean of log(1 + e³) and log(1 + e⁻²)."""
    batch, single, cross = mim_case()
    critics = torch.tensor([[1.0, 1.0], [0.0, 0.5]]).double().repeat(4, 1, 1)
    assert [domain for domain, _ in batch.mim_pairs] == [0]  # domain 1 has one such user
    loss, bound = sc_mim.sc_mim(single, cross, batch.pair_lengths, batch.mim_pairs, critics, 0.5)
    assert float(loss) == pytest.approx((3.048587 + 0.126928) / 2, abs=1e-6)
    assert float(bound) == pytest.approx(math.log(2) - 1.587758, abs=1e-6)


def test_users_with_one_event_and_domains_with_one_user_change_nothing():
    batch, single, cross = mim_case()
    critics = torch.eye(2).double().repeat(4, 1, 1)
    arguments = batch.pair_lengths, batch.mim_pairs, critics, 1.0
    before = sc_mim.sc_mim(single, cross, *arguments)[0]
    single[4:], cross[4:] = 50.0, -50.0
    assert torch.equal(sc_mim.sc_mim(single, cross, *arguments)[0], before)
    cross[0] += 1.0
    assert not torch.equal(sc_mim.sc_mim(single, cross, *arguments)[0], before)


def test_the_loss_is_the_mean_over_the_contributing_domains():
    users = [([1, 2, 7, 8, 12], [0, 0, 1, 1, 2])] * 3
    batch = train_batch(make_dataset(users, SIZES))
    torch.manual_seed(0)
    single, cross = torch.randn(2, 15, 4).double()
    critics = torch.randn(4, 4, 4).double()
    parts = [
        sc_mim.sc_mim(single, cross, batch.pair_lengths, [pair], critics, 1.0)
        for pair in batch.mim_pairs
    ]
    assert [domain for domain, _ in batch.mim_pairs] == [0, 1]  # one event each in domain 2
    both = sc_mim.sc_mim(single, cross, batch.pair_lengths, batch.mim_pairs, critics, 1.0)
    for value, (first, second) in zip(both, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(value, (first + second) / 2)
    assert sc_mim.sc_mim(single, cross, batch.pair_lengths, [], critics, 1.0) == (0.0, 0.0)


def test_identical_views_under_a_sharp_critic_reach_the_bound():
    torch.manual_seed(0)
    views = F.normalize(torch.randn(64, 16).double(), dim=1)
    loss = sc_mim.info_nce(views, views, torch.eye(16).double(), temperature=0.005)
    assert float(loss) < 1e-6  # and the bound log(n) − loss is all of log(n)


def test_independent_views_hold_no_information():
    torch.manual_seed(0)
    bounds = []
    for _ in range(20):
        one, other = torch.randn(2, 256, 8).double()
        loss = sc_mim.info_nce(one, other, torch.eye(8).double() / 8**0.5, temperature=1.0)
        bounds.append(math.log(256) - float(loss))
    assert max(bounds) < 0.0  # a critic that knows nothing is worse than a constant one, log(n)
    flat = sc_mim.info_nce(one, other, torch.zeros(8, 8).double(), temperature=1.0)
    assert float(flat) == pytest.approx(math.log(256))


# ------------------------------------------------------------------------ step losses


def scored(negatives: int) -> tuple[torch.Tensor, ...]:
    """Outputs and embeddings of nine targets and their negatives, and the scores of both."""
    torch.manual_seed(0)
    hidden, positive = (torch.randn(2, 9, 5) * 3).double()
    others = (torch.randn(9, negatives, 5) * 3).double()
    return hidden, positive, others, (hidden * positive).sum(-1), (hidden[:, None] * others).sum(-1)


def cross_entropy(scores: torch.Tensor, label: float) -> torch.Tensor:
    labels = torch.full_like(scores, label)
    return F.binary_cross_entropy_with_logits(scores, labels, reduction="none")


@pytest.mark.parametrize("negatives", [1, 4])
def test_bce_is_torchs_binary_cross_entropy_of_target_and_negatives(negatives):
    hidden, positive, others, up, down = scored(negatives)
    expected = cross_entropy(up, 1.0) + cross_entropy(down, 0.0).sum(1)
    sizes = torch.full((9,), 40)
    got = step_losses.sampled_losses(
        Settings(mode="cdsr", loss="bce"), hidden, positive, others, sizes
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)  # softplus is linear above 20


def test_gbce_is_the_papers_equation():
    """−(log σ(s)^β + Σ log(1 − σ(s⁻))) / (n + 1), β = α (t (1 − 1/α) + 1/α), α = n / (V − 1)."""
    hidden, positive, others, up, down = scored(4)
    sizes = torch.tensor([40, 12, 5, 4, 3, 40, 12, 5, 4])  # V − 1 of each target's domain
    alpha = (4 / sizes.double()).clamp(max=1)
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    assert beta[2] < 1 and beta[4] == 1  # every other item is a negative: nothing is corrected
    expected = beta * cross_entropy(up, 1.0) + cross_entropy(down, 0.0).sum(1)
    settings = Settings(mode="cdsr", loss="gbce", gbce_t=0.75)
    got = step_losses.sampled_losses(settings, hidden, positive, others, sizes)
    torch.testing.assert_close(got, expected / 5, rtol=0, atol=1e-7)
    plain = step_losses.sampled_losses(
        Settings(mode="cdsr", loss="gbce", gbce_t=0.0), *scored(4)[:3], sizes
    )
    bce = step_losses.sampled_losses(Settings(mode="cdsr", loss="bce"), *scored(4)[:3], sizes)
    torch.testing.assert_close(plain, bce / 5)


def test_the_sampled_softmax_with_every_other_item_is_the_softmax():
    torch.manual_seed(0)
    hidden, table = torch.randn(3, 5).double(), torch.randn(7, 5).double()
    targets = torch.tensor([0, 3, 6])
    others = torch.stack([torch.cat([table[:item], table[item + 1 :]]) for item in targets])
    settings = Settings(mode="cdsr", loss="sampled", softmax_temperature=0.5)
    sizes = torch.full((3,), 6)
    got = step_losses.sampled_losses(settings, hidden, table[targets], others, sizes)
    expected = F.cross_entropy(hidden @ table.T / 0.5, targets, reduction="none")
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("loss", ["bce", "gbce", "sampled"])
def test_a_batch_has_the_losses_of_its_own_negatives(loss):
    """Through the model: each target's own negatives, and the size of its own domain."""
    dataset = make_dataset(random_users(6), SIZES)
    model = make_model(dataset, loss=loss, negatives=3, dtype=torch.float64)
    batch = train_batch(dataset, negatives=3)
    losses, table = model(batch).by_path["cross"], model.item_table
    outputs = model.outputs(batch, "cross")
    for row in range(len(outputs)):
        domain = int(torch.repeat_interleave(batch.domain_counts)[row])
        expected = step_losses.sampled_losses(
            model.settings, outputs[row][None], table[batch.targets[row]][None],
            table[batch.negatives[row]][None], torch.tensor([SIZES[domain] - 1]),
        )  # fmt: skip
        torch.testing.assert_close(losses[row], expected[0])


def test_the_temperature_of_the_softmax_divides_the_scores():
    dataset = make_dataset(random_users(6), SIZES)
    batch = train_batch(dataset)
    warm = make_model(dataset, softmax_temperature=2.0, mode="cdsr", dtype=torch.float64)
    plain = make_model(dataset, mode="cdsr", dtype=torch.float64)
    outputs = warm.outputs(batch, "cross")
    expected, _ = step_losses.target_losses(
        plain.settings, batch, outputs / 2, warm.item_table, warm.item_starts
    )
    torch.testing.assert_close(warm(batch).objective, expected)


# ------------------------------------------------------------------------ flags


@pytest.mark.parametrize(
    "without",
    [{"sc_mim": False}, {"lc_ntg": False}, {"stop_gradient": False}, {"grad_accum": 2}],
    ids=str,
)
def test_a_components_flag_leaves_the_rest_bit_equal(without):
    dataset = make_dataset(random_users(25), SIZES)
    batch = train_batch(dataset)
    full, less = make_model(dataset), make_model(dataset, **without)
    expected = full.state_dict()
    assert less.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in less.state_dict().items())
    before, after = full(batch), less(batch)
    for path in ("single", "cross"):
        assert torch.equal(before.by_path[path], after.by_path[path])
    assert list(after.auxiliary) == [MIM_LOSS] * ("sc_mim" not in without)
    assert all(after.auxiliary.values())


def test_the_domain_query_adds_one_table_and_leaves_the_other_first_weights():
    dataset = make_dataset(random_users(25), SIZES)
    torch.manual_seed(3)
    plain = dict(first_weights(dataset))
    torch.manual_seed(3)
    query = dict(first_weights(dataset, target_domain_query=True))
    assert query.keys() - plain.keys() == {"query"}
    assert all(torch.equal(query[name], value) for name, value in plain.items())


def first_weights(dataset, **settings):
    return SyNCRec(Settings(hidden=8, **settings), dataset.item_starts.tolist()).state_dict()
