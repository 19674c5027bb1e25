"""`report.py compare`: the same targets, seeds averaged first, the uncertainty beside it."""

import shutil

import numpy as np
import pandas as pd
import pytest

from src.evaluation.metrics import target_metrics
from src.report.compare import read_rankers
from src.statistics.comparison import compare
from src.statistics.holm import holm
from tests.support.report_commands import cells_of, refusal, run_report
from tests.support.run_folders import Log, write_old_run, write_run

LOG = Log(domains=("A", "B", "C"), users=240)


def values(run, path, metric="ndcg@10", split="test", protocol="full"):
    """[n] the metric of every target in order, straight from ranks.parquet."""
    ranks = pd.read_parquet(run / "ranks.parquet")
    keep = (ranks.split == split) & (ranks.protocol == protocol) & (ranks.path == path)
    ranks = ranks[keep].sort_values("target")
    return target_metrics(ranks.better, ranks.tied)[metric]


def written(monkeypatch, capsys, tmp_path, *arguments):
    """The text and the CSV of a comparison."""
    out = tmp_path / "out" / "pairs"
    text = run_report(monkeypatch, capsys, "compare", *arguments, "--out", out)
    assert out.with_suffix(".md").read_text() in text
    return text, pd.read_csv(out.with_suffix(".csv")).set_index(["second", "metric", "domain"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: run folder}: SyNCRec better than CDSR in A and B alone, two seeds each; SDSR once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for seed in (1, 2):
        gains = {"cross": {"A": 1.5, "B": 1.5}}
        name = f"syncrec-seed{seed}"
        made[name] = write_run(folder / name, LOG, seed=seed, gains=gains)
        name = f"cdsr-seed{seed}"
        made[name] = write_run(folder / name, LOG, seed=seed, mode="cdsr")
    made["sdsr"] = write_run(folder / "sdsr", LOG, mode="sdsr", seed=7)
    return made


def test_a_planted_difference_is_bold_where_it_was_planted(runs, monkeypatch, capsys):
    text = run_report(
        monkeypatch, capsys, "compare", runs["syncrec-seed1"], runs["cdsr-seed1"]
    )  # fmt: skip
    head, *rows = cells_of(text)
    assert head[:5] == ["metric", "domain", "syncrec-seed1:cross", "cdsr-seed1:cross", "difference"]
    bold = {row[1]: row[4].startswith("**+") for row in rows}
    assert bold == {"A": True, "B": True, "C": False, "macro": True, "users": True}
    assert "**Bold**: p (Holm) < 0.05" in text
    assert sum(int(row[-1]) for row in rows[:3]) == int(rows[3][-1]) == 240


def test_small_domains_are_left_out_of_the_macro_mean_as_the_runs_say(
    tmp_path, monkeypatch, capsys
):
    """The run that asks for more targets decides for both."""
    counts = LOG.targets["test"].groupby("domain").size()
    least = int(counts.min()) + 1
    folders = [
        write_run(tmp_path / "a", LOG, mode="syncrec"),
        write_run(tmp_path / "b", LOG, mode="cdsr", min_domain_targets=least),
    ]
    _, table = written(monkeypatch, capsys, tmp_path, *folders)
    table = table.droplevel(["second", "metric"])
    kept = counts.index[counts >= least]
    assert 0 < len(kept) < len(counts)
    for column in ("first_value", "second_value", "difference"):
        assert table.loc["macro", column] == pytest.approx(table.loc[kept, column].mean())
    assert table.loc["macro", "targets"] == counts[kept].sum()


def test_values_are_averaged_over_seeds_before_users_are_resampled(
    runs, tmp_path, monkeypatch, capsys
):
    order = ["syncrec-seed2", "cdsr-seed1", "syncrec-seed1", "cdsr-seed2"]
    text, actual = written(monkeypatch, capsys, tmp_path, *(runs[name] for name in order))
    targets = LOG.targets["test"]
    sides = {
        mode: np.mean([values(runs[f"{mode}-seed{seed}"], "cross") for seed in (1, 2)], axis=0)
        for mode in ("syncrec", "cdsr")
    }
    domains = targets.domain.map(LOG.domains.index).to_numpy()
    codes = pd.factorize(targets.user_id)[0]
    expected = compare(sides["syncrec"], sides["cdsr"], codes, domains, list(LOG.domains))
    actual = actual.loc["cdsr:cross", "ndcg@10"]
    assert list(actual.index) == list(expected)
    for name, pair in expected.items():
        for column in ("difference", "low", "high", "error", "p", "detectable", "targets", "users"):
            assert actual.loc[name, column] == pytest.approx(getattr(pair, column)), (name, column)
    assert actual.loc["users", "first_value"] == pytest.approx(sides["syncrec"].mean())
    assert actual.loc["users", "second_value"] == pytest.approx(sides["cdsr"].mean())
    assert "syncrec:cross: seeds 2 and 1; cdsr:cross: seeds 1 and 2" in text


def test_the_deviation_over_seeds_is_that_of_the_difference(runs, tmp_path, monkeypatch, capsys):
    folders = [f"{runs['syncrec-seed1']}:single", f"{runs['syncrec-seed2']}:single",
               f"{runs['syncrec-seed1']}:markov", runs["cdsr-seed1"], runs["cdsr-seed2"],
               runs["sdsr"]]  # fmt: skip
    text, actual = written(monkeypatch, capsys, tmp_path, *folders)
    for second, path in (("cdsr:cross", "cross"), ("markov", "markov")):
        other = [runs[f"cdsr-seed{seed}"] for seed in (1, 2)]
        gaps = [
            values(runs[f"syncrec-seed{seed}"], "single").mean() - values(run, path).mean()
            for seed, run in zip((1, 2), other, strict=True)
        ]
        row = actual.loc[second, "ndcg@10", "users"]
        assert row.seeds == 2
        assert row.seed_deviation == pytest.approx(np.std(gaps, ddof=1))
    assert actual.xs("sdsr:single").seed_deviation.isna().all()
    assert text.count("± over 2 seeds") == 2


def test_every_later_model_is_compared_with_the_first(runs, tmp_path, monkeypatch, capsys):
    first = runs["syncrec-seed1"]
    others = [f"{first}:{path}" for path in ("single", "served", "popularity")] + [runs["sdsr"]]
    _, actual = written(monkeypatch, capsys, tmp_path, first, *others)
    labels = ["syncrec-seed1:single", "syncrec-seed1:served", "popularity", "sdsr:single"]
    assert list(actual.index.get_level_values("second").unique()) == labels
    assert set(actual["first"]) == {"syncrec-seed1:cross"}
    # what is served in A is the cross path itself
    served = actual.loc["syncrec-seed1:served", "ndcg@10", "A"]
    assert (served.difference, served.low, served.high, served.p) == (0, 0, 0, 1)


def test_p_is_adjusted_over_domains_and_metrics_and_that_of_means_over_metrics(
    runs, tmp_path, monkeypatch, capsys
):
    metrics = ["ndcg@10", "hr@10", "mrr"]
    _, actual = written(
        monkeypatch, capsys, tmp_path, runs["syncrec-seed1"], runs["sdsr"], "--metric", *metrics
    )
    actual = actual.loc["sdsr:single"].reset_index()
    means = actual.domain.isin(["macro", "users"])
    for family in (
        actual[~means],
        actual[actual.domain == "macro"],
        actual[actual.domain == "users"],
    ):
        np.testing.assert_allclose(family.p_holm, holm(family.p.to_numpy()))
    assert (~means).sum() == 9
    assert (actual.p_holm > actual.p).any()


def test_split_and_protocol_are_those_asked_for(runs, tmp_path, monkeypatch, capsys):
    _, actual = written(
        monkeypatch, capsys, tmp_path, runs["syncrec-seed1"], runs["sdsr"],
        "--split", "valid", "--protocol", "sampled",
    )  # fmt: skip
    expected = values(runs["sdsr"], "single", split="valid", protocol="sampled").mean()
    row = actual.loc["sdsr:single", "ndcg@10", "users"]
    assert row.second_value == pytest.approx(expected)
    assert (row.split, row.protocol) == ("valid", "sampled")


def test_users_with_several_targets_are_the_units(tmp_path, monkeypatch, capsys):
    log = Log(domains=("A", "B", "C"), users=50, per_user=3, split="leave_one_out_per_domain")
    runs = [write_run(tmp_path / f"{mode}", log, mode=mode) for mode in ("cdsr", "sdsr")]
    text, actual = written(monkeypatch, capsys, tmp_path, *runs)
    assert actual.loc["sdsr:single", "ndcg@10", "users"].users == 50
    rows = cells_of(text)[1:]
    assert rows[0][-1] == "50"
    assert rows[-1][-1] == "150 (50 users)"
    assert "*: fewer than 100 users" in text


def test_a_single_user_has_no_interval(tmp_path, monkeypatch, capsys):
    log = Log(domains=("A", "B"), users=1, per_user=2)
    runs = [write_run(tmp_path / mode, log, mode=mode) for mode in ("cdsr", "sdsr")]
    text = run_report(monkeypatch, capsys, "compare", *runs)
    assert all(row[5] == "–*" for row in cells_of(text)[1:])
    assert "–: no interval" in text


def test_the_path_is_what_follows_the_last_colon(tmp_path):
    run = write_run(tmp_path / "a:b", Log(users=20))
    rankers = read_rankers([str(run), f"{run}:served"])
    assert [ranker.name for ranker in rankers] == ["a:b:cross", "a:b:served"]


MISTAKES = {
    "one run": (["a"], "compare needs at least two models, got only a:cross"),
    "seeds of one model": (["a", "seed"], "compare needs at least two models"),
    "the same twice": (["a", "a:cross"], "a:cross is given twice"),
    "a copy": (["a", "copy", "b"], "runs a and copy have the same settings and seed"),
    "other data": (["a", "other"], "runs a and other were trained on different data"),
    "another split": (
        ["a", "split"],
        "runs a and split use different splits (leave_one_out and temporal)",
    ),
    "no run": (["a", "nowhere"], "nowhere is not a run folder (no config.json)"),
    "an unknown path": (
        ["a", "b:single"],
        "run b has no path single; choose from cross, popularity",
    ),
    "a misspelt path": (["a", "b:cros"], "run b has no path cros; choose from cross"),
    "an unknown metric": (["a", "b", "--metric", "auc"], "invalid choice: 'auc'"),
    "an unknown protocol": (
        ["a", "b", "--protocol", "all"],
        "run a has no protocol all; choose from",
    ),
    "an old run": (["a", "old"], "ranks.parquet does not exist; run `python main.py --evaluate"),
    "an interrupted run": (["a", "unfinished"], "run unfinished is not finished (no results.json)"),
    "other targets": (["a", "fewer"], "rank different targets"),
    "a broken file": (["a", "garbled"], "ranks.parquet cannot be read"),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """A folder of runs that do not go together."""
    folder, log = tmp_path_factory.mktemp("mistakes"), Log(users=20)
    few = {"protocols": ("full",)}
    write_run(folder / "a", log, **few)
    write_run(folder / "seed", log, seed=5, **few)
    shutil.copytree(folder / "a", folder / "copy")
    for name in ("b", "unfinished", "fewer", "garbled"):
        write_run(folder / name, log, mode="cdsr", **few)
    write_run(folder / "other", Log(users=20, sha256="bbbb"), **few)
    write_run(folder / "split", Log(users=20, split="temporal"), **few)
    write_old_run(folder / "old", value=0.2)
    (folder / "unfinished" / "results.json").unlink()
    (folder / "garbled" / "ranks.parquet").write_bytes(b"no parquet")
    ranks = pd.read_parquet(folder / "fewer" / "ranks.parquet")
    ranks[ranks.target != 3].to_parquet(folder / "fewer" / "ranks.parquet")
    return folder


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda name: name.replace(" ", "-"))
def test_a_mistake_is_one_line(mistaken, monkeypatch, capsys, mistake):
    arguments, expected = MISTAKES[mistake]
    monkeypatch.chdir(mistaken)
    line = refusal(monkeypatch, capsys, mistaken, "compare", *arguments, "--out", "out/x")
    assert expected in line
