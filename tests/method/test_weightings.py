"""Loss weightings: by hand or against their definitions, their states, gradients by domain."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from src.config.names import WEIGHTINGS
from src.dataset.batching.negatives import held_out_events
from src.evaluation.path_scores import path_scorers
from src.evaluation.queries import Ensemble
from src.evaluation.rank_counts import SIDES
from src.evaluation.ranking import Plan
from src.evaluation.target_losses import TargetLosses
from src.evaluation.targets import split_targets
from src.io.errors import UserError
from src.objective.heldout_gap import BOUND, HeldOutGap, bounded_weights, certain_loss
from src.objective.inverse_loss import InverseLoss
from src.objective.lc_ntg import NegativeTransferGap, lc_ntg_weights
from src.objective.pcgrad import PCGrad
from src.objective.weighting import Uniform, weighting_class
from src.training.epoch_statistics import EpochStatistics
from src.training.processes import Process
from tests.support.builders import make_dataset, random_users
from tests.support.weightings import CPU, gap_of, make_trainer, settings_of
from trainers import Trainer

# ------------------------------------------------------------------------ every weighting


def take_steps(weighting, seed: int, steps: int = 7) -> None:
    """Losses of random steps in epochs of three; some steps lack a target of some domain."""
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        counts = torch.from_numpy(rng.integers(0, 3, size=len(weighting.weights())))
        for update in (weighting.update, weighting.update_after):
            losses = torch.from_numpy(rng.uniform(1, 9, size=len(counts)))
            update({"cross": torch.where(counts > 0, losses, torch.nan)}, counts)
        if step % 3 == 0:
            cross, single = torch.from_numpy(rng.uniform(4, 5, size=(2, len(counts))))
            losses = {"cross": cross, "single": single - 2}
            weighting.update_held_out(losses, torch.zeros_like(cross), counts + 2)
            coalitions = np.random.default_rng(seed).uniform(4, 5, size=(2 ** len(counts), 4))
            weighting.update_coalitions(torch.from_numpy(coalitions))
            weighting.end_epoch()


@pytest.mark.parametrize(
    ("name", "gap"),
    [*((name, "") for name in WEIGHTINGS), ("lc_ntg", "training"), ("lc_ntg", "heldout")],
)
def test_weights_have_mean_1_and_go_on_from_their_state(name, gap):
    settings = settings_of(name, gap=gap)
    first, second = (weighting_class(settings)(settings, gap_of(settings, 4)) for _ in range(2))
    take_steps(first, 0)
    state = {part: values.clone() for part, values in first.state_dict().items()}
    assert all(values.shape == (4,) for values in state.values())
    second.load_state_dict(state)
    for weighting in (first, second):
        take_steps(weighting, 1)
        assert (weighting.weights() > 0).all()
        assert weighting.weights().mean().item() == pytest.approx(1)
    assert torch.equal(first.weights(), second.weights())
    later = second.state_dict()
    assert all(torch.equal(values, later[part]) for part, values in first.state_dict().items())
    if name == "lc_ntg" and gap != "training":
        assert not torch.equal(first.weights(), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_step_without_a_target_of_a_domain_leaves_finite_weights(name, tmp_path):
    trainer = make_trainer(tmp_path, name, batch_size=1)
    lacking = 0
    for step_batches in trainer.steps():
        lacking += (trainer.count_targets(step_batches) == 0).any().item()
        trainer.train_step(step_batches)
    trainer.end_epoch()
    assert lacking
    assert trainer.weighting.weights().isfinite().all()


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_without_a_weighted_path_weights_are_uniform(name, tmp_path):
    trainer = make_trainer(tmp_path, name, mode="sdsr")
    trainer.train_step(next(trainer.steps()))
    assert type(trainer.weighting) is Uniform


# ------------------------------------------------------------------------ inverse loss


def test_inverse_loss_traced_by_hand():
    settings = settings_of("inverse_loss", inverse_loss_decay=0.5)
    weighting = InverseLoss(settings, gap_of(settings, 3))
    assert weighting.weights().tolist() == [1, 1, 1]
    nan = math.nan
    weighting.update(
        {"cross": torch.tensor([2.0, 4.0, nan], dtype=torch.float64), "single": torch.ones(3)},
        torch.tensor([5, 3, 0]),
    )
    # L = 2, 4, and the mean of both where there is none: w ∝ 1/2, 1/4, 1/3
    expected = torch.tensor([1 / 2, 1 / 4, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(weighting.weights(), expected / expected.mean())
    weighting.update(
        {"cross": torch.tensor([4.0, nan, 1.0], dtype=torch.float64), "single": torch.ones(3)},
        torch.tensor([1, 0, 2]),
    )
    expected = torch.tensor([1 / 3, 1 / 4, 1 / 1], dtype=torch.float64)  # .5 · 2 + .5 · 4 = 3
    torch.testing.assert_close(weighting.weights(), expected / expected.mean())


def test_inverse_loss_of_a_domain_of_one_item_is_no_weight_without_bound():
    """Its softmax has nothing to choose from: its loss is 0 from the first step on."""
    weighting = InverseLoss(settings_of("inverse_loss"), gap_of(settings_of("inverse_loss"), 3))
    losses = {"cross": torch.tensor([2.0, 0.0, 4.0], dtype=torch.float64)}
    weighting.update(losses, torch.tensor([5, 5, 5]))
    expected = torch.tensor([1 / 2, 1 / 3, 1 / 4], dtype=torch.float64)
    torch.testing.assert_close(weighting.weights(), expected / expected.mean())


# ------------------------------------------------------------------------ PCGrad


def pcgrad_by_definition(gradients: torch.Tensor, orders: list[list[int]]) -> torch.Tensor:
    projected = [gradient.clone() for gradient in gradients]
    for domain, order in enumerate(orders):
        for other in order:
            product = projected[domain] @ gradients[other]
            if other != domain and product < 0:
                projected[domain] -= product / gradients[other].square().sum() * gradients[other]
    return torch.stack(projected).sum(0)


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_is_its_definition(seed):
    settings = settings_of("pcgrad", seed=seed)
    weighting = PCGrad(settings, gap_of(settings, 4))
    torch.manual_seed(seed)
    gradients = torch.randn(4, 9, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(4, generator=generator).tolist() for _ in range(4)]
    expected = pcgrad_by_definition(gradients, orders)
    torch.testing.assert_close(weighting.combine(gradients), expected)
    assert (gradients @ gradients.T < 0).any()  # else nothing was projected
    assert not torch.allclose(expected, gradients.sum(0))


def test_pcgrad_leaves_gradients_that_agree_and_domains_without_one():
    settings = settings_of("pcgrad")
    weighting = PCGrad(settings, gap_of(settings, 3))
    gradients = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(weighting.combine(gradients), gradients.sum(0))


class Summed(PCGrad):
    """Gradients by domain, added up again."""

    def combine(self, gradients):
        assert (gradients.abs().sum(1) > 0).all()
        return gradients.sum(0)


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_the_gradients_of_the_domains_add_up_to_that_of_the_objective(
    grad_accum, tmp_path, monkeypatch
):
    monkeypatch.setitem(WEIGHTINGS, "summed", f"{__name__}:Summed")
    by_weighting = []
    for weighting in ("uniform", "summed"):
        trainer = make_trainer(tmp_path, weighting, grad_accum=grad_accum, dropout=0.3)
        torch.manual_seed(7)  # the same dropout masks
        step_batches = next(trainer.steps())
        counts = trainer.count_targets(step_batches)
        coefficients = trainer.coefficients(counts, trainer.weighting.weights())
        trainer.gradients(step_batches, coefficients)
        by_weighting.append({name: p.grad for name, p in trainer.model.named_parameters()})
    for name, gradient in by_weighting[0].items():
        other = torch.zeros_like(by_weighting[1][name]) if gradient is None else gradient
        torch.testing.assert_close(by_weighting[1][name], other, rtol=1e-9, atol=1e-12)


def test_pcgrad_changes_the_step(tmp_path):
    weights = []
    for weighting in ("uniform", "pcgrad"):
        trainer = make_trainer(tmp_path, weighting)
        for step_batches in trainer.steps():
            trainer.train_step(step_batches)
        weights.append(trainer.model.item_table.detach().clone())
    assert not torch.allclose(*weights)


def test_gradients_by_domain_need_dense_items():
    with pytest.raises(UserError, match="needs one dense gradient per domain; drop --sparse_items"):
        settings_of("pcgrad", sparse_items=True, loss="bce")


# ------------------------------------------------------------------------ gap on held-out events


def test_the_held_out_gap_by_hand():
    single, cross = torch.tensor([4.0, 4.0, 4.0, 4.0, 4.0]), torch.tensor([3.0, 5.0, 3.9, 4.1, 9.0])
    error = torch.tensor([0.2, 0.2, 0.2, 0.2, math.inf])
    gap = certain_loss(single, cross, error)  # φ = 1, −1, .1, −.1, −5
    torch.testing.assert_close(gap, torch.tensor([0.0, -0.2, 0.0, 0.0, 0.0]))
    nothing = certain_loss(*torch.tensor([[math.nan], [math.nan], [math.nan]]))
    assert nothing.tolist() == [0]


@pytest.mark.parametrize("states", [[0.0, -9.0, -0.01], [-9.0, -9.0, -9.0], [0.0, -0.05, -0.05]])
def test_held_out_weights_have_mean_1_and_a_bound(states):
    weights = bounded_weights(torch.tensor(states))
    assert weights.mean().item() == pytest.approx(1)
    assert (weights.max() / weights.min()).item() <= BOUND * (1 + 1e-6)
    assert weights.argmax() == torch.tensor(states).argmax()
    if len(set(states)) == 1:
        assert weights.tolist() == pytest.approx([1, 1, 1])


def test_the_paper_s_rule_runs_away_and_the_held_out_rule_does_not():
    """A domain that weighs more is fitted more, so that its gap on the fitted targets grows; what
    it gains on held-out events stays as it is."""
    settings = settings_of("lc_ntg")
    paper = NegativeTransferGap(settings, 3, CPU, torch.float64)
    rule = HeldOutGap(settings, paper)
    counts = torch.tensor([5, 5, 5])
    truth = torch.tensor([0.3, 0.2, 0.2], dtype=torch.float64)
    for _ in range(300):
        weights = lc_ntg_weights(paper.gamma, paper.floor)
        paper.update(truth + 1.5 * (weights - 1), counts)
        losses = {"single": 5 + truth, "cross": torch.full_like(truth, 5)}
        rule.update_held_out(losses, torch.full_like(truth, 0.05), counts)
    assert lc_ntg_weights(paper.gamma, paper.floor).max() > 1.9  # of at most 2
    assert rule.weights().tolist() == [1, 1, 1]


def test_the_held_out_rule_starves_no_domain():
    """A domain that weighs less is learned less, so that its gap widens on held-out events too."""
    settings = settings_of("lc_ntg")
    rule = HeldOutGap(settings, gap_of(settings, 3))
    counts, error = torch.tensor([5, 5, 5]), torch.full((3,), 0.05, dtype=torch.float64)
    for _ in range(300):
        gap = torch.tensor([0.2, 0.2, -0.3], dtype=torch.float64) - 3 * (1 - rule.weights())
        losses = {"single": 5 + gap, "cross": torch.full_like(gap, 5)}
        rule.update_held_out(losses, error, counts)
    assert rule.weights()[2].item() == pytest.approx(3 / 9)  # w = 4, 4 and 1 over their mean of 3


def test_a_view_that_still_learns_is_not_yet_worse():
    settings = settings_of("lc_ntg")
    rule = HeldOutGap(settings, gap_of(settings, 2))
    counts, error = torch.tensor([5, 5]), torch.full((2,), 0.1, dtype=torch.float64)
    single = torch.tensor([4.0, 4.0], dtype=torch.float64)
    for cross in (6.0, 5.5, 5.0):
        losses = {"single": single, "cross": torch.tensor([cross, 3.0], dtype=torch.float64)}
        rule.update_held_out(losses, error, counts)
        assert rule.weights().tolist() == [1, 1]
    losses["cross"] = torch.tensor([4.95, 3.0], dtype=torch.float64)  # it fell by less than .1
    rule.update_held_out(losses, error, counts)
    assert rule.relative.tolist() == pytest.approx([0.5 * (-0.95 + 0.1) / 4, 0])


def test_held_out_events_are_a_share_of_all_and_the_same_in_every_epoch(tmp_path):
    events = np.arange(100_000)
    held_out = held_out_events(events, 42, 0.05)
    assert held_out.mean() == pytest.approx(0.05, abs=0.003)
    assert (held_out_events(events[::-1], 42, 0.05)[::-1] == held_out).all()
    assert not (held_out_events(events, 43, 0.05) == held_out).all()
    assert not held_out_events(events, 42, 0.0).any()
    trainer = make_trainer(tmp_path, "lc_ntg", gap="heldout")
    batches = [batch for epoch in (0, 1) for step in trainer.loader.steps(epoch) for batch in step]
    trained = sum(int(batch.trained.sum()) for batch in batches) / 2
    assert trained == sum(int(batch.trained_counts.sum()) for batch in batches) / 2
    held = sum(int((batch.trained == 0).sum()) for batch in batches) / 2
    assert held + trained == sum(len(batch.targets) for batch in batches) / 2
    assert 0 < held < trained


def test_a_step_of_held_out_targets_alone_trains_nothing_and_fails_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(HeldOutGap, "held_out", 1 - 1e-9)
    trainer = make_trainer(tmp_path, "lc_ntg", gap="heldout", sc_mim=False)
    before = trainer.model.item_table.detach().clone()
    (batch,) = next(trainer.loader.steps(0))
    assert not batch.trained.any()
    trainer.train_step([batch])
    assert torch.equal(trainer.model.item_table, before)


def test_another_gap_needs_the_weighting_by_the_gap():
    with pytest.raises(UserError, match="--gap heldout is a gap of --weighting lc_ntg"):
        settings_of("inverse_loss", gap="heldout")


def test_what_is_held_out_is_not_trained_on(tmp_path, monkeypatch):
    """Another item as a held-out target, everything else the same: the step is the same."""
    monkeypatch.setattr(HeldOutGap, "held_out", 0.3)
    tables = []
    for change in (0, 1):
        trainer = make_trainer(tmp_path, "lc_ntg", gap="heldout", loss="ce", sc_mim=False)
        (batch,) = next(trainer.loader.steps(0))
        targets = batch.targets.clone()
        others = batch.targets.roll(1)
        chosen = batch.trained == (0 if change else 2)
        assert chosen.any() == bool(change)
        targets[chosen] = others[chosen]
        trainer.train_step([dataclasses.replace(batch, targets=targets)])
        tables.append(trainer.model.state_dict())
        counts = batch.trained_counts.sum().item()
        assert trainer.statistics.counts.sum().item() == counts < len(batch.targets)
    for name, values in tables[0].items():
        torch.testing.assert_close(values, tables[1][name], rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_the_losses_of_held_out_targets_are_measured_in_the_steps(
    grad_accum, tmp_path, monkeypatch
):
    """With a learning rate too small to change a weight, they are those of the model."""
    monkeypatch.setattr(HeldOutGap, "held_out", 0.3)
    trainer = make_trainer(
        tmp_path, "lc_ntg", gap="heldout", max_epochs=2, lr=1e-30, grad_accum=grad_accum
    )
    held = {path: [[] for _ in range(4)] for path in ("cross", "single")}
    trainer.fit()
    table = pd.read_csv(tmp_path / "metrics.csv")
    table = table[table.split == "held_out"]
    assert set(table.epoch) == {1, 2}
    last = table[table.epoch == 2].set_index(["path", "domain", "metric"]).value
    with torch.no_grad():
        for step in trainer.loader.steps(1):
            for batch in step:
                by_path = trainer.model(batch).by_path
                domain = torch.repeat_interleave(torch.arange(4), batch.domain_counts)
                for path, values in by_path.items():
                    for number in range(4):
                        chosen = (batch.trained == 0) & (domain == number)
                        held[path][number] += values[chosen].tolist()
    for number, name in enumerate(trainer.dataset.domain_names):
        cross, single = (np.array(held[path][number]) for path in ("cross", "single"))
        assert len(cross) > 1
        assert last["cross", name, "loss"] == pytest.approx(cross.mean())
        assert last["single", name, "loss"] == pytest.approx(single.mean())
        error = np.std(single - cross, ddof=1) / math.sqrt(len(cross))
        assert last["cross", name, "gap_error"] == pytest.approx(error)
    assert len(last) == 3 * len(trainer.dataset.domain_names)
    assert trainer.weighting.relative.tolist() != [0, 0, 0, 0]


@pytest.mark.parametrize("side", [3, 1024], ids=["many chunks", "one chunk"])
@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "ce", "softmax_temperature": 0.5},
        {"loss": "sampled", "softmax_temperature": 0.5},
        {"loss": "bce"},
    ],
    ids=["ce", "sampled", "bce"],
)
def test_the_gap_on_the_validation_targets_is_measured_after_each_epoch(
    changes, side, tmp_path, monkeypatch
):
    """Their losses among the items of their domain, while every training event is a target."""
    monkeypatch.setitem(SIDES, "cpu", side)
    sizes = (6, 41, 9, 2)  # 41 items are several chunks, or one
    users = [user for user in random_users(2, 60, sizes) if len(user[0]) > 2]
    dataset = make_dataset(users, sizes, held_out=2)
    settings = settings_of("lc_ntg", gap="validation", max_epochs=2, precision="float64", **changes)
    trainer = Trainer(settings, dataset, tmp_path, Process(CPU))
    assert all(batch.trained is None for step in trainer.loader.steps(0) for batch in step)
    trainer.fit()
    table = pd.read_csv(tmp_path / "metrics.csv")
    table = table[table.split == "held_out"]
    assert set(table.epoch) == {1, 2}
    last = table[table.epoch == 2].set_index(["path", "domain", "metric"]).value
    targets = split_targets(dataset, "valid")
    plan, rows = Plan(dataset, targets, ("full",), {}), np.arange(len(targets.events))
    scorers = path_scorers(Ensemble([trainer.model.eval()]), settings, plan, rows)
    starts, known = dataset.item_starts, dataset.training_counts[targets.items] > 0
    assert not known.all()
    for number, name in enumerate(dataset.domain_names):
        chosen = np.flatnonzero((targets.domains == number) & known)
        labels = torch.from_numpy(targets.items[chosen].astype(int) - starts[number])
        losses = {}
        for path, scorer in scorers.items():
            logits = scorer.of(chosen).scores(np.arange(len(chosen)), number)(slice(None))
            logits = logits / changes.get("softmax_temperature", 1)
            losses[path] = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            mean = losses[path].mean().item()
            assert last[path, name, "loss"] == pytest.approx(mean, abs=1e-12)
        assert trainer.weighting.last[number].item() == pytest.approx(
            losses["cross"].mean().item(), abs=1e-12
        )  # the rule was given them
        error = (losses["single"] - losses["cross"]).std().item() / math.sqrt(len(chosen))
        assert last["cross", name, "gap_error"] == pytest.approx(error, abs=1e-12)
    assert len(last) == 3 * len(sizes)


def test_negative_transfer_on_the_validation_targets_lowers_the_weight(tmp_path, monkeypatch):
    """Where the cross view is worse in one domain and no longer improves."""
    trainer = make_trainer(tmp_path, "lc_ntg", gap="validation", max_epochs=3)
    counts = torch.full((4,), 50)

    def of_known_items(_):
        single = torch.ones(200, dtype=torch.float64)
        return [torch.cat([single[:50] * 1.5, single[50:] * 0.9]), single], counts

    monkeypatch.setattr(TargetLosses, "of_known_items", of_known_items)
    trainer.fit()
    weights = trainer.weighting.weights()
    assert (weights[1:] == weights[1]).all() and weights[0] < weights[1]
    assert weights.mean().item() == pytest.approx(1)
    table = pd.read_csv(tmp_path / "transfer.csv")
    first, *_, last = (table[table.epoch == epoch].weight.tolist() for epoch in (1, 2, 3))
    assert first == [1, 1, 1, 1] and last == pytest.approx(weights.tolist())


def test_a_checkpoint_from_before_there_were_held_out_targets_is_read():
    paths = ("cross", "single")
    first, second = (EpochStatistics(paths, 3, CPU, torch.float64) for _ in range(2))
    first.losses["cross"] += 1
    state = first.state(lambda sums: [sums])
    del state["held_out"]
    second.load(state, 0, 1)
    assert second.losses["cross"].tolist() == [1, 1, 1]
    assert not second.held_out.any()
    assert not list(second.held_out_rows(["a", "b", "c"]))
