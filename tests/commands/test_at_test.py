"""recommend.py --at test: whoever reads its files finds the metrics of the protocol as_listed."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

import recommend
from tests.support.command_runs import ROOT, data_step, failing, train

DOCUMENT = ROOT / "docs" / "serving.md"
DAY = 86_400
START = 1_388_534_400  # 2014-01-01
DOMAINS = {"books": 40, "games": 25, "toys": 12}
READERS = {
    ".parquet": pd.read_parquet,
    ".csv": pd.read_csv,
    ".jsonl": lambda path: pd.read_json(path, lines=True),
}
KINDS = ("seen kept", "seen barred", "by time")


def write_events(folder, repeats: float):
    """80 users with 4 to 12 events, a share of them of an item that the user had before."""
    rng, rows = np.random.default_rng(5), []
    for user in range(80):
        had: list[tuple[str, str]] = []
        for number in range(int(rng.integers(4, 13))):
            if had and rng.random() < repeats:
                item = had[int(rng.integers(len(had)))]
            else:
                domain = str(rng.choice(list(DOMAINS)))
                new = (name for name in rng.permutation(DOMAINS[domain]).tolist())
                item = next(
                    (domain, f"{domain}{name}")
                    for name in new
                    if (domain, f"{domain}{name}") not in had
                )
            had.append(item)
            first = 190 if user >= 70 else 0  # the last ten users come after the training
            time = START + int(rng.integers(first, 200)) * DAY + number
            rows.append((f"u{user}", item[1], item[0], time))
    folder.mkdir(parents=True)
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "unix_time"])
    table.to_csv(folder / "events.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{kind: run folder}: lists that keep seen items, that leave them out, and a split by time."""
    root, made = tmp_path_factory.mktemp("at_test"), {}
    for name, repeats in (("seen kept", 0.4), ("seen barred", 0.03), ("by time", 0.03)):
        place = root / name.replace(" ", "_")
        raw, data = write_events(place / "raw", repeats), place / "data"
        split = ["--split=temporal", "--test_share=0.3"] if name == "by time" else []
        data_step(
            "--data_name=tiny", "--strd_ym=201412", f"--raw_dir={raw}", f"--out_dir={data}",
            "--threads=1", *split,
        )  # fmt: skip
        made[name] = train(data, place, "run", "--lr=0.02", "--max_epochs=2")
    return made


def metrics_of(lists: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """HR, NDCG and MRR at 10 of each domain, from the two files and nothing else."""
    found = targets.merge(lists, how="left", on=["query", "user_id", "domain", "item_id"])
    hit = (found["rank"] <= 10).astype(float)
    values = {"hr@10": hit, "ndcg@10": hit / np.log2(found["rank"] + 1)}
    values |= {"mrr@10": hit / found["rank"]}
    return (
        found.assign(**values).fillna(dict.fromkeys(values, 0)).groupby("domain")[[*values]].mean()
    )


def bounds(ranks: pd.DataFrame, metric: str) -> tuple[float, float]:
    """The mean of a metric if tied targets rank last among their ties, and if they rank first."""
    gains = {"hr@10": lambda r: 1.0, "ndcg@10": lambda r: 1 / np.log2(r + 1)}
    gains |= {"mrr@10": lambda r: 1 / r}
    means = []
    for rank in (ranks.better + ranks.tied, ranks.better + 1):
        values = gains[metric](rank) * (rank <= 10) * ~ranks.barred
        means.append(float(values.mean()))
    return means[0], means[1]


def at_test(run, out, *more):
    recommend.main([f"--run={run}", "--at=test", f"--out={out}", *more])
    read = READERS[out.suffix]
    return read(out), read(out.with_stem(f"{out.stem}_targets"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["cross", "single", "blend", "auto"])
def test_the_metrics_computed_from_the_files_are_those_of_as_listed(
    runs, kind, path, tmp_path, capsys
):
    lists, targets = at_test(runs[kind], tmp_path / "lists.parquet", f"--serve_path={path}")
    said = capsys.readouterr().out
    assert ("(--exclude_seen)" in said) == (kind != "seen kept")
    served = "served" if path == "auto" else path
    results = json.loads((runs[kind] / "results.json").read_text())["test"]["as_listed"][served]
    ranks = pd.read_parquet(runs[kind] / "ranks.parquet")
    ranks = ranks[(ranks.split == "test") & (ranks.protocol == "as_listed")]
    ranks = ranks[ranks.path == served].reset_index(drop=True)
    assert (ranks.target == targets["query"]).all() and (ranks.barred == targets.barred).all()
    assert targets.barred.any() == (kind != "seen kept")
    computed = metrics_of(lists, targets)
    # what stands in, and ties: equal counts of the newcomers' lists alone
    assert ("recent" in set(lists.path)) == (ranks.tied > 1).any() == (kind == "by time")
    assert ("cross" in set(lists.path)) == (path != "blend")
    for domain, row in computed.iterrows():
        for metric, value in row.items():
            of_domain = ranks[ranks.domain == domain]
            low, high = bounds(of_domain, metric)
            assert low - 1e-9 <= value <= high + 1e-9
            assert low - 1e-9 <= results[domain][metric] <= high + 1e-9
            if kind != "by time":
                assert value == pytest.approx(results[domain][metric], abs=1e-9)
        assert results[domain]["n"] == (targets.domain == domain).sum()
    assert set(computed.index) == set(DOMAINS)


def test_each_domain_has_the_path_that_serves_it(runs, tmp_path):
    run = shutil.copytree(runs["seen barred"], tmp_path / "run")
    serving = json.loads((run / "serving.json").read_text())
    for name, path in (("books", "single"), ("games", "cross"), ("toys", "single")):
        serving[name]["path"] = path
    (run / "serving.json").write_text(json.dumps(serving))
    auto, cross, single = (
        at_test(run, tmp_path / f"{path}.parquet", f"--serve_path={path}", "--k=4")[0]
        for path in ("auto", "cross", "single")
    )
    expected = pd.concat([single[single.domain != "games"], cross[cross.domain == "games"]])
    expected = expected.sort_values(["query", "rank"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(auto, expected)


def test_what_the_user_has_is_listed_or_left_out_as_asked(runs, tmp_path, capsys):
    run, had = runs["seen barred"], {}
    facts = pd.read_parquet(run / "targets.parquet")
    for flag, excludes in (("--exclude_seen", True), ("--no-exclude_seen", False)):
        lists, targets = at_test(run, tmp_path / "lists.csv", flag, "--k=100")
        assert f"({flag})" in capsys.readouterr().out
        seen = facts[facts.split == "test"].seen.to_numpy()
        assert (targets.barred == (seen & excludes)).all() and seen.any()
        found = targets.merge(lists, how="left", on=["query", "item_id"])
        assert (found["rank"].isna() == (seen & excludes)).all()  # all others are somewhere
        had[excludes] = lists.groupby("query").size()
    history = facts[facts.split == "test"].domain_history.to_numpy()
    fewer = (had[False] - had[True]).to_numpy()
    assert ((fewer <= history) & ((fewer > 0) == (history > 0))).all()


def test_one_model_per_domain_has_its_lists_too(runs, tmp_path):
    place = runs["seen barred"].parents[1]
    run = train(place / "data", place, "separate", "--mode=sdsr_separate", "--lr=0.02")
    results = json.loads((run / "results.json").read_text())["test"]["as_listed"]
    for path, name in (("auto", "single"), ("blend", "blend")):
        lists, targets = at_test(run, tmp_path / "lists.jsonl", f"--serve_path={path}")
        for domain, row in metrics_of(lists, targets).iterrows():
            for metric, value in row.items():
                assert value == pytest.approx(results[name][domain][metric], abs=1e-9)


def test_the_five_lines_of_the_documents_compute_what_they_say(runs, tmp_path, monkeypatch):
    at_test(runs["seen barred"], tmp_path / "test_lists.parquet")
    code = re.search(
        r"```python\n(import numpy as np\nimport pandas.*?)```", DOCUMENT.read_text(), re.S
    )
    monkeypatch.chdir(tmp_path)
    computed: dict = {}
    exec(code[1], computed)
    results = json.loads((runs["seen barred"] / "results.json").read_text())["test"]["as_listed"]
    means = computed["ndcg"].groupby(computed["targets"].domain).mean()
    assert {name: results["served"][name]["ndcg@10"] for name in DOMAINS} == pytest.approx(
        means.to_dict()
    )


WRONG = {
    "--users=u1": "drop --users",
    "--domains=books": "drop --domains",
    "--now=2014-05-01": "drop --now",
    "--k=0": "--k must be at least 1",
}


@pytest.mark.parametrize("flag", WRONG)
def test_flags_that_cannot_be_meant_are_refused(runs, flag, capsys):
    words = [f"--run={runs['seen kept']}", "--at=test", flag]
    assert WRONG[flag] in failing(capsys, runs["seen kept"], lambda: recommend.main(words))
