"""What knows nothing ranks like chance: an untrained model, a constant score. NaN is an error."""

import math

import numpy as np
import pytest
import torch

from src.config.settings import Settings
from src.evaluation.metrics import summarise
from src.evaluation.protocols import ties_of
from src.evaluation.rank_counts import SIDES
from src.evaluation.ranking import Plan, rank_targets
from src.evaluation.targets import drawn_candidates, split_targets
from src.io.errors import UserError
from src.training.processes import Process
from tests.support.builders import make_dataset
from tests.support.ranked_data import with_ids
from trainers import Trainer

SIZES = (40, 15, 60, 8)
NEGATIVES = 12
# candidates of a target of each domain, under protocols that give all its targets as many
CANDIDATES = {
    "full": SIZES,
    "full_all": (sum(SIZES),) * 4,
    "sampled": [min(size, 1 + NEGATIVES) for size in SIZES],
    "sampled_all": (1 + NEGATIVES,) * 4,
    "popular": [min(size, 1 + NEGATIVES) for size in SIZES],
}


def random_log(users=400, length=9):
    """Events without any structure; the last two of each user are held out."""
    rng = np.random.default_rng(0)
    starts = np.concatenate([[1], 1 + np.cumsum(SIZES)])
    domains = rng.integers(0, len(SIZES), (users, length))
    items = starts[domains] + rng.integers(0, 2**31, (users, length)) % np.array(SIZES)[domains]
    rows = zip(items.tolist(), domains.tolist(), strict=True)
    return make_dataset(list(rows), SIZES, held_out=2)


@pytest.fixture(scope="module")
def dataset():
    return random_log()


@pytest.mark.parametrize(
    "settings",
    [{}, {"mode": "cdsr", "target_domain_query": True}, {"mode": "sdsr"}, {"gate": "sequence"}],
    ids=str,
)
def test_an_untrained_model_ranks_like_chance(settings, dataset, tmp_path):
    """HR@10 of each domain within four standard errors of 10 / V_d; also NDCG@10."""
    torch.manual_seed(1)
    trainer = Trainer(
        Settings(hidden=16, layers=1, **settings), dataset, tmp_path, Process(torch.device("cpu"))
    )
    for path, means in trainer.validate(split_targets(dataset, "test")).items():
        for name, size in zip(dataset.domain_names, SIZES, strict=True):
            k, n = min(10, size), means[name]["n"]
            gains = np.zeros(size)
            gains[:k] = 1 / np.log2(np.arange(2, k + 2))
            for metric, by_rank in (("hr@10", gains > 0), ("ndcg@10", gains)):
                error = 4 * by_rank.std() / n**0.5 + 1e-9
                assert abs(means[name][metric] - by_rank.mean()) < error, (path, name, metric)


def ranked(scores, dataset, protocols=("full",), drawn=None):
    """The test targets ranked by `scores(rows, domain) -> [rows, V_d]`."""
    targets = split_targets(dataset, "test")
    rows = np.arange(len(targets.events))
    plan = Plan(dataset, targets, tuple(protocols), drawn or {})

    class Scorer:
        def __init__(self, targets):
            self.targets = targets

        def of(self, rows):
            return Scorer(self.targets[rows])

        def scores(self, rows, domain):
            return lambda columns: scores(self.targets[rows], domain)[:, columns]

        def pairs(self, domains, items):
            whole = torch.cat([scores(self.targets, d) for d in range(len(SIZES))], dim=1)
            return whole.gather(1, torch.from_numpy(items) - 1)

    return targets, rank_targets(Scorer(rows), plan, rows, list(plan.blocks(rows)))


def constant(rows, domain):
    return torch.full((len(rows), SIZES[domain]), 0.3)


@pytest.mark.parametrize("side", [1024, 4], ids=["one chunk", "many chunks"])
def test_a_constant_scorer_gets_exactly_the_expectation_of_random_ranking(
    side, dataset, monkeypatch, tmp_path
):
    monkeypatch.setitem(SIDES, "cpu", side)
    targets, sets = split_targets(dataset, "test"), ("sampled", "sampled_all", "popular")
    drawn = drawn_candidates(dataset, targets, sets, NEGATIVES, 0, tmp_path)
    for protocol, ranks in ranked(constant, dataset, CANDIDATES, drawn)[1].items():
        summary = summarise(ranks.better, ranks.tied, targets.domains, dataset.domain_names)
        for name, candidates in zip(dataset.domain_names, CANDIDATES[protocol], strict=True):
            for k in (1, 5, 10, 20):
                best = min(k, candidates)
                assert summary[name][f"hr@{k}"] == pytest.approx(best / candidates, rel=1e-12)
                gain = sum(1 / math.log2(rank + 1) for rank in range(1, best + 1))
                assert summary[name][f"ndcg@{k}"] == pytest.approx(gain / candidates, rel=1e-12)
            harmonic = sum(1 / rank for rank in range(1, candidates + 1))
            assert summary[name]["mrr"] == pytest.approx(harmonic / candidates, rel=1e-12)


def test_the_released_protocol_alone_calls_a_constant_scorer_perfect(dataset, tmp_path):
    """Its ties count for the model: why no other protocol reads them so."""
    targets = split_targets(dataset, "test")
    drawn = drawn_candidates(dataset, targets, ("released",), NEGATIVES, 0, tmp_path)
    ranks = ranked(constant, dataset, ("released",), drawn)[1]["released"]
    assert (ranks.tied == 1 + NEGATIVES).all() and not ranks.better.any()
    for ties, value in (("expected", 1 / (1 + NEGATIVES)), (ties_of("released", "expected"), 1)):
        summary = summarise(
            ranks.better, ranks.tied, targets.domains, dataset.domain_names, ties=ties
        )
        assert summary["macro"]["hr@1"] == pytest.approx(value, rel=1e-12)


@pytest.fixture
def named(dataset, tmp_path):
    return with_ids(dataset, tmp_path)


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    ("protocol", "faulty"), [("full", 2), ("full_all", 2), ("full_all", 1), ("released", 3)]
)
def test_a_score_that_is_no_number_stops_the_run_and_names_user_and_item(
    protocol, faulty, fault, named
):
    targets = split_targets(named, "test")
    row = int(np.flatnonzero(targets.domains == 2)[7])
    user, item = int(targets.users[row]), int(named.item_starts[faulty]) + 5

    def faulted(rows, domain):
        scores = torch.zeros(len(rows), SIZES[domain])
        if domain == faulty:
            scores[torch.from_numpy(rows == row), 5] = fault
        return scores

    drawn = np.full((len(targets.events), 2), -1)
    drawn[row, 1] = item
    with pytest.raises(UserError) as caught:
        ranked(faulted, named, (protocol,), {protocol: drawn})
    message = str(caught.value)
    assert f"item item-{item} (domain{faulty}) for user user-{user} is not finite" in message
    assert "\n" not in message


def test_a_diverged_model_is_told_apart_from_a_good_one(named, tmp_path):
    trainer = Trainer(Settings(hidden=16), named, tmp_path, Process(torch.device("cpu")))
    with torch.no_grad():
        trainer.model.item_table[7] = math.nan
    with pytest.raises(UserError, match="is not finite"):
        trainer.validate(split_targets(named, "valid"))
