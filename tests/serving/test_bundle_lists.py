"""Lists from a bundle: those of the run that it was made from, for users whose events are given."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recommend
from src.io.errors import UserError
from src.serving import api
from tests.support.command_runs import failing
from tests.support.served_lists import events_of, lists

DAY = 86_400
BY_PATH = [
    *(("both", path) for path in ("auto", "cross", "single", "blend")),
    *(("separate", path) for path in ("single", "blend")),
]


def assert_same_lists(actual: pa.Table, expected: pa.Table) -> None:
    """The same rows, with scores equal to 1e-4."""
    assert actual.column_names == expected.column_names
    assert len(actual) > 0
    for name in actual.column_names:
        if name != "score":
            assert actual[name].to_pylist() == expected[name].to_pylist(), name
    np.testing.assert_allclose(actual["score"], expected["score"], atol=1e-4)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(("name", "path"), BY_PATH)
def test_a_user_s_list_from_the_bundle_is_that_from_the_dataset(
    data, opened, name, path, exclude_seen
):
    run, bundle = opened[name]
    events = events_of(data, 30)
    wanted = {"k": 1000, "path": path, "exclude_seen": exclude_seen}
    users = sorted(set(events.user_id))
    expected = api.recommend(run, users=users, **wanted)
    assert_same_lists(api.recommend(bundle, events, **wanted), expected)
    assert len(set(expected["path"].to_pylist())) == 1 + (path == "single" and name != "separate")


@pytest.mark.parametrize(("name", "path"), BY_PATH)
def test_later_events_and_times_count_as_in_the_run(data, opened, name, path):
    """Also for a user without an event of a known item, and one of whom nothing is known."""
    run, bundle = opened[name]
    old = events_of(data, 6)
    time = bundle.end + 3 * DAY
    later = old.groupby("user_id").tail(2).assign(unix_time=time)
    nobody = pd.DataFrame([("nobody", "no item", "A", 5)], columns=old.columns)
    for now in (None, time, time + 40 * DAY):
        new = pd.concat([later, nobody])
        expected = api.recommend(run, new, k=5, path=path, now=now)
        actual = api.recommend(bundle, pd.concat([old, new]), k=5, path=path, now=now)
        assert_same_lists(actual, expected)
        unknown = actual.filter(np.array(actual["user_id"]) == "nobody")
        assert set(unknown["path"].to_pylist()) == {"recent"}


def test_a_run_without_trend_has_a_bundle_without_it(opened):
    """Whose lists by its blend are those of the run above."""
    both, separate = (opened[name][1].blend.names for name in ("both", "separate"))
    trend = {"recent x1", "recent x8", "recent x64", "covisit x1", "covisit x8"}
    assert trend < set(both) and not trend & set(separate)
    assert set(opened["separate"][1].blend.names) == set(opened["separate"][0].blend.names)


def test_joint_transitions_matter(data, opened):
    _, bundle = opened["both"]
    assert "joint transitions" in bundle.blend.names
    assert bundle.count_models["markov_any"].transitions.sum() > 0
    assert not (opened["separate"][1].dataset.folder / "joint_transitions.parquet").exists()
    events = events_of(data, 20)
    domain = bundle.blend.names.index("joint transitions")
    bundle.blend.weights[:, domain] += 10
    changed = api.recommend(bundle, events, k=5, path="blend")
    bundle.blend.weights[:, domain] -= 10
    assert lists(changed) != lists(api.recommend(bundle, events, k=5, path="blend"))


def test_the_command_writes_the_lists_of_the_run(data, exported, tmp_path, capsys):
    run, bundle = exported["both"]
    events = events_of(data, 10)
    columns = {"user_id": "u", "item_id": "i", "domain": "d", "unix_time": "t"}
    events.rename(columns=columns).to_csv(tmp_path / "new.csv", index=False)
    reading = ["--user_col=u", "--item_col=i", "--domain_col=d", "--time_col=t"]
    words = ["--k=4", f"--events={tmp_path / 'new.csv'}", *reading]
    tables = {}
    for folder in (run, bundle):
        out = tmp_path / "lists.parquet"
        recommend.main([f"--run={folder}", f"--out={out}", "--device=cpu", *words])
        tables[folder] = pq.read_table(out)
        said = capsys.readouterr().out
        assert "what the user has (--" in said
    assert_same_lists(tables[bundle], tables[run])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_seen_items_stay_out_as_the_data_of_the_run_says(data, exported, opened, share):
    _, bundle = opened["both"]
    bundle.facts["repeat_share"], before = share, bundle.facts["repeat_share"]
    events = events_of(data, 10)
    table = api.recommend(bundle, events, k=1000).to_pandas()
    listed = set(zip(table.user_id, table.item_id, strict=True))
    bundle.facts["repeat_share"] = before
    seen = set(zip(events.user_id, events.item_id, strict=True))
    assert bool(listed & seen) == (share > 0.1)
    audit = json.loads((data / "data_card.json").read_text())["audit"]["repeat_targets"]
    assert before == pytest.approx(audit["share"], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --events too"),
        (("--events=new.csv",), "give --out too"),
        (("--at=test",), "has no test targets; drop --at"),
        (("--data_dir=data", "--events=new.csv"), "needs no dataset; drop --data_dir"),
        (("--events=new.csv", "--out=o.csv", "--device=cuda"), "computed on the CPU; drop it"),
        (("--events=new.csv", "--out=o.csv", "--now=2030-01-01"), "--now needs --serve_path blend"),
        (("--events=new.csv", "--out=o.csv", "--serve_path=cross"), "has only the path single"),
    ],
)
def test_what_a_bundle_cannot_do(exported, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    _, bundle = exported["separate"]
    assert said in failing(capsys, bundle, lambda: recommend.main([f"--run={bundle}", *words]))


def test_a_program_that_asks_for_another_path_or_an_earlier_time(data, opened):
    _, bundle = opened["separate"]
    with pytest.raises(UserError, match="only the path single"):
        api.recommend(bundle, events_of(data, 2), path="cross")
    with pytest.raises(UserError, match="counts are as of its export"):
        api.recommend(bundle, events_of(data, 2), path="blend", now=bundle.end - 1)
