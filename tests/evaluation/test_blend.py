"""The blend: weights by maximum likelihood, shrunk by their uncertainty; what its terms are."""

import numpy as np
import pytest
import torch

from src.baselines.own import Own
from src.baselines.popularity import Popularity
from src.config.names import COUNT_MODELS, load
from src.config.settings import Settings
from src.evaluation.blend import (
    Blend,
    BlendScorer,
    FeatureSource,
    _derivatives,
    _fit,
    blended,
    feature_names,
    fit_blend,
    fit_targets,
    mean_weights,
    without_parts,
)
from src.evaluation.path_scores import fit_count_models, model_scorer
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan, rank_targets
from src.evaluation.targets import split_targets
from tests.support.builders import make_dataset, make_model, random_users

SIZES = (6, 5, 9, 4)
CPU = torch.device("cpu")


def choices(weights, count, items=30, seed=0):
    """Features [n, m, F] and items chosen by a softmax of their weighted sum."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(count, items, len(weights))).astype(np.float32)
    logits = table @ np.array(weights) + rng.gumbel(size=(count, items))
    return torch.from_numpy(table), torch.from_numpy(logits.argmax(1)), torch.zeros(items)


def test_the_fit_finds_the_weights_that_the_choices_were_made_with():
    weights = np.array([1.0, -0.5, 0.0])
    fit, information = _fit(*choices(weights, 3000), np.array([1.0, 0.0, 0.0]), 1e-3 * np.eye(3))
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    assert (errors < 0.05).all()
    assert (np.abs(fit - weights) < 3.5 * errors).all()


def test_the_derivatives_are_those_of_the_likelihood():
    table, target, log_share = choices([1.0, 0.3], 70)  # more than one part
    table, log_share = table.double(), torch.linspace(-1, 0, 30).double()
    weights = torch.tensor([0.4, -0.2], dtype=torch.float64)

    def loss(parameters):
        logits = table @ parameters - log_share
        return torch.nn.functional.cross_entropy(logits, target, reduction="sum")

    value, slope, curvature = _derivatives(table, target, log_share, weights.numpy())
    assert value == pytest.approx(loss(weights).item())
    expected = torch.autograd.functional.jacobian(loss, weights)
    np.testing.assert_allclose(slope, expected, rtol=1e-9)
    expected = torch.autograd.functional.hessian(loss, weights)
    np.testing.assert_allclose(curvature, expected, rtol=1e-9)


def test_the_mean_weighs_each_domain_by_its_information():
    certain, vague, prior = 1000 * np.eye(2), 0.01 * np.eye(2), np.eye(2)
    fits = [
        (np.array([1.0, 0.0]), certain),
        (np.array([1.2, 0.2]), certain),
        (np.array([-9.0, 9.0]), vague),
    ]
    centre = np.array([1.0, 0.0])
    np.testing.assert_allclose(mean_weights(fits, centre, prior), [1.1, 0.1], atol=0.001)
    np.testing.assert_allclose(mean_weights([], centre, prior), centre)


def test_a_fit_without_evidence_stays_where_the_other_domains_are():
    centre = np.array([1.1, 0.1])
    fit, _ = _fit(*choices([1.0, -0.5], 1), centre, np.eye(2))
    assert np.abs(fit - centre).max() < 1
    nothing = torch.zeros(5, 30, 2), torch.zeros(5, dtype=torch.long), torch.zeros(30)
    fit, information = _fit(*nothing, centre, np.eye(2))
    assert (fit == centre).all() and (information == 0).all()


def test_a_feature_that_separates_keeps_its_weight_beside_a_domain_where_it_does_not():
    """In one domain nobody takes a marked item, in the other half do: the information about the
    first is the smaller, the clearer it is."""
    rng = np.random.default_rng(0)
    marked = torch.from_numpy((rng.random((400, 20, 1)) < 0.2).astype(np.float32))
    marked[:, :2, 0] = torch.tensor([0.0, 1.0])
    never = torch.zeros(400, dtype=torch.long)
    half = (torch.arange(400) % 2).long()
    prior, centre = np.eye(1), np.zeros(1)
    tables = [(marked, target, torch.zeros(20)) for target in (never, half)]
    fits = [_fit(*table, centre, prior) for table in tables]
    centre = mean_weights(fits, centre, prior)
    assert centre > 0
    (first,), (second,) = (_fit(*table, centre, prior)[0] for table in tables)
    assert first < -1.5 and second > 1


@pytest.fixture(scope="module")
def world():
    """A dataset with an item that no one trains on, an untrained model, and its features."""
    users = [user for user in random_users(5, 60, SIZES) if len(user[0]) > 2]
    users = [([8 if item == 7 else item for item in items], domains) for items, domains in users]
    dataset = make_dataset(users, SIZES, held_out=2)
    settings = Settings(hidden=8, max_len=16)
    ensemble = Ensemble([make_model(dataset, dtype=torch.float32).eval()])
    targets = split_targets(dataset, "valid")
    plan = Plan(dataset, targets, ("full", "released"), {})

    def source(rows, counts):
        paths = {
            path: model_scorer(ensemble, settings, plan, rows, path, bar=False)
            for path in settings.paths
        }
        return FeatureSource(plan, paths, counts)

    return dataset, targets, source


def test_the_scores_are_the_weighted_features_for_any_columns(world):
    dataset, targets, source = world
    counts = fit_count_models(dataset, Settings(joint_transitions=True))
    rows = np.arange(len(targets.events))
    features = source(rows, counts)
    weights = np.random.default_rng(0).normal(size=(len(SIZES), len(features.names)))
    scorer = BlendScorer(Blend(features.names, weights), features).of(rows)
    for domain in range(len(SIZES)):
        values = torch.stack(features.of(rows).of(rows, domain)(slice(None)), dim=2)
        assert values.isfinite().all()
        whole = scorer.scores(rows, domain)(slice(None))
        expected = values @ torch.from_numpy(weights[domain]).float()
        torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
        for columns in (slice(1, 3), torch.tensor([2, 0, 2])):
            some = scorer.scores(rows, domain)(columns)
            torch.testing.assert_close(some, whole[:, columns], rtol=1e-5, atol=1e-5)
    # single items of every domain, each by the weights of its own
    items = np.random.default_rng(1).integers(1, dataset.item_rows, (len(rows), 7))
    asked = rows % len(SIZES)
    pairs = scorer.pairs(asked, items)
    domains = np.searchsorted(dataset.item_starts, items, side="right") - 1
    for row, column in np.ndindex(items.shape):
        domain = int(domains[row, column])
        one = torch.tensor([items[row, column] - dataset.item_starts[domain]])
        expected = scorer.scores(rows[[row]], domain, int(asked[row]))(one)[0, 0]
        assert pairs[row, column] == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_the_variants_are_ranked_as_blends_that_lack_the_part(world):
    """And the blend itself as without them, under every protocol."""
    dataset, targets, source = world
    counts, rows = fit_count_models(dataset, Settings()), np.arange(len(targets.events))
    features = source(rows, counts)
    weights = np.random.default_rng(0).normal(size=(len(SIZES), len(features.names)))
    plan = Plan(dataset, targets, ("full", "full_all"), {})

    def ranked(names, blend=None):
        """By the features of these count models alone, or by a blend of all."""
        own = source(rows, {name: counts[name] for name in names})
        columns = [features.names.index(name) for name in own.names]
        blend = blend or Blend(own.names, weights[:, columns])
        return rank_targets(BlendScorer(blend, own), plan, rows, list(plan.blocks(rows)))

    def same(one, other):
        return (one.better == other.better).all() and (one.tied == other.tied).all()

    whole = Blend(features.names, weights)
    actual, expected = ranked(counts, without_parts(whole, counts)), ranked(counts)
    assert list(actual) == ["full", "full_all", "trend", "habit", "trend and habit"]
    assert all(same(actual[name], expected[name]) for name in expected)
    kept = {
        "trend": ("popularity", "markov", "own"),
        "habit": ("popularity", "markov", "recent", "covisit"),
        "trend and habit": ("popularity", "markov"),
    }
    for name, models in kept.items():
        assert same(actual[name], ranked(models)["full"])
        assert (actual[name].candidates == expected["full"].candidates).all()
        assert not same(actual[name], expected["full"])


def test_a_blend_without_a_part_has_no_variant_of_it():
    models = {name: load(path) for name, path in COUNT_MODELS.items()}

    def variants(names):
        used = {name: models[name] for name in names}
        features = feature_names(("cross",), used)
        return without_parts(Blend(features, np.ones((2, len(features)))), used).variants

    assert variants(["popularity", "markov"]) == {}
    assert list(variants(["popularity", "own"])) == ["habit"]
    assert list(variants(["covisit", "markov"])) == ["trend"]
    weights = variants(["own", "recent"])["trend"]  # cross, had, own log count, three of `recent`
    assert weights.tolist() == [[1, 1, 1, 0, 0, 0]] * 2


def test_a_path_says_nothing_of_items_that_it_was_not_trained_on(world):
    """Its scores are centred over the items with training events; the others have 0."""
    dataset, targets, source = world
    rows = np.arange(len(targets.events))
    cross = source(rows, {}).of(rows).of(rows, 1)(slice(None))[0]
    trained = dataset.training_counts[7:12] > 0
    assert not trained[0] and trained[1:].all()
    assert (cross[:, 0] == 0).all()
    assert (cross[:, 1:] != 0).all()
    torch.testing.assert_close(cross.sum(1), torch.zeros(len(rows)), atol=1e-5, rtol=0)


def test_the_cross_view_stands_in_where_the_single_view_is_empty(world):
    dataset, targets, source = world
    rows = np.arange(len(targets.events))
    cross, single = source(rows, {}).of(rows).of(rows, 2)(slice(None))
    knows = [
        2 in dataset.domains[dataset.offsets[user] : end]
        for user, end in zip(targets.users, targets.ends, strict=True)
    ]
    assert 0 < sum(knows) < len(knows)
    assert ((cross == single).all(1) == ~torch.tensor(knows)).all()


def test_sampled_items_give_the_weights_of_all(world, monkeypatch):
    dataset, targets, source = world
    counts = {"popularity": Popularity.fit(dataset), "own": Own.fit(dataset)}
    monkeypatch.setattr("src.evaluation.blend.PRIOR", 0.3)  # few targets: else anything fits

    def fit():
        rows = fit_targets(targets)
        return fit_blend(source(rows, counts), rows, 0).weights

    of_all = fit()
    assert np.array_equal(of_all, fit())
    monkeypatch.setattr("src.evaluation.blend.FIT_ITEMS", 6)  # of nine in one domain
    sampled = fit()
    assert not np.array_equal(sampled, of_all)
    np.testing.assert_allclose(sampled, of_all, atol=0.1)


def test_settings_leave_count_models_out():
    models = dict.fromkeys(("popularity", "markov", "recent", "own", "covisit"))
    everything = list(blended(models, Settings()))
    assert everything == list(models)
    assert list(blended(models, Settings(trend=False))) == ["popularity", "markov", "own"]
    assert list(blended(models, Settings(trend=False, repeat=False))) == ["popularity", "markov"]
