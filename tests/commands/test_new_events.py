"""recommend.py --events: lists for events that came after the training, and for new users."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import recommend
from src.dataset.store.folder import TEST, open_dataset
from src.io.errors import UserError
from src.serving import api
from src.serving.contexts import History
from src.serving.lists import ListOptions, make_lists
from src.serving.new_events import match_events
from tests.support.command_runs import DOMAINS, failing
from tests.support.served_lists import by_hand, lists, paths_of

COLUMNS = ("user_id", "item_id", "domain", "unix_time")
DAY = 86_400
BY_PATH = [
    ("syncrec", "auto"), ("syncrec", "cross"), ("syncrec", "single"), ("syncrec", "blend"),
    ("separate", "single"), ("separate", "blend"), ("time", "cross"), ("time", "blend"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(finished_run):
    """{name: run folder}"""
    return {
        "syncrec": finished_run("syncrec", "--mode=syncrec", "--max_epochs=2", "--lr=0.02"),
        "separate": finished_run("separate", "--mode=sdsr_separate", "--lr=0.02"),
        "time": finished_run("time", "--time_embedding=interval", "--lr=0.02"),
    }


def events_of(data, user: int, user_id: str) -> list[tuple]:
    """The events of a user of the dataset, under another id."""
    dataset = open_dataset(data)
    items = dataset.item_ids.to_pylist()
    return [
        (user_id, items[dataset.items[event] - 1], DOMAINS[dataset.domains[event]],
         int(dataset.times[event]))
        for event in range(*dataset.offsets[user : user + 2])
    ]  # fmt: skip


def as_table(rows) -> pa.Table:
    return pa.table(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))


def write(path, rows, columns=COLUMNS):
    """A file of events, by its suffix; the path."""
    frame = pd.DataFrame(rows, columns=list(columns))
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def assert_same_lists(actual: dict, expected: dict) -> None:
    """The same items in the same order, with scores equal to 1e-5."""
    assert actual.keys() == expected.keys()
    for key, items in expected.items():
        assert [item for item, _ in actual[key]] == [item for item, _ in items]
        scores = [score for _, score in items]
        assert [score for _, score in actual[key]] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(("name", "path"), BY_PATH)
def test_a_new_user_with_the_events_of_a_known_one_gets_the_same_lists(data, folders, name, path):
    run = api.open_run(folders[name], blend=path == "blend")
    known = run.dataset.user_ids.to_pylist()[:12]
    rows = [row for user in range(12) for row in events_of(data, user, f"new{user:02d}")]
    new = api.recommend(run, as_table(rows), k=5, path=path)
    old = api.recommend(run, k=5, path=path, users=known)
    assert set(new["user_id"].to_pylist()) == {f"new{user:02d}" for user in range(12)}
    renamed = lists(old)
    renamed = {(f"new{known.index(user):02d}", name): row for (user, name), row in renamed.items()}
    assert_same_lists(lists(new), renamed)
    for column in ("path", "context_events", "rank"):
        assert new[column].to_pylist() == old[column].to_pylist()


@pytest.mark.parametrize(("name", "path"), [("syncrec", "cross"), ("syncrec", "single")])
def test_an_appended_event_counts_as_in_the_longer_context(data, folders, name, path):
    """Appended to a user of the dataset; the scores are the model's own for the longer context."""
    run = api.open_run(folders[name])
    users, rows = run.dataset.user_ids.to_pylist(), []
    items = run.dataset.item_ids.to_pylist()
    later = int(run.dataset.times.max()) + DAY
    for user in range(8):
        domain = user % 3
        item = items[run.dataset.item_starts[domain] - 1 + user]
        rows.append((users[user], item, DOMAINS[domain], later))
    table = api.recommend(run, as_table(rows), k=1000, path=path, exclude_seen=False)
    actual, made_by = lists(table), paths_of(table)
    assert actual != lists(
        api.recommend(run, k=1000, path=path, exclude_seen=False, users=users[:8])
    )
    history = History(run.dataset, match_events(run.dataset, as_table(rows)).events)
    contexts = history.contexts(np.arange(8))
    assert np.diff(contexts.offsets).tolist() == [1 + len(events_of(data, u, "")) for u in range(8)]
    for user in range(8):
        last = contexts.items[contexts.offsets[user + 1] - 1]
        assert items[last - 1] == rows[user][1]
        for domain, own in enumerate(DOMAINS):
            first, end = run.dataset.item_starts[domain : domain + 2]
            scores = by_hand(run, contexts, user, domain, made_by[users[user], own])
            expected = dict(zip(items[first - 1 : end - 1], scores, strict=True))
            got = dict(actual[users[user], own])
            assert got == {item: pytest.approx(score, abs=1e-5) for item, score in expected.items()}


def test_an_event_that_the_dataset_has_changes_nothing(data, folders):
    run = api.open_run(folders["syncrec"], blend=True)
    user_id = run.dataset.user_ids[3].as_py()
    for path in ("cross", "blend"):
        same = api.recommend(run, as_table(events_of(data, 3, user_id)), path=path)
        assert same.equals(api.recommend(run, users=[user_id], path=path))


def test_old_events_as_new_ones_rank_as_the_test_did(data, folders):
    """Each user's events before the test target, as events of a new user: the ranks of the run."""
    run = api.open_run(folders["syncrec"])
    dataset, rows = run.dataset, []
    for user, user_id in enumerate(dataset.user_ids.to_pylist()):
        split = dataset.split[slice(*dataset.offsets[user : user + 2])]
        events = events_of(data, user, f"as {user_id}")
        rows += [row for row, part in zip(events, split, strict=True) if part != TEST]
    table = api.recommend(run, as_table(rows), k=1000, path="cross", exclude_seen=False)
    found = lists(table)
    ranks = api.read_ranks(folders["syncrec"])
    ranks = ranks[ranks.path == "cross"]
    assert len(ranks) == 50
    for row in ranks.itertuples():
        items = [item for item, _ in found[f"as {row.user_id}", row.domain]]
        assert row.better <= items.index(row.item_id) < row.better + row.tied


def test_blocks_of_any_size_give_the_same_lists(data, folders, monkeypatch):
    monkeypatch.setattr("src.serving.run.USERS_AT_ONCE", 1)  # the number that is encoded decides
    run = api.open_run(folders["syncrec"], blend=True)
    rows = [row for user in range(20) for row in events_of(data, user, f"new{user}")[:user]]
    rows += [("without", "nothing", "A", 5)]
    history = History(run.dataset, match_events(run.dataset, as_table(rows)).events)
    users = np.arange(history.users)
    for path in ("auto", "single", "blend"):
        tables = {}
        for size in (1, 7, 1000):
            object.__setattr__(run.settings, "eval_users", size)
            blocks = list(make_lists(run, history, users, ListOptions(k=4, path=path)))
            assert len(blocks) == -(-len(users) // size)
            assert [len(block.lengths) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
            tables[size] = pa.concat_tables([block.table for block in blocks])
        object.__setattr__(run.settings, "eval_users", 32)
        for size in (1, 7):
            assert_same_lists(lists(tables[size]), lists(tables[1000]))
            assert tables[size]["path"].to_pylist() == tables[1000]["path"].to_pylist()


def test_lists_are_made_when_they_are_asked_for(folders):
    """Block by block: nothing is scored before it is written, and nothing is kept."""
    run = api.open_run(folders["syncrec"])
    scored = []
    plain = type(run).scores

    class Watched(type(run)):
        users_at_once = 10

        def scores(self, contexts, *arguments):
            scored.append(contexts.users)
            return plain(self, contexts, *arguments)

    watched = Watched(**vars(run))
    blocks = make_lists(watched, History(run.dataset), np.arange(50), ListOptions())
    assert scored == []
    next(blocks)
    assert scored and sum(scored) == 10 * len(scored)
    count = len(scored)
    next(blocks)
    assert len(scored) == 2 * count


def test_who_has_nothing_to_read_is_served_and_counted(data, folders, tmp_path, capsys):
    """A user of one domain by the cross path in the others, a user without any by recent counts."""
    folder = shutil.copytree(folders["syncrec"], tmp_path / "run")
    serving = json.loads((folder / "serving.json").read_text())
    for choice in serving.values():
        choice["path"] = "single"
    (folder / "serving.json").write_text(json.dumps(serving))
    ids = open_dataset(data).item_ids.to_pylist()  # those of A come first
    rows = [("one", item, "A", 1_700_000_000) for item in ids[:2]]
    events = write(tmp_path / "new.csv", [*rows, ("none", "nothing", "A", 1_700_000_000)])
    out = tmp_path / "top.parquet"
    recommend.main([f"--run={folder}", f"--events={events}", f"--out={out}", "--device=cpu"])
    table = pq.read_table(out)
    assert paths_of(table) == {
        ("one", "A"): "single", ("one", "B"): "cross", ("one", "C"): "cross",
        ("none", "A"): "recent", ("none", "B"): "recent", ("none", "C"): "recent",
    }  # fmt: skip
    known = {row["user_id"]: row["context_events"] for row in table.to_pylist()}
    assert known == {"one": 2, "none": 0}
    said = capsys.readouterr().out
    assert (
        "2 of 6 lists are by the cross path, because the user has no event to read in the domain; "
        "1 of 2 users have no event and get what is popular of late (path recent)"
    ) in said
    assert f"--events {events}: {len(rows) + 1} events of 2 users, 2 of whom the dataset" in said
    assert f"--events {events}: 1 events of unknown items are skipped (first: nothing in A)" in said
    run = api.open_run(folder)
    recent = dict(lists(table)["none", "B"])
    counts = run.newcomer_model.counts.at(
        1, np.array([History(run.dataset).end]), run.newcomer_model.half_lives[1], slice(None)
    )[0]
    first = int(run.dataset.item_starts[1]) - 1
    ids = run.dataset.item_ids.to_pylist()[first : first + len(counts)]
    expected = sorted(zip(-counts.astype(np.float32), range(len(ids)), strict=True))[:10]
    assert list(recent) == [ids[number] for _, number in expected]


def test_events_after_now_do_not_count_where_the_time_is_read(data, folders):
    run = api.open_run(folders["time"], blend=True)
    user_id = run.dataset.user_ids[0].as_py()
    item, domain = events_of(data, 1, "")[0][1:3]
    now = int(run.dataset.times.max()) + 2 * DAY
    later = as_table([(user_id, item, domain, now + DAY)])
    for path in ("cross", "blend"):
        options = {"path": path, "now": now, "exclude_seen": False}
        without = api.recommend(run, users=[user_id], **options)
        assert api.recommend(run, later, **options).equals(without)
        counted = api.recommend(run, later, path=path, exclude_seen=False)
        assert set(counted["context_events"].to_pylist()) == {
            without["context_events"][0].as_py() + 1
        }
        assert not counted["score"].equals(without["score"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_any_format_and_any_output_say_the_same(data, folders, tmp_path, suffix):
    run, rows = folders["syncrec"], [*events_of(data, 0, "new"), *events_of(data, 2, "newer")]
    events = write(tmp_path / f"new{suffix}", rows)
    expected = api.recommend(api.open_run(run), as_table(rows), k=3)
    read = {
        "o.parquet": pq.read_table,
        "o.csv": pyarrow.csv.read_csv,
        "o.jsonl": lambda path: pa.Table.from_pylist(
            [json.loads(line) for line in path.read_text().splitlines()]
        ),
    }
    for name, reader in read.items():
        out = tmp_path / name
        recommend.main([f"--run={run}", f"--events={events}", "--k=3", f"--out={out}"])
        table = reader(out)
        assert table.column_names == expected.column_names
        assert_same_lists(lists(table), lists(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*read, events.name])


def test_columns_of_other_names_and_users_who_are_asked_for(data, folders, tmp_path):
    rows = [(u, i, d, t * 1000) for u, i, d, t in events_of(data, 0, "new")]
    events = write(tmp_path / "n.csv", rows, ("who", "what", "shop", "at"))
    out = tmp_path / "o.csv"
    recommend.main(
        [f"--run={folders['syncrec']}", f"--events={events}", "--user_col=who", "--item_col=what",
         "--domain_col=shop", "--time_col=at", "--users=new", "--users=g00001", "--k=2",
         f"--out={out}"]
    )  # fmt: skip
    users = pyarrow.csv.read_csv(out)["user_id"].to_pylist()
    assert sorted(set(users)) == ["g00001", "new"]


def test_only_candidates_are_listed_and_items_have_names(data, folders, tmp_path, capsys):
    dataset = open_dataset(data)
    ids, starts = dataset.item_ids.to_pylist(), dataset.item_starts
    chosen = {0: ids[2:6], 1: ids[starts[1] : starts[1] + 3]}
    lines = tmp_path / "c.txt"
    lines.write_text("\n".join([*chosen[0], *chosen[1], "nothing"]) + "\n")
    table = write(
        tmp_path / "c.csv",
        [(item, DOMAINS[domain]) for domain, items in chosen.items() for item in items],
        ("item_id", "domain"),
    )
    titles = [(item, f"“{item}”, a name") for item in ids[1:]]
    names = write(tmp_path / "n.csv", titles, ("id", "title"))
    run = folders["syncrec"]
    whole = lists(api.recommend(api.open_run(run), k=1000))
    for file in (lines, table):
        out = tmp_path / "o.parquet"
        recommend.main(
            [f"--run={run}", f"--candidates={file}", f"--item_names={names}:id:title", "--k=1000",
             f"--out={out}"]
        )  # fmt: skip
        actual = pq.read_table(out)
        allowed = {(DOMAINS[d], item) for d, items in chosen.items() for item in items}
        everywhere = {item for _, item in allowed}
        expected = {}
        for (user, name), items in whole.items():
            kept = [
                row for row in items
                if ((name, row[0]) in allowed if file == table else row[0] in everywhere)
            ]  # fmt: skip
            expected |= {(user, name): kept} if kept else {}
        assert_same_lists(lists(actual), expected)
        assert actual.column_names[-1] == "title"
        for row in actual.select(["item_id", "title"]).to_pylist():
            item = row["item_id"]
            assert row["title"] == (None if item == ids[0] else f"“{item}”, a name")
    said = capsys.readouterr().out
    assert "rows name no item (first: nothing)" in said
    assert "lists are empty, because no candidate is of their domain: C" in said


LOG_ROW = ("v", "x", "A", 1_700_000_000)


@pytest.mark.parametrize(
    ("files", "words", "said"),
    [
        ({}, ["--events=nowhere.csv"], "--events nowhere.csv does not exist"),
        ({"e.csv": "a,b\n1,2\n"}, ["--events=e.csv"], "--events e.csv: e.csv has no column"),
        ({"e.csv": "user_id,item_id,domain,unix_time\nu,i,A,soon\n"}, ["--events=e.csv"],
         "no row of the log can be used"),
        ({"e.csv": "user_id,item_id,domain,unix_time\nu,i,A,5\n"},
         ["--events=e.csv", "--users=nobody"], "nobody is not among the users of"),
        ({}, ["--user_col=who"], "--user_col says how to read --events; give that too"),
        ({}, ["--max_rejected=0.5"], "--max_rejected says how to read --events"),
        ({}, ["--candidates=nowhere.txt"], "--candidates nowhere.txt cannot be read"),
        ({"c.txt": "nothing\n"}, ["--candidates=c.txt"], "--candidates c.txt names no item of"),
        ({"c.csv": "id\n1\n"}, ["--candidates=c.csv"], "has no column item_id (its columns: id)"),
        ({"c.parquet": "no"}, ["--candidates=c.parquet"], "c.parquet is no table of items"),
        ({}, ["--item_names=n.csv"], "--item_names 'n.csv' must be FILE:KEY:COLUMN"),
        ({}, ["--item_names=n.csv:id:title"], "--item_names n.csv cannot be read"),
        ({"n.csv": "id,name\n1,2\n"}, ["--item_names=n.csv:id:title"], "has no column 'title'"),
        ({"n.csv": "id,rank\n1,2\n"}, ["--item_names=n.csv:id:rank"], "have a column 'rank'"),
        ({"n.csv": "id,title\n1,2\n"}, ["--item_names=n.csv:id:title"], "no id is the id of an"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_one_line(
    folders, tmp_path, monkeypatch, capsys, files, words, said
):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    line = failing(
        capsys, tmp_path,
        lambda: recommend.main([f"--run={folders['separate']}", "--out=o.csv", *words]),
    )  # fmt: skip
    assert said in line


def test_ranks_are_read_as_a_frame(folders):
    ranks = api.read_ranks(folders["syncrec"])
    assert {"user_id", "domain", "item_id", "better", "tied", "candidates"} <= set(ranks.columns)
    assert set(ranks.split) == {"test"} and set(ranks.protocol) == {"full"}
    with pytest.raises(UserError, match="no rows of split test and protocol nothing"):
        api.read_ranks(folders["syncrec"], protocol="nothing")
    with pytest.raises(UserError, match="cannot be read"):
        api.read_ranks("nowhere")


def test_a_path_that_is_not_open_is_refused(folders):
    run = api.open_run(folders["syncrec"])
    with pytest.raises(UserError, match="blend is not open"):
        api.recommend(run, path="blend")
    with pytest.raises(UserError, match="k must be at least 1"):
        api.recommend(run, k=0)
