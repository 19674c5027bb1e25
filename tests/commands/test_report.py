"""Tables from run folders: every value once, baselines first, protocols side by side."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from src.config.names import COUNT_MODELS
from src.evaluation.metrics import target_metrics
from src.io.errors import UserError
from src.report.finished_runs import domain_means, read_runs
from src.report.parquet_rows import read_rows
from src.report.protocols import candidates
from src.report.seed_groups import group_seeds
from src.report.transfer.data_sets import data_sets
from tests.support.report_commands import cells_of, refusal, run_report
from tests.support.run_folders import PROTOCOLS, Log, write_old_run, write_run


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------ table


def test_the_table_has_a_row_a_path_and_the_baseline_once_and_first(tmp_path, monkeypatch, capsys):
    other = write_old_run(tmp_path / "b", value=0.4, loss="bce")
    runs = [write_old_run(tmp_path / "a", value=0.2), other]
    head, *rows = cells_of(run_report(monkeypatch, capsys, "table", *runs))
    assert [row[:3] for row in rows] == [
        ["popularity", "", ""], ["CDSR", "a", "cross"], ["CDSR", "b", "cross"]
    ]  # fmt: skip
    assert rows[1][3:] == [".2000 / .4000", ".1000 / .2000", ".1500 / .3000", ".1200 / .2400"]
    assert head[:4] == ["model", "run", "path", "d1 (n = 7)"]


def test_macro_means_side_by_side_are_over_the_same_domains(tmp_path, monkeypatch, capsys):
    """The run that asks for the most targets of a domain decides for all."""
    log = Log(domains=("A", "B", "C"), users=60)
    counts = log.targets["test"].groupby("domain").size()
    least = int(counts.min()) + 1
    runs = [
        write_run(tmp_path / "a", log, mode="cdsr", min_domain_targets=least),
        write_run(tmp_path / "b", log, gains={"cross": {"A": 3.0}}),
    ]
    (_, run) = read_runs(runs)
    expected = domain_means(run.values("test", "full", "cross", "mrr"), least)["macro"]
    assert expected != pytest.approx(run.scores("test", "full", "cross")["macro"]["mrr"], abs=1e-4)
    text = run_report(monkeypatch, capsys, "table", *runs, "--metrics", "mrr")
    head, *rows = cells_of(text)
    column = next(number for number, name in enumerate(head) if name.startswith("macro"))
    assert head[column] == f"macro (n = {counts[counts >= least].sum()})"
    shown = {tuple(row[1:3]): row[column] for row in rows}
    assert shown["b", "cross"] == f"{expected:.4f}".removeprefix("0")
    text = run_report(monkeypatch, capsys, "protocols", *runs, "--metrics", "mrr")
    head, *rows = cells_of(text)
    (full,) = (row for row in rows if row[0] == "`full`")
    assert full[head.index("b:cross")].startswith(f"{expected:.4f}")


def test_a_table_shows_the_served_path_and_any_protocol(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "a", Log(), gains={"cross": 1.0})
    text = run_report(
        monkeypatch, capsys, "table", run, "--protocol", "full_all", "--metrics", "mrr"
    )
    rows = {(row[1], row[2]): row[3:] for row in cells_of(text)[1:]}
    assert list(rows)[1:] == [("a", "cross"), ("a", "single"), ("a", "served")]
    assert rows["a", "served"][0] == rows["a", "cross"][0]
    assert rows["a", "served"][1] == rows["a", "single"][1]
    value = read_runs([run])[0].scores("test", "full_all", "cross")["macro"]["mrr"]
    assert rows["a", "cross"][2] == f"{value:.4f}".removeprefix("0")


def test_the_files_hold_every_value_of_every_split(tmp_path, monkeypatch, capsys):
    run = write_old_run(tmp_path / "a", value=0.2)
    text = run_report(monkeypatch, capsys, "table", run, "--out", tmp_path / "out" / "tau0.1")
    assert (tmp_path / "out" / "tau0.1.md").read_text() in text
    rows = read_csv(tmp_path / "out" / "tau0.1.csv")
    assert len(rows) == 2 * 2 * 4 * 3  # splits, paths, domains and means, metrics
    chosen = {"run": "a", "split": "valid", "domain": "macro", "metric": "ndcg@10"}
    (row,) = (row for row in rows if chosen.items() <= row.items())
    assert float(row["value"]) == pytest.approx(0.15)


def test_runs_that_differ_in_the_seed_alone_are_one_row(tmp_path, monkeypatch, capsys):
    runs = [write_run(tmp_path / f"a-seed{seed}", Log(), seed=seed) for seed in (1, 2, 3)]
    text = run_report(monkeypatch, capsys, "table", *runs, "--metrics", "mrr")
    rows = {(row[1], row[2]): row[3:] for row in cells_of(text)[1:]}
    values = [run.scores("test", "full", "cross")["macro"]["mrr"] for run in read_runs(runs)]
    shown = [
        f"{value:.4f}".removeprefix("0") for value in (np.mean(values), np.std(values, ddof=1))
    ]
    assert rows["a", "cross"][-2] == " ± ".join(shown)
    assert " ± " not in cells_of(text)[1][-2]
    assert "standard deviation over seeds (a: 3)" in text


def test_metrics_of_the_top_ten_are_metrics_too(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "a", Log())
    text = run_report(monkeypatch, capsys, "table", run, "--metrics", "coverage@10")
    assert cells_of(text)[1][3:] == [".2500"] * 4


def test_every_command_labels_a_run_by_its_model_and_mode(tmp_path, monkeypatch, capsys):
    runs = [
        write_run(tmp_path / "a", Log(), mode="cdsr"),
        write_run(tmp_path / "b", Log(), mode="cdsr", model="gru4rec"),
        write_run(tmp_path / "c", Log(), mode="sdsr_separate", model="gru4rec"),
    ]
    labels = "Models: a: CDSR; b: gru4rec cdsr; c: gru4rec sdsr_separate."
    text = run_report(monkeypatch, capsys, "table", *runs, "--out", tmp_path / "out")
    rows = [row[:3] for row in cells_of(text)[1 + len(COUNT_MODELS) :]]
    assert rows == [
        ["CDSR", "a", "cross"],
        ["gru4rec cdsr", "b", "cross"],
        ["gru4rec sdsr_separate", "c", "single"],
    ]
    models = {row["run"]: row["model"] for row in read_csv(tmp_path / "out.csv")}
    assert models == {
        "a": "syncrec",
        "b": "gru4rec",
        "c": "gru4rec",
        **dict.fromkeys(COUNT_MODELS, ""),
    }
    text = run_report(monkeypatch, capsys, "compare", *runs)
    assert labels in text
    assert cells_of(text)[0][2:4] == ["a:cross", "b:cross"]
    assert "a:cross − c:single" in text
    text = run_report(monkeypatch, capsys, "protocols", *runs)
    assert labels in text
    assert cells_of(text)[0][-3:] == ["a:cross", "b:cross", "c:single"]


LIMITS = "domain,targets,own,joined\nA,30,.5,.25\nB,30,.25,.8\n"


def test_a_table_shows_the_share_of_each_domains_limit(tmp_path, monkeypatch, capsys):
    runs = [write_run(tmp_path / f"m-seed{seed}", Log(), seed=seed) for seed in (1, 2)]
    (tmp_path / "limits.csv").write_text(LIMITS)
    arguments = ("table", *runs, "--limits", tmp_path / "limits.csv")
    text = run_report(monkeypatch, capsys, *arguments, "--metrics", "hr@10", "ndcg@10")
    row = next(row for row in cells_of(text) if row[2] == "cross")
    for cell, domain, limit in ((row[3], "A", 0.5), (row[4], "B", 0.8)):
        scores = [run.scores("test", "full", "cross")[domain] for run in read_runs(runs)]
        mean = np.mean([score["ndcg@10"] for score in scores])
        hr, ndcg = cell.split(" / ")
        assert ndcg.endswith(f" ({100 * mean / limit:.0f} %)") and "%" not in hr
    assert not any("%" in cell for cell in row[5:])  # means over domains have no limit
    assert "(%): share of the limit" in text
    assert "%" not in run_report(monkeypatch, capsys, "table", *runs)


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        (LIMITS.replace("joined", "other"), [], "limits.csv has no column joined"),
        (LIMITS.replace("B,", "C,"), [], "the domains A and C, the runs have A and B"),
        (LIMITS.replace(".8", ""), ["--split", "valid"], "--limits are of ndcg@10, --split test"),
        (LIMITS, ["--protocol", "sampled"], "--protocol full; show these, or drop --limits"),
        (LIMITS, ["--metrics", "hr@10"], "--limits are of ndcg@10"),
        (LIMITS.replace(".8", "high"), [], "cannot read --limits limits.csv"),
        (LIMITS.replace(".8", "53.4"), [], "the limit 53.4 for B; an NDCG lies"),
        ("", [], "cannot read --limits limits.csv"),
        (None, [], "cannot read --limits limits.csv: [Errno 2]"),
    ],
)
def test_limits_that_are_not_of_the_runs_are_one_line(
    tmp_path, monkeypatch, capsys, text, flags, words
):
    write_run(tmp_path / "a", Log(users=20))
    if text is not None:
        (tmp_path / "limits.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    arguments = ("table", "a", "--limits", "limits.csv", "--out", "out", *flags)
    assert words in refusal(monkeypatch, capsys, tmp_path, *arguments)


TABLE_MISTAKES = {
    "other data": (["a", "other"], "runs a and other were trained on different data"),
    "another split of the data": (
        ["a", "split"], "use different splits (leave_one_out and temporal)",
    ),
    "two runs of one name": (["a", "deep/a"], "two runs are named a"),
    "an interrupted run": (["unfinished"], "run unfinished is not finished (no results.json)"),
    "no run": (["nothing"], "nothing is not a run folder (no config.json)"),
    "an unknown protocol": (
        ["a", "--protocol", "all"], "run a has no protocol all; choose from full, full-unseen",
    ),
    "a protocol that one run lacks": (
        ["a", "old", "--protocol", "full_all"], "run old has no protocol full_all; choose",
    ),
    "an unknown metric": (["a", "--metrics", "auc"], "no run has the metric auc; choose from hr@1"),
    "a folder that is a file": (["a", "--out", "a/config.json/x"], "cannot write --out a/config"),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """A folder of runs that do not go together."""
    folder, log = tmp_path_factory.mktemp("mistakes"), Log(users=20)
    protocols = ("full", "full-unseen", "full_all")
    for name in ("a", "deep/a", "unfinished"):
        write_run(folder / name, log, protocols=protocols)
    (folder / "unfinished" / "results.json").unlink()
    for name, other in (
        ("other", Log(users=20, sha256="bbbb")),
        ("split", Log(users=20, split="temporal", sha256="cccc")),
    ):
        write_run(folder / name, other, protocols=protocols)
    write_old_run(folder / "old", value=0.2)
    return folder


@pytest.mark.parametrize("mistake", TABLE_MISTAKES, ids=lambda name: name.replace(" ", "-"))
def test_a_mistake_in_a_table_is_one_line(mistaken, monkeypatch, capsys, mistake):
    arguments, expected = TABLE_MISTAKES[mistake]
    monkeypatch.chdir(mistaken)
    assert expected in refusal(monkeypatch, capsys, mistaken, "table", *arguments)


# ------------------------------------------------------------------------ protocols


@pytest.fixture
def seeds(tmp_path) -> list[Path]:
    """Two seeds of one model on one log."""
    return [write_run(tmp_path / f"model-seed{seed}", Log(users=150), seed=seed) for seed in (1, 2)]


@cache
def ranks_of(run):
    return pd.read_parquet(run / "ranks.parquet")


def macro(run, protocol, path, ties="expected", metric="ndcg@10"):
    """The macro mean on test, straight from ranks.parquet."""
    ranks = ranks_of(run)
    ranks = ranks[(ranks.split == "test") & (ranks.protocol == protocol) & (ranks.path == path)]
    tied = np.ones(len(ranks)) if protocol.startswith("released") else ranks.tied
    values = target_metrics(ranks.better, tied, ties)[metric]
    return pd.Series(values).groupby(ranks.domain.astype(str).to_numpy()).mean().mean()


def test_protocols_stand_side_by_side_under_both_tie_policies(seeds, monkeypatch, capsys):
    text = run_report(monkeypatch, capsys, "protocols", seeds[0], "--metrics", "ndcg@10")
    head, *rows = cells_of(text)
    name = seeds[0].name
    assert head == ["protocol", "candidates", *COUNT_MODELS,
                    *(f"{name}:{path}" for path in ("cross", "single", "served"))]  # fmt: skip
    assert [row[0] for row in rows] == [f"`{protocol}`" for protocol in PROTOCOLS]
    brackets = 0
    for protocol, row in zip(PROTOCOLS, rows, strict=True):
        for path, cell in zip((*COUNT_MODELS, "cross", "single"), row[2:], strict=False):
            shared, worst = (
                f"{macro(seeds[0], protocol, path, ties):.4f}"
                for ties in ("expected", "pessimistic")
            )
            assert cell == (shared if shared == worst else f"{shared} [{worst}]")
            brackets += shared != worst
    assert brackets
    assert rows[-1][1].startswith("as in the released code")
    assert "[" not in "".join(rows[-1] + rows[-2])  # there ties have but one meaning


def test_protocols_of_several_seeds_are_mean_and_deviation(seeds, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    text = run_report(monkeypatch, capsys, "protocols", *seeds, "--out", out)
    head, *rows = cells_of(text)[: len(PROTOCOLS) + 1]
    each = [macro(run, "sampled", "cross") for run in seeds]
    cell = dict(zip(head, rows[PROTOCOLS.index("sampled")], strict=True))["model:cross"]
    assert cell.startswith(f"{np.mean(each):.4f} ± {np.std(each, ddof=1):.4f}")
    assert dict(zip(head, rows[0], strict=True))["popularity"].count("±") == 0
    assert out.with_suffix(".md").read_text() in text
    values = pd.read_csv(out.with_suffix(".csv"))
    chosen = values[(values.protocol == "full") & (values.path == "single")]
    assert sorted(chosen.ties) == ["expected", "expected", "pessimistic", "pessimistic"]
    worst = chosen[(chosen.ties == "pessimistic") & (chosen.metric == "hr@10")].macro.item()
    assert worst == pytest.approx(
        np.mean([macro(run, "full", "single", "pessimistic", "hr@10") for run in seeds])
    )
    assert set(values[values.protocol.str.startswith("released")].ties) == {"optimistic"}


def test_a_protocol_that_one_model_lacks_is_a_dash(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "a", Log())
    other = write_run(tmp_path / "b", Log(), mode="cdsr", protocols=("full",))
    rows = cells_of(run_report(monkeypatch, capsys, "protocols", run, other))
    assert rows[2][rows[0].index("b:cross")] == "–"
    assert rows[1][rows[0].index("b:cross")] != "–"


def test_protocols_need_the_files_of_today(tmp_path, monkeypatch, capsys):
    old = write_old_run(tmp_path / "old", value=0.2)
    line = refusal(monkeypatch, capsys, tmp_path, "protocols", old)
    assert "ranks.parquet does not exist; run `python main.py --evaluate" in line
    run = write_run(tmp_path / "a", Log())
    ranks = pd.read_parquet(run / "ranks.parquet")
    ranks.drop(columns="target").to_parquet(run / "ranks.parquet")
    line = refusal(monkeypatch, capsys, tmp_path, "protocols", run)
    assert "ranks.parquet was written by an earlier version; run `python main.py --evaluate" in line


def test_what_a_protocol_ranks_among_is_said_in_words(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "a", Log(), sampled_negatives=50)])
    assert candidates("sampled", run) == "50 stored random items of the domain"
    assert (
        candidates("full_all-unseen", run) == "all items of all domains that the user has not had"
    )
    assert candidates("full-unseen-strict", run) == (
        "all items of the domain that the user has not had; "
        "context without events at the target's own time"
    )
    assert candidates("as_listed", run) == (
        "the items that recommend.py lists; a target that it leaves out counts 0"
    )
    assert candidates("another", run) == ""


def test_a_barred_target_counts_0_in_reports_and_is_impossible_elsewhere(
    tmp_path, monkeypatch, capsys
):
    """In compare and protocols, with either tie policy; under `full` no target is barred."""
    folders = [
        write_run(tmp_path / name, Log(), mode=name, protocols=("full", "as_listed"))
        for name in ("cdsr", "sdsr")
    ]
    for folder in folders:
        ranks = pd.read_parquet(folder / "ranks.parquet")
        whole = ranks[ranks.protocol == "as_listed"].index
        ranks.loc[whole, ["better", "tied"]] = [199, 0]
        ranks.to_parquet(folder / "ranks.parquet")
    for run in read_runs(folders):
        path = run.default_path
        for metric in ("mrr", "ndcg@10", "hr@20"):
            for ties in ("expected", "pessimistic"):
                assert not run.values("test", "as_listed", path, metric, ties).value.any()
        assert run.values("test", "full", path, "mrr").value.all()
    flags = ("--protocol=as_listed", "--metric=mrr")
    run_report(monkeypatch, capsys, "compare", *folders, *flags, "--out", tmp_path / "pair")
    rows = pd.read_csv(tmp_path / "pair.csv")
    assert rows.domain.tolist() == ["A", "B", "macro", "users"] and rows.targets.all()
    assert not rows[["first_value", "second_value", "difference"]].any(axis=None)
    ranks.loc[ranks[ranks.protocol == "full"].index[0], "tied"] = 0
    ranks.to_parquet(folders[-1] / "ranks.parquet")
    with pytest.raises(UserError, match=r"has impossible ranks \(better < 0 or tied < 1\)"):
        read_runs(folders[-1:])[0].values("valid", "full", "single", "mrr")


# ------------------------------------------------------------------------ runs


def test_runs_that_differ_in_the_seed_alone_are_one_model(tmp_path):
    log = Log(users=20)
    folders = [
        write_run(tmp_path / "base", log, seed=42, mode="cdsr"),
        write_run(tmp_path / "low-1", log, seed=1, lr=1e-4),
        write_run(tmp_path / "base-seed43", log, seed=43, mode="cdsr", threads=2),
        write_run(tmp_path / "low-2", log, seed=2, lr=1e-4),
    ]
    models = group_seeds(read_runs(folders))
    assert [model.label for model in models] == ["base", "low"]
    assert [[run.seed for run in model.runs] for model in models] == [[42, 43], [1, 2]]


NAMED = {  # the name in the settings, in the card (None: a card of before), and of the data set
    "of --data_dir": ("amazon", "shop", "shop"),
    "a default that was used": ("amazon", "amazon", "amazon"),
    "a dataset that was renamed": ("shop-2024", "shop-2025", "shop-2025"),
    "an old card": ("shop", None, "shop"),
    "letters and signs": ("amazon", "a.b_c-1", "a.b_c-1"),
}


def named_runs(
    folder, settings_name, card_name, sha256="a" * 64, modes=("sdsr", "cdsr", "syncrec")
):
    """Runs whose settings have one name of the data and whose data card has another."""
    log, folders = Log(users=20, name=card_name or "log", sha256=sha256), []
    for mode in modes:
        run = write_run(folder / f"{folder.name}-{mode}", log, mode=mode, protocols=("full",))
        for name, value in (("config.json", settings_name), ("data_card.json", card_name)):
            content = json.loads((run / name).read_text()) | {"data_name": value}
            content = {key: entry for key, entry in content.items() if entry is not None}
            (run / name).write_text(json.dumps(content))
        folders.append(run)
    return folders


@pytest.mark.parametrize("form", NAMED)
def test_a_data_set_has_the_name_of_its_card(tmp_path, form):
    settings_name, card_name, expected = NAMED[form]
    (data,) = data_sets(read_runs(named_runs(tmp_path / "a", settings_name, card_name)))
    assert data.name == expected


def test_a_run_without_a_card_has_the_name_in_its_settings(tmp_path):
    (run,) = named_runs(tmp_path / "a", "shop", "other", modes=("cdsr",))
    (run / "data_card.json").unlink()
    assert read_runs([run])[0].data_name == "shop"


def test_data_sets_of_one_name_in_their_settings_are_reported_together(tmp_path):
    folders = [
        run
        for name in ("one", "two", "three")
        for run in named_runs(tmp_path / name, "amazon", name, sha256=name)
    ]
    assert [data.name for data in data_sets(read_runs(folders))] == ["one", "two", "three"]
    alike = named_runs(tmp_path / "more", "four", "one", sha256="another")
    with pytest.raises(UserError, match="two different data sets named one"):
        data_sets(read_runs([*folders, *alike]))


def test_runs_of_two_models_are_two_models_and_an_old_run_is_the_default_one(tmp_path):
    folders = [
        write_run(tmp_path / "a1", Log(users=20), seed=1),
        write_run(tmp_path / "a2", Log(users=20), seed=2, model="gru4rec"),
    ]
    groups = group_seeds(read_runs([*folders, write_old_run(tmp_path / "old", value=0.2)]))
    assert [group.title for group in groups] == ["SyNCRec", "gru4rec syncrec", "CDSR"]


def test_a_setting_that_is_newer_than_a_run_has_its_default_there(tmp_path):
    folders = [write_run(tmp_path / f"m-{seed}", Log(users=20), seed=seed) for seed in (1, 2)]
    config = json.loads((folders[0] / "config.json").read_text())
    del config["softmax_items"]
    (folders[0] / "config.json").write_text(json.dumps(config))
    assert len(group_seeds(read_runs(folders))) == 1
    config["softmax_items"] = "all"
    (folders[0] / "config.json").write_text(json.dumps(config))
    assert len(group_seeds(read_runs(folders))) == 2


@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_targets_have_the_means_that_the_run_recorded(tmp_path, ties):
    (run,) = read_runs([write_run(tmp_path / "a", Log(users=40), ties=ties)])
    for protocol in PROTOCOLS:
        for path in ("cross", "markov"):
            means = domain_means(run.values("test", protocol, path, "ndcg@10"))
            recorded = run.scores("test", protocol, path)
            assert means == pytest.approx({name: recorded[name]["ndcg@10"] for name in means})


def test_the_order_of_the_rows_of_ranks_means_nothing(tmp_path):
    folder = write_run(tmp_path / "a", Log(users=20))
    (run,) = read_runs([folder])
    before = run.values("test", "full", "cross", "mrr")
    assert before.index.tolist() == list(range(20))
    ranks = pd.read_parquet(folder / "ranks.parquet")
    ranks.sample(frac=1, random_state=1).to_parquet(folder / "ranks.parquet", index=False)
    assert run.values("test", "full", "cross", "mrr").equals(before)
    pd.concat([ranks, ranks]).to_parquet(folder / "ranks.parquet", index=False)
    with pytest.raises(UserError, match="has more than one row for a target"):
        run.values("test", "full", "cross", "mrr")


@pytest.mark.parametrize("layout", [{}, {"row_group_size": 7}, {"write_statistics": False}])
def test_rows_are_found_however_the_file_is_laid_out(tmp_path, layout):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"split": rng.choice(["test", "valid"], 50), "path": rng.choice(["a", "b", "c"], 50),
         "value": rng.random(50)}
    )  # fmt: skip
    frame.astype({"path": "category"}).to_parquet(tmp_path / "x.parquet", **layout)
    expected = frame[(frame.split == "test") & (frame.path == "b")].value.tolist()
    value = {"value": pa.float64()}
    actual = read_rows(tmp_path / "x.parquet", {"split": "test", "path": "b"}, value)
    assert list(actual) == ["value"]
    assert actual.value.tolist() == expected
    assert read_rows(tmp_path / "x.parquet", {"path": "d"}, value).empty
    with pytest.raises(KeyError, match="other"):
        read_rows(tmp_path / "x.parquet", {"path": "b"}, {"other": pa.int64()})
