"""Lists of the best items are those of sorting; coverage and popularity by hand."""

import numpy as np
import pytest
import torch

from src.evaluation import rank_counts as ranks
from src.evaluation.beyond_accuracy import beyond_accuracy
from src.evaluation.path_scores import fit_count_models, model_scorer, score_paths
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan
from src.evaluation.targets import split_targets
from src.evaluation.top_items import top_items
from src.training.processes import Process
from tests.support.builders import make_model
from tests.support.ranked_data import items_had, random_dataset

CPU = torch.device("cpu")


def top(scores: torch.Tensor, k: int, barred=None) -> tuple[np.ndarray, np.ndarray]:
    found = top_items(lambda columns: scores[:, columns], scores.shape[1], k, CPU, barred)
    return tuple(part.numpy() for part in found)


@pytest.fixture(params=[5, 1024], ids=["many chunks", "one chunk"])
def side(request, monkeypatch):
    monkeypatch.setitem(ranks.SIDES, "cpu", request.param)


@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("items", [1, 3, 9, 41, 67, 130])
def test_the_best_items_are_those_of_sorting(items, k, side):
    scores = torch.randn(19, items, generator=torch.manual_seed(items))
    values, columns = top(scores, k)
    order = np.argsort(-scores.numpy(), axis=1)[:, :k]
    assert columns.tolist() == order.tolist()  # all of the domain where k is more than it has
    assert (values == np.take_along_axis(scores.numpy(), order, axis=1)).all()


@pytest.mark.parametrize("k", [1, 10, 30, 66, 67, 100])
@pytest.mark.parametrize("levels", [1, 2, 3, 20])
def test_of_equal_scores_the_lower_item_comes_first(levels, k, side):
    scores = torch.randint(0, levels, (19, 67), generator=torch.manual_seed(0)).float()
    values, columns = top(scores, k)
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :k]
    assert columns.tolist() == order.tolist()
    assert (values == np.take_along_axis(scores.numpy(), order, axis=1)).all()


EQUAL = {
    "zeros of both signs": torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0]).repeat(2, 14),
    "halves": torch.tensor([1.0, 2.0]).repeat(2, 40).bfloat16(),
    "rounded to halves": (1 + torch.rand(2, 67) / 500).bfloat16(),
    "doubles": torch.tensor([[1.0, 1 + 1e-9, 1.0]]).double().repeat(2, 25),
    "whole numbers": torch.arange(67).div(3, rounding_mode="floor").float().repeat(2, 1),
    "the best last": torch.cat([torch.zeros(2, 60), torch.ones(2, 9)], 1),
    "all but one": torch.ones(2, 67).index_fill(1, torch.tensor([3]), 0.0),
    "very large": torch.full((2, 70), 3e38).index_fill(1, torch.tensor([69]), 3.1e38),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_scores_of_any_kind_come_in_the_order_of_items(kind, side):
    scores = EQUAL[kind]
    _, columns = top_items(lambda chosen: scores[:, chosen], scores.shape[1], 10, CPU)
    order = np.argsort(-scores.double().numpy(), axis=1, kind="stable")[:, :10]
    assert columns.tolist() == order.tolist()


def test_of_equal_scores_the_lower_item_that_is_not_barred_comes_first(side):
    scores = torch.zeros(2, 67)
    barred = (torch.tensor([0, 0, 0, 1]), torch.tensor([0, 2, 66, 1]))
    _, columns = top(scores, 4, barred)
    assert columns.tolist() == [[1, 3, 4, 5], [0, 2, 3, 4]]


@pytest.mark.parametrize("items", [3, 41, 67])
def test_barred_items_are_never_listed(items, side):
    scores = torch.randn(19, items, generator=torch.manual_seed(items))
    before = scores.clone()
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 18, 200), rng.integers(0, items, 200)  # some twice
    rows, columns = np.append(rows, [18] * items), np.append(columns, np.arange(items))
    values, actual = top(scores, 10, (torch.from_numpy(rows), torch.from_numpy(columns)))
    for row in range(19):
        barred = set(columns[rows == row].tolist())
        left = [column for column in np.argsort(-scores[row].numpy()) if column not in barred]
        finite = np.isfinite(values[row])
        assert actual[row][finite].tolist() == left[:10]
        assert not finite[len(left[:10]) :].any()  # nothing is left: no item
    assert not np.isfinite(values[18]).any()
    assert torch.equal(scores, before)  # what the scorer gave is its own


def test_coverage_and_popularity_by_hand():
    """Two domains of three items, one of two that nobody was a target in, one without events."""
    starts, names = np.array([1, 4, 7, 9, 10]), ["a", "b", "none", "cold"]
    #                  padding, then a, b, none, cold
    recommended = np.array([0, 4, 0, 4, 2, 2, 2, 0, 0, 3])
    trained = np.array([0, 6, 3, 1, 5, 5, 0, 8, 2, 0])
    actual = beyond_accuracy(recommended, trained, starts, names)
    assert actual["a"]["coverage@10"] == pytest.approx(2 / 3)
    # listed: (4 · 6 + 4 · 1) / 8; the training events' own items: (36 + 9 + 1) / 10
    assert actual["a"]["popularity@10"] == pytest.approx(3.5 / 4.6)
    assert actual["b"]["coverage@10"] == 1
    assert actual["b"]["popularity@10"] == pytest.approx((10 / 3) / (50 / 10))
    assert actual["none"] == actual["cold"] == {}
    assert actual["macro"]["coverage@10"] == pytest.approx((2 / 3 + 1) / 2)
    assert actual["macro"]["popularity@10"] == pytest.approx((3.5 / 4.6 + 2 / 3) / 2)


def test_recommending_what_the_log_has_is_as_popular_as_the_log():
    trained = np.array([0, 6, 3, 1])
    actual = beyond_accuracy(trained, trained, np.array([1, 4]), ["a"])
    assert actual["a"] == actual["macro"] == {"coverage@10": 1, "popularity@10": pytest.approx(1)}


@pytest.mark.parametrize("excludes", [False, True], ids=["", "excludes seen"])
def test_the_lists_of_a_split_are_each_target_s_ten_best_of_its_domain(side, excludes):
    """Of what the user had too, as the protocol `full` ranks, and as `as_listed` does; of
    popularity always the same."""
    dataset = random_dataset(np.random.default_rng(0), (6, 50, 13), users=30)
    targets = split_targets(dataset, "test")
    model = make_model(dataset, dtype=torch.float32).eval()
    ensemble = Ensemble([model])
    plan = Plan(dataset, targets, ("full", "as_listed"), {}, excludes_seen=excludes)
    baselines = fit_count_models(dataset, model.settings)
    scored = score_paths(ensemble, model.settings, plan, Process(CPU), baselines, lists=True)
    rows = np.arange(len(targets.events))
    best = {"cross": [], "single": []}
    for path, orders in best.items():
        scorer = model_scorer(ensemble, model.settings, plan, rows, path, bar=False)
        for row, domain in enumerate(targets.domains):
            scores = scorer.scores(rows[[row]], domain)(slice(None))[0].numpy()
            orders.append((dataset.item_starts[domain] + np.argsort(-scores)).tolist())
    for path in best:
        expected, stands_in = {"full": [], "as_listed": []}, 0
        for row, domain in enumerate(targets.domains):
            own = slice(dataset.item_starts[domain], dataset.item_starts[domain + 1])
            had = items_had(dataset, targets, row)
            # the single view has nothing to read: cross stands in; every context has an event
            other = path == "single" and not any(own.start <= item < own.stop for item in had)
            stands_in += other
            listed = best["cross" if other else path][row]
            expected["full"] += best[path][row][:10]
            expected["as_listed"] += [i for i in listed if not excludes or i not in had][:10]
        for name, items in expected.items():
            counts = np.bincount(items, minlength=1 + 69)
            assert scored[path].lists[name].tolist() == counts.tolist()
        assert (stands_in > 0) == (path == "single")
    popular = scored["popularity"].lists["full"]
    in_domain = np.bincount(targets.domains, minlength=3)
    trained = np.bincount(dataset.items[dataset.split == 0], minlength=1 + 69)
    for domain, count in enumerate(in_domain):
        own = slice(dataset.item_starts[domain], dataset.item_starts[domain + 1])
        listed = popular[own]
        assert listed.sum() == count * min(10, len(listed))
        always = np.argsort(-trained[own], kind="stable")[:10]
        assert (listed[always] == count).all()
    without = score_paths(ensemble, model.settings, plan, Process(CPU), {}, lists=False)
    assert without["cross"].lists == {}
