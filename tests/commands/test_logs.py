"""experiments/logs/: published files become the log that the tables stand on, or are refused."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from experiments.logs import abxi, check, ciao, known, wikispeedia, xwines
from src.io.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {"abxi": abxi, "ciao": ciao, "wikispeedia": wikispeedia, "xwines": xwines}
HEAD = "# made up, in the form of the published file\n#\n\n"

# Miniatures of the published files, and the rows that they must give.
# ABXI: numbers of users and of items in sequences, and their ids in maps.
ABXI = {
    "abe/map_user_50.txt": json.dumps({"ANN": 0, "BEN": 1}),
    "abe/map_item_50.txt": json.dumps({"Z1": [1, 0], "B2": [2, 0], "E1": [3, 1]}),
    "abe/abe_50_preprocessed.txt": "0 3|200 2|100 1|200\n1 1|300\n",
    "afk/map_user_50.txt": json.dumps({"BEN": 0}),
    "afk/map_item_50.txt": json.dumps({"G1": [1, 0], "H1": [2, 1]}),
    "afk/afk_50_preprocessed.txt": "0 2|250 1|300\n",
}
ABXI_ROWS = [
    ("ANN", "B2", "Beauty", 100),
    ("ANN", "Z1", "Beauty", 200),
    ("ANN", "E1", "Electronics", 200),
    ("BEN", "H1", "Home_and_Kitchen", 250),
    ("BEN", "Z1", "Beauty", 300),
    ("BEN", "G1", "Grocery_and_Gourmet_Food", 300),
]
XWINES = {
    "XWines_Slim_150K_ratings.csv": "RatingID,UserID,WineID,Vintage,Rating,Date\n"
    "7,1000009,100002,N.V.,4.0,2020-01-01 00:00:10\n"
    "8,1000009,100001,2012,4.5,2020-01-01 00:00:01\n"
    "3,1000008,100003,1999,2.5,2021-12-31 23:58:52\n",
    "XWines_Slim_1K_wines.csv": "WineID,WineName,Type,Grapes\n"
    "100001,Origem,Rosé,\"['Merlot', 'Syrah']\"\n100002,Porto,Dessert/Port,[]\n100003,X,Red,[]\n",
}
XWINES_ROWS = [
    (1000008, 100003, "Red", 1640995132),
    (1000009, 100001, "Rose", 1577836801),
    (1000009, 100002, "Dessert_Port", 1577836810),
]
# user, product, category, rating, helpfulness, time
CIAO = [[2, 11, 28, 5, 0, 900.0], [1, 10, 3, 1, 2, 960.0], [2, 9, 1, 4, 3, 900.0]]
CIAO_ROWS = [
    ("u0001", "i000010", "c03", 960),
    ("u0002", "i000011", "c28", 900),
    ("u0002", "i000009", "c01", 900),
]
# Games given up: address, end, duration, path, target, how it ended. User 0 has four events, one
# too few; user 1 has a game of one page; user 2 plays two games at once; Pikachu has no category.
WIKISPEEDIA = {
    "articles.tsv": HEAD + "%C3%85land\nApe\nMoon\nPikachu\nZulu\n",
    "categories.tsv": HEAD + "%C3%85land\tsubject.Countries\n%C3%85land\tsubject.Geography.Europe\n"
    "Ape\tsubject.Science.Biology.Mammals\nMoon\tsubject.Science.Space\nZulu\tsubject.Geography\n",
    "paths_unfinished.tsv": HEAD + "aa\t1000\t1804\tMoon\tApe\ttimeout\n"
    "bb\t2000\t100\t%C3%85land;Ape;<;Moon\tZulu\trestart\n"
    "aa\t2100\t5\tMoon;Ape;Moon;Ape\tZulu\trestart\n"
    "bb\t2200\t7\tZulu\tApe\trestart\n"
    "bb\t5000\t1809\tPikachu;Zulu;Ape\tMoon\ttimeout\n"
    "cc\t8003\t9\tApe;Moon;Zulu\tMoon\trestart\n"
    "cc\t8010\t16\tMoon;Zulu;Ape;Moon;Zulu\tMoon\trestart\n",
}
WIKISPEEDIA_ROWS = [
    (1, 0, "Countries", 1900),
    (1, 1, "Science", 1925),
    (1, 2, "Science", 1975),
    (1, 4, "Geography", 3194),
    (1, 1, "Science", 3197),
    (2, 1, "Science", 7994),  # the first game in the file
    (2, 2, "Science", 7995),  # the second, a second later
    (2, 2, "Science", 7997),
    (2, 4, "Geography", 7998),  # 7997.2 is taken
    (2, 4, "Geography", 8000),
    (2, 1, "Science", 8001),  # 8000.4 is taken
    (2, 2, "Science", 8004),
    (2, 4, "Geography", 8007),
]
EXPECTED = {
    "abxi": ABXI_ROWS, "ciao": CIAO_ROWS, "wikispeedia": WIKISPEEDIA_ROWS, "xwines": XWINES_ROWS,
}  # fmt: skip


@pytest.fixture(params=SCRIPTS)
def published(request, tmp_path):
    """The name of a log, and a folder with its miniature."""
    texts = {"abxi": ABXI, "wikispeedia": WIKISPEEDIA, "xwines": XWINES}.get(request.param, {})
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    if request.param == "ciao":
        savemat(tmp_path / "rating_with_timestamp.mat", {"rating": np.array(CIAO)})
    return request.param, tmp_path


@pytest.fixture
def is_known(published, monkeypatch):
    """The miniature's rows as those of the tables."""
    name, _ = published
    log = pd.DataFrame(EXPECTED[name], columns=known.COLUMNS)
    entry = known.known_logs()[name] | known.facts_of(log)
    monkeypatch.setattr(known, "known_logs", lambda: {name: entry})
    monkeypatch.setattr(check, "known_logs", lambda: {name: entry})
    return entry


def command(name, folder):
    known.make_log(name, SCRIPTS[name].convert, [f"--files={folder}", f"--data={folder / 'data'}"])
    return folder / "data" / name / known.FILE_NAME


def test_published_files_give_the_rows_of_the_log_in_their_order(published):
    name, folder = published
    log = SCRIPTS[name].convert(folder)
    assert list(log) == known.COLUMNS
    assert list(log.itertuples(index=False, name=None)) == EXPECTED[name]


def test_the_log_of_the_tables_is_written_and_checked(published, is_known, capsys):
    name, folder = published
    path = command(name, folder)
    written = path.read_bytes()
    assert command(name, folder).read_bytes() == written
    check.main([name, str(path)])
    output = capsys.readouterr().out
    assert f"this is the log {name} of the tables" in output
    assert "another order" not in output


def test_other_rows_are_refused_and_nothing_is_written(published):
    name, folder = published
    with pytest.raises(UserError, match=rf"don't give the log {name} .* sha256 .*nothing was"):
        command(name, folder)
    assert not (folder / "data").exists()


def test_missing_files_are_named_with_their_address(published):
    name, folder = published
    entry = known.known_logs()[name]
    file = next(iter(entry["files"]))
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"lacks {re.escape(file)}; download .*https://"):
        command(name, folder)


def test_a_file_of_another_form_is_one_line(published):
    name, folder = published
    for file in known.known_logs()[name]["files"]:
        (folder / file).write_text("something\nelse\n")
    with pytest.raises(UserError, match=r"are not as published \(\w+: "):
        command(name, folder)


def test_a_file_with_another_hash_than_its_publisher_states_is_noted(tmp_path, capsys):
    for name, text in XWINES.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError):
        command("xwines", tmp_path)
    notes = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in notes] == sorted(XWINES)


# ------------------------------------------------------------------------ check.py


@pytest.mark.parametrize("published", ["xwines"], indirect=True)
def test_check_shows_what_differs(published, is_known, capsys):
    name, folder = published
    path = command(name, folder)
    log = pd.read_csv(path)
    log.iloc[::-1].to_csv(path, index=False)
    check.main([name, str(path)])
    assert "in another order" in capsys.readouterr().out
    log.assign(domain="Red").to_csv(path, index=False)
    with pytest.raises(SystemExit, match="1"):
        check.main([name, str(path)])
    output, errors = capsys.readouterr()
    assert "domains 1   expected: 3" in output
    assert "events  3\n" in output
    assert "is not the log xwines" in errors


def test_check_refuses_what_is_no_log(tmp_path):
    path = tmp_path / "log.csv"
    for content in (b"", b"user_id,item_id\n1,2\n", b"user_id,item_id,domain,unix_time\n1,2,A,x\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no log with user_id,item_id,domain,unix_time"):
            check.main(["abxi", str(path)])


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs coreutils")
def test_the_hash_is_that_of_the_shell(tmp_path):
    log = pd.DataFrame(XWINES_ROWS[::-1], columns=known.COLUMNS)
    path = tmp_path / known.FILE_NAME
    log.to_csv(path, index=False)
    pipe = f"zcat '{path}' | tail -n +2 | LC_ALL=C sort | sha256sum"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=True)
    assert known.facts_of(known.read_log(path))["sha256"] == done.stdout.split()[0]


# ------------------------------------------------------------------------ the page


def test_every_real_log_of_a_spec_is_known_and_on_the_page():
    page = (ROOT / "experiments" / "README.md").read_text()
    raw = set()
    for path in (ROOT / "experiments" / "specs").glob("*.toml"):
        assert f"[{path.stem}](specs/{path.name})" in page
        raw |= {log.get("raw") for log in tomllib.loads(path.read_text())["logs"].values()}
    assert raw - {None} == known.known_logs().keys() == SCRIPTS.keys()
    for name, entry in known.known_logs().items():
        (row,) = re.findall(rf"^\| \[{name}\]\(logs/.*$", page, re.MULTILINE)
        for fact in ("events", "users", "items", "domains"):
            assert f"| {entry[fact]:,} |" in row
        assert f"`{entry['sha256'][:16]}`" in row
        assert entry["source"] in row
