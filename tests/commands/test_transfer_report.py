"""The negative-transfer report: a self-contained page, and numbers that can be checked."""

import base64
import csv
import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import report
from src.config.names import COUNT_MODELS
from src.report.finished_runs import read_runs
from src.report.transfer import differences, figures, sections, tables, training_history
from src.report.transfer.data_sets import data_sets, measure
from src.report.transfer.target_groups import groupings
from tests.support.run_folders import Log
from tests.support.transfer_runs import write_models

MODES = ("sdsr", "sdsr_separate", "cdsr", "syncrec")
LOG = Log(domains=("Arts & <b>Crafts</b>", "$Books_of_all$", "Cars"), users=246, name="one <i>log")
SMALL = Log(domains=("Maps", "Nuts"), users=60, name="two", sha256="bbbb")
NOTES = {"generated": "by a <program>; nobody's behaviour"}


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["report.py", "transfer", *map(str, arguments)])
    report.main()
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    transfer = dict(zip(LOG.domains, (1.5, 0.0, -1.5), strict=True))
    made = write_models(folder, SMALL)
    for seed in (1, 2):
        gaps = dict(zip(LOG.domains, (0.1 * seed, 0.0, -0.1 * seed), strict=True))
        made += write_models(
            folder, LOG, transfer=transfer, gaps=gaps, seeds=(seed,), modes=MODES, notes=NOTES
        )
    return made


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """The report of all runs, its files and its page taken apart."""
    out = tmp_path_factory.mktemp("made") / "out" / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["report.py", "transfer", *map(str, runs), "--out", str(out)])
        report.main()
    return out


class Page(HTMLParser):
    """Tags that are closed as they were opened; images, captions, links and texts."""

    VOID = ("meta", "link", "img", "br", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.figures, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "figure":
            self.figures.append({"caption": ""})
        if tag == "img":
            self.figures[-1] |= dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closed at {self.getpos()}"

    def handle_data(self, data):
        self.text.append(data)
        if "figcaption" in self.open:
            self.figures[-1]["caption"] += data


@pytest.fixture(scope="module")
def page(made):
    parsed = Page((made / "report.html").read_text(encoding="utf-8"))
    assert parsed.open == []
    return parsed


def values(made, name):
    return pd.read_csv(made / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


# ---------------------------------------------------------------- the page


def test_the_page_asks_for_nothing_outside(made, page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            if (tag, name) != ("a", "href"):
                assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    text = (made / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    files = {link for link in links if not link.startswith("#")}
    pngs = {f"figures/{path.name}" for path in (made / "figures").iterdir()}
    tables = {f"tables/{path.name}" for path in (made / "tables").glob("*.csv")}
    assert files == pngs | tables  # each figure and each table links to its own file, no other


def test_every_figure_is_described_read_and_also_a_png(made, page):
    assert len(page.figures) == 2 * 11 + 1
    for figure in page.figures:
        assert len(figure["alt"]) > 40 and figure["caption"].strip()
        assert figure["caption"].strip() in figure["alt"]
        header, content = figure["src"].split(",")
        assert header == "data:image/svg+xml;base64"
        assert b"<svg" in base64.b64decode(content)[:2000]
    pngs = list((made / "figures").iterdir())
    assert len(pngs) == len(page.figures)
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in pngs)
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "figure"}
    assert ids == {f"figure-{path.stem}" for path in pngs}


def test_every_table_of_the_page_lies_beside_it(made, page):
    ids = {a["id"].removeprefix("table-") for tag, a in page.tags if "table-" in a.get("id", "")}
    for suffix in ("csv", "md"):
        assert {path.stem for path in (made / "tables").glob(f"*.{suffix}")} == ids
    assert {"one-i-log-differences", "two-groups", "claim", "two-card"} <= ids


def test_names_are_shown_and_are_no_markup(page):
    assert not {"b", "i", "program"} & {tag for tag, _ in page.tags}
    text = "".join(page.text)
    assert "Gained: Arts & <b>Crafts</b> (+" in text and "$Books_of_all$" in text


def test_a_generated_log_is_labelled_and_only_that(page):
    text = " ".join("".join(page.text).split())
    assert text.count("Generated log, not real behaviour. by a <program>; nobody's") == 2
    assert "one <i>log (generated log)" in text
    assert "two (generated log)" not in text


def test_the_summary_stands_on_the_page(page):
    text = "".join(page.text)
    assert "against one model per domain on that domain's own data (on its own)?" in text
    assert "against one model that reads each domain's events by themselves" in text  # `two`
    assert "One seed per model" in text and "A look-up table wins" in text
    assert text.count("(fewer than 10 domains: too few to judge)") == 3  # γ of both, and the claim
    acronyms = re.findall("SDSR|CDSR", text)  # in the footnote alone
    assert len(acronyms) == 3 and text.index("How to read this report") < text.index("SDSR")


def test_the_first_figure_and_the_first_table_have_the_simple_baselines(made, page):
    levels = values(made, "one-i-log-levels")
    assert COUNT_MODELS.keys() < set(levels.ranker)
    head = (made / "tables" / "one-i-log-levels.md").read_text().splitlines()[2]
    assert head.endswith(f"| {' | '.join(COUNT_MODELS)} |")
    cells = [data.strip() for data in page.text]
    assert all(cells.count(name) >= 2 for name in COUNT_MODELS)  # a column of both boxes


def test_the_page_is_laid_out_for_a_desk_a_phone_and_paper(made, page):
    text = (made / "report.html").read_text(encoding="utf-8")
    assert "@media print" in text and "@media (max-width: 640px)" in text
    wide = [attributes for tag, attributes in page.tags if tag == "source"]
    assert len(wide) == 2 and all(int(one["width"]) == 1200 for one in wide)  # the curves
    drawn = {float(figure["data-text"]) for figure in page.figures}
    assert min(drawn) >= 11 and {figure["width"] for figure in page.figures} == {"390"}


def test_the_same_runs_give_the_same_bytes_and_replace_a_report(
    runs, made, tmp_path, monkeypatch, capsys
):
    """`two` by itself, in the place of the report on both: what is about it does not change."""
    out = tmp_path / "report"
    shutil.copytree(made, out)
    said = call(monkeypatch, capsys, *[run for run in runs if "two" in run.name], "--out", out)
    assert f"report: {out / 'report.html'}" in said and "Hurt: no domain." in said
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    files = [path for path in out.glob("*/*") if not path.name.startswith("claim")]
    assert len(files) > 30 and all(path.name.startswith("two-") for path in files)
    for path in files:
        assert path.read_bytes() == (made / path.relative_to(out)).read_bytes(), path.name
    page, both = (Page((at / "report.html").read_text("utf-8")).figures for at in (out, made))
    images = {figure["src"] for figure in both}
    assert {figure["src"] for figure in page[:-1]} < images


# ---------------------------------------------------------------- the numbers


def by_target(run, path, protocol="full"):
    """NDCG@10 of a run's targets, from the definition: the mean over the ranks of a tie."""
    rows = pd.read_parquet(run / "ranks.parquet")
    rows = rows[(rows.split == "test") & (rows.protocol == protocol) & (rows.path == path)]
    gain = [
        sum(1 / math.log2(rank + 1) for rank in range(b + 1, b + t + 1) if rank <= 10) / t
        for b, t in zip(rows.better, rows.tied, strict=True)
    ]
    return pd.Series(gain, index=rows.target)


def mean_over_seeds(runs, mode, path):
    seeds = [run for run in runs if f"log-{mode}-seed" in run.name]
    assert len(seeds) == 2
    return sum(by_target(run, path) for run in seeds) / 2


def test_levels_and_differences_are_the_means_of_the_ranks(runs, made):
    assert tuple(LOG.targets["test"].domain.unique()) != LOG.domains  # else order is not tested
    levels = values(made, "one-i-log-levels").set_index(["ranker", "domain"])
    domain = LOG.targets["test"].domain
    modes_and_paths = {
        "sdsr": ("sdsr", "single"), "sdsr_separate": ("sdsr_separate", "single"),
        "cdsr": ("cdsr", "cross"), "cross": ("syncrec", "cross"),
        "single": ("syncrec", "single"), "served": ("syncrec", "served"),
    }  # fmt: skip
    expected = {key: mean_over_seeds(runs, *pair) for key, pair in modes_and_paths.items()}
    for key, by_seed in expected.items():
        means = by_seed.groupby(domain).mean()
        for name in LOG.domains:
            assert levels.value[key, name] == pytest.approx(means[name])
            assert levels.n[key, name] == (domain == name).sum()
        assert levels.value[key, "macro"] == pytest.approx(means.mean())
        assert levels.low[key, "macro"] < levels.value[key, "macro"] < levels.high[key, "macro"]
    gaps = values(made, "one-i-log-differences").set_index(["first", "second", "domain"])
    pairs = {(first, second) for first, second, _ in gaps.index}
    assert pairs == {
        ("cdsr", "sdsr_separate"), ("cdsr", "sdsr"), ("cross", "sdsr_separate"), ("cross", "cdsr"),
        ("served", "sdsr_separate"),
        *((key, name) for key in ("cdsr", "sdsr_separate") for name in COUNT_MODELS),
    }  # fmt: skip
    expected |= {
        name: by_target(next(run for run in runs if "log-cdsr-seed" in run.name), name)
        for name in COUNT_MODELS
    }
    for first, second in pairs:
        means = (expected[first] - expected[second]).groupby(domain).mean()
        for name in LOG.domains:
            row = gaps.loc[(first, second, name)]
            assert row.difference == pytest.approx(means[name])
            assert row.first_value == pytest.approx(levels.value[first, name])
            assert row.second_value == pytest.approx(levels.value[second, name])
            second_value = levels.value[second, name]
            relative = means[name] / second_value if second_value else math.nan
            assert row.relative == pytest.approx(relative, nan_ok=True)
        p, adjusted = (
            [gaps[at][first, second, name] for name in LOG.domains] for at in ("p", "p_holm")
        )
        smallest, middle, largest = sorted(p)
        steps = np.minimum(1, np.maximum.accumulate([3 * smallest, 2 * middle, largest]))
        assert sorted(adjusted) == pytest.approx(steps.tolist())
    first, _, last = LOG.domains
    assert gaps.p_holm["cdsr", "sdsr", first] < 0.05
    assert gaps.same_sign["cdsr", "sdsr", last] == 2


def test_groups_hold_the_targets_that_they_name(runs, made):
    groups = values(made, "one-i-log-groups").set_index(["grouping", "group", "ranker"])
    rows, metric = LOG.targets["test"], mean_over_seeds(runs, "cdsr", "cross")
    expected = {
        ("history", "≤ 2 events"): rows.domain_history <= 2,
        ("history", "3–9 events"): (rows.domain_history >= 3) & (rows.domain_history <= 9),
        ("history", "≥ 10 events"): rows.domain_history >= 10,
        ("context", "≤ 1 domain"): rows.domains <= 1,
        ("context", "≥ 2 domains"): rows.domains >= 2,
        ("popularity", "no training event"): rows.item_count == 0,
    }
    for (grouping, group), chosen in expected.items():
        assert groups.n[grouping, group, "cdsr"] == chosen.sum()
        assert groups.value[grouping, group, "cdsr"] == pytest.approx(metric[chosen].mean())
    thirds = [groups.n["popularity", third, "cdsr"] for third in ("tail", "middle", "head")]
    assert sum(thirds) == (rows.item_count > 0).sum()
    by_domain = values(made, "one-i-log-group_domains")
    assert by_domain[by_domain.ranker == "cdsr"].groupby("grouping").n.sum().tolist() == [246] * 3


def test_thirds_of_popularity_hold_a_third_of_the_events_each():
    counts = [1] * 30 + [10] * 3 + [30] + [0]
    targets = pd.DataFrame(
        {
            "domain": "d", "item_id": [f"i{n}" for n in range(len(counts))], "item_count": counts,
            "domain_history": 1, "domains": 1,
        }
    )  # fmt: skip
    again = pd.concat([targets, targets[targets.item_count == 30]] * 2, ignore_index=True)
    for rows in (targets, again):  # an item counts once, however many targets it has
        groups = groupings(rows)["popularity"]
        thirds = {count: set(groups[rows.item_count == count]) for count in (0, 1, 10, 30)}
        assert thirds == {0: {"no training event"}, 1: {"tail"}, 10: {"middle"}, 30: {"head"}}


def test_protocols_and_coverage_are_those_of_results_json(runs, made):
    protocols = values(made, "one-i-log-protocols").set_index(["protocol", "ranker", "domain"])
    beyond = values(made, "one-i-log-beyond_accuracy").set_index(["ranker", "domain", "metric"])
    seeds = [run for run in runs if "log-cdsr-seed" in run.name]
    results = [json.loads((run / "results.json").read_text())["test"] for run in seeds]
    for protocol in ("full", "sampled"):
        for name in ("macro", LOG.domains[0]):
            mean = np.mean([one[protocol]["cross"][name]["ndcg@10"] for one in results])
            assert protocols.value[protocol, "cdsr", name] == pytest.approx(mean)
    markov = results[0]["full"]["markov"]["macro"]["ndcg@10"]
    assert protocols.value["full", "markov", "macro"] == pytest.approx(markov)
    assert beyond.value["cdsr", "macro", "coverage@10"] == 0.25
    ties = values(made, "one-i-log-ties").set_index(["ranker", "ties"]).value
    assert ties["cdsr", "pessimistic"] < ties["cdsr", "expected"]
    assert ties["cdsr", "expected"] == pytest.approx(protocols.value["full", "cdsr", "macro"])


def test_points_of_the_claim_are_gamma_and_the_difference_of_their_seed(runs, made):
    rows = values(made, "claim_points")
    assert len(rows) == 3 * 2 + 2
    row = rows[(rows.domain == "Cars") & (rows.seed == 2)].iloc[0]
    runs_2 = {
        mode: next(run for run in runs if run.name == f"{LOG.name}-{mode}-seed2")
        for mode in ("sdsr_separate", "sdsr", "cdsr", "syncrec")
    }
    cars = LOG.targets["test"].domain.to_numpy() == "Cars"
    for column, mode in (("transfer", "sdsr_separate"), ("transfer_paired", "sdsr")):
        gap = by_target(runs_2["cdsr"], "cross") - by_target(runs_2[mode], "single")
        assert row[column] == pytest.approx(gap[cars].mean())
    transfer = pd.read_csv(runs_2["syncrec"] / "transfer.csv")
    last = transfer[(transfer.epoch == transfer.epoch.max()) & (transfer.domain == "Cars")]
    assert row.share == pytest.approx(3 * last.gamma.item())
    assert row.share_last == row.share and row.phi == pytest.approx(-0.2)
    table = values(made, "claim").set_index("what")
    assert table.domains.iloc[0] == 5 and set(table.verdict) == {"inconclusive"}
    assert {"D·γ, only two", "D·γ, with the paired Δ"} <= set(table.index)
    assert table[["low", "high"]].isna().all(axis=None)  # five domains have no interval
    assert rows[rows.data == "two"].transfer_paired.isna().all()  # there it is Δ itself


def test_gamma_is_taken_at_the_epoch_that_was_tested(tmp_path):
    (run,) = read_runs(write_models(tmp_path, SMALL, modes=("syncrec",)))
    rows = run.metrics()
    best = (rows.split == "valid") & (rows.path == "cross") & (rows.epoch == 2)
    rows.loc[best & (rows.domain == "macro"), "value"] = 0.9
    rows.to_csv(run.folder / "metrics.csv", index=False)
    assert training_history.tested_epoch(run) == 2


def test_the_markdown_says_what_the_page_says(made, page):
    text = (made / "tables" / "one-i-log-runs.md").read_text()
    assert text.startswith("Runs\n\n| run | model | mode | seed | commit | device |\n|---|")
    assert text.count("\n|") == 2 + 8
    with (made / "tables" / "one-i-log-card.csv").open(newline="") as file:
        facts = dict(csv.reader(file))
    assert facts["note: generated"] == NOTES["generated"]
    assert facts["audit: ties"] == "12 (10.0 %)"
    assert facts["sha256"] in "".join(page.text)


def test_settings_that_differ_are_noted(tmp_path):
    folders = write_models(tmp_path, SMALL)
    config = json.loads((folders[0] / "config.json").read_text())
    (folders[0] / "config.json").write_text(json.dumps(config | {"lr": 0.5}))
    (data,) = data_sets(read_runs(folders))
    assert tables.differing(data) == ["lr"]
    assert sections.notes(data)[0].startswith("Besides the mode, the models differ in lr (")
    table = tables.settings_table(data).shown.set_index("setting")
    assert table.loc["lr"].tolist() == ["0.5", "0.001", "0.001"]


def test_levels_and_differences_are_means_over_the_same_domains(tmp_path):
    """A domain with too few targets is in neither."""
    counts = LOG.targets["test"].groupby("domain").size()
    least = int(counts.min()) + 1
    (data,) = data_sets(read_runs(write_models(tmp_path, LOG, min_domain_targets=least)))
    rows = differences.differences(data, measure(data, "ndcg@10"))
    for row in rows[rows.domain == "macro"].itertuples():
        assert row.difference == pytest.approx(row.first_value - row.second_value)
        assert row.n == counts[counts >= least].sum() < counts.sum()


def test_many_domains_make_a_figure_higher_and_not_wider(tmp_path):
    sizes = []
    for count in (2, 28):
        log = Log(domains=tuple(f"A rather long name, {n}" for n in range(count)), users=8 * count)
        (data,) = data_sets(read_runs(write_models(tmp_path / str(count), log)))
        measured = measure(data, "hr@10")
        levels = differences.levels(data, measured)
        sizes.append(figures.levels_figure(data, levels, "hr@10").get_size_inches())
    assert sizes[0][0] == sizes[1][0] == pytest.approx(390 / 96)
    assert sizes[1][1] > 5 * sizes[0][1]
