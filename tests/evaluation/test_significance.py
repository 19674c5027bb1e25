"""The statistics keep their promises: computed by hand, by other methods, and in simulation."""

import warnings
from itertools import product

import numpy as np
import pytest
from scipy import stats

from src.statistics import resampling
from src.statistics.bootstrap import estimates
from src.statistics.comparison import compare
from src.statistics.holm import holm
from tests.support import simulated_comparisons as simulations

NAMES = ["A", "B", "empty", "C"]


def random_targets(seed=0, users=80, targets=200):
    """first, second, users, domains of targets in three of the four domains; half are equal."""
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, targets))
    second = np.where(rng.random(targets) < 0.5, first, second)
    return first, second, rng.integers(users, size=targets), rng.choice([0, 1, 3], size=targets)


def numbers(found):
    """The fields of every entry as one array, in the order of the keys."""
    return np.array([list(vars(entry).values()) for entry in found.values()], dtype=float)


def test_means_by_hand():
    values, users, domains = [1.0, 0.0, 0.5, 0.25, 0.25], [4, 4, 7, 9, 4], [0, 0, 1, 3, 3]
    intervals = estimates(values, users, domains, NAMES)
    assert list(intervals) == ["A", "B", "C", "macro", "users"]
    assert [entry.value for entry in intervals.values()] == pytest.approx(
        [0.5, 0.5, 0.25, 1.25 / 3, 0.4]
    )
    assert [entry.n for entry in intervals.values()] == [2, 1, 2, 5, 5]
    pairs = compare(values, [0.0] * 5, users, domains, NAMES)
    assert [pair.difference for pair in pairs.values()] == [
        entry.value for entry in intervals.values()
    ]
    assert [pair.targets for pair in pairs.values()] == [2, 1, 2, 5, 5]
    assert [pair.users for pair in pairs.values()] == [1, 1, 2, 3, 3]


def test_a_macro_mean_without_small_domains_is_that_of_the_others_alone():
    """Its error and p too, but for the draws: as if the small ones' targets were not there."""
    rows = [column[:150] for column in random_targets()]
    small = np.random.default_rng(1).permutation(150)[:20]
    rows[3] = np.where(np.isin(np.arange(150), small), 3, rows[3] % 2)  # 3: few targets
    with_all = compare(*rows, NAMES)
    without = compare(*rows, NAMES, least=21)
    alone = compare(*(column[rows[3] != 3] for column in rows), NAMES)
    assert list(without) == list(with_all) == ["A", "B", "C", "macro", "users"]
    for name in without.keys() - {"macro"}:
        assert without[name] == with_all[name]
    macro, expected = without["macro"], alone["macro"]
    assert macro.difference == pytest.approx(expected.difference, abs=1e-15)
    assert macro.difference != with_all["macro"].difference
    assert (macro.targets, macro.users) == (expected.targets, expected.users)
    assert macro.error == pytest.approx(expected.error, rel=0.1)
    assert macro.p == pytest.approx(expected.p, abs=0.03)
    means = estimates(rows[0], *rows[2:], NAMES, least=21)
    assert means["macro"].value == pytest.approx((means["A"].value + means["B"].value) / 2)
    assert means["macro"].n == means["A"].n + means["B"].n


def test_a_domain_with_one_user_has_no_interval_nor_has_the_macro_mean_with_it():
    intervals = estimates([1.0, 0.0, 0.5, 0.25, 0.25], [4, 4, 7, 9, 4], [0, 0, 1, 3, 3], NAMES)
    undefined = {
        name for name, entry in intervals.items() if np.isnan([entry.low, entry.error]).all()
    }
    assert undefined == {"A", "B", "macro"}
    assert intervals["C"].low == intervals["C"].high == 0.25


def test_the_interval_of_a_mean_is_that_of_a_plain_bootstrap():
    values = np.random.default_rng(3).gamma(1.0, size=60)
    intervals = estimates(values, np.arange(60), np.zeros(60, int), ["A"], resamples=4000)["A"]
    plain = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=9)
    assert intervals.error == pytest.approx(plain.standard_error, rel=0.04)
    width = plain.confidence_interval.high - plain.confidence_interval.low
    assert intervals.low == pytest.approx(plain.confidence_interval.low, abs=0.06 * width)
    assert intervals.high == pytest.approx(plain.confidence_interval.high, abs=0.06 * width)


def test_standard_errors_are_those_of_sums_over_users():
    """With many users the bootstrap meets the delta method, a user's targets taken together."""
    first, second, users, domains = random_targets(users=300, targets=1500)
    differences = compare(first, second, users, domains, NAMES, resamples=8000)
    difference, parts = first - second, []
    for number in (0, 1, 3):
        rows = domains == number
        centred = np.bincount(
            users[rows], weights=difference[rows] - difference[rows].mean(), minlength=300
        )
        parts.append(centred / rows.sum())
    everything = np.bincount(users, weights=difference - difference.mean()) / len(users)
    expected = [np.sqrt((part**2).sum()) for part in (*parts, np.mean(parts, axis=0), everything)]
    assert [pair.error for pair in differences.values()] == pytest.approx(expected, rel=0.05)
    reach = [pair.high - pair.difference for pair in differences.values()]
    assert reach == pytest.approx(1.96 * np.array(expected), rel=0.06)
    assert [pair.detectable for pair in differences.values()] == pytest.approx(
        2.8016 * np.array(expected), rel=0.05
    )


@pytest.mark.parametrize("kind", ["real numbers", "hits"])
def test_p_is_the_share_of_all_sign_flips_at_least_as_far_from_zero(kind):
    """Ten users in two domains: all 1,024 flips, each of all of a user's targets."""
    rng = np.random.default_rng(5)
    values = rng.normal(0.2, 1, 20) if kind == "real numbers" else rng.choice([-1, 0, 1], 20) / 3
    users, domains = np.repeat(np.arange(10), 2), np.tile([0, 0, 0, 1], 5)
    differences = compare(values, np.zeros(20), users, domains, ["A", "B"], permutations=40_000)
    weights = {"A": (domains == 0) / 15, "B": (domains == 1) / 5}
    weights |= {"macro": (weights["A"] + weights["B"]) / 2, "users": np.full(20, 1 / 20)}
    signs = np.array(list(product([-1, 1], repeat=10)))
    for name, weight in weights.items():
        shares = np.bincount(users, weights=values * weight)
        flipped, observed = np.abs(signs @ shares), abs(shares.sum())
        exact = np.mean(flipped >= observed - 1e-12)
        assert differences[name].p == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 40_000)), name


def test_sums_that_are_equal_count_as_equal_whatever_their_last_digits():
    """An odd number of ±0.1: no flips bring the sum nearer to 0 than 0.1, where it stands."""
    values = np.where(np.arange(2001) % 2, -0.1, 0.1)
    users, domains = np.arange(2001), np.zeros(2001, int)
    assert compare(values, 0 * values, users, domains, ["A"], permutations=500)["A"].p == 1


def test_the_least_p_counts_the_data_as_one_of_the_draws():
    differences = compare(np.ones(50), np.zeros(50), np.arange(50), np.zeros(50, int), ["A"],
                    permutations=99)  # fmt: skip
    assert differences["A"].p == differences["macro"].p == differences["users"].p == 1 / 100


def test_equal_models_and_lone_users_give_no_warning_and_no_finding():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = compare([0.5, 0.2, 0.0], [0.5, 0.2, 0.0], [0, 1, 2], [0, 0, 1], ["A", "B"])
        lone = compare([0.5, 0.2], [0.1, 0.1], [3, 3], [0, 1], ["A", "B"])
        one = estimates([0.5], [0], [0], ["A"])
    for name in ("A", "users"):
        pair = same[name]
        assert (pair.difference, pair.low, pair.high, pair.error, pair.p) == (0, 0, 0, 0, 1)
    assert all(pair.p == 1 for pair in [*same.values(), *lone.values()])
    for entry in [*lone.values(), *one.values()]:
        assert np.isnan([entry.low, entry.high, entry.error]).all()
    assert lone["macro"].difference == pytest.approx(0.25)
    assert np.isnan(lone["macro"].detectable)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        estimates([np.nan], [0], [0], ["A"])
    with pytest.raises(ValueError, match="2 users"):
        estimates([1.0], [0, 1], [0], ["A"])


def test_the_same_seed_gives_the_same_numbers_and_sides_change_only_the_sign():
    data = random_targets()
    actual, again = (compare(*data, NAMES, seed=3) for _ in range(2))
    assert actual == again
    other = compare(*data, NAMES, seed=4)
    assert other["macro"].error != actual["macro"].error
    assert other["macro"].error == pytest.approx(actual["macro"].error, rel=0.1)
    turned = compare(data[1], data[0], *data[2:], NAMES, seed=3)
    for name, pair in actual.items():
        assert turned[name].difference == pytest.approx(-pair.difference)
        assert turned[name].high == pytest.approx(-pair.low)
        assert turned[name].p == pair.p


def test_neither_the_order_of_the_rows_nor_the_block_size_matters(monkeypatch):
    data = random_targets()
    differences = compare(*data, NAMES)
    order = np.random.default_rng(1).permutation(len(data[0]))
    np.testing.assert_allclose(
        numbers(compare(*(column[order] for column in data), NAMES)),
        numbers(differences),
        atol=1e-12,
    )
    monkeypatch.setattr(resampling, "BLOCK", 500)  # six users' samples at a time
    by_block = compare(*data, NAMES)
    for name, pair in differences.items():
        assert by_block[name].low == pytest.approx(pair.low)
        assert by_block[name].p == pytest.approx(pair.p, abs=0.03)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.02, 0.02, 0.9]), [0.06, 0.06, 0.9])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([0.3]) == [0.3]


def within(happened, promised, at):
    """Whether a share of simulations keeps a promise up to chance (99.9 %)."""
    low, high = simulations.bounds(promised, len(happened), at)
    return low <= np.mean(happened) <= high


@pytest.fixture(scope="module")
def alike():
    """Samples of 200 users on whom two models are alike; values as sparse as NDCG@10."""
    return simulations.simulate(simulations.make_population("sparse", 0), 200, 300)


def test_alike_models_are_found_different_in_five_percent(alike):
    for column in (-2, -1):  # macro, users
        assert within(alike.p[:, column] <= 0.05, 0.05, "about")


def test_intervals_hold_the_truth_in_95_percent(alike):
    for column in (-2, -1):
        assert within(alike.covered[:, column], 0.95, "about")


def test_holm_keeps_the_chance_of_any_false_finding():
    population = simulations.make_population("dense", 0)
    p = simulations.simulate(population, 200, 300).p[:, :3]
    assert within([holm(row).min() <= 0.05 for row in p], 0.05, "most")
    assert not within(p.min(1) <= 0.05, 0.05, "most")  # as it would be without


@pytest.mark.nightly
def test_the_detectable_difference_is_found_in_80_percent():
    population = simulations.make_population("sparse", 2 * simulations.GAIN)
    simulation = simulations.simulate(population, population.needed_users(), 200)
    assert simulation.detectable == pytest.approx(population.truth[-1], rel=0.05)
    assert within(simulation.p[:, -1] <= 0.05, 0.8, "about")
    assert within(simulation.covered[:, -1], 0.95, "about")


def test_targets_of_one_user_are_no_independent_witnesses():
    population = simulations.make_population("clustered", 0)
    simulation = simulations.simulate(population, 100, 200)
    naive = simulations.simulate(population, 100, 200, by_target=True)
    assert within(simulation.p[:, -1] <= 0.05, 0.05, "about")
    assert within(simulation.covered[:, -1], 0.95, "about")
    assert not within(naive.p[:, -1] <= 0.05, 0.05, "most")
    assert not within(naive.covered[:, -1], 0.95, "least")
