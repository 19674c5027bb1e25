"""Names that mean harm: no path outside the folders, no markup in the page, no broken table."""

import dataclasses
import html.parser
import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import main
import report
from src.dataset.store.card_schema import domain_name_error
from src.dataset.store.folder import open_dataset
from src.io.errors import UserError, plain, run_command
from src.report.table_files import markdown
from tests.support.command_runs import failing
from tests.support.data_logs import HEADER, MONTH, card_of, fail, make, write_log
from tests.support.run_folders import Log, write_run
from tests.support.spoiling import NAMES
from tests.support.tiny_world import TINY

SCRIPT = "<script>alert(1)</script>"
MARKUP = (SCRIPT, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "it's | a & b", "</table>")


def text_log(folder, domain, item="i", user="u"):
    """A log of 8 users in the domain and in another one."""
    rows = [
        (f"{user}{number}", f"{item}{number % 3}", name, MONTH + 60 * number + place)
        for number in range(8)
        for place, name in enumerate([domain, "Other", domain, "Other"])
    ]
    folder.mkdir(parents=True)
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, names=list(HEADER)), folder / "log.parquet")
    return folder


# ---------------------------------------------------------------- paths


IN_EVERY_CHANGE = ("../../up", "a\0b", "two\nlines", "x" * 300, "\u202egnp.exe", "🙂", "macro")


@pytest.mark.parametrize(
    "domain",
    [
        name if name in IN_EVERY_CHANGE else pytest.param(name, marks=pytest.mark.nightly)
        for name in NAMES
        if name not in ("", "\ud800")
    ],
)
def test_a_domain_stays_within_the_dataset_folder_or_is_refused(tmp_path, capsys, domain):
    raw, out = text_log(tmp_path / "in" / "raw", domain), tmp_path / "in" / "out"
    from src.dataset.build.writer import file_name  # loads a data engine

    if domain_name_error(domain):
        line = fail(capsys, raw, out)
        assert plain(line) == line.strip()
    else:
        make(raw, out)
        assert set(card_of(out)["domains"]) == {domain, "Other"}
        files = sorted(path.name for path in (out / "single").iterdir())
        assert files == sorted(f"{file_name(name)}.parquet" for name in (domain, "Other"))
    made = {path.name for path in (tmp_path / "in").iterdir()}
    assert made <= {"raw", "out", "out-rejected.csv"}  # the last has the rows of a refused log
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize("name", NAMES)
def test_file_names_hold_no_path_and_fit(name):
    from src.dataset.build.writer import file_name  # loads a data engine

    made = file_name(name.encode("utf-8", "replace").decode())
    assert "/" not in made and "\0" not in made and len(made.encode()) <= 240
    assert made not in (".", "..")


@pytest.mark.parametrize("entry", ["data_name", "sha256"])
@pytest.mark.parametrize("name", ["../../../up", "/tmp/up", "a/b", "..", "a\nb", "x" * 300, SCRIPT])
def test_a_hostile_card_writes_nowhere(world, tmp_path, capsys, entry, name):
    data = shutil.copytree(world.data, tmp_path / "data")
    card = card_of(data)
    (data / "data_card.json").write_text(json.dumps(card | {entry: name}))
    flags = [*TINY, f"--data_dir={data}", f"--runs_dir={tmp_path / 'runs'}"]
    line = failing(capsys, tmp_path, lambda: main.main(flags))
    assert f"'{entry}' must be" in line


@pytest.mark.parametrize("flag", ["data_name", "strd_ym", "variant", "run_name"])
@pytest.mark.parametrize("name", ["../up", "/etc", "a/b", "a\nb", "\x1b[2J", "\u202egnp"])
def test_a_hostile_flag_names_no_folder(world, tmp_path, capsys, flag, name):
    flags = [*TINY, f"--data_dir={world.data}", f"--runs_dir={tmp_path}", f"--{flag}={name}"]
    line = failing(capsys, tmp_path, lambda: main.main(flags))
    assert f"--{flag}" in line


# ---------------------------------------------------------------- lines and tables


def test_an_error_is_one_line_without_control_characters(capsys):
    def command():
        raise UserError("a\nb\x1b[2Jc\u202ed\ud800e\0f é")

    with pytest.raises(SystemExit):
        run_command(command)
    assert capsys.readouterr().err == "error: a b\\x1b[2Jc\\u202ed\\ud800e\\x00f é\n"


def test_a_file_that_cannot_be_reached_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: (tmp_path / ("x" * 300)).stat())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_markdown_table_keeps_its_cells():
    table = markdown(["a|b", "c"], [["two\nlines", "|"], ["\x1b[2J", "d"]], 1)
    assert table.splitlines() == [
        "| a\\|b | c |", "|---|---:|", "| two lines | \\| |", "| \\x1b[2J | d |"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a,b", 'quo"te', "=1+1", "\x1b[2J", "../up"])
def test_ids_of_items_and_users_come_back_as_they_were(tmp_path, name):
    raw = text_log(tmp_path / "raw", "Books", item=name, user=name)
    make(raw, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert set(dataset.item_ids.to_pylist()) == {f"{name}{number}" for number in range(3)}
    assert dataset.user_ids.to_pylist() == sorted(f"{name}{number}" for number in range(8))
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


def test_a_note_of_a_log_cannot_steer_the_terminal(tmp_path, capsys):
    rows = [(f"u{n}", f"i{n % 3}", "AB"[n % 2], MONTH + n) for n in range(40)]
    raw = write_log(tmp_path / "raw" / "log.csv", rows, comments="# generated: \x1b[2Jby hand\n")
    make(raw, tmp_path / "out")
    told = capsys.readouterr().out
    assert "\\x1b[2Jby hand" in told and "\x1b" not in told


# ---------------------------------------------------------------- the report


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def hostile_report(folder, log):
    """A report on runs of the three modes, in folders whose names are hostile too."""
    runs = [
        write_run(folder / f"{mode} <b onclick=x>|", log, protocols=("full",), mode=mode)
        for mode in ("sdsr", "cdsr", "syncrec")
    ]
    with pytest.MonkeyPatch.context() as patch:
        words = ["report.py", "transfer", *map(str, runs), f"--out={folder / 'page'}"]
        patch.setattr("sys.argv", words)
        report.main()
    return folder / "page"


def test_names_of_a_log_are_text_in_the_page_and_cells_in_the_tables(tmp_path, capsys):
    domains = (*MARKUP, "été 🙂")
    page = hostile_report(tmp_path, Log(domains=domains, users=40))
    actual = Page((page / "report.html").read_text())
    assert {"script", "b"}.isdisjoint(tag for tag, _ in actual.tags)
    assert all(own["src"].startswith("data:") for tag, own in actual.tags if tag == "img")
    events = [name for _, own in actual.tags for name in own if name.startswith("on")]
    assert events == []
    whole = "\n".join(actual.texts)
    assert all(name in whole for name in domains)
    assert "49" not in {text.strip() for text in actual.texts}  # {{ 7 * 7 }} was not computed
    for path in (page / "tables").glob("*.md"):
        rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
        widths = {line.replace("\\|", "").count("|") for line in rows}
        assert len(widths) == 1, path.name
    levels = pd.read_csv(next((page / "tables").glob("*-levels.csv")), keep_default_na=False)
    assert set(levels.domain) >= set(domains)


@pytest.mark.nightly
def test_the_name_of_a_data_set_is_text_and_no_path(tmp_path, capsys):
    log = dataclasses.replace(Log(users=30), name="x")
    runs = [
        write_run(tmp_path / mode, log, protocols=("full",), mode=mode)
        for mode in ("sdsr", "cdsr", "syncrec")
    ]
    for run in runs:
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"data_name": f"../../{SCRIPT}"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["report.py", "transfer", *map(str, runs), f"--out={tmp_path / 'page'}"]
        )
        report.main()
    page = tmp_path / "page"
    text = (page / "report.html").read_text()
    assert "script" not in {tag for tag, _ in Page(text).tags}
    assert {path.name for path in tmp_path.iterdir()} == {"sdsr", "cdsr", "syncrec", "page"}
    assert {path.parent for path in page.rglob("*.*")} == {
        page, page / "figures", page / "tables"
    }  # fmt: skip
