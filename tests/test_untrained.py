"""What knows nothing ranks like chance: an untrained model, a constant score. NaN is an error."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_dataset

from src import ranking
from src.errors import UserError
from src.evaluation.metrics import summarise
from src.evaluation.ranks import SIDES
from src.settings import Settings
from trainers import Trainer
from utils import Process

SIZES = (40, 15, 60, 8)


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
    targets = ranking.split_targets(dataset, "test")
    for path, protocols in trainer.rank(targets).items():
        found = trainer.summarise(targets, protocols["full"])
        for name, size in zip(dataset.domain_names, SIZES, strict=True):
            k, n = min(10, size), found[name]["n"]
            gains = np.zeros(size)
            gains[:k] = 1 / np.log2(np.arange(2, k + 2))
            for metric, by_rank in (("hr@10", gains > 0), ("ndcg@10", gains)):
                error = 4 * by_rank.std() / n**0.5 + 1e-9
                assert abs(found[name][metric] - by_rank.mean()) < error, (path, name, metric)


@pytest.mark.parametrize("side", [1024, 4], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("negatives", [None, 12], ids=["full", "sampled"])
def test_a_constant_scorer_gets_exactly_the_expectation_of_random_ranking(
    negatives, side, dataset, monkeypatch
):
    monkeypatch.setitem(SIDES, "cpu", side)
    targets = ranking.split_targets(dataset, "test")
    drawn = None
    if negatives:  # the candidates, by column: any but the target, fewer where the domain is small
        columns = targets.items - dataset.item_starts[targets.domains]
        sizes = np.array(SIZES)[targets.domains]
        places = np.arange(negatives) + (np.arange(negatives) >= columns[:, None])
        drawn = np.where(places < sizes[:, None], places, -1)

    def constant(domain, rows):
        return lambda columns: torch.full((len(rows), SIZES[domain]), 0.3)[:, columns]

    rows = np.arange(len(targets.events))
    ranks = ranking.rank_targets(constant, dataset, targets, drawn, rows)
    found = ranks["sampled" if negatives else "full"]
    summary = summarise(found.better, found.tied, targets.domains, dataset.domain_names)
    for name, size in zip(dataset.domain_names, SIZES, strict=True):
        candidates = min(size, 1 + negatives) if negatives else size
        for k in (1, 5, 10, 20):
            best = min(k, candidates)
            assert summary[name][f"hr@{k}"] == pytest.approx(best / candidates, rel=1e-12)
            gain = sum(1 / math.log2(rank + 1) for rank in range(1, best + 1))
            assert summary[name][f"ndcg@{k}"] == pytest.approx(gain / candidates, rel=1e-12)
        harmonic = sum(1 / rank for rank in range(1, candidates + 1))
        assert summary[name]["mrr"] == pytest.approx(harmonic / candidates, rel=1e-12)


@pytest.fixture
def named(dataset, tmp_path):
    """The same dataset, with ids to name: user u and item i are `user-u` and `item-i`."""
    for kind, ids in (("user", range(dataset.users)), ("item", range(1, dataset.item_rows))):
        table = pa.table({f"{kind}_id": [f"{kind}-{number}" for number in ids]})
        pq.write_table(table, tmp_path / f"{kind}s.parquet")
    return dataclasses.replace(dataset, folder=tmp_path)


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf], ids=str)
def test_a_score_that_is_no_number_stops_the_run_and_names_user_and_item(fault, named):
    targets = ranking.split_targets(named, "test")
    row = int(np.flatnonzero(targets.domains == 2)[7])

    def scorer(domain, rows):
        scores = torch.zeros(len(rows), SIZES[domain])
        scores[torch.from_numpy(rows == row), 5] = fault
        return lambda columns: scores[:, columns]

    user, item = int(targets.users[row]), int(named.item_starts[2]) + 5
    with pytest.raises(UserError) as caught:
        ranking.rank_targets(scorer, named, targets, None, np.arange(len(targets.events)))
    message = str(caught.value)
    assert f"item item-{item} (domain2) for user user-{user} is not finite" in message
    assert "\n" not in message


def test_a_diverged_model_is_told_apart_from_a_good_one(named, tmp_path):
    trainer = Trainer(Settings(hidden=16), named, tmp_path, Process(torch.device("cpu")))
    with torch.no_grad():
        trainer.model.item_table[7] = math.nan
    with pytest.raises(UserError, match="is not finite"):
        trainer.rank(ranking.split_targets(named, "valid"))
