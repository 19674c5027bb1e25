"""Whether γ predicts the transfer: Spearman's ρ, its interval, and when there is a verdict."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from src.report.transfer import captions
from src.report.transfer.gamma_correlation import correlation
from src.report.transfer.summary import correlation_sentence
from tests.support.run_folders import Log
from tests.support.transfer_runs import Analysed, write_models


def points(domains: int, seeds: int, sign: float, noise: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    rows = [
        ("log", f"d{domain:02d}", seed, 0.1 * domain, sign * domain + noise * rng.normal())
        for domain in range(domains)
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(rows, columns=["data", "domain", "seed", "share", "transfer"])
    return frame.assign(transfer_paired=np.nan)


@pytest.mark.parametrize(
    ("domains", "sign", "noise", "verdict", "words"),
    [
        (12, 1, 1.0, "positive", "γ predicts the order."),
        (12, -1, 1.0, "negative", "γ predicts the opposite order."),
        (12, 0, 1.0, "inconclusive", "inconclusive (the interval contains 0)."),
        (9, 1, 0.0, "inconclusive", "ρ = +1.00 over 9 domains (9 points): inconclusive (fewer"),
        (12, 0, 0.0, "inconclusive", "have no rank correlation over"),
        (1, 1, 0.0, "inconclusive", "have no rank correlation over"),
    ],
)
def test_the_correlation_is_judged_only_where_it_can_be(domains, sign, noise, verdict, words):
    actual = correlation(points(domains, 1, sign, noise))
    assert actual.verdict == verdict
    assert words in correlation_sentence(actual)
    assert ("inconclusive" in correlation_sentence(actual).lower()) == (verdict == "inconclusive")


def test_the_correlation_is_spearmans_with_ties():
    rows = points(11, 3, 0.3, 2.0).round(1)
    assert correlation(rows).rho == pytest.approx(spearmanr(rows.share, rows.transfer).statistic)


def test_seeds_of_a_domain_are_no_new_evidence():
    one = points(12, 1, 0.3, 2.0)
    five = pd.concat([one.assign(seed=seed) for seed in range(5)], ignore_index=True)
    first, second = correlation(one), correlation(five)
    assert (first.low, first.high) == pytest.approx((second.low, second.high))
    assert (first.clusters, second.clusters, second.points) == (12, 12, 60)


@pytest.mark.parametrize("domains", [2, 5, 9, 10])
def test_few_domains_have_no_interval(domains):
    actual = correlation(points(domains, 3, 1.0))
    assert actual.rho == pytest.approx(1)
    assert np.isfinite([actual.low, actual.high]).all() == (domains >= 10)
    sentence = correlation_sentence(actual)
    assert (" to " in sentence) == (domains >= 10)
    assert ("so there is no interval either" in sentence) == (domains < 10)


def test_resamples_of_one_value_are_counted_and_left_out():
    rows = points(10, 3, 1.0)
    rows.loc[rows.domain != "d09", ["share", "transfer"]] = 0.0  # a third of resamples lack d09
    actual = correlation(rows)
    assert 0 < actual.used < actual.resamples
    caption = captions.correlation_caption(rows, actual)
    assert f"{actual.resamples - actual.used} of 2000 resamples have no rank correlation" in caption


def test_points_without_a_predictor_take_no_part():
    rows = points(12, 1, 1.0)
    rows.loc[3, "share"] = np.nan
    assert correlation(rows).clusters == 11


def test_points_pair_the_seeds_that_all_have(tmp_path):
    log = Log(domains=("A", "B"), users=30)
    folders = write_models(tmp_path, log, seeds=(1, 2), gaps={"A": 0.3})
    without = [path for path in folders if path.name != "tiny-cdsr-seed2"]
    assert set(Analysed(without).points.seed) == {1}
    apart = [path for path in without if path.name != "tiny-cdsr-seed1"]
    (cdsr,) = write_models(tmp_path / "other", log, seeds=(3,), modes=("cdsr",))
    actual = Analysed([*apart, cdsr])
    assert actual.points.empty
    assert actual.prediction == "Inconclusive: the models share no seed."
    assert "share no seed" in captions.correlation_caption(actual.points, actual.within)
