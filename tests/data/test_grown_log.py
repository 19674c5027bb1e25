"""A log that grew since its dataset was made: only what lies before the cut-off counts."""

from pathlib import Path

import pytest

import main
import recommend
from tests.support.command_runs import TINY, contents, data_step, failing

HEAD = "user_id,item_id,domain,unix_time"
OCTOBER, DAY = 1_696_118_400, 86_400  # 2023-10-01 00:00 UTC, in seconds
MONTHS = {"202310": 0, "202311": 31, "202312": 61}  # first day of each, from October 1


def rows_of(month: str, each: int) -> list[str]:
    """`each` events of twelve users, one a day from the month's first on."""
    return [
        f"u{user:02d},{'ab'[(user + day) % 2]}{(user * day + day) % 7},{'AB'[(user + day) % 2]},"
        f"{OCTOBER + (MONTHS[month] + day) * DAY + user}"
        for user in range(12)
        for day in range(each)
    ]


FIRST = rows_of("202310", 6)
LATER = rows_of("202311", 2)
STRANGERS = [f"new,z9,Z,{OCTOBER + 40 * DAY}", f"u00,z8,A,{OCTOBER + 41 * DAY}"]


def write(raw: Path, files: dict[str, list[str]]) -> Path:
    """The raw log with these rows by file, in place of what was there."""
    raw.mkdir(exist_ok=True)
    for path in raw.iterdir():
        path.unlink()
    for name, rows in files.items():
        (raw / f"{name}.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return raw


def make(raw: Path, out: Path, *more: str, month: str = "202310") -> None:
    data_step(
        "--data_name=shop", f"--strd_ym={month}", f"--raw_dir={raw}", f"--out_dir={out}",
        "--threads=1", *more,
    )  # fmt: skip


GROWN = {
    "a file of the next month": (
        {"a": FIRST, "b": LATER}, "1 file added (b.csv)"
    ),
    "files of new users, items and domains": (
        {"a": FIRST, "b": LATER, "c": STRANGERS}, "2 files added (b.csv …)"
    ),
    "later rows in the same file": ({"a": FIRST + LATER}, "1 file changed (a.csv)"),
    "the same rows in two files": (
        {"a": FIRST[:20], "b": FIRST[20:]}, "1 file added (b.csv), 1 file changed (a.csv)"
    ),
    "an empty file": ({"a": FIRST, "b": []}, "1 file added (b.csv)"),
    "another name": ({"z": FIRST}, "1 file added (z.csv), 1 file removed (a.csv)"),
}  # fmt: skip
GROWN_IN_EVERY_CHANGE = ("files of new users, items and domains", "the same rows in two files")


@pytest.mark.parametrize(
    "grown",
    [
        pytest.param(name, marks=[pytest.mark.nightly] * (name not in GROWN_IN_EVERY_CHANGE))
        for name in GROWN
    ],
)
def test_a_log_with_the_same_events_up_to_the_cut_off_is_the_same(tmp_path, capsys, grown):
    raw, out = write(tmp_path / "raw", {"a": FIRST}), tmp_path / "out"
    make(raw, out)
    before = contents(out)
    files, changes = GROWN[grown]
    write(raw, files)
    capsys.readouterr()
    make(raw, out)
    said = capsys.readouterr().out
    assert f"the raw log has {changes}: nothing new up to the cut-off\n" in said
    assert f"reusing {out}" in said
    assert contents(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


OPTIONS = {
    "filters": ("--min_user_events=3", "--min_item_events=2"),
    "temporal": ("--split=temporal",),
    "order of the log": ("--tie_order=as_logged",),
    "per domain": ("--split=leave_one_out_per_domain",),
    "shared items": ("--shared_items",),
}


@pytest.mark.parametrize(
    "options",
    [
        "temporal",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in OPTIONS if name != "temporal"),
    ],
)
def test_later_events_count_under_no_option(tmp_path, capsys, options):
    raw, out = write(tmp_path / "raw", {"a": FIRST}), tmp_path / "out"
    make(raw, out, *OPTIONS[options])
    before = contents(out)
    write(raw, {"a": FIRST, "b": LATER + STRANGERS})
    make(raw, out, *OPTIONS[options])
    assert "nothing new up to the cut-off" in capsys.readouterr().out
    assert contents(out) == before


OTHERS = {
    "an event that came late": (
        {"a": FIRST, "b": [f"u03,a1,A,{OCTOBER + 9 * DAY}", *LATER]},
        "1 file added (b.csv); up to the cut-off (2023-10-31) there are now 73 events instead of",
    ),
    "a late event of a new user": (
        {"a": FIRST, "b": [f"u99,a1,A,{OCTOBER + 9 * DAY}"]},
        "73 events instead of 72, 13 users instead of 12",
    ),
    "an event that is gone": ({"a": FIRST[1:]}, "there are now 71 events instead of 72"),
    "another domain": (
        {"a": [*FIRST[:-1], FIRST[-1].replace("B,", "C,").replace("A,", "C,")]},
        "1 file changed (a.csv); up to the cut-off",
    ),
    "an event that is there twice": ({"a": FIRST, "b": FIRST[:1]}, "now 73 events instead of 72"),
    "another item": (
        {"a": [FIRST[0].replace("a0", "a1"), *FIRST[1:]]}, "there are now other events",
    ),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_other_events_up_to_the_cut_off_are_refused_and_told(tmp_path, capsys, other):
    raw, out = write(tmp_path / "raw", {"a": FIRST}), tmp_path / "out"
    make(raw, out)
    files, said = OTHERS[other]
    write(raw, files)
    line = failing(capsys, tmp_path, lambda: make(raw, out))
    assert f"{out} was made from a different raw log: " in line
    assert said in line
    assert "--variant NAME" in line


def test_the_monthly_loop_runs_again_when_the_log_has_grown(tmp_path, capsys, monkeypatch):
    """docs/retraining.md: three months, one more file before each round."""
    monkeypatch.chdir(tmp_path)
    files: dict[str, list[str]] = {}
    for month in MONTHS:
        files[month] = rows_of(month, 6 if month == "202310" else 2)
        raw, former = write(tmp_path / "raw", files), []
        for done in files:
            make(raw, Path(f"ds/{done}"), month=done)
            main.main(
                [*TINY, f"--data_dir=ds/{done}", "--runs_dir=runs", f"--run_name=monthly-{done}",
                 "--protocol=full", *former, "--resume"]
            )  # fmt: skip
            recommend.main([f"--run=runs/shop/monthly-{done}", f"--out=next-{done}.csv"])
            former = [f"--init_from=runs/shop/monthly-{done}"]
    said = capsys.readouterr().out
    assert said.count("finished already") == 3
    assert said.count("nothing new up to the cut-off") == 3
    assert "it was trained on 0 held-out events of validation and 0 of test" in said
