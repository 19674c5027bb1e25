"""What the negative-transfer report says: what was measured, and no more than is sure."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from src.report import analysis
from src.report import captions as readings
from src.report.compared_paths import data_sets, measure
from src.report.finished_runs import read_runs
from src.report.gamma_claim import claim_points, correlation
from src.report.style import distinct, label, short
from src.report.summary import correlation_words, planted_line, served_words, summary_lines
from src.report.wording import named
from tests.support.run_folders import Log
from tests.support.transfer_runs import write_models

LOG = Log(domains=("Up", "Flat", "Down"), users=360)
PLANTED = {"Up": 1.5, "Down": -1.5}
GAPS = {"Up": 0.3, "Flat": 0.0, "Down": -0.3}


class Read:
    """A data set with the tables that the sentences are made from."""

    def __init__(self, folders, metric="ndcg@10"):
        (self.data,) = data_sets(read_runs(folders))
        self.measured = measure(self.data, metric)
        self.levels = analysis.levels(self.data, self.measured)
        self.differences = analysis.differences(self.data, self.measured)
        self.trajectories = analysis.trajectories(self.data)
        self.points = claim_points(self.data, self.measured)
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
    return Read(folders)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """One seed of models that are alike, and no gap anywhere."""
    log = Log(domains=("Up", "Down"), users=100)
    return Read(write_models(tmp_path_factory.mktemp("nothing"), log))


def test_the_summary_names_the_domains_by_what_was_measured(planted):
    assert planted.summary["Gained from cross-domain training"].startswith("Up +")
    assert "Down" not in planted.summary["Gained from cross-domain training"]
    assert planted.summary["Hurt by it"].startswith("Down −")
    assert planted.summary["Cannot tell"].startswith("Flat ")
    assert "had its sign in 2 (Up and Down)" in planted.summary["Did the model know?"]
    assert "2 seeds a model" in planted.summary["Seeds"]


def test_what_was_planted_stands_in_a_line_of_its_own(planted):
    line = planted_line(planted.data, planted.differences, planted.trajectories)
    assert "relatedness Down 1, Flat 0.5 and Up 0" in line
    assert "measured Δ −1.00, with D·γ at the last epoch −1.00" in line


@pytest.mark.parametrize("note", ["no JSON", "[1]", '{"Up": "much"}', '{"Up": 1, "Down": 1}'])
def test_a_note_that_plants_nothing_is_left_alone(planted, note, monkeypatch):
    monkeypatch.setitem(planted.data.card["notes"], "planted_relatedness", note)
    assert planted_line(planted.data, planted.differences, planted.trajectories) == ""


def test_figures_of_planted_transfer_are_read_right(planted):
    forest = readings.forest_reading(planted.data, planted.differences)
    assert forest.startswith("CDSR − SDSR: gained: Up +")
    assert "hurt: Down −" in forest and forest.endswith("cannot tell: Flat.")
    levels = readings.levels_reading(planted.data, planted.levels, planted.differences)
    assert "significantly above in 1, significantly below in 1" in levels
    gamma = readings.gamma_reading(planted.trajectories)
    assert gamma == "At the last epoch D·γ is highest in Up (2.00), lowest in Down (0.27)."
    phi = readings.phi_reading(planted.data, planted.trajectories)
    assert phi.startswith("At the last epoch φ is positive in Up (")
    assert phi.endswith("negative in Down; of no one sign in Flat.")
    overall = readings.transfer_map_reading(planted.data, planted.differences)
    sure = (planted.differences[planted.differences.domain.isin(LOG.domains)].p_holm < 0.05).sum()
    assert overall.startswith(f"{sure} of 12 differences by domain are significant; the largest ")
    assert "CDSR − SDSR in Up (+0." in overall


def test_where_nothing_is_there_every_reading_says_so(nothing):
    assert nothing.summary["Gained from cross-domain training"] == "No domain."
    assert nothing.summary["Hurt by it"] == "No domain."
    assert "4 times in 5" in nothing.summary["Cannot tell"]
    assert "not shown to be better than both" in nothing.summary["SyNCRec against both"]
    assert "No domain has a sure difference" in nothing.summary["Did the model know?"]
    assert "cannot tell" in nothing.summary["Did the model know?"]
    forest = readings.forest_reading(nothing.data, nothing.differences)
    assert forest.startswith("No significant difference CDSR − SDSR in any of 2 domains.")
    assert "significantly above in 0" in readings.levels_reading(
        nothing.data, nothing.levels, nothing.differences
    )
    assert "None of the 8 differences" in readings.transfer_map_reading(
        nothing.data, nothing.differences
    )
    assert "within 5 % of uniform" in readings.gamma_reading(nothing.trajectories)
    claim = readings.claim_reading(nothing.points, nothing.within)
    assert claim.startswith("Cannot tell: no rank correlation")


def test_one_seed_is_said_under_each_figure_that_rests_on_it(nothing, planted):
    for read, expected in ((nothing, True), (planted, False)):
        data, curves = read.data, analysis.curves(read.data)
        found = [
            readings.forest_reading(data, read.differences),
            readings.levels_reading(data, read.levels, read.differences),
            readings.transfer_map_reading(data, read.differences),
            readings.gamma_reading(read.trajectories),
            readings.phi_reading(data, read.trajectories),
            readings.curves_reading(data, curves),
            readings.beyond_reading(data, analysis.beyond_accuracy(data)),
            readings.protocols_reading(data, analysis.protocol_table(data, "ndcg@10")),
        ]
        assert all(("One seed" in sentence) == expected for sentence in found)
    assert nothing.summary["Seeds"].startswith("One seed a model")


def test_seeds_that_disagree_on_gamma_are_told(planted):
    rows = planted.trajectories.copy()
    swap = {"Up": "Down", "Down": "Up", "Flat": "Flat"}
    rows.loc[rows.seed == 2, "domain"] = rows.domain[rows.seed == 2].map(swap)
    rows.loc[rows.seed == 2, "share"] *= 1.01
    assert "The seeds do not agree on which" in readings.gamma_reading(rows)


def test_training_that_ends_at_its_best_is_told(planted):
    curves = analysis.curves(planted.data)
    reading = readings.curves_reading(planted.data, curves)
    assert "CDSR 0.0800 (epoch 4)" in reading
    assert "perhaps not trained to the end: SDSR, CDSR" in reading
    falls = curves.assign(value=1 / curves.epoch)
    assert "not trained to the end" not in readings.curves_reading(planted.data, falls)


def test_small_groups_are_marked_and_not_judged(planted):
    found = pd.DataFrame(
        {
            "first": "cdsr", "second": "sdsr", "group": ["tail", "middle", "head"],
            "difference": [0.01, -0.02, 0.5], "low": 0.0, "high": 0.1,
            "p_holm": [0.6, 0.01, 0.001], "n": [50, 20, 19],
        }
    )  # fmt: skip
    sentence = readings.groups_reading(planted.data, found)
    assert sentence == (
        "CDSR − SDSR: tail +0.0100 and middle −0.0200; significant in middle. "
        "Too few targets to tell: head (n = 19)."
    )
    alike = readings.groups_reading(planted.data, found.assign(p_holm=0.9))
    assert "no significant difference in any group" in alike
    few = readings.groups_reading(planted.data, found.assign(n=3))
    assert few.startswith("No group is large enough to tell.")


def test_a_protocol_that_turns_the_sign_is_told(planted):
    values = {
        "full": {"sdsr": 0.1, "cdsr": 0.2, "cross": 0.3},
        "sampled": {"sdsr": 0.5, "cdsr": 0.4, "cross": 0.3},
    }
    table = pd.DataFrame(
        [
            (protocol, source, "macro", value, 9)
            for protocol, sources in values.items()
            for source, value in sources.items()
        ],
        columns=["protocol", "source", "domain", "value", "n"],
    )
    assert readings.protocols_reading(planted.data, table) == (
        "CDSR − SDSR is above 0 under full only; highest mean of the domains: SyNCRec cross (full) "
        "and SDSR (sampled). Orders of means, not tested."
    )
    full = readings.protocols_reading(planted.data, table[table.protocol == "full"])
    assert "above 0 under every protocol" in full and "SyNCRec cross under all" in full
    sampled = readings.protocols_reading(planted.data, table[table.protocol == "sampled"])
    assert sampled.startswith("CDSR − SDSR is above 0 under no protocol")


def test_the_overlap_is_of_the_smaller_domain():
    overlap = {
        "A": {"A": 100, "B": 10, "C": 30},
        "B": {"A": 10, "B": 10, "C": 1},
        "C": {"A": 30, "B": 1, "C": 40},
    }
    assert readings.overlap_reading({"overlap": overlap}) == (
        "Of the smaller domain's users the other shares most in A and B (100.0 %), fewest in "
        "B and C (10.0 %)."
    )
    alike = {"A": {"A": 100, "B": 5}, "B": {"A": 5, "B": 10}}
    assert readings.overlap_reading({"overlap": alike}).startswith("Every two domains share 50.0 %")
    assert "one domain" in readings.overlap_reading({"overlap": {"A": {"A": 3}}})


def test_the_served_path_is_named_by_seed(planted):
    sentence = served_words(planted.data, planted.differences)
    assert sentence.startswith("Against SDSR ")
    assert sentence.endswith("By its single path it serves Flat (seeds 1 and 2).")


# ---------------------------------------------------------------- the claim


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
        (12, 1, 1.0, "positive", "γ foretells the order"),
        (12, -1, 1.0, "negative", "γ foretells the opposite order"),
        (12, 0, 1.0, "cannot tell", "the interval holds 0"),
        (9, 1, 0.0, "cannot tell", "fewer than 10 domains"),
        (12, 0, 0.0, "cannot tell", "no rank correlation"),
        (1, 1, 0.0, "cannot tell", "no rank correlation"),
    ],
)
def test_the_claim_is_judged_only_where_it_can_be(domains, sign, noise, verdict, words):
    found = correlation(points(domains, 1, sign, noise))
    assert found.verdict == verdict
    assert words in correlation_words(found)
    assert ("cannot tell" in correlation_words(found)) == (verdict == "cannot tell")


def test_the_correlation_is_spearmans_and_ties_are_allowed():
    rows = points(11, 3, 0.3, 2.0).round(1)
    assert correlation(rows).rho == pytest.approx(spearmanr(rows.share, rows.transfer).statistic)


def test_seeds_of_a_domain_are_no_new_evidence():
    one = points(12, 1, 0.3, 2.0)
    five = pd.concat([one.assign(seed=seed) for seed in range(5)], ignore_index=True)
    first, second = correlation(one), correlation(five)
    assert (first.low, first.high) == pytest.approx((second.low, second.high))
    assert (first.clusters, second.clusters, second.points) == (12, 12, 60)


def test_resamples_of_one_value_are_counted_and_left_out():
    found = correlation(points(2, 3, 1.0))
    assert 0 < found.used < found.resamples
    reading = readings.claim_reading(points(2, 3, 1.0), found)
    assert f"{found.resamples - found.used} of 2000 resamples had no rank correlation" in reading


def test_points_without_a_predictor_take_no_part():
    rows = points(12, 1, 1.0)
    rows.loc[3, "share"] = np.nan
    assert correlation(rows).clusters == 11


def test_points_pair_the_seeds_that_all_have(tmp_path):
    log = Log(domains=("A", "B"), users=30)
    folders = write_models(tmp_path, log, seeds=(1, 2), gaps={"A": 0.3})
    without = [path for path in folders if path.name != "tiny-cdsr-seed2"]
    assert set(Read(without).points.seed) == {1}
    apart = [path for path in without if path.name != "tiny-cdsr-seed1"]
    (cdsr,) = write_models(tmp_path / "other", log, seeds=(3,), modes=("cdsr",))
    found = Read([*apart, cdsr])
    assert found.points.empty
    assert found.summary["Did the model know?"] == "Cannot tell: the models share no seed."
    assert "share no seed" in readings.claim_reading(found.points, found.within)


# ---------------------------------------------------------------- words


def test_long_lists_and_names_are_shortened_and_stay_apart():
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c, d and e"
    assert named(list("abcdefg")) == "a, b, c, d and 3 more"
    assert short("x" * 10 + "middle" + "y" * 10, 11) == "xxxxx…yyyyy"
    assert label("Grocery_and_Gourmet_Food") == "Grocery_and_\nGourmet_Food"
    assert all(len(row) <= 16 for row in label("word " * 30).split("\n"))
    texts = distinct(["same name 1", "other", "same name 2"], lambda name: name[:9])
    assert list(texts.values()) == ["1: same name", "other", "3: same name"]
