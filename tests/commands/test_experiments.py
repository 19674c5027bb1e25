"""experiments/run.py: specs, the queue, committed records, and tables from these alone."""

import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import run as runner
from experiments.runner.grid import Grid, Places, made_data
from experiments.runner.pool import Pool, Running
from experiments.runner.spec import read_spec
from src.config.names import COUNT_MODELS, COUNTED, OPTIONAL_COUNT_MODELS
from src.config.settings import run_settings
from src.io.errors import UserError
from src.report.compare import compare_pair, read_rankers
from src.report.finished_runs import read_runs
from src.report.recorded_runs import read_ranks, recorded_run, recorded_targets
from src.report.run_records import LIMIT, STORED, read_records, run_key
from tests.support.command_runs import make_log

SPEC = """
seeds = [1]
compare = [["syncrec:served", "sdsr"], ["syncrec", "markov"]]
transfer = ["syncrec:cross", "sdsr"]

[defaults]
hidden = 8
layers = 1
heads = 2
max_len = 8
batch_size = 20
warmup_steps = 2
max_epochs = 3

[logs.made]
raw = "tiny"
data_name = "tiny"
strd_ym = "202312"
threads = 1

[models.syncrec]
mode = "syncrec"
gap = "training"

[models.sdsr]
mode = "sdsr"
"""
GENERATED = """generate = [
  "-m", "src.dataset.generator", "--preset", "planted", "--users", "50", "--events", "10",
  "--clusters", "3", "--cluster_items", "4", "--domains", "A", "B", "--relatedness", "1", "0",
]"""
BROKEN = SPEC + '\n[models.broken]\nmode = "sdsr"\nlr = 1e30\n'


def flags(folder: Path, text: str, *more: str) -> list[str]:
    """The command line for a spec of this text in a folder of its own."""
    path = folder / "experiment.toml"
    path.write_text(text)
    folders = {name: folder / name for name in ("runs_dir", "records", "results", "datasets")}
    return [
        str(path), f"--data={folder / 'raw'}", "--jobs=2",
        *(f"--{name}={value}" for name, value in folders.items()), *more,
    ]  # fmt: skip


# ------------------------------------------------------------------------ the whole way


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A spec that was interrupted once its runs had saved, with a model that fails, then resumed;
    the folder, and what the second call, which must end with status 1, writes to stderr."""
    folder = tmp_path_factory.mktemp("experiment")
    make_log(folder / "raw" / "tiny")

    class Interrupted(Pool):
        def ended(self):
            runs = [one for one in self.running if one.log.name.startswith("made-")]
            if len(runs) == 2 and len(list((folder / "runs_dir").rglob("last.pt"))) == 2:
                raise KeyboardInterrupt
            return super().ended()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Pool", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.main(flags(folder, SPEC))
    assert not list((folder / "records").glob("*")), "nothing is recorded before it is finished"
    errors = io.StringIO()
    with redirect_stderr(errors), pytest.raises(SystemExit, match="1"):
        runner.main(flags(folder, BROKEN))
    return folder, errors.getvalue()


def outputs(folder: Path) -> dict[str, str]:
    """{model: the output of its commands}"""
    logs = (folder / "runs_dir" / "tiny" / "logs").glob("made-*.log")
    return {path.name.split("-")[1]: path.read_text() for path in logs}


def best_epochs(metrics: pd.DataFrame) -> list[int]:
    """The epoch of the best checkpoint of the cross path."""
    rows = metrics[(metrics.path == "cross") & (metrics.metric == "ndcg@10")]
    rows = rows[(rows.split == "valid") & (rows.domain == "macro")]
    return [int(rows.epoch[rows.value.idxmax()])]


def run_folders(folder: Path) -> dict[str, Path]:
    """{model: its run folder} of the finished runs."""
    results = (folder / "runs_dir" / "tiny").glob("*/results.json")
    return {path.parent.name.split("-")[1]: path.parent for path in results}


def test_an_interrupted_run_goes_on_where_it_was(made):
    """One of the two may have been done with its epochs when both had saved."""
    folder, _ = made
    texts = [outputs(folder)[model] for model in ("syncrec", "sdsr")]
    assert any("interrupted" in text and text.count("main.py: starting") == 2 for text in texts)
    for text in texts:
        assert text.count("epoch   3") == 1
        assert text.count("epoch   1  step") <= 1, "what was saved is not trained again"


def test_a_failed_run_stops_no_other_and_is_named_at_the_end(made):
    folder, errors = made
    assert run_folders(folder).keys() == {"syncrec", "sdsr"}
    head, line = errors.splitlines()
    assert head == "1 run failed:"
    assert line.startswith("  made broken seed 1: failed (exit status 2): ")
    assert "is not finite" in line
    (log,) = (folder / "runs_dir").rglob("made-broken-*.log")
    assert line.endswith(f"output: {log}")


def test_a_finished_run_leaves_no_checkpoint_to_go_on_from(made):
    for run in run_folders(made[0]).values():
        assert (run / "best.pt").is_file()
        assert not list(run.rglob("last.pt"))


def test_what_is_recorded_is_not_trained_again(made, capsys):
    folder, _ = made
    before = outputs(folder)
    runner.main(flags(folder, SPEC))
    assert "2 of 2 runs are recorded" in capsys.readouterr().out
    assert outputs(folder) == before


def test_a_record_says_what_the_run_folder_says(made):
    """Every metric is that of results.json, bit for bit; no user, item or path is in the files."""
    folder, _ = made
    records = read_records(folder / "records")
    (data,) = records.datasets.values()
    targets = recorded_targets(data)
    for run in run_folders(folder).values():
        settings, (finished,) = run_settings(run), read_runs([run])
        record = records.runs[run_key(settings, finished.data)]
        again = recorded_run(record, "name", settings, records)
        for split in ("valid", "test"):
            ranks = read_ranks(record, targets, split)
            assert list(ranks) == finished.paths
            for path, expected in finished.protocol_scores(split, "full").items():
                assert again.scores(split, "full", path) == expected
            for path, one in ranks.items():
                frame = finished.ranks(split, "full", path)
                np.testing.assert_array_equal(one.better, frame.better)
                np.testing.assert_array_equal(one.tied, frame.tied)
                names = np.array(targets.names)[targets.domains[split]]
                assert (names == frame.domain).all()
                np.testing.assert_array_equal(targets.users[split], pd.factorize(frame.user_id)[0])
        cost, ends = record.content["cost"], record.content["ends"]
        assert cost["seconds"] > 1
        assert 50 < cost["peak_memory_mib"] < 10_000
        assert [end["epochs"] for end in ends] == [3]
        assert 1 <= ends[0]["best_epoch"] <= 3
    users = set(
        pd.read_parquet(next(iter(run_folders(folder).values())) / "targets.parquet").user_id
    )
    for path in (folder / "records").iterdir():
        assert path.stat().st_size < LIMIT
        text = path.read_bytes()
        assert str(folder).encode() not in text
        assert not [user for user in users if f'"{user}"'.encode() in text]


def test_tables_come_from_the_records_alone_and_are_those_of_the_runs(made, tmp_path, capsys):
    folder, _ = made
    shutil.copytree(folder / "records", tmp_path / "records")  # as in a clone: no runs, no data
    runner.main(flags(tmp_path, SPEC, "--tables"))
    text = (tmp_path / "results" / "experiment.md").read_text()
    assert text in capsys.readouterr().out
    levels = pd.read_csv(tmp_path / "results" / "experiment.csv", keep_default_na=False)
    runs = run_folders(folder)
    for model, run in runs.items():
        (finished,) = read_runs([run])
        for path in finished.paths:
            rows = levels[(levels.run == f"{model}-seed1") & (levels.path == path)]
            rows = rows[(rows.split == "test") & (rows.domain == "macro")].set_index("metric").value
            expected = finished.scores("test", "full", path)["macro"]
            assert rows.astype(float).to_dict() == {name: expected[name] for name in STORED}
    table = pd.read_csv(tmp_path / "results" / "experiment_differences.csv")
    pairs = [(f"{runs['syncrec']}:served", f"{runs['sdsr']}:single"),
             (f"{runs['syncrec']}:cross", f"{runs['syncrec']}:markov")]  # fmt: skip
    expected = [
        row
        for pair in pairs
        for row in compare_pair(*read_rankers([*pair]), "test", "full", ["ndcg@10"])
    ]
    assert len(table) == len(expected)
    for column in ("domain", "first_value", "difference", "low", "high", "p_holm", "detectable"):
        assert list(table[column]) == [getattr(row, column) for row in expected]
    assert "syncrec-seed1:served" in text
    assert "peak memory (MiB)" in text
    points = pd.read_csv(tmp_path / "results" / "experiment_gaps.csv")
    measured = compare_pair(
        *read_rankers([f"{runs['syncrec']}:cross", str(runs["sdsr"])]), "test", "full", ["ndcg@10"]
    )
    transfer = {row.domain: row.difference for row in measured}
    known = pd.read_csv(runs["syncrec"] / "transfer.csv").set_index(["domain", "epoch"])
    (best,) = pd.read_csv(runs["syncrec"] / "metrics.csv").pipe(best_epochs)
    assert len(points) == len(known.index.unique("domain")) > 1
    for point in points.itertuples():
        assert point.transfer == pytest.approx(transfer[point.domain])
        assert point.phi == pytest.approx(known.phi[point.domain, best], abs=1e-6)
        assert np.isnan(point.held_out_gap)  # the paper's rule holds nothing out
    assert "φ, on the training targets" in text and "not trained on" not in text


def test_count_models_of_a_spec_are_ranked_once_per_log_and_in_its_tables_alone(
    made, tmp_path, capsys, monkeypatch
):
    """Markov under another name has the ranks of the runs; no run is trained for it."""
    for part in ("records", "datasets"):
        shutil.copytree(made[0] / part, tmp_path / part)
    shutil.copytree(made[0] / "raw", tmp_path / "raw")
    monkeypatch.setitem(OPTIONAL_COUNT_MODELS, "again", COUNT_MODELS["markov"])
    for name in OPTIONAL_COUNT_MODELS:
        monkeypatch.setitem(COUNTED, name, OPTIONAL_COUNT_MODELS[name])
    runner.main(flags(tmp_path, SPEC))
    plain = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    asking = 'count_models = ["itemknn", "markov_any", "again"]\n' + SPEC.replace(
        '["syncrec", "markov"]', '["itemknn", "again"]'
    )
    capsys.readouterr()
    runner.main(flags(tmp_path, asking))
    said = capsys.readouterr().out
    assert "2 of 2 runs are recorded" in said
    for name in ("itemknn", "markov_any", "again"):
        assert said.count(f"made: ranking by {name}\n") == 1
    records = read_records(tmp_path / "records")
    (sha256,) = records.datasets
    again, markov = (records.count_models[sha256, name] for name in ("again", "markov"))
    for part in ("data", "scoring", "ranks", "metrics"):
        text = json.dumps(again.content[part]).replace('"again"', '"markov"')
        assert json.loads(text) == markov.content[part]
    for name, values in markov.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], values)
    levels = pd.read_csv(tmp_path / "results" / "experiment.csv", keep_default_na=False)
    assert {"itemknn", "markov_any", "again", "markov", "covisit"} < set(levels.path)
    table = pd.read_csv(tmp_path / "results" / "experiment_differences.csv")
    assert ("itemknn", "again") in zip(table["first"], table["second"], strict=True)
    runner.main(flags(tmp_path, asking))
    assert "ranking by" not in capsys.readouterr().out
    runner.main(flags(tmp_path, SPEC))  # without asking for them
    for name, content in plain.items():
        assert (tmp_path / "results" / name).read_bytes() == content


def test_the_hours_of_the_recorded_runs_are_printed(made, tmp_path, capsys):
    """Two runs, one of them on two threads, of the spec's three."""
    shutil.copytree(made[0] / "records", tmp_path / "records")
    for path in (tmp_path / "records").glob("*.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "run":
            record["cost"]["seconds"] = 1800
            record["machine"]["threads"] = 2 if record["settings"]["mode"] == "sdsr" else 1
            path.write_text(json.dumps(record))
    runner.main(flags(tmp_path, BROKEN, "--tables"))
    assert capsys.readouterr().out.endswith("recorded: 2 of 3 runs, 1.5 core-hours\n")


def test_tables_of_nothing_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no run of spec experiment is recorded"):
        runner.main(flags(tmp_path, SPEC, "--tables"))


def test_a_damaged_record_is_one_line(made, tmp_path):
    shutil.copytree(made[0] / "records", tmp_path / "records")
    (data,) = (tmp_path / "records").glob("data-*.npz")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"data-\w+ is damaged .* run the spec again"):
        runner.main(flags(tmp_path, SPEC, "--tables"))


def test_raw_data_that_is_missing_is_one_line_before_any_work(tmp_path):
    with pytest.raises(UserError, match=r"log made: its raw data is missing: .*raw/tiny does not"):
        runner.main(flags(tmp_path, SPEC))
    command = [word for word in flags(tmp_path, SPEC) if not word.startswith("--data=")]
    with pytest.raises(UserError, match=r"log made: its raw data is missing; .* --data"):
        runner.main(command)
    assert not (tmp_path / "runs_dir").exists()


# ------------------------------------------------------------------------ specs

MISTAKES = {
    "no logs": ("[models.a]\n", "has no [logs.NAME]"),
    "no toml": ("seeds = [", "cannot be read"),
    "unknown part": (SPEC + "\n[model.a]\n", "unknown 'model'; give seeds, defaults"),
    "unknown log": (
        SPEC + '\n[models.b]\nlogs = ["x"]\n',
        "models.b: logs: unknown 'x'; give made",
    ),
    "seeds": (SPEC + '\n[models.b]\nseeds = "1"\n', "models.b: seeds must be a list of whole"),
    "a setting": (SPEC + "\n[models.b]\nhiden = 4\n", "model b on made: unknown setting 'hiden'"),
    "a type": (SPEC + '\n[models.b]\nhidden = "4"\n', "model b on made: 'hidden' must be int"),
    "a bound": (
        SPEC + "\n[models.b]\nhidden = 0\n",
        "model b on made: --hidden must be at least 1",
    ),
    "a choice": (SPEC + '\n[models.b]\nmodel = "x"\n', "model b on made: 'x' is unknown"),
    "decided": (SPEC + "\n[models.b]\nseed = 4\n", "models.b: seed is not a setting of a spec"),
    "a flag of data": (
        SPEC + '\n[logs.b]\nraw_dir = "x"\n',
        "logs.b: raw_dir is no part of a spec",
    ),
    "one folder": (
        SPEC + '\n[logs.b]\ndata_name = "tiny"\nstrd_ym = "202312"\n',
        "logs made and b are made into the same folder",
    ),
    "a config": (
        SPEC + '\n[models.b]\nconfig = "configs/x.json"\n',
        "configs/x.json does not exist",
    ),
    "a pair": (SPEC.replace('["syncrec", "markov"]', '["syncrec"]'), "compare needs pairs such as"),
    "a measured pair": (
        SPEC.replace('["syncrec:cross", "sdsr"]', '"sdsr"'),
        "transfer needs pairs such as",
    ),
    "a count model": (
        'count_models = ["markov"]\n' + SPEC,
        "count_models: unknown 'markov'; give markov_any, itemknn",
    ),
    "count models": ('count_models = "itemknn"\n' + SPEC, "count_models must be a list of names"),
    "two logs in one": (SPEC + '\n[logs.b]\nraw = "x"\ngenerate = ["y"]\n', "raw and generate"),
    "no former": (
        SPEC + '\n[models.b]\ninit_from = "made:x"\n',
        "model b on made: init_from 'made:x' must be LOG:MODEL of a run with seed 1",
    ),
    "a former cycle": (
        SPEC + '\n[models.b]\ninit_from = "made:c"\n[models.c]\ninit_from = "made:b"\n',
        "leads back to the run itself",
    ),
    "an unknown pair": (
        SPEC.replace('"markov"', '"x"'),
        "compare: unknown 'x'; give syncrec, sdsr",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda name: name.replace(" ", "-"))
def test_a_mistake_in_a_spec_is_one_line(tmp_path, mistake):
    text, expected = MISTAKES[mistake]
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UserError) as error:
        read_spec(tmp_path / "x.toml").jobs()
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_entries_restrict_each_other(tmp_path):
    text = SPEC.replace("seeds = [1]", "seeds = [1, 2]", 1) + (
        '\n[models.b]\nseeds = [3]\nlogs = ["made"]\n'
        '\n[logs.other]\ndata_name = "x"\nstrd_ym = "202312"\nmodels = ["sdsr"]\nseeds = [2]\n'
    )
    (tmp_path / "x.toml").write_text(text)
    assert [str(job) for job in read_spec(tmp_path / "x.toml").jobs()] == [
        "made syncrec seed 1", "made sdsr seed 1", "made syncrec seed 2", "made sdsr seed 2",
        "other sdsr seed 2", "made b seed 3",
    ]  # fmt: skip


def test_the_committed_specs_can_be_read():
    for path in (Path(runner.__file__).parent / "specs").glob("*.toml"):
        spec = read_spec(path)
        assert spec.jobs() or spec.searches, path


# ------------------------------------------------------------------------ further runs and logs

WARM = (
    SPEC.replace('raw = "tiny"', GENERATED)
    .replace("[logs.made]", '[logs.before]\nmodels = ["syncrec"]', 1)
    .replace('strd_ym = "202312"', 'strd_ym = "202311"')
    + f"""
[logs.made]
{GENERATED}
data_name = "tiny"
strd_ym = "202312"

[models.warm]
mode = "syncrec"
logs = ["made"]
init_from = "before:syncrec"
"""
)


def grid_of(folder: Path, text: str, data: dict[str, str]) -> Grid:
    (folder / "x.toml").write_text(text)
    places = Places(folder / "runs", folder / "records", folder / "datasets", None)
    return Grid(read_spec(folder / "x.toml"), places, Pool(["cpu"], 1), data)


def test_a_run_that_starts_from_another_waits_for_it_and_is_known_by_its_key(tmp_path):
    grid = grid_of(tmp_path, WARM, {"before": "a" * 64, "made": "b" * 64})
    jobs = {str(job): job for job in grid.spec.jobs()}
    warm, former = jobs["made warm seed 1"], jobs["before syncrec seed 1"]
    assert grid.spec.former(warm) == former
    assert grid.recorded_settings(warm).init_from == f"record {grid.key(former)}"
    assert grid._next([warm, former]) == former
    assert grid._next([warm]) == warm
    other = grid_of(tmp_path, WARM.replace("hidden = 8", "hidden = 16"), grid.data)
    assert other.key(other.spec.jobs()[-1]) != grid.key(warm)


def test_runs_go_to_the_devices_in_turn(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, SPEC, {"made": "a" * 64})
    grid.pool, commands = Pool(["cuda:0", "cuda:1"], threads=2), []

    def start(what, command, log, slot):
        commands.append(command)
        grid.pool.running.append(Running(what, None, log, slot, 0.0))

    monkeypatch.setattr(grid.pool, "start", start)
    monkeypatch.setattr(grid.pool, "pause", grid.pool.running.clear)
    monkeypatch.setattr(grid.pool, "ended", list)
    grid.work(grid.spec.jobs())
    assert [command[-1] for command in commands] == ["--device=cuda:0", "--device=cuda:1"]
    assert all({"--resume", "--threads=2", "full"} <= {*command} for command in commands)


def test_a_folder_of_other_options_is_no_dataset_of_the_log(made, tmp_path):
    folder = made[0] / "datasets" / "tiny" / "202312"
    grid = grid_of(tmp_path, SPEC, {})
    log = grid.spec.logs["made"]
    assert made_data(log, folder)
    other = grid_of(tmp_path, SPEC.replace("threads = 1", "min_user_events = 2"), {})
    assert not made_data(other.spec.logs["made"], folder)
    assert not made_data(log, tmp_path)


@pytest.mark.nightly
def test_the_smoke_spec_runs_on_the_bundled_log(tmp_path, capsys):
    smoke = Path(runner.__file__).parent / "specs" / "smoke.toml"
    runner.main([str(smoke), *flags(tmp_path, SPEC)[2:]])
    assert "3 runs to train" in capsys.readouterr().out
    assert (tmp_path / "results" / "smoke_differences.csv").is_file()


@pytest.mark.nightly
def test_logs_are_generated_and_runs_start_from_others(tmp_path, capsys):
    runner.main(flags(tmp_path, WARM))
    output = capsys.readouterr().out
    assert "log before: making" in output
    assert "| SyNCRec | warm-seed1 | cross |" in output
    (warm,) = (tmp_path / "runs_dir" / "tiny").glob("made-warm-seed1-*/environment.json")
    assert json.loads(warm.read_text())["init_from"]["run"].startswith("before-syncrec-seed1-")
    runner.main(flags(tmp_path, WARM))
    assert "4 of 4 runs are recorded" in capsys.readouterr().out
    for path in (tmp_path / "records").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
