"""recommend.py: the top-K items of every user, from a run folder."""

import dataclasses
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import recommend
from src.dataset.store.folder import TEST, open_dataset
from src.evaluation.path_scores import fit_count_models
from src.serving import api
from src.serving.choices import chosen_users
from src.serving.lists import BlockLists
from src.serving.summary import Summary
from tests.support.command_runs import DOMAINS, ROOT, command, failing
from tests.support.served_lists import by_hand, lists, paths_of

MODES = ("syncrec", "sdsr_separate")
COLUMNS = ["user_id", "domain", "rank", "item_id", "score"]


@pytest.fixture(scope="module")
def folders(finished_run):
    """{mode: run folder}, trained with large steps so that the scores differ well."""
    return {
        mode: finished_run(mode, f"--mode={mode}", "--max_epochs=2", "--lr=0.02") for mode in MODES
    } | {
        "query": finished_run("query", "--target_domain_query", "--lr=0.02"),
        "time": finished_run("time", "--time_embedding=interval", "--lr=0.02"),
    }


def known(data) -> dict[tuple, set]:
    """{(user_id, domain): item ids of the log}."""
    dataset = open_dataset(data)
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    found = {(user, name): set() for user in users for name in DOMAINS}
    for user, (start, end) in enumerate(pairwise(dataset.offsets)):
        for event in range(start, end):
            name = DOMAINS[dataset.domains[event]]
            found[users[user], name].add(items[dataset.items[event] - 1])
    return found


@pytest.mark.parametrize(
    ("mode", "path"),
    [("syncrec", "cross"), ("syncrec", "single"), ("query", "cross"), ("sdsr_separate", "single")],
)
def test_the_list_is_the_model_s_own_ranking_without_what_the_user_has(data, folders, mode, path):
    run = api.open_run(folders[mode])
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, eval_users=7))
    table, seen = api.recommend(run, k=4, path=path, exclude_seen=True), known(data)
    actual, made_by = lists(table), paths_of(table)
    users, items = run.dataset.user_ids.to_pylist(), run.dataset.item_ids.to_pylist()
    starts = run.dataset.item_starts
    for user, user_id in enumerate(users):
        for domain, name in enumerate(DOMAINS):
            # without an event to read in the domain the cross view stands in
            scores = by_hand(run, run.dataset, user, domain, made_by[user_id, name])
            order = [
                (items[starts[domain] - 1 + place], scores[place])
                for place in np.argsort(-scores)
                if items[starts[domain] - 1 + place] not in seen[user_id, name]
            ]
            got = actual[user_id, name]
            assert [item for item, _ in got] == [item for item, _ in order[:4]]
            assert [score for _, score in got] == pytest.approx(
                [score for _, score in order[:4]], abs=1e-5
            )
    assert path in made_by.values()
    assert len(set(made_by.values())) == 1 + (path == "single" and mode == "syncrec")


@pytest.mark.parametrize("mode", MODES)
def test_no_list_names_an_item_that_the_user_has_unless_asked_to(data, folders, mode):
    run, seen = api.open_run(folders[mode]), known(data)
    new = lists(api.recommend(run, k=1000, exclude_seen=True))
    everything = lists(api.recommend(run, k=1000, exclude_seen=False))
    sizes = dict(zip(DOMAINS, np.diff(run.dataset.item_starts), strict=True))
    for key, items in seen.items():
        assert not items & {item for item, _ in new[key]}
        assert len(new[key]) == sizes[key[1]] - len(items)
        assert len(everything[key]) == sizes[key[1]]


@pytest.mark.parametrize("mode", MODES)
def test_without_the_test_events_it_ranks_as_the_test_did(folders, mode):
    run = api.open_run(folders[mode])
    dataset = run.dataset
    before = dataset.split != TEST
    lengths = np.add.reduceat(before.astype(np.int64), dataset.offsets[:-1])
    earlier = dataclasses.replace(
        dataset,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        **{name: getattr(dataset, name)[before] for name in ("items", "domains", "times", "split")},
    )
    earlier = dataclasses.replace(run, dataset=earlier)
    ranks = pq.read_table(folders[mode] / "ranks.parquet").to_pandas()
    ranks = ranks.set_index(["split", "protocol", "path"]).sort_index()
    for path in run.settings.paths:
        table = api.recommend(earlier, k=1000, path=path, exclude_seen=False)
        actual, made_by = lists(table), paths_of(table)
        rows = ranks.loc[[("test", "full", path)]]
        rows = [row for row in rows.itertuples() if made_by[row.user_id, row.domain] == path]
        assert len(rows) > 30
        for row in rows:
            items = [item for item, _ in actual[row.user_id, row.domain]]
            assert row.better <= items.index(row.item_id) < row.better + row.tied


@pytest.mark.parametrize(
    ("mode", "path"),
    [*((mode, "blend") for mode in (*MODES, "time")), ("time", "cross"), ("time", "single")],
)
def test_what_reads_the_time_ranks_as_the_test_did_with_what_was_known_then(folders, mode, path):
    run = api.open_run(folders[mode], blend=True)
    dataset = run.dataset
    compared = 0
    ranks = pq.read_table(folders[mode] / "ranks.parquet").to_pandas()
    rows = ranks[(ranks.split == "test") & (ranks.protocol == "full") & (ranks.path == path)]
    users = dataset.user_ids.to_pylist()
    as_tested = dataclasses.replace(run, count_models=fit_count_models(dataset, run.settings))
    for row in rows.iloc[::7].itertuples():
        user = users.index(row.user_id)
        first, end = dataset.offsets[user : user + 2]
        (event,) = first + np.flatnonzero(dataset.split[first:end] == TEST)
        earlier = dataclasses.replace(dataset, offsets=dataset.offsets.copy())
        earlier.offsets[user + 1] = event
        listed = api.recommend(
            dataclasses.replace(as_tested, dataset=earlier), k=1000, users=[row.user_id],
            domains=[row.domain], path=path, exclude_seen=False,
            now=int(dataset.times[event]),
        )  # fmt: skip
        if set(listed["path"].to_pylist()) != {path}:
            continue  # the single view has nothing to read
        items = listed["item_id"].to_pylist()
        assert row.better <= items.index(row.item_id) < row.better + row.tied
        compared += 1
    assert compared > 3


@pytest.mark.parametrize(("mode", "path"), [("syncrec", "blend"), ("time", "cross")])
def test_an_earlier_and_a_later_day_have_other_scores(folders, tmp_path, mode, path):
    scores = {}
    for now in ("1990-01-01", "2100-01-01T12:00:00", ""):
        words = [f"--run={folders[mode]}", f"--serve_path={path}", f"--out={tmp_path / 'o.csv'}"]
        recommend.main([*words, *([f"--now={now}"] if now else [])])
        scores[now] = pyarrow.csv.read_csv(tmp_path / "o.csv")["score"].to_numpy()
    before, after, to_date = scores.values()
    assert not np.array_equal(before, to_date) and not np.array_equal(after, to_date)


def test_the_blend_of_an_earlier_day_knows_nothing_later(folders):
    """As if the later events of all users were other ones."""
    run = api.open_run(folders["syncrec"], blend=True)
    times = np.asarray(run.dataset.times)
    now = int(np.quantile(times, 0.6))
    later = times >= now
    domains = run.dataset.domains
    first = run.dataset.item_starts[domains]
    moved = first + (run.dataset.items - first + 1) % np.diff(run.dataset.item_starts)[domains]
    other = dataclasses.replace(
        run.dataset, items=np.where(later, moved, run.dataset.items).astype(np.int32)
    )
    models = {name: dataclasses.replace(model) for name, model in run.count_models.items()}
    for name in ("recent", "covisit"):
        models[name] = dataclasses.replace(models[name], dataset=other).to_date()
    models["own"] = dataclasses.replace(models["own"], dataset=other)
    models["markov"] = dataclasses.replace(models["markov"], dataset=other)
    changed = dataclasses.replace(run, dataset=other, count_models=models)
    same = [
        api.recommend(one, k=5, path="blend", now=now, exclude_seen=False) for one in (run, changed)
    ]
    assert same[0].equals(same[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--now=2024-01-01"], "--now needs --serve_path blend"),
        (["--serve_path=blend", "--now=soon"], "--now 'soon' is no time; write YYYY-MM-DD"),
        (["--serve_path=blend"], "has no blend: an earlier version scored it; score the run again"),
    ],
)
def test_a_blend_that_cannot_be_served(capsys, folders, tmp_path, words, said):
    folder = shutil.copytree(folders["syncrec"], tmp_path / "run")
    (folder / "blend.json").unlink()
    assert said in failing(capsys, folder, lambda: recommend.main([f"--run={folder}", *words]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda blend: blend.pop("A"),
        lambda blend: blend["B"].pop("cross"),
        lambda blend: blend["B"].update(cross="much"),
    ],
    ids=["no domain", "no feature", "no number"],
)
def test_a_damaged_blend_is_one_line(capsys, folders, tmp_path, spoil):
    folder = shutil.copytree(folders["syncrec"], tmp_path / "run")
    blend = json.loads((folder / "blend.json").read_text())
    spoil(blend)
    (folder / "blend.json").write_text(json.dumps(blend))
    words = [f"--run={folder}", "--serve_path=blend"]
    assert "blend.json" in failing(capsys, folder, lambda: recommend.main(words))


def test_auto_follows_what_serves_each_domain(folders, tmp_path):
    """serving.json says it; the run's own choice, and any other."""
    folder = shutil.copytree(folders["syncrec"], tmp_path / "run")
    by_path = {
        path: lists(api.recommend(api.open_run(folder), k=5, path=path))
        for path in ("cross", "single")
    }
    differs = [by_path["cross"][key] != items for key, items in by_path["single"].items()]
    assert sum(differs) > 100  # of 150; the others have no event to read in the domain
    chosen = json.loads((folder / "serving.json").read_text())
    for flipped in ((), ("A",), ("B", "C")):
        serving = {name: dict(choice) for name, choice in chosen.items()}
        for name in flipped:
            serving[name]["path"] = {"cross": "single", "single": "cross"}[chosen[name]["path"]]
        (folder / "serving.json").write_text(json.dumps(serving))
        run = api.open_run(folder)
        assert run.paths == {name: choice["path"] for name, choice in serving.items()}
        for (user, name), items in lists(api.recommend(run, k=5)).items():
            assert items == by_path[serving[name]["path"]][user, name]


def test_auto_is_the_only_path_of_a_run_that_has_one(folders):
    run = api.open_run(folders["sdsr_separate"])
    assert run.paths == dict.fromkeys(DOMAINS, "single")
    assert api.recommend(run, k=3).equals(api.recommend(run, k=3, path="single"))


def test_users_and_domains_can_be_chosen(folders):
    folder = folders["syncrec"]
    chosen = ["--users", "g00003", "g00001", "--domains", "C", "--k", "2"]
    recommend.main(["--run", str(folder), *chosen, "--device=cpu"])
    actual = lists(pq.read_table(folder / "recommendations.parquet"))
    assert list(actual) == [("g00001", "C"), ("g00003", "C")]
    whole = lists(api.recommend(api.open_run(folder), k=2))
    for key in actual:
        assert [item for item, _ in actual[key]] == [item for item, _ in whole[key]]


def test_users_of_a_file_and_of_flags_add_up(folders, tmp_path):
    folder, ids = folders["syncrec"], tmp_path / "ids.txt"
    ids.write_bytes(b"\xef\xbb\xbfg00007\r\n\r\ng00002\n")
    words = ["--run", str(folder), f"--users_file={ids}", "--users=g00004", "--users", "g00002"]
    recommend.main([*words, "--k=1", "--device=cpu", f"--out={tmp_path / 'top.csv'}"])
    users = pyarrow.csv.read_csv(tmp_path / "top.csv")["user_id"].to_pylist()
    assert sorted(set(users)) == ["g00002", "g00004", "g00007"]


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("a\nb", ["a", "b"]),
        ("a\r\n\r\nb\r\n", ["a", "b"]),
        ("\ufeff007\n7\n7.0\n", ["007", "7", "7.0"]),
        ("-x\n--k\n#y\n-\n", ["-x", "--k", "#y", "-"]),
        (" a \n\tb\n", [" a ", "\tb"]),
        ('a,b\n"c"\n', ["a,b", '"c"']),
        ("é\u2028ü\nx\x85y\nv\x0bw\x0c\x1c\n", ["é\u2028ü", "x\x85y", "v\x0bw\x0c\x1c"]),
    ],
)
def test_a_file_of_users_has_an_id_per_line_whatever_it_holds(tmp_path, content, ids):
    (tmp_path / "ids").write_bytes(content.encode())
    dataset = SimpleNamespace(folder="ds")
    ids_of_log = pa.chunked_array([[*reversed(ids), "another"]])
    history = SimpleNamespace(user_ids=ids_of_log, dataset=dataset, new=None)
    users = chosen_users(history, (), str(tmp_path / "ids"))
    assert users.tolist() == list(range(len(ids)))


EVERY = [("u", "A"), ("u", "B"), ("v", "A"), ("v", "B"), ("w", "A"), ("w", "B")]
MISSING = {  # the lists that are there, users and domains asked for, the line
    "none": (EVERY, None, None, ""),
    "one": (EVERY[1:], None, None, "1 of 6 lists … user u, A); 0 of 3 users"),
    "a domain": (EVERY[::2], None, None, "3 of 6 lists … user u, B); 0 of 3 users"),
    "a user": ([*EVERY[:2], *EVERY[4:]], None, None, "2 of 6 lists … user v, A); 1 of 3 users"),
    "all": ([], None, None, "6 of 6 lists … user u, A); 3 of 3 users"),
    "of chosen users": (EVERY[4:5], [1, 2], None, "3 of 4 lists … user v, A); 1 of 2 users"),
    "of a chosen domain": (EVERY[1:4:2], None, [1], "1 of 3 lists … user w, B); 1 of 3 users"),
    "none of those asked for": (EVERY[2:3], [1], [0], ""),
}


@pytest.mark.parametrize("form", MISSING)
@pytest.mark.parametrize("size", [1, 3])
def test_lists_that_stay_empty_are_counted(form, size):
    present, users, domains, expected = MISSING[form]
    names, asked = ["A", "B"], tuple(domains or (0, 1))
    ids = [user for number, user in enumerate("uvw") if users is None or number in users]
    summary = Summary()
    for start in range(0, len(ids), size):
        block = ids[start : start + size]
        lengths = [[int((user, names[domain]) in present) for domain in asked] for user in block]
        lengths = np.array(lengths)
        paths = np.full(lengths.shape, "cross")
        table = pa.table({"user_id": []})
        some = np.ones(len(block))
        user_ids = pa.chunked_array([block])
        summary.add(BlockLists(table, some, user_ids, asked, lengths, paths, some, 0))
    lines = summary.lines(names, {"cross"}, listable=None)
    if not expected:
        assert lines == []
        return
    lists, first = expected.split(" … ")
    first, without = first.split("; ")
    assert lines == [
        f"no candidate is left for {lists}, because the user has every item of the domain (first: "
        f"{first}; {without} have no list at all; --no-exclude_seen ranks those items too"
    ]


def test_lists_of_a_domain_without_a_candidate_are_told_apart():
    summary, some = Summary(), np.ones(2)
    ids, lengths = pa.chunked_array([["u", "v"]]), np.array([[0, 0], [0, 1]])
    paths = np.full(lengths.shape, "cross")
    summary.add(BlockLists(pa.table({"user_id": []}), some, ids, (0, 1), lengths, paths, some, 0))
    barren, exhausted = summary.lines(["A", "B"], {"cross"}, listable={1})
    assert barren == "2 of 4 lists are empty, because no candidate is of their domain: A"
    assert exhausted.startswith("no candidate is left for 1 of 4 lists, because the user has every")


SERVED_BY = {  # mode, further flags, what serves without serving.json
    "both views": ("syncrec", (), "cross serves every domain"),
    "a query per domain": ("query", (), "cross serves every domain"),
    "chosen domains": ("syncrec", ("--domains=B", "--users=g00001"), "cross serves every domain"),
    "a path that is given": ("syncrec", ("--serve_path=cross",), ""),
    "the other path": ("query", ("--serve_path=single",), ""),
    "a run of one path": ("sdsr_separate", (), ""),
}


@pytest.mark.parametrize("form", SERVED_BY)
def test_a_run_without_serving_json_says_what_serves(folders, tmp_path, capsys, form):
    mode, given, words = SERVED_BY[form]
    folder = shutil.copytree(folders[mode], tmp_path / "run")
    (folder / "serving.json").unlink(missing_ok=True)
    recommend.main([f"--run={folder}", "--device=cpu", "--k=1", *given])
    line = f"{folder} has no serving.json: {words}; main.py --evaluate {folder} chooses"
    out = capsys.readouterr().out
    assert (line in out) == bool(words)
    assert ("serving.json" in out) == bool(words)


def test_a_run_that_is_not_finished_says_so(folders, tmp_path, capsys):
    folder = shutil.copytree(folders["syncrec"], tmp_path / "run")
    for name in ("results.json", "serving.json"):
        (folder / name).unlink()
    recommend.main([f"--run={folder}", "--device=cpu", "--k=1"])
    out = capsys.readouterr().out
    assert f"{folder} is not finished (no results.json): its lists are of the best epoch" in out
    assert "serving.json" not in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"\n\n", "holds no id"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"g00001\nnobody\n-x\n", "nobody (and 1 more) is not among the users of"),
    ],
)
def test_a_file_of_users_that_cannot_be_followed(folders, tmp_path, capsys, content, said):
    folder, ids = folders["sdsr_separate"], tmp_path / "ids.txt"
    if content is not None:
        ids.write_bytes(content)
    words = ["--run", str(folder), f"--users_file={ids}"]
    line = failing(capsys, folder, lambda: recommend.main(words))
    assert f"--users_file {ids}" in line
    assert said in line


@pytest.mark.nightly
def test_the_command_writes_csv_from_anywhere(folders, tmp_path):
    words = ["--run", folders["syncrec"], "--k=3", "--out=top.csv"]
    done = command(ROOT / "recommend.py", *words, cwd=tmp_path)
    assert "top.csv" in done.stdout
    table = pyarrow.csv.read_csv(tmp_path / "top.csv")
    assert table.column_names == [*COLUMNS, "path", "context_events"]
    assert table.num_rows > 50 * 3 * 2
    assert [path.name for path in tmp_path.iterdir()] == ["top.csv"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--users", "g00001", "nobody"], ["--users: nobody"]),
        (["--domains", "Books"], ["--domains: Books is unknown", "A, B, C"]),
        (
            ["--serve_path", "cross"],
            ["--serve_path cross", "sdsr_separate", "only the path single"],
        ),
        (["--serve_path", "both"], ["--serve_path", "both"]),
        (["--k", "0"], ["--k must be at least 1"]),
        (["--out", "top.txt"], ["--out top.txt", ".parquet, .csv or .jsonl"]),
        (["--out", "nowhere/top.csv"], ["nowhere does not exist"]),
        (["--out", "/proc/top.csv"], ["cannot write --out /proc/top.csv"]),
        (["--users", "-x"], ["--users: -x"]),
        (["--run", "nowhere"], ["--run nowhere holds no run"]),
        (["--run", ""], ["--run is required"]),
        (["--device", "tpu"], ["--device tpu"]),
    ],
)
def test_requests_that_cannot_be_met(folders, capsys, given, said):
    folder = folders["sdsr_separate"]
    words = ["--run", str(folder), *given]
    line = failing(capsys, folder, lambda: recommend.main(words))
    for part in said:
        assert part in line


def test_a_run_without_a_checkpoint_or_with_a_foreign_one(folders, tmp_path, capsys):
    run = shutil.copytree(folders["syncrec"], tmp_path / "run")
    shutil.copy(folders["sdsr_separate"] / "domains" / "0" / "best.pt", run / "best.pt")
    line = failing(capsys, run, lambda: recommend.main(["--run", str(run)]))
    assert "is of another run: --mode was sdsr_separate, now syncrec" in line
    (run / "best.pt").unlink()
    line = failing(capsys, run, lambda: recommend.main(["--run", str(run)]))
    assert "best.pt does not exist; train first" in line


def test_a_terminated_command_leaves_no_temporary_file(folders, tmp_path):
    """SIGTERM when the table is written but not renamed yet."""
    code = """
import os, signal, sys
import src.io.files
src.io.files.sync = lambda path: os.kill(os.getpid(), signal.SIGTERM)
import recommend
from src.io.errors import run_command
run_command(recommend.main)
"""
    flags = [f"--run={folders['query']}", f"--out={tmp_path / 'top.csv'}", "--device=cpu"]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, b"interrupted\n")
    assert list(tmp_path.iterdir()) == []
