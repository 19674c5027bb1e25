"""Searches of a spec: proposals of Optuna, pruned trials, going on, the best as models."""

import json
from pathlib import Path

import pytest

from experiments import run as runner
from experiments.runner import search
from experiments.runner.grid import Grid, Places
from experiments.runner.pool import Pool
from experiments.runner.spec import read_spec
from src.io.errors import UserError
from tests.support.command_runs import make_log

SPEC = """
compare = [["wide.1", "markov"]]

[defaults]
hidden = 8
layers = 1
heads = 2
max_len = 8
batch_size = 20
warmup_steps = 2
max_epochs = 200
patience_steps = 20

[logs.made]
raw = "tiny"
data_name = "tiny"
strd_ym = "202312"
threads = 1

[models.sasrec]
mode = "cdsr"
seeds = [] # only searched

[search.wide]
model = "sasrec"
log = "made"
trials = 4
best = 1
seeds = [42, 43]

[search.wide.space]
lr = { low = 1e-4, high = 1e-2, log = true }
experts_cross = { low = 1, high = 3 }
dropout = [0.1, 0.3]
"""


def study_of(folder: Path, trials: list[dict] | None = None, text: str = SPEC) -> search.Study:
    """The search of a spec, with these trials."""
    (folder / "x.toml").write_text(text)
    places = Places(folder / "runs", folder / "records", folder / "datasets", None)
    grid = Grid(read_spec(folder / "x.toml"), places, Pool(["cpu"], 1), {"made": "a" * 64})
    (study,) = search.read_studies(grid, folder)
    for number, trial in enumerate(trials or []):
        study.trials.append(search.Trial(**{"number": number} | trial))
    return study


def complete(value: float, **settings) -> dict:
    values = {"lr": 1e-3, "experts_cross": 2, "dropout": 0.3} | settings
    return {"settings": values, "state": "complete", "value": value, "curve": [value / 2, value]}


TRIALS = [complete(0.1, lr=2e-3), complete(0.3, lr=3e-3), complete(0.2), complete(0.25)]


def test_the_best_trials_become_models_with_their_seeds_once_the_search_is_done(tmp_path):
    study = study_of(tmp_path, TRIALS[:3])
    spec = read_spec(tmp_path / "x.toml")
    assert not search.with_best_trials(spec, [study]).jobs()
    done = study_of(tmp_path, TRIALS)
    grown = search.with_best_trials(spec, [done])
    jobs = grown.jobs()
    assert [str(job) for job in jobs] == ["made wide.1 seed 42", "made wide.1 seed 43"]
    assert jobs[0].settings.lr == 3e-3
    assert jobs[0].settings.mode == "cdsr"
    assert search.with_best_trials(grown, [done]).jobs() == jobs


def test_a_search_goes_on_from_its_file_and_from_no_other(tmp_path):
    study = study_of(tmp_path, TRIALS)
    study.write()
    assert study_of(tmp_path).trials == study.trials
    for changed in (
        SPEC.replace("high = 1e-2", "high = 2e-2"),
        SPEC.replace("hidden = 8", "hidden = 16"),
    ):
        with pytest.raises(UserError, match="is a search of another model, space, seed or data"):
            study_of(tmp_path, text=changed)
    assert "| 1 | 0.003 | 2 | 0.3 | .300 | 2 | complete |" in search.search_text(study)
    study.trials[1].curve.clear()  # as of a mode of several models
    assert "| 1 | 0.003 | 2 | 0.3 | .300 | – | complete |" in search.search_text(study)


def test_without_optuna_a_search_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-experiments\.txt"):
        search.Sampler(study_of(tmp_path))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('log = "made"\ntrials', 'log = "x"\ntrials', "search.wide: log: unknown 'x'; give made"),
        ("dropout = [0.1, 0.3]", "dropout = []", "dropout must be a list of choices, or"),
        ("low = 1, high = 3", "low = 3, high = 1", "low and high must be numbers, low the smaller"),
        ("trials = 4", "trials = 0", "trials must be a whole number from 1"),
        ("best = 1", 'bests = "1"', "unknown 'bests'; give model, log, space"),
    ],
)
def test_a_mistake_in_a_search_is_one_line(tmp_path, before, after, expected):
    assert before in SPEC
    with pytest.raises(UserError, match=expected.replace(".", r"\.")):
        study_of(tmp_path, text=SPEC.replace(before, after))


# ------------------------------------------------------------------------ with Optuna


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


def asked(sampler: search.Sampler, value: float) -> dict:
    """The settings of the next trial, which ends with this validation."""
    trial = sampler.ask()
    trial.state, trial.value, trial.curve = "complete", value, [value / 2, value]
    sampler.tell(trial)
    return trial.settings


def test_proposals_depend_on_the_seed_and_what_came_before_alone(tmp_path, optuna):
    """The first trial is the model as the spec has it; a search that goes on proposes what the
    uninterrupted one does."""
    sampler = search.Sampler(study_of(tmp_path))
    proposals = [asked(sampler, 0.1 * number) for number in range(4)]
    base = sampler.study.base.settings
    assert proposals[0] == {
        name: getattr(base, name) for name in ("lr", "experts_cross", "dropout")
    }
    assert len({proposal["lr"] for proposal in proposals}) == 4
    sampler.study.trials = sampler.study.trials[:2]
    again = search.Sampler(sampler.study)
    assert [asked(again, 0.1 * number) for number in (2, 3)] == proposals[2:]


def test_an_interrupted_trial_is_the_next_with_its_settings(tmp_path, optuna):
    left = {"state": "running", "settings": TRIALS[1]["settings"]}
    study = study_of(tmp_path, [TRIALS[0], left])
    trial = search.Sampler(study).ask()
    assert (trial.number, trial.settings) == (1, left["settings"])
    assert len(study.trials) == 2


def verdicts(sampler: search.Sampler, curve: list[float]) -> list[int]:
    """The epochs after which the next trial, with these validations, is called hopeless."""
    trial, hopeless = sampler.ask(), []
    for epoch in range(1, len(curve) + 1):
        trial.curve = curve[:epoch]
        if sampler.hopeless(trial):
            hopeless.append(epoch)
    return hopeless


def test_a_trial_below_the_median_at_a_rung_is_hopeless_there(tmp_path, optuna):
    first, *_, last = search.RUNGS
    good = [complete(0.3) | {"curve": [0.3] * last} for _ in range(search.COMPARED)]
    study = study_of(tmp_path, good)
    study.search.__dict__["trials"] = 10
    sampler = search.Sampler(study)
    assert verdicts(sampler, [0.1] * first) == [first]
    assert verdicts(sampler, [0.4] + [0.1] * last) == []  # by its best so far
    slow = [0.1] * (first - 1) + [0.3] * (last - first)
    assert verdicts(sampler, slow) == []
    study.search.__dict__["pruned"] = False
    assert verdicts(sampler, [0.1] * last) == []


def test_pruned_trials_count_among_those_that_others_are_compared_with(tmp_path, optuna):
    """Else the survivors alone would raise the median, until hardly a trial were left."""
    rung = search.RUNGS[0]
    trials = [complete(0.5) | {"curve": [0.5] * rung}] * 2
    trials += [complete(0.1) | {"curve": [0.1] * rung, "state": "pruned"}] * 3
    study = study_of(tmp_path, trials)
    study.search.__dict__["trials"] = 10
    assert verdicts(search.Sampler(study), [0.2] * rung) == []
    study.trials = study.trials[:3]  # fewer than COMPARED
    assert verdicts(search.Sampler(study), [0.01] * rung) == []


def test_a_rung_that_lies_between_two_looks_is_not_missed(tmp_path, optuna):
    rung = search.RUNGS[0]
    good = [complete(0.3) | {"curve": [0.3] * (rung + 2)} for _ in range(search.COMPARED)]
    study = study_of(tmp_path, good)
    study.search.__dict__["trials"] = 10
    sampler = search.Sampler(study)
    trial = sampler.ask()
    for epochs, expected in ((rung - 1, False), (rung + 1, True), (rung + 2, False)):
        trial.curve = [0.1] * epochs
        assert sampler.hopeless(trial) is expected


@pytest.mark.nightly
def test_the_whole_way_interrupted_and_pruned(tmp_path, monkeypatch, optuna, capsys):
    make_log(tmp_path / "raw" / "tiny")
    (tmp_path / "x.toml").write_text(SPEC)
    folders = {name: tmp_path / name for name in ("runs_dir", "records", "results", "datasets")}
    words = [
        str(tmp_path / "x.toml"), f"--data={tmp_path / 'raw'}", "--jobs=2",
        *(f"--{name}={value}" for name, value in folders.items()),
    ]  # fmt: skip
    monkeypatch.setattr(search, "LOOK_S", 0.05)
    monkeypatch.setattr(search.Sampler, "hopeless", lambda self, trial: trial.number == 1)
    file = tmp_path / "results" / "search" / "x-wide.json"

    class Interrupted(Pool):
        def ended(self):
            if len(list((tmp_path / "runs_dir").rglob("search-*/last.pt"))) == 2:
                raise KeyboardInterrupt
            return super().ended()

    with monkeypatch.context() as patch:
        patch.setattr(runner, "Pool", Interrupted)
        patch.setattr(search, "_look", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            runner.main(words)
    left = {one["number"]: one for one in json.loads(file.read_text())["trials"]}
    assert {one["state"] for one in left.values()} == {"running"}
    runner.main(words)
    trials = {one["number"]: one for one in json.loads(file.read_text())["trials"]}
    assert {number: one["settings"] for number, one in trials.items() if number in left} == {
        number: one["settings"] for number, one in left.items()
    }
    assert {number: one["state"] for number, one in trials.items()} == {
        0: "complete", 1: "pruned", 2: "complete", 3: "complete",
    }  # fmt: skip
    output = capsys.readouterr().out
    assert "0 of 2 runs are recorded" in output
    rows = [line for line in output.splitlines() if line.startswith("| CDSR | wide.1 ")]
    assert rows, "the best trial stands in the table"
    assert len(list((tmp_path / "runs_dir" / "tiny").glob("search-*"))) == 1
    assert len(list((tmp_path / "records").glob("[0-9a-f]" * 16 + ".json"))) == 2
    runner.main(words)
    assert "2 of 2 runs are recorded" in capsys.readouterr().out
