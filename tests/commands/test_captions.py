"""What the negative-transfer report says: what was measured, and no more than is significant."""

import itertools
import json
import re
from functools import cache

import pandas as pd
import pytest

from src.config.names import COUNT_MODELS
from src.report.formatting import join_some
from src.report.transfer import captions, differences, target_groups, training_history
from src.report.transfer.figure_style import distinct, label, short
from src.report.transfer.next_steps import next_steps
from src.report.transfer.sensitivity import beyond_accuracy, protocol_table
from src.report.transfer.summary import (
    against_both,
    planted_line,
    prediction_sentences,
    served_sentences,
    significance_phrase,
    summary,
)
from tests.support.run_folders import RISING, Log, write_run
from tests.support.transfer_runs import Analysed, write_models

LOG = Log(domains=("Up", "Flat", "Down"), users=360)
PLANTED = {"Up": 1.5, "Down": -1.5}
GAPS = {"Up": 0.3, "Flat": 0.0, "Down": -0.3}


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


def test_the_box_names_the_domains_by_what_was_measured(planted):
    assert planted.outcomes["Up"] == "gained" and planted.outcomes["Down"] == "hurt"
    assert planted.outcomes["Flat"] == "no significant difference"
    assert list(planted.outcomes) == [*LOG.domains, "mean over domains"]  # the mean comes last
    words = re.fullmatch(
        r"Gained: Up \(\+\d+ %\)\. Hurt: Down \(−\d+ %\)\. Cannot tell: Flat\.",
        planted.box.headline,
    )
    assert words
    assert planted.prediction.startswith(
        "φ has the sign of the difference in 2 of 2 domains with a significant difference "
        "(Up and Down)."
    )
    assert planted.summary["Seeds"].startswith("2 seeds per model, averaged")
    assert planted.summary["Training"] == "Every compared model was trained to the end."
    assert "Not in this report" not in planted.summary
    assert "Did φ and γ predict it?" not in planted.summary  # fewer than ten domains


def test_a_domain_stands_with_both_levels_and_the_relative_change(planted):
    row = planted.box.verdicts[0]
    level = planted.levels.set_index(["ranker", "domain"]).value
    own, joined = level["sdsr", "Up"], level["cdsr", "Up"]
    change = f"{100 * (joined / own - 1):+.0f} %"
    shown = [f"{value:.3f}" if value >= 0.1 else f"{value:.4f}" for value in (own, joined)]
    assert row.text("alone", "joined").startswith(
        f"Up: {shown[0][1:]} alone, {shown[1][1:]} joined: {change} (+0."
    )
    assert row.text("alone", "joined").endswith(": gained")


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
    assert forest.startswith("Compared with the paired model, the joined model gains in Up (.")
    assert " %) and loses in Down (." in forest
    assert forest.endswith(" %); no significant difference in Flat.")
    levels = captions.levels_caption(planted.data, planted.levels, planted.differences)
    assert levels.endswith("significantly positive in 1 and significantly negative in 1.")
    gamma = captions.gamma_caption(planted.trajectories)
    assert gamma == (
        "At the last epoch D·γ is highest in Up (2.00) and lowest in Down (0.27). γ weighs the "
        "losses with --gap training alone; it is measured in every run."
    )
    phi = captions.phi_caption(planted.data, planted.trajectories)
    assert phi == (
        "At the last epoch φ is positive in Up (the cross task has the lower training loss) and "
        "negative in Down; it has no clear sign in Flat."
    )


def test_without_any_difference_every_sentence_says_so(nothing):
    assert nothing.box.headline == ("Gained: no domain. Hurt: no domain. Cannot tell: Up and Down.")
    text = nothing.box.verdicts[0].text("alone", "joined")
    assert "; detectable: 0." in text
    assert text.endswith(": cannot tell: no significant difference")
    assert "not shown to be better than both" in nothing.summary["SyNCRec against both"]
    assert nothing.prediction.startswith(
        "No domain has a significant difference whose sign φ could predict. Inconclusive: "
    )
    forest = captions.forest_caption(nothing.data, nothing.differences)
    assert forest.startswith(
        "The joined model does not differ significantly from the paired model in any of 2 domains."
    )
    assert "would be detected in 80 %" in forest
    assert "significantly positive in 0" in captions.levels_caption(
        nothing.data, nothing.levels, nothing.differences
    )
    assert "within 5 % of uniform" in captions.gamma_caption(nothing.trajectories)
    phi = captions.phi_caption(nothing.data, nothing.trajectories)
    assert phi.startswith("At the last epoch φ has no clear sign in ")
    claim = captions.correlation_caption(nothing.points, nothing.within)
    assert claim == "Inconclusive: D·γ and Δ have no rank correlation over 2 domains (2 points)."


def test_the_seeds_are_spoken_of_once(nothing, planted):
    for analysed in (nothing, planted):
        data, curves = analysed.data, training_history.curves(analysed.data)
        groups = target_groups.group_differences(data, analysed.measured)
        sentences = [
            captions.forest_caption(data, analysed.differences),
            captions.levels_caption(data, analysed.levels, analysed.differences),
            captions.gamma_caption(analysed.trajectories),
            captions.phi_caption(data, analysed.trajectories),
            captions.curves_caption(data, curves),
            captions.groups_caption(data, groups[groups.grouping == "history"]),
            captions.beyond_caption(data, beyond_accuracy(data)),
            captions.protocols_caption(data, protocol_table(data, "ndcg@10")),
        ]
        assert not any("seed" in sentence.lower() for sentence in sentences)
        words = "\n".join(analysed.box.text())
        assert words.count("another seed") + words.count("seeds per model") == 1
    assert nothing.summary["Seeds"].startswith("One seed per model")


def test_seeds_that_disagree_on_gamma_are_mentioned(planted):
    rows = planted.trajectories.copy()
    swap = {"Up": "Down", "Down": "Up", "Flat": "Flat"}
    rows.loc[rows.seed == 2, "domain"] = rows.domain[rows.seed == 2].map(swap)
    rows.loc[rows.seed == 2, "share"] *= 1.01
    assert "The seeds disagree on which domains these are." in captions.gamma_caption(rows)


def test_the_best_epochs_and_what_still_rose_stand_under_the_curves(planted, tmp_path):
    caption = captions.curves_caption(planted.data, training_history.curves(planted.data))
    assert caption == (
        "Best epoch by validation NDCG@10: on its own (paired) 4 of 4, joined 4 of 4 and SyNCRec "
        "cross 4 of 4. All are flat at the end."
    )
    folders = write_models(tmp_path, Log(users=60), modes=("sdsr", "syncrec"))
    folders += write_models(tmp_path, Log(users=60), modes=("cdsr",), curve=RISING)
    data = Analysed(folders).data
    caption = captions.curves_caption(data, training_history.curves(data))
    assert caption.endswith("Not trained to the end: joined.")


def test_small_groups_are_marked_and_not_judged(planted):
    rows = pd.DataFrame(
        {
            "first": "cdsr", "second": "sdsr", "group": ["tail", "middle", "head"],
            "difference": [0.01, -0.02, 0.5], "low": 0.0, "high": 0.1,
            "relative": 0.1, "p_holm": [0.6, 0.01, 0.001], "n": [50, 20, 19], "withheld": "",
        }
    )  # fmt: skip
    sentence = captions.groups_caption(planted.data, rows)
    assert sentence == (
        "Joined − on its own (paired): tail +0.0100 (+10 %) and middle −0.0200 (+10 %); "
        "significant for middle. "
        "Too few targets to judge: head (n = 19)."
    )
    alike = captions.groups_caption(planted.data, rows.assign(p_holm=0.9))
    assert alike.startswith(
        "Joined − on its own (paired): tail +0.0100 (+10 %) and middle −0.0200 (+10 %); no "
        "difference is significant."
    )
    withheld = captions.groups_caption(planted.data, rows.assign(withheld="why"))
    assert "; no verdict, because a model was not trained to the end." in withheld
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
        "Joined − on its own (paired) is above 0 only under full. Highest mean over domains: "
        "SyNCRec cross (full) and on its own (paired) (sampled). Not tested for significance."
    )
    markov = pd.DataFrame([("full", "markov", "macro", 0.9, 9)], columns=table.columns)
    assert "Highest mean over domains: markov (full) and" in captions.protocols_caption(
        planted.data, pd.concat([table, markov])
    )
    full = captions.protocols_caption(planted.data, table[table.protocol == "full"])
    assert "above 0 under every protocol." in full and "SyNCRec cross (all protocols)" in full
    sampled = captions.protocols_caption(planted.data, table[table.protocol == "sampled"])
    assert sampled.startswith("Joined − on its own (paired) is above 0 under no protocol.")


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
    assert sentence.startswith("Compared with the paired model, the mean over domains changes by +")
    assert "Significant gains: Up. Significant losses: Down." in sentence
    assert sentence.endswith("Domains served by the single path: Flat (seeds 1 and 2).")


MACRO = {
    "domain": "macro", "low": -0.01, "high": 0.03, "first_value": 0.12, "second_value": 0.1,
    "relative": 0.2, "detectable": 0.01, "withheld": "", "n": 50, "users": 50,
}  # fmt: skip
VERDICTS = {
    "better": ({"difference": 0.02, "p": 0.01}, "significantly better than {}"),
    "worse": ({"difference": -0.02, "p": 0.01}, "significantly worse than {}"),
    "neither": ({"difference": 0.02, "p": 0.5}, "not significantly different from {}"),
    "withheld": (
        {"difference": 0.02, "p": 0.01, "withheld": "why"},
        "not comparable with {} (not trained to the end)",
    ),
}


@pytest.mark.parametrize("first", VERDICTS)
@pytest.mark.parametrize("second", VERDICTS)
def test_the_comparison_with_both_is_a_sentence_for_every_verdict(planted, first, second):
    pairs = (("sdsr", "the paired model", first), ("cdsr", "the joined model", second))
    values = {key: MACRO | VERDICTS[name][0] for key, _, name in pairs}
    rows = pd.DataFrame(
        [
            {"first": "cross", "second": key, "p_holm": row["p"], **row}
            for key, row in values.items()
        ]
    )
    phrases = []
    for key, model, name in pairs:
        row, words = values[key], VERDICTS[name][1].format(model)
        sign = "+" if row["difference"] > 0 else "−"
        evidence = f"{sign}0.0200, −0.0100 to +0.0300, p = {row['p']:.3f}"
        shown = f" (.120 against .100, +20 %: {evidence})"
        phrases.append(words + (shown if name != "withheld" else ""))
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


OUTCOMES = {"gains": (0.1, 0.001, ""), "loses": (-0.1, 0.001, ""), "neither": (0.1, 0.9, ""),
            "withheld": (0.1, 0.001, "joined: its warm-up")}  # fmt: skip


def with_outcomes(analysed, by_domain, macro="neither"):
    """The differences of a data set, in all comparisons with these outcomes of the domains."""
    rows = analysed.differences.copy()
    for domain, name in [*by_domain.items(), ("macro", macro), ("users", macro)]:
        chosen = rows.domain == domain
        difference, p, withheld = OUTCOMES[name]
        rows.loc[chosen, ["difference", "p", "p_holm"]] = difference, p, p
        rows.loc[chosen, ["first_value", "second_value"]] = 0.2 + difference, 0.2
        rows.loc[chosen, "relative"] = difference / 0.2
        rows.loc[chosen, "withheld"], rows.loc[chosen, "untrained"] = withheld, "joined"
    return rows


GAIN, LOSS = "(.200 to .300, +50 %)", "(.200 to .100, −50 %)"
FOREST = {
    ("gains", "gains", "gains"): f"gains in Up {GAIN}, Flat {GAIN} and Down {GAIN}.",
    ("loses", "loses", "neither"): (
        f"loses in Up {LOSS} and Flat {LOSS}; no significant difference in Down."
    ),
    ("gains", "loses", "loses"): f"gains in Up {GAIN} and loses in Flat {LOSS} and Down {LOSS}.",
    ("gains", "withheld", "neither"): (
        f"gains in Up {GAIN}; no significant difference in Down; no verdict in Flat, because not "
        "trained to the end."
    ),
}


@pytest.mark.parametrize("outcomes", FOREST)
def test_every_combination_of_outcomes_is_a_sentence(planted, outcomes):
    rows = with_outcomes(planted, dict(zip(LOG.domains, outcomes, strict=True)))
    assert captions.forest_caption(planted.data, rows) == (
        f"Compared with the paired model, the joined model {FOREST[outcomes]}"
    )


def test_without_any_verdict_the_sentence_says_so(planted):
    rows = with_outcomes(planted, dict.fromkeys(LOG.domains, "withheld"))
    assert captions.forest_caption(planted.data, rows) == (
        "No verdict in Up, Flat and Down, because not trained to the end."
    )


FAULTS = re.compile(
    r"  |\bis (cannot|is|not to be)|\b(\w+) \2\b|\(\)|[;,:] ?[.;,](?!\d)|\.\.|\bnan\b"
    r"|\b(in|of|than|with|from|and|the)[.;,:)]|\b(of|with|than) (on its own|joined)\b"
    r"|\b1 (domain|point|seed|target|user|epoch|step)s\b|\b[02-9] (domain|point|seed|user)\b"
    r"|\w+ and [^.:;]+, a look-up table, is\b"
)


def assert_grammatical(sentences):
    for sentence in map(str.strip, sentences):
        assert not FAULTS.search(sentence), sentence
        assert sentence.count("(") == sentence.count(")"), sentence


WORDS = {
    "gains": "gained",
    "loses": "hurt",
    "neither": "cannot tell: no significant difference",
    "withheld": "cannot tell: not trained to the end (joined)",
}


@pytest.mark.parametrize(
    "macro",
    [
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("gains", "loses", "neither")),
        "withheld",
    ],
)
def test_every_sentence_is_grammatical_with_every_verdict(planted, macro):
    """No doubled words, empty brackets or lists, or verdicts that do not fit their verb."""
    for outcomes in itertools.product(OUTCOMES, repeat=3):
        rows = with_outcomes(planted, dict(zip(LOG.domains, outcomes, strict=True)), macro)
        args = planted.data, planted.levels, rows
        box = summary(*args, planted.points, planted.within, "ndcg@10")
        by_outcome = differences.by_outcome(differences.of_pair(rows, "cdsr", "sdsr"))
        sentences = [
            *box.text(),
            captions.forest_caption(planted.data, rows),
            captions.levels_caption(*args),
            prediction_sentences(by_outcome, planted.points, planted.within),
        ]
        assert_grammatical(sentences)
        assert all(sentence.endswith(".") for _, sentence in box.topics)
        assert [row.words for row in box.verdicts] == [WORDS[one] for one in (*outcomes, macro)]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """(domains, seeds) -> a data set of so many."""

    @cache
    def made(domains, seeds):
        log = Log(domains=tuple("ABCDEFGHIJKL"[:domains]), users=60)
        folder = tmp_path_factory.mktemp("made")
        gaps, numbers = {"A": 0.3}, tuple(range(1, seeds + 1))
        return Analysed(write_models(folder, log, transfer={"A": 1.5}, gaps=gaps, seeds=numbers))

    return made


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize(("domains", "seeds"), [(1, 1), (1, 2), (2, 1), (12, 1)])
def test_every_sentence_is_grammatical_for_any_number_of_domains(analysed, domains, seeds, outcome):
    made = analysed(domains, seeds)
    data, names = made.data, made.data.domains
    rows = with_outcomes(made, dict.fromkeys(names[: domains - 1] or names, outcome), outcome)
    by_outcome = differences.by_outcome(differences.of_pair(rows, "cdsr", "sdsr"))
    groups = target_groups.group_differences(data, made.measured)
    protocols = protocol_table(data, "ndcg@10")
    assert_grammatical(
        [
            *summary(data, made.levels, rows, made.points, made.within, "ndcg@10").text(),
            captions.forest_caption(data, rows),
            captions.levels_caption(data, made.levels, rows),
            captions.gamma_caption(made.trajectories),
            captions.phi_caption(data, made.trajectories),
            captions.curves_caption(data, training_history.curves(data)),
            captions.overlap_caption(data.card),
            *(captions.groups_caption(data, part) for _, part in groups.groupby("grouping")),
            captions.beyond_caption(data, beyond_accuracy(data)),
            captions.protocols_caption(data, protocols[protocols.protocol == "full"]),
            captions.correlation_caption(made.points, made.within),
            prediction_sentences(by_outcome, made.points, made.within),
        ]
    )


@pytest.mark.parametrize("ranker", ["sdsr", "cdsr", "cross", "served", "markov"])
def test_the_sentence_on_coverage_names_any_model(planted, ranker):
    table = beyond_accuracy(planted.data)
    table.loc[table.ranker == ranker, "value"] *= 2
    assert_grammatical([captions.beyond_caption(planted.data, table)])
    table.loc[table.ranker == ranker, "value"] /= 4
    assert_grammatical([captions.beyond_caption(planted.data, table)])


@pytest.mark.parametrize(
    ("winners", "words"),
    [
        (("markov",), "markov, a look-up table, is significantly better than the trained models; "
                      "train those further, or serve that table."),
        (("popularity", "markov"), "popularity and markov, look-up tables, are significantly "
                      "better than the trained models; train those further, or serve one of these "
                      "tables."),
    ],
)  # fmt: skip
def test_the_look_up_tables_that_win_are_named_in_one_sentence(planted, winners, words):
    rows = planted.differences.copy()
    beaten = rows.second.isin(winners) & (rows.domain == "Flat")
    rows.loc[beaten, ["difference", "p", "p_holm"]] = -0.1, 0.001, 0.001
    steps = [what for what, _ in next_steps(planted.data, rows)]
    assert f"Flat: {words}" in steps


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
    assert set(analysed.levels.ranker) == {
        "sdsr", "cdsr", "cross", "single", "served", *COUNT_MODELS,
    }  # fmt: skip


# ---------------------------------------------------------------- names


def test_long_lists_and_names_are_shortened_and_stay_apart():
    assert join_some(["a", "b", "c", "d", "e"]) == "a, b, c, d and e"
    assert join_some(list("abcdefg")) == "a, b, c, d and 3 more"
    assert short("x" * 10 + "middle" + "y" * 10, 11) == "xxxxx…yyyyy"
    assert label("Grocery_and_Gourmet_Food") == "Grocery_and_\nGourmet_Food"
    assert all(len(row) <= 16 for row in label("word " * 30).split("\n"))
    texts = distinct(["same name 1", "other", "same name 2"], lambda name: name[:9])
    assert list(texts.values()) == ["1: same name", "other", "3: same name"]
