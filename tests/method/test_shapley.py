"""Shapley weights: the value against all orders of the players, the losses against contexts that
are cut one target at a time."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from src.io.errors import UserError
from src.objective.shapley import Shapley, own_contributions
from src.runs.lifecycle import check_trainable
from src.training.coalition_losses import coalition_losses
from src.training.processes import Process
from tests.support.builders import make_dataset, train_batch
from tests.support.weightings import CPU, SIZES, gap_of, make_trainer, settings_of

# ------------------------------------------------------------------------ the value


def test_the_own_contribution_is_the_mean_over_all_orders_of_the_domains():
    losses = torch.from_numpy(np.random.default_rng(0).uniform(1, 9, size=(2**4, 4)))
    for domain, value in enumerate(own_contributions(losses).tolist()):
        gains = []
        for order in itertools.permutations(range(4)):
            before = sum(1 << other for other in order[: order.index(domain)])
            gains.append(losses[before, domain] - losses[before | 1 << domain, domain])
        assert len(gains) == 24
        assert value == pytest.approx(float(np.mean(gains)))


def test_the_weights_of_two_domains_by_hand():
    settings = settings_of("shapley", shapley_tau=0.5)
    weighting = Shapley(settings, gap_of(settings, 2))
    assert weighting.weights().tolist() == [1, 1]
    # rows: no context, the first domain's events, the second's, both
    losses = torch.tensor([[8.0, 4.0], [6.0, 4.0], [7.0, 3.0], [4.0, 3.5]], dtype=torch.float64)
    weighting.update_coalitions(losses)
    first = ((8 - 6) + (7 - 4)) / 2 / 8
    second = ((4 - 3) + (4 - 3.5)) / 2 / 4
    shares = [math.exp(value / 0.5) for value in (first, second)]
    expected = [2 * share / sum(shares) for share in shares]
    assert weighting.weights().tolist() == pytest.approx(expected)
    losses[:, 0] = torch.nan  # no target of the first domain: it keeps its value
    losses[:, 1] = 4.0
    weighting.update_coalitions(losses)
    assert weighting.contribution.tolist() == pytest.approx([first, 0])


# ------------------------------------------------------------------------ the losses


def loss_in_context(trainer, event: int, coalition: int) -> float:
    """The cross-view loss of one event after the newest events of its user before it, without
    those of the domains outside the coalition: a log of this user alone."""
    dataset = trainer.dataset
    user = np.searchsorted(dataset.offsets, event, side="right") - 1
    start = max(dataset.offsets[user], event + 1 - trainer.settings.max_len)
    domains = dataset.domains[start:event]
    kept = [*(start + np.flatnonzero(coalition >> domains.astype(int) & 1)), event]
    alone = make_dataset(
        [(dataset.items[kept].tolist(), dataset.domains[kept].tolist())], SIZES,
        times=[dataset.times[kept]],
    )  # fmt: skip
    batch = train_batch(alone)
    with torch.no_grad():
        losses = trainer.model(batch).by_path["cross"]
    return losses[batch.last_targets].item()


@pytest.mark.parametrize(
    "changes",
    [
        {"max_len": 5},
        {"max_len": 5, "kernels": "plain", "target_domain_query": True, "dropout": 0.4},
        {"time_embedding": "interval", "batch_size": 3},
        {"model": "gru4rec", "mode": "cdsr"},
        {"model": "sasrec", "mode": "cdsr"},
    ],
    ids=["short", "plain", "times", "gru4rec", "sasrec"],
)
def test_the_losses_of_coalitions_are_those_of_contexts_without_other_domains(changes, tmp_path):
    trainer = make_trainer(tmp_path, "shapley", **changes)
    losses = coalition_losses(trainer, per_domain=1000)
    trained = [batch for step in trainer.steps() for batch in step]
    dataset, longest = trainer.dataset, trainer.settings.max_len
    every: list[list[int]] = [[], [], [], []]
    for user in trainer.loader.users:
        end = trainer.loader.ends[user]
        for event in range(max(dataset.offsets[user], end - longest), end):
            every[dataset.domains[event]].append(event)
    assert sum(map(len, every)) == sum(len(batch.targets) for batch in trained)
    for coalition, domain in itertools.product((0, 1, 6, 15), range(4)):
        expected = np.mean([loss_in_context(trainer, one, coalition) for one in every[domain]])
        assert losses[coalition, domain].item() == pytest.approx(expected, rel=1e-9)
    assert len(losses) == 16
    assert (losses.unique(dim=0)).shape == losses.shape


@pytest.mark.parametrize(
    "changes",
    [{"loss": "bce"}, {"loss": "bce", "sparse_items": True}, {"precision": "bf16"}],
    ids=["bce", "sparse", "bf16"],
)
def test_losses_of_coalitions_exist_for_every_loss_and_precision(changes, tmp_path):
    losses = coalition_losses(make_trainer(tmp_path, "shapley", **changes), per_domain=5)
    assert losses.isfinite().all()


def test_dropout_and_random_states_stay_out_of_it(tmp_path):
    """Also what is held out: another item there changes nothing."""
    trainers = [make_trainer(tmp_path, "shapley", dropout=dropout) for dropout in (0.0, 0.4)]
    before = torch.get_rng_state()
    first, second = (coalition_losses(trainer, per_domain=4) for trainer in trainers)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    dataset = trainers[0].dataset
    held_out = dataset.split > 0
    assert held_out.any()
    items = np.where(held_out, dataset.item_starts[dataset.domains], dataset.items)
    assert (items != dataset.items).any()
    trainers[0].loader.training = dataclasses.replace(
        trainers[0].loader.training, items=items.astype(np.int32)
    )
    assert torch.equal(coalition_losses(trainers[0], per_domain=4), first)


def test_the_sample_is_drawn_anew_in_each_epoch_and_shared_by_the_processes(tmp_path):
    """Processes that take every second target have together the sums of one that takes all."""

    class Half(Process):
        def sum(self, tensor):
            sums.append(tensor)
            return tensor

    trainer, sums = make_trainer(tmp_path, "shapley"), []
    whole = coalition_losses(trainer, per_domain=3)
    for rank in range(2):
        trainer.process = Half(CPU, rank, 2)
        coalition_losses(trainer, per_domain=3)
    total, count = (sums[0] + sums[1]).unbind(1)
    assert (count == 3).all()
    torch.testing.assert_close(total / count, whole)
    trainer.process = Process(CPU)
    trainer.progress.epoch += 1
    assert not torch.allclose(coalition_losses(trainer, per_domain=3), whole)


# ------------------------------------------------------------------------ in a run


def test_an_epoch_sets_the_weights_of_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(Shapley, "coalition_targets", 4)
    trainer = make_trainer(tmp_path, "shapley", dropout=0.3, lr=0.01)
    trainer.train_steps()
    assert trainer.weighting.weights().tolist() == [1] * 4
    trainer.end_epoch()
    losses = coalition_losses(trainer, per_domain=4)
    expected = 4 * (own_contributions(losses) / losses[0] / 0.05).softmax(0)
    torch.testing.assert_close(trainer.weighting.weights(), expected)
    assert not torch.equal(expected, torch.ones_like(expected))


@pytest.mark.parametrize(("domains", "mode"), [(5, "syncrec"), (6, "sdsr"), (6, "syncrec")])
def test_more_than_five_domains_are_refused(domains, mode):
    users = [([1] * 4, [0] * 4)]
    dataset = make_dataset(users, (4,) * domains, held_out=2)
    settings = settings_of("shapley", mode=mode)
    if (domains, mode) != (6, "syncrec"):  # SDSR alone is not weighted
        check_trainable(settings, dataset, Process(CPU))
        return
    with pytest.raises(UserError, match=r"takes 2\^D passes over D domains: at most 5, not 6"):
        check_trainable(settings, dataset, Process(CPU))


def test_the_temperature_of_the_softmax_must_be_positive():
    with pytest.raises(UserError, match=r"--shapley_tau must lie in \[0.001, 1000\], not 0"):
        settings_of("shapley", shapley_tau=0.0)
