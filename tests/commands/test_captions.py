"""What the negative-transfer report says: what was measured, and no more than is significant."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from src.report.finished_runs import read_runs
from src.report.formatting import join_some
from src.report.transfer import captions, differences, training_history
from src.report.transfer.data_sets import data_sets, measure
from src.report.transfer.figure_style import distinct, label, short
from src.report.transfer.gamma_correlation import correlation, correlation_points
from src.report.transfer.sensitivity import beyond_accuracy, protocol_table
from src.report.transfer.summary import (
    against_both,
    correlation_sentence,
    planted_line,
    served_sentences,
    significance_phrase,
    summary_lines,
)
from tests.support.run_folders import Log, write_run
from tests.support.transfer_runs import write_models

LOG = Log(domains=("Up", "Flat", "Down"), users=360)
PLANTED = {"Up": 1.5, "Down": -1.5}
GAPS = {"Up": 0.3, "Flat": 0.0, "Down": -0.3}


class Analysed:
    """A data set with the tables that the sentences are made from."""

    def __init__(self, folders, metric="ndcg@10"):
        (self.data,) = data_sets(read_runs(folders))
        self.measured = measure(self.data, metric)
        self.levels = differences.levels(self.data, self.measured)
        self.differences = differences.differences(self.data, self.measured)
        self.trajectories = training_history.trajectories(self.data)
        self.points = correlation_points(self.data, self.measured)
        self.within = correlation(self.points)
        lines = summary_lines(self.data, self.differences, self.points, self.within, metric)
        self.summary = dict(lines)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Two seeds; the log's notes claim the contrary of what the runs measure."""
    notes = {"planted_relatedness": json.dumps({"Up": 0, "Flat": 0.5, "Down": 1})}
    folders = write_models(
        tmp_path_factory.mktemp("planted"), LOG, transfer=PLANTED, gaps=GAPS, seeds=(1, 2),
        notes=notes,
    )  # fmt: skip
    return Analysed(folders)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """One seed of models that are alike, and no gap anywhere."""
    log = Log(domains=("Up", "Down"), users=100)
    return Analysed(write_models(tmp_path_factory.mktemp("nothing"), log))


def test_the_summary_names_the_domains_by_what_was_measured(planted):
    assert planted.summary["Gained from cross-domain training"].startswith("Up +")
    assert "Down" not in planted.summary["Gained from cross-domain training"]
    assert planted.summary["Hurt by it"].startswith("Down −")
    assert planted.summary["No significant difference"].startswith("Flat ")
    assert planted.summary["Did φ and γ predict it?"].startswith(
        "φ has the sign of the difference in 2 of 2 domains with a significant difference "
        "(Up and Down)."
    )
    assert planted.summary["Seeds"].startswith("2 seeds per model, averaged")
    assert "Not in this report" not in planted.summary


def test_what_was_planted_has_its_own_line(planted):
    line = planted_line(planted.data, planted.differences, planted.trajectories)
    assert "relatedness Down 1, Flat 0.5 and Up 0" in line
    assert line.endswith(
        "Its rank correlation over 3 domains is −1.00 with the measured Δ and −1.00 with D·γ at "
        "the last epoch."
    )


@pytest.mark.parametrize("note", ["no JSON", "[1]", '{"Up": "much"}', '{"Up": 1, "Down": 1}'])
def test_a_note_that_plants_nothing_is_left_alone(planted, note, monkeypatch):
    monkeypatch.setitem(planted.data.card["notes"], "planted_relatedness", note)
    assert planted_line(planted.data, planted.differences, planted.trajectories) == ""


def test_captions_describe_planted_transfer(planted):
    forest = captions.forest_caption(planted.data, planted.differences)
    assert forest.startswith("Compared with SDSR, CDSR gains in Up (+")
    assert ") and loses in Down (−" in forest
    assert forest.endswith("); no significant difference in Flat.")
    levels = captions.levels_caption(planted.data, planted.levels, planted.differences)
    assert levels.endswith("significantly positive in 1 and significantly negative in 1.")
    gamma = captions.gamma_caption(planted.trajectories)
    assert gamma == "At the last epoch D·γ is highest in Up (2.00) and lowest in Down (0.27)."
    phi = captions.phi_caption(planted.data, planted.trajectories)
    assert phi == (
        "At the last epoch φ is positive in Up (the cross task has the lower training loss) and "
        "negative in Down; it has no clear sign in Flat."
    )
    overall = captions.transfer_map_caption(planted.data, planted.differences)
    sure = (planted.differences[planted.differences.domain.isin(LOG.domains)].p_holm < 0.05).sum()
    assert overall.startswith(f"{sure} of 12 differences by domain are significant; the largest ")
    assert "CDSR − SDSR in Up (+0." in overall


def test_without_any_difference_every_sentence_says_so(nothing):
    assert nothing.summary["Gained from cross-domain training"] == "No domain."
    assert nothing.summary["Hurt by it"] == "No domain."
    assert "would be detected in 80 %" in nothing.summary["No significant difference"]
    assert "not shown to be better than both" in nothing.summary["SyNCRec against both"]
    assert nothing.summary["Did φ and γ predict it?"].startswith(
        "No domain has a significant difference whose sign φ could predict. Inconclusive: "
    )
    forest = captions.forest_caption(nothing.data, nothing.differences)
    assert forest.startswith("CDSR does not differ significantly from SDSR in any of 2 domains.")
    assert "significantly positive in 0" in captions.levels_caption(
        nothing.data, nothing.levels, nothing.differences
    )
    assert "None of the 8 differences" in captions.transfer_map_caption(
        nothing.data, nothing.differences
    )
    assert "within 5 % of uniform" in captions.gamma_caption(nothing.trajectories)
    phi = captions.phi_caption(nothing.data, nothing.trajectories)
    assert phi.startswith("At the last epoch φ has no clear sign in ")
    claim = captions.correlation_caption(nothing.points, nothing.within)
    assert claim == "Inconclusive: D·γ and Δ have no rank correlation over 2 domains (2 points)."


def test_one_seed_is_mentioned_under_each_figure_based_on_it(nothing, planted):
    for analysed, expected in ((nothing, True), (planted, False)):
        data, curves = analysed.data, training_history.curves(analysed.data)
        sentences = [
            captions.forest_caption(data, analysed.differences),
            captions.levels_caption(data, analysed.levels, analysed.differences),
            captions.transfer_map_caption(data, analysed.differences),
            captions.gamma_caption(analysed.trajectories),
            captions.phi_caption(data, analysed.trajectories),
            captions.curves_caption(data, curves),
            captions.beyond_caption(data, beyond_accuracy(data)),
            captions.protocols_caption(data, protocol_table(data, "ndcg@10")),
        ]
        assert all(("Based on one seed" in sentence) == expected for sentence in sentences)
    assert nothing.summary["Seeds"].startswith("One seed per model")


def test_seeds_that_disagree_on_gamma_are_mentioned(planted):
    rows = planted.trajectories.copy()
    swap = {"Up": "Down", "Down": "Up", "Flat": "Flat"}
    rows.loc[rows.seed == 2, "domain"] = rows.domain[rows.seed == 2].map(swap)
    rows.loc[rows.seed == 2, "share"] *= 1.01
    assert "The seeds disagree on which domains these are." in captions.gamma_caption(rows)


def test_training_that_ends_at_its_best_epoch_is_mentioned(planted):
    curves = training_history.curves(planted.data)
    caption = captions.curves_caption(planted.data, curves)
    assert "CDSR 0.0800 (epoch 4)" in caption
    assert "so possibly undertrained: SDSR, CDSR" in caption
    falls = curves.assign(value=1 / curves.epoch)
    assert "undertrained" not in captions.curves_caption(planted.data, falls)


def test_small_groups_are_marked_and_not_judged(planted):
    rows = pd.DataFrame(
        {
            "first": "cdsr", "second": "sdsr", "group": ["tail", "middle", "head"],
            "difference": [0.01, -0.02, 0.5], "low": 0.0, "high": 0.1,
            "p_holm": [0.6, 0.01, 0.001], "n": [50, 20, 19],
        }
    )  # fmt: skip
    sentence = captions.groups_caption(planted.data, rows)
    assert sentence == (
        "CDSR − SDSR: tail +0.0100 and middle −0.0200; significant for middle. "
        "Too few targets to judge: head (n = 19)."
    )
    alike = captions.groups_caption(planted.data, rows.assign(p_holm=0.9))
    assert alike.startswith(
        "CDSR − SDSR: tail +0.0100 and middle −0.0200; no difference is significant."
    )
    few = captions.groups_caption(planted.data, rows.assign(n=3))
    assert few.startswith("No group has enough targets to judge.")


def test_a_protocol_that_changes_the_sign_is_mentioned(planted):
    values = {
        "full": {"sdsr": 0.1, "cdsr": 0.2, "cross": 0.3},
        "sampled": {"sdsr": 0.5, "cdsr": 0.4, "cross": 0.3},
    }
    table = pd.DataFrame(
        [
            (protocol, key, "macro", value, 9)
            for protocol, by_key in values.items()
            for key, value in by_key.items()
        ],
        columns=["protocol", "ranker", "domain", "value", "n"],
    )
    assert captions.protocols_caption(planted.data, table) == (
        "CDSR − SDSR is above 0 only under full. Highest mean over domains: SyNCRec cross (full) "
        "and SDSR (sampled). Not tested for significance."
    )
    full = captions.protocols_caption(planted.data, table[table.protocol == "full"])
    assert "above 0 under every protocol." in full and "SyNCRec cross (all protocols)" in full
    sampled = captions.protocols_caption(planted.data, table[table.protocol == "sampled"])
    assert sampled.startswith("CDSR − SDSR is above 0 under no protocol.")


def test_the_overlap_is_of_the_smaller_domain():
    overlap = {
        "A": {"A": 100, "B": 10, "C": 30},
        "B": {"A": 10, "B": 10, "C": 1},
        "C": {"A": 30, "B": 1, "C": 40},
    }
    assert captions.overlap_caption({"overlap": overlap}) == (
        "A and B share the largest part of the smaller domain's users (100.0 %), B and C the "
        "smallest (10.0 %)."
    )
    alike = {"A": {"A": 100, "B": 5}, "B": {"A": 5, "B": 10}}
    assert captions.overlap_caption({"overlap": alike}) == (
        "Every two domains share 50.0 % of the users of the smaller one."
    )
    assert "only one domain" in captions.overlap_caption({"overlap": {"A": {"A": 3}}})


def test_the_served_path_is_named_by_seed(planted):
    sentence = served_sentences(planted.data, planted.differences)
    assert sentence.startswith("Compared with SDSR, the mean over domains changes by +")
    assert "Significant gains: Up. Significant losses: Down." in sentence
    assert sentence.endswith("Domains served by the single path: Flat (seeds 1 and 2).")


MACRO = {"domain": "macro", "low": -0.01, "high": 0.03, "p_holm": 1.0}
VERDICTS = {
    "better": ({"difference": 0.02, "p": 0.01}, "significantly better than {}"),
    "worse": ({"difference": -0.02, "p": 0.01}, "significantly worse than {}"),
    "neither": ({"difference": 0.02, "p": 0.5}, "not significantly different from {}"),
}


@pytest.mark.parametrize("first", VERDICTS)
@pytest.mark.parametrize("second", VERDICTS)
def test_the_comparison_with_both_is_a_sentence_for_every_verdict(planted, first, second):
    pairs = (("sdsr", "SDSR", first), ("cdsr", "CDSR", second))
    rows = pd.DataFrame(
        [{"first": "cross", "second": key, **MACRO, **VERDICTS[name][0]} for key, _, name in pairs]
    )
    phrases = [
        f"{VERDICTS[name][1].format(label)} "
        f"({'+' if VERDICTS[name][0]['difference'] > 0 else '−'}0.0200, −0.0100 to +0.0300, "
        f"p = {VERDICTS[name][0]['p']:.3f})"
        for _, label, name in pairs
    ]
    shown = "" if first == second == "better" else "not shown to be "
    assert against_both(planted.data, rows) == (
        f"In the mean over domains, its cross path is {phrases[0]} and {phrases[1]}, so it is "
        f"{shown}better than both. In no domain is it significantly better than both."
    )


def test_domains_better_than_both_are_named(planted):
    up = planted.differences.copy()
    chosen = (up["first"] == "cross") & up.domain.isin(["Up", "Flat"])
    up.loc[chosen, "difference"], up.loc[chosen, "p_holm"] = 0.1, 0.001
    text = against_both(planted.data, up)
    assert text.endswith("It is significantly better than both in Up and Flat.")


def test_every_combination_of_outcomes_is_a_sentence(planted):
    signs = {"gains": (0.1, 0.001), "loses": (-0.1, 0.001), "neither": (0.1, 0.9)}
    expected = {
        ("gains", "gains", "gains"): "gains in Up (+0.1000), Flat (+0.1000) and Down (+0.1000).",
        ("loses", "loses", "neither"): (
            "loses in Up (−0.1000) and Flat (−0.1000); no significant difference in Down."
        ),
        ("gains", "loses", "loses"): (
            "gains in Up (+0.1000) and loses in Flat (−0.1000) and Down (−0.1000)."
        ),
    }
    for outcomes, end in expected.items():
        rows = pd.DataFrame(
            [
                ("cdsr", "sdsr", domain, *signs[outcome], 0.01)
                for domain, outcome in zip(LOG.domains, outcomes, strict=True)
            ],
            columns=["first", "second", "domain", "difference", "p_holm", "detectable"],
        )
        assert captions.forest_caption(planted.data, rows) == f"Compared with SDSR, CDSR {end}"


@pytest.mark.parametrize("p", [0.0, 0.049, 0.05, 1.0])
def test_significance_needs_p_below_five_percent(p):
    assert ("not significantly" in significance_phrase(0.1, p, "CDSR")) == (p >= 0.05)


def test_other_models_are_named_and_left_out(tmp_path, planted):
    log = Log(domains=("Up", "Down"), users=100)
    folders = write_models(tmp_path, log)
    folders.append(write_run(tmp_path / "gru-seed1", log, model="gru4rec", mode="cdsr", seed=1))
    analysed = Analysed(folders)
    assert analysed.summary["Not in this report"].startswith(
        "gru-seed1 (gru4rec cdsr): it compares"
    )
    assert len(analysed.data.runs) == 3
    assert set(analysed.levels.ranker) == {"sdsr", "cdsr", "cross", "single", "served"}


# ---------------------------------------------------------------- γ and transfer


def points(domains: int, seeds: int, sign: float, noise: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    rows = [
        ("log", f"d{domain:02d}", seed, 0.1 * domain, sign * domain + noise * rng.normal())
        for domain in range(domains)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["data", "domain", "seed", "share", "transfer"])


@pytest.mark.parametrize(
    ("domains", "sign", "noise", "verdict", "words"),
    [
        (12, 1, 1.0, "positive", "γ predicts the order."),
        (12, -1, 1.0, "negative", "γ predicts the opposite order."),
        (12, 0, 1.0, "inconclusive", "inconclusive (the interval contains 0)."),
        (9, 1, 0.0, "inconclusive", "inconclusive (fewer than 10 domains)."),
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


def test_resamples_of_one_value_are_counted_and_left_out():
    actual = correlation(points(2, 3, 1.0))
    assert 0 < actual.used < actual.resamples
    caption = captions.correlation_caption(points(2, 3, 1.0), actual)
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
    assert actual.summary["Did φ and γ predict it?"] == "Inconclusive: the models share no seed."
    assert "share no seed" in captions.correlation_caption(actual.points, actual.within)


# ---------------------------------------------------------------- names


def test_long_lists_and_names_are_shortened_and_stay_apart():
    assert join_some(["a", "b", "c", "d", "e"]) == "a, b, c, d and e"
    assert join_some(list("abcdefg")) == "a, b, c, d and 3 more"
    assert short("x" * 10 + "middle" + "y" * 10, 11) == "xxxxx…yyyyy"
    assert label("Grocery_and_Gourmet_Food") == "Grocery_and_\nGourmet_Food"
    assert all(len(row) <= 16 for row in label("word " * 30).split("\n"))
    texts = distinct(["same name 1", "other", "same name 2"], lambda name: name[:9])
    assert list(texts.values()) == ["1: same name", "other", "3: same name"]
