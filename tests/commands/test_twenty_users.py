"""One log of twenty users, as people treat it: checkpoints deleted, folders moved, other places."""

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import main
import recommend
from tests.support.command_runs import TINY, contents, data_step, failing

# the items of each user in time order: t0 … t5 are Toys, b0 … b5 Books
USERS = """
    t3 b2 t3 t3 t4 b4 b2 b0 | t4 b2 b5 b5 t3 b2 t2 b4 | t3 t0 b0 t5 b4 t2 b5 t5
    b1 b1 b4 t0 b2 t0 t4 t5 | b4 t4 b4 t3 b4 t2 b2 b1 | b0 t3 b0 b1 b0 t5 t4 b1
    t4 t3 t5 t0 t4 b3 t1 b0 | t0 b2 b2 t0 b1 b0 b0 b5 | b4 b3 b2 b0 b1 b5 b3 b5
    b5 b4 t4 b2 b1 b5 t2 t1 | b4 t0 b5 t1 t2 t4 b5 b0 | b1 t4 t0 t5 b0 t5 t4 t5
    t3 t1 b3 b2 b4 t1 b3 t4 | t5 t4 b5 t3 t5 b0 b5 t1 | b1 t3 t0 t5 t5 b1 t0 t5
    b3 t4 b0 t2 t3 b3 b4 b5 | b0 t5 t2 b1 b5 b5 b1 b4 | b2 t5 b0 t3 b0 t3 b2 b5
    t0 b2 b0 b1 t4 t2 b5 t5 | t5 t2 b1 t4 t0 b1 t2 t2
"""
DOMAINS = {"t": "Toys", "b": "Books"}


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    """The current folder, with the raw log in raw/ and its dataset in ds/x."""
    monkeypatch.chdir(tmp_path)
    lines = ["user_id,item_id,domain,unix_time"]
    users = USERS.replace("\n", " | ").replace("|  |", "|").strip(" |").split("|")
    for user, items in enumerate(word.split() for word in users if word.strip()):
        for number, item in enumerate(items):
            time = 1_400_000_000 + 61 * user + 259_217 * number
            lines.append(f"u{user:02d},{item},{DOMAINS[item[0]]},{time}")
    assert len(lines) == 161
    Path("raw").mkdir()
    Path("raw/a.csv").write_text("\n".join(lines) + "\n")
    data_step("--data_name=x", "--strd_ym=202312", "--raw_dir=raw", "--out_dir=ds/x", "--threads=1")
    return tmp_path


def train(*more: str) -> None:
    main.main(["--data_dir=ds/x", "--runs_dir=myruns", "--run_name=r", *TINY, *more])


def test_more_epochs_without_last_pt_are_refused_and_the_run_stays(shop, capsys):
    train("--max_epochs=3")
    run = Path("myruns/x/r")
    (run / "last.pt").unlink()
    line = failing(capsys, run, lambda: train("--max_epochs=4", "--resume"))
    assert "r/last.pt is missing; no other checkpoint to continue from" in line
    assert "--overwrite" in line


def test_a_relative_runs_dir_is_where_the_command_runs_and_recommend_finds_it(shop, capsys):
    train()
    assert (shop / "myruns" / "x" / "r" / "results.json").is_file()
    recommend.main(["--run=myruns/x/r", "--device=cpu", "--k=3"])
    assert "recommendations: myruns/x/r/recommendations.parquet" in capsys.readouterr().out


def test_a_dataset_that_has_moved_is_recommended_from_with_data_dir(shop, capsys):
    train()
    recommend.main(["--run=myruns/x/r", "--device=cpu", "--out=before.csv"])
    Path("ds/x").rename("ds/y")
    line = failing(capsys, shop, lambda: recommend.main(["--run=myruns/x/r", "--device=cpu"]))
    assert "ds/x, where there is no dataset now (no data_card.json)" in line
    assert "if it has moved, give its folder as --data_dir" in line
    words = ["--run=myruns/x/r", "--device=cpu", "--data_dir=ds/y", "--out=after.csv"]
    recommend.main(words)
    assert Path("before.csv").read_bytes() == Path("after.csv").read_bytes()


def test_a_moved_dataset_of_other_content_is_refused(shop, capsys):
    train()
    log = Path("raw/a.csv").read_text().splitlines()[:-1]
    Path("raw/a.csv").write_text("\n".join(log) + "\n")
    data_step("--data_name=x", "--strd_ym=202312", "--raw_dir=raw", "--out_dir=ds/y", "--threads=1")
    words = ["--run=myruns/x/r", "--device=cpu", "--data_dir=ds/y"]
    line = failing(capsys, shop, lambda: recommend.main(words))
    assert "another dataset" in line


def test_a_run_without_serving_json_says_which_path_serves(shop, capsys):
    train()
    words = ["--run=myruns/x/r", "--device=cpu", "--out=lists.csv"]
    Path("myruns/x/r/serving.json").unlink()
    capsys.readouterr()
    recommend.main(words)
    line = (
        "myruns/x/r has no serving.json: cross serves every domain; main.py --evaluate myruns/x/r "
        "chooses the path of each on validation\n"
    )
    assert capsys.readouterr().out.startswith(line)
    recommend.main([*words, "--serve_path=single"])
    assert "serving.json" not in capsys.readouterr().out


def test_lists_that_stay_empty_are_counted(shop, capsys):
    """u08 has six Books of six; nobody has every Toy."""
    train()
    capsys.readouterr()
    recommend.main(["--run=myruns/x/r", "--device=cpu", "--out=lists.parquet", "--exclude_seen"])
    assert (
        "no candidate is left for 1 of 40 lists, because the user has every item of the domain "
        "(first: user u08, Books); 0 of 20 users have no list at all; --no-exclude_seen ranks "
        "those items too\n"
    ) in capsys.readouterr().out
    assert len(set(pq.read_table("lists.parquet")["user_id"].to_pylist())) == 20
    words = ["--run=myruns/x/r", "--device=cpu", "--out=one.csv", "--users=u08", "--domains=Books"]
    recommend.main([*words, "--exclude_seen"])
    assert "no candidate is left for 1 of 1 lists" in (out := capsys.readouterr().out)
    assert "1 of 1 users have no list at all" in out
    assert pyarrow.csv.read_csv("one.csv").num_rows == 0
    for default in ("--no-exclude_seen", ""):  # three in ten targets are repeats
        recommend.main([*words, *([default] if default else [])])
        out = capsys.readouterr().out
        assert "no candidate" not in out and "30.0% of the test targets are of an item" in out


def test_targets_without_another_candidate_are_counted(shop, capsys):
    """Of the twenty test targets one is b5 of u08, who has had every other Book."""
    train("--protocol", "full", "full-unseen")
    out = capsys.readouterr().out
    line = "test targets without another candidate, of 20 (every model ranks them first): "
    assert f"{line}full-unseen 1\n" in out
    assert contents(shop)["myruns/x/r/results.json"]
