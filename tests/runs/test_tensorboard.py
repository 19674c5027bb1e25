"""--tensorboard: the tables' numbers as scalars where the package is, one line where it is not."""

import csv
from collections import Counter

import numpy as np
import pytest

from src.runs.tables import TRANSFER_COLUMNS
from src.training import tensorboard as liveview
from tests.support.command_runs import DOMAINS, train

NO_PACKAGE = "--tensorboard: the package tensorboard is not installed; pip install tensorboard\n"
TWO = ("--max_epochs=2", "--protocol", "full")


@pytest.fixture(scope="module")
def plain(finished_run):
    """A run without the flag."""
    return finished_run("plain", *TWO)


@pytest.fixture(scope="module")
def resumed(data, tmp_path_factory):
    """A run whose second epoch is trained twice: it was stopped before last.pt had it."""
    pytest.importorskip("tensorboard")
    runs, flags = tmp_path_factory.mktemp("resumed"), ("--tensorboard", "--protocol", "full")
    run = train(data, runs, "run", *flags)
    one_epoch = (run / "last.pt").read_bytes()
    longer = (*flags, "--max_epochs=2", "--resume")
    train(data, runs, "run", *longer)
    (run / "last.pt").write_bytes(one_epoch)
    (run / "results.json").unlink()
    return train(data, runs, "run", *longer)


def scalars(folder) -> Counter:
    """{(name, step, value)} with how often the view holds it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    view = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return Counter(
        (tag, event.step, event.value)
        for tag in view.Tags()["scalars"]
        for event in view.Scalars(tag)
    )


def table(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rows_of(folder) -> Counter:
    """What the tables of a folder say, as the view should."""
    metrics = table(folder / "metrics.csv")
    steps = {row["epoch"]: int(row["step"]) for row in metrics}
    expected = Counter(
        (
            f"{row['split']} {row['path']} {row['metric']}/{row['domain']}",
            int(row["step"]),
            float(np.float32(row["value"])),
        )
        for row in metrics
    )
    for row in table(folder / "transfer.csv") if (folder / "transfer.csv").is_file() else ():
        for name in TRANSFER_COLUMNS[2:]:
            value = float(np.float32(row[name]))
            expected[(f"transfer {name}/{row['domain']}", steps[row["epoch"]], value)] += 1
    return expected


# ------------------------------------------------------------------------ with the package


def test_the_view_holds_each_row_of_the_tables_once_and_the_tables_stay_equal(resumed, plain):
    expected = rows_of(resumed)
    names = {name for name, _, _ in expected}
    assert {"train cross loss/A", "valid single ndcg@10/users", "transfer gamma/C"} <= names
    assert len({step for _, step, _ in expected}) == 2
    assert scalars(resumed / "tensorboard") == expected
    assert set(expected.values()) == {1}
    for name in ("metrics.csv", "transfer.csv", "results.json"):
        assert (resumed / name).read_bytes() == (plain / name).read_bytes()


def test_each_domains_own_model_has_a_view_of_its_own(data, tmp_path):
    pytest.importorskip("tensorboard")
    flags = ("--tensorboard", "--mode=sdsr_separate", "--protocol", "full")
    run = train(data, tmp_path, "run", *flags)
    view = run / "tensorboard" / "domains"
    assert sorted(path.name for path in view.iterdir()) == ["0", "1", "2"]
    for number, domain in enumerate(DOMAINS):
        shown = scalars(view / str(number))
        assert shown == rows_of(run / "domains" / str(number))
        assert f"valid single ndcg@10/{domain}" in {name for name, _, _ in shown}
    assert [path.name for path in (run / "tensorboard").iterdir()] == ["domains"]


# ------------------------------------------------------------------------ without it


def test_without_the_package_a_run_prints_one_line_and_continues(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(liveview, "find_spec", lambda name: None)
    run = train(data, tmp_path, "run", "--tensorboard", "--mode=sdsr_separate", *TWO)
    assert capsys.readouterr().out.count(NO_PACKAGE) == 1
    assert not list(run.rglob("*tensorboard*")) and not list(run.rglob("*tfevents*"))
