"""`main.py --init_from`: a run that starts from the weights of a former one."""

import csv
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import main as training
import recommend
from models import SyNCRec
from src.config.cli import config_defaults
from src.config.modes import MODES
from src.config.settings import Settings
from src.dataset.store.folder import open_dataset
from src.report.finished_runs import read_runs
from src.report.seed_groups import group_seeds
from src.runs.warm_start import NEW, Vocabulary, carry_over, init_line, match_domains, match_items
from tests.support.builders import make_model
from tests.support.command_runs import ROOT, command, contents, data_step, failing, flags
from tests.support.data_logs import DAY, make, write_log
from trainers import Trainer

OCTOBER, NOVEMBER = 1_696_118_400, 1_698_796_800  # the first second, UTC
VARIANTS = [{"mode": mode} for mode in MODES]
VARIANTS += [
    {"share_experts": True, "time_embedding": "interval"},
    {"target_domain_query": True, "gate": "sequence"},
    {"cross_per_domain": True},
]


def log() -> list[tuple]:
    """40 users in October and November: B and some items are there in November alone."""
    rng, rows = random.Random(5), []
    for user in range(40):
        for start, domains, items in ((OCTOBER, "ACD", 6), (NOVEMBER, "ABCD", 9)):
            for _ in range(8):
                domain = rng.choice(domains)
                event = (f"{domain}{rng.randrange(items)}", domain)
                rows.append((f"u{user:02d}", *event, start + DAY * rng.randrange(28)))
    return rows


@pytest.fixture(scope="module")
def months(tmp_path_factory) -> dict[str, Path]:
    """Dataset folders: October has the domains A, C, D, November A, B, C."""
    folder = tmp_path_factory.mktemp("months")
    raw = write_log(folder / "raw" / "log.csv", log())
    make(raw, folder / "october", "--domains", *"ACD", month="202310")
    make(raw, folder / "november", "--domains", *"ABC", month="202311")
    return {name: folder / name for name in ("october", "november")}


def run_on(data: Path, runs: Path, name: str, *more: str) -> Path:
    """A tiny run; the run folder."""
    training.main(flags(data, runs, f"--run_name={name}", "--sampled_negatives=0", *more))
    return runs / "t" / name


@pytest.fixture(scope="module")
def former(months, tmp_path_factory) -> Path:
    """October's finished run, with steps large enough that every weight has moved."""
    return run_on(months["october"], tmp_path_factory.mktemp("former"), "october", "--lr=.05")


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "runs"


def table(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def vocabulary(**domains: str) -> Vocabulary:
    starts = np.cumsum([1, *(len(ids) for ids in domains.values())])
    return Vocabulary(list(domains), starts, pa.chunked_array([list("".join(domains.values()))]))


# ------------------------------------------------------------------------ what is matched


def test_items_are_matched_by_domain_and_id_and_domains_by_name():
    known = vocabulary(A="xyz", C="xw", D="q")
    now = vocabulary(C="wvx", B="xy", A="zxu")
    assert match_domains(known.domain_names, now.domain_names).tolist() == [1, NEW, 0]
    rows = match_items(known, now).tolist()
    assert rows == [0, 5, NEW, 4, NEW, NEW, 3, 1, NEW]  # an x of B is not the x of A or C


def model_of(items: int, domains: int, **settings) -> SyNCRec:
    starts = [1 + items * domain for domain in range(domains + 1)]
    return SyNCRec(Settings(hidden=4, max_len=5, layers=1, **settings), starts)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_what_grows_with_items_or_domains_is_carried_row_by_row(settings):
    """Otherwise a new part of the model would be carried over by position, not by name."""
    shapes = {}
    for size in ((3, 2), (6, 2), (2, 3)):
        model = model_of(*size, **settings)
        shapes[size] = {name: value.shape for name, value in model.state_dict().items()}
    for name, shape in shapes[3, 2].items():
        wanted = "whole"
        if shapes[6, 2][name] != shape:
            wanted = "items"
        elif shapes[2, 3][name] != shape:
            wanted = "domains"
        assert model.rows_of(name) == wanted, name


class Dense:
    """Where a model's items stand: all that `make_model` asks of a dataset."""

    def __init__(self, *starts: int):
        self.item_starts = np.array(starts)


@pytest.mark.parametrize("settings", VARIANTS[:1] + VARIANTS[4:], ids=str)
def test_known_rows_are_the_former_run_s_and_new_rows_fresh_bit_for_bit(settings):
    """Another order of the domains, items shuffled, one domain and three items new."""
    known, now = vocabulary(A="xyz", C="xw", D="qr"), vocabulary(C="wvx", B="xy", A="zxu")
    model = make_model(Dense(*known.item_starts), seed=1, **settings)
    old = model.state_dict()
    fresh = make_model(Dense(*now.item_starts), seed=2, **settings).state_dict()
    items, domains = match_items(known, now), np.array([1, NEW, 0])
    merged = carry_over(fresh, old, items, domains, model.rows_of)
    assert merged.keys() == fresh.keys()
    for name, value in merged.items():
        rows_of = model.rows_of(name)
        if rows_of == "whole":
            assert torch.equal(value, old[name])
            continue
        for row, source in enumerate((items if rows_of == "items" else domains).tolist()):
            wanted = fresh[name][row] if source == NEW else old[name][source]
            assert torch.equal(value[row], wanted), (name, row)


def test_a_model_of_another_form_is_not_carried_over():
    model = model_of(3, 2)
    old, fresh = model_of(3, 2, gate="none").state_dict(), model.state_dict()
    with pytest.raises(ValueError, match=r"other parameters: tasks\.cross\.gate\.weight"):
        carry_over(fresh, old, np.arange(7), np.arange(2), model.rows_of)
    old = model_of(3, 2).state_dict() | {"critics": torch.zeros(2, 8, 8)}
    with pytest.raises(ValueError, match=r"critics is \[2, 8, 8\], not \[2, 4, 4\]"):
        carry_over(fresh, old, np.arange(7), np.arange(2), model.rows_of)


# ------------------------------------------------------------------------ through the command


class BeforeTheFirstStep(Exception):
    """Raised in place of the training."""


def models_before_training(monkeypatch, data: Path, runs: Path, *more: str) -> list[Trainer]:
    """The trainers of a run as main.py has them when training would begin, one a part."""
    trainers, parts = [], 3 if "--mode=sdsr_separate" in more else 1

    def fit(trainer, view=None):
        trainers.append(trainer)
        if len(trainers) == parts:
            raise BeforeTheFirstStep

    monkeypatch.setattr(Trainer, "fit", fit)
    with pytest.raises(BeforeTheFirstStep):
        run_on(data, runs, "now", *more)
    monkeypatch.undo()
    return trainers


def ids(data: Path) -> list[tuple[str, str]]:
    """(domain, item_id) by row of the item table; row 0 is padding."""
    rows = pq.read_table(data / "items.parquet", columns=["domain", "item_id"]).to_pylist()
    return [("", ""), *((row["domain"], row["item_id"]) for row in rows)]


def test_a_run_starts_with_the_former_weights_by_name(months, former, runs, monkeypatch):
    more = (f"--init_from={former}", "--seed=9")
    (trainer,) = models_before_training(monkeypatch, months["november"], runs, *more)
    state = torch.load(former / "best.pt", weights_only=True)
    old, started = state["model"], trainer.model.state_dict()
    fresh = SyNCRec(trainer.settings, trainer.dataset.item_starts.tolist()).state_dict()
    assert (state["lc_ntg"] != 1 / 3).all()  # else the rows below would not tell
    old["s"], started["s"], fresh["s"] = state["lc_ntg"], trainer.gap.state, torch.full((3,), 1 / 3)
    old_ids = ids(months["october"])
    for row, name in enumerate(ids(months["november"])):
        source = old["item_table"][old_ids.index(name)] if name in old_ids else None
        wanted = fresh["item_table"][row] if source is None else source
        assert torch.equal(started["item_table"][row], wanted)
    for name in ("tasks.single.start", "tasks.single.towers.first.weight", "s", "critics"):
        for row, source in ((0, old[name][0]), (1, fresh[name][1]), (2, old[name][1])):
            assert torch.equal(started[name][row], source), name
    for name in ("experts.cross.layers.0.widen.weight", "tasks.cross.position"):
        assert torch.equal(started[name], old[name])
    assert not trainer.optimizers["optimizer"].state  # no moments of the old data


def test_separate_models_start_from_the_model_of_their_domain(months, runs, monkeypatch):
    mode = "--mode=sdsr_separate"
    before = run_on(months["october"], runs, "october", mode)
    more = (mode, f"--init_from={before}")
    trainers = models_before_training(monkeypatch, months["november"], runs, *more)
    for trainer, number in zip(trainers, (0, None, 1), strict=True):
        started = trainer.model.state_dict()
        source = SyNCRec(trainer.settings, trainer.dataset.item_starts.tolist()).state_dict()
        if number is not None:
            path = before / "domains" / str(number) / "best.pt"
            source = torch.load(path, weights_only=True)["model"]
        assert torch.equal(started["tasks.single.start"], source["tasks.single.start"])
        (domain,) = trainer.dataset.domain_names
        old_items = [item for name, item in ids(months["october"]) if name == domain]
        for row, item in enumerate(trainer.dataset.item_ids.to_pylist(), 1):
            if number is None or item in old_items:
                old_row = row if number is None else old_items.index(item) + 1
                assert torch.equal(started["item_table"][row], source["item_table"][old_row])


def test_on_the_same_data_epoch_0_is_the_former_run_s_best_validation(months, runs):
    before = run_on(months["october"], runs, "a", "--max_epochs=2", "--lr=.05")
    after = run_on(months["october"], runs, "b", f"--init_from={before}")
    best = torch.load(before / "best.pt", weights_only=True)["epoch"]
    rows = [
        [(row["path"], row["domain"], row["metric"], row["value"])
         for row in table(folder / "metrics.csv")
         if row["split"] == "valid" and row["epoch"] == str(epoch)]
        for folder, epoch in ((before, best), (after, 0))
    ]  # fmt: skip
    assert rows[0] == rows[1] != []
    (run,) = read_runs([after])
    assert sorted(set(run.metrics().epoch)) == [1]  # a report's best epoch is one that was trained


def test_what_was_carried_over_is_printed_and_recorded(months, former, runs, capsys):
    after = run_on(months["november"], runs, "november", f"--init_from={former}")
    names, old_names = (set(ids(months[name])[1:]) for name in ("november", "october"))
    both = len(names & old_names)
    new, gone = len(names) - both, len(old_names) - both
    assert min(both, new, gone) > 0
    record = json.loads((after / "environment.json").read_text())["init_from"]
    assert record == {
        "run": "october",
        "data_sha256": open_dataset(months["october"]).card["sha256"],
        "domains": {"matched": 2, "new": 1, "gone": 1},
        "items": {"matched": both, "new": new, "gone": gone},
        "trained_targets": {"valid": 0, "test": 0},
    }
    lines = [line for line in capsys.readouterr().out.splitlines() if "starting from" in line]
    assert lines == [
        f"starting from october: 2 domains matched (1 new, 1 gone), {both} items matched ({new} "
        f"new, {gone} gone); it was trained on 0 held-out events of validation and 0 of test"
    ]
    saved = config_defaults(Settings, after / "config.json")
    assert saved["init_from"] == str(former.resolve())
    assert (after / "items.parquet").read_bytes() == (
        months["november"] / "items.parquet"
    ).read_bytes()


def test_a_start_from_weights_that_know_the_targets_is_a_warning():
    record = {
        "run": "december",
        "domains": {"matched": 2, "new": 0, "gone": 0},
        "items": {"matched": 9, "new": 0, "gone": 0},
        "trained_targets": {"valid": 0, "test": 3},
    }
    assert "WARNING: it knows some of this run's targets" in init_line(record)
    record["trained_targets"]["test"] = 0
    assert "WARNING" not in init_line(record)


@pytest.mark.parametrize("known", [3, 0])
def test_reports_repeat_that_warning(former, tmp_path, capsys, known):
    run = shutil.copytree(former, tmp_path / "run")
    path = run / "environment.json"
    record = json.loads(path.read_text())
    record["init_from"] = {"run": "december", "trained_targets": {"valid": 0, "test": known}}
    path.write_text(json.dumps(record))
    read_runs([run])
    said = "WARNING: run started from weights that were trained on 0 of its validation and 3"
    assert (said in capsys.readouterr().err) == bool(known)


def test_once_it_has_begun_a_run_needs_no_former_one(months, former, runs, capsys):
    """Resumed, scored again and used after the former run was deleted."""
    gone = shutil.copytree(former, runs / "t" / "gone")
    init = f"--init_from={gone}"
    whole = run_on(months["november"], runs, "whole", init, "--max_epochs=2")
    parts = run_on(months["november"], runs, "parts", init)
    record = json.loads((parts / "environment.json").read_text())["init_from"]
    shutil.rmtree(gone)
    run_on(months["november"], runs, "parts", init, "--max_epochs=2", "--resume")
    assert json.loads((parts / "environment.json").read_text())["init_from"] == record
    states = [
        torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (whole, parts)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name in ("metrics.csv", "results.json", "ranks.parquet"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    before = contents(parts)
    training.main([f"--evaluate={parts}"])
    assert contents(parts) == before
    recommend.main([f"--run={parts}", "--users", "u01", f"--out={runs / 'r.csv'}"])
    for name in ("last.pt", "best.pt", "metrics.csv", "results.json"):  # as before its first epoch
        (parts / name).unlink()
    line = failing(
        capsys, runs,
        lambda: run_on(months["november"], runs, "parts", init, "--max_epochs=2", "--resume"),
    )  # fmt: skip
    assert f"--init_from {gone} holds no finished run" in line


@pytest.mark.nightly
def test_the_ids_are_in_the_run_folder_or_in_its_dataset(months, former, runs, tmp_path, capsys):
    data = shutil.copytree(months["october"], tmp_path / "data")
    run = run_on(data, runs, "moved")
    (run / "items.parquet").rename(tmp_path / "items.parquet")
    started = run_on(months["november"], runs, "by_dataset", f"--init_from={run}")
    shutil.rmtree(data)
    line = failing(
        capsys, runs, lambda: run_on(months["november"], runs, "b", f"--init_from={run}")
    )
    assert "lacks items.parquet" in line and "make that dataset again" in line
    (tmp_path / "items.parquet").rename(run / "items.parquet")
    other = run_on(months["november"], runs, "by_run", f"--init_from={run}")
    assert "its dataset folder is gone" in capsys.readouterr().out
    for name in ("metrics.csv", "results.json"):
        assert (other / name).read_bytes() == (started / name).read_bytes()


def test_seeds_that_start_from_different_runs_are_one_model(former, runs):
    config = json.loads((former / "config.json").read_text())
    for name, seed in (("november-seed1", 1), ("november-seed2", 2), ("other-seed2", 2)):
        run = shutil.copytree(former, runs / "t" / name)
        month = "september" if name == "other-seed2" else "october"
        changed = {"seed": seed, "init_from": f"runs/{month}-seed{seed}", "run_name": name}
        (run / "config.json").write_text(json.dumps(config | changed))
    folders = [runs / "t" / name for name in ("november-seed1", "november-seed2", "other-seed2")]
    models = group_seeds(read_runs(folders))
    assert [(model.label, len(model.runs)) for model in models] == [
        ("november", 2),
        ("other-seed2", 1),
    ]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (["--hidden=16"], ["--hidden 8", "--hidden 16"]),
        (["--gate=sequence"], ["--gate token", "--gate sequence"]),
        (["--mode=cdsr"], ["--mode syncrec", "--mode cdsr"]),
        (["--time_embedding=interval"], ["--time_embedding none", "--time_embedding interval"]),
        (["--share_experts"], ["--share_experts False", "--share_experts True"]),
        (["--cross_per_domain"], ["--cross_per_domain False", "--cross_per_domain True"]),
    ],
)
def test_a_run_of_another_architecture_is_refused(months, former, runs, capsys, given, values):
    def start():
        run_on(months["november"], runs, "now", f"--init_from={former}", *given)

    line = failing(capsys, runs, start)
    for part in (f"--init_from {former}", *values):
        assert part in line
    assert not runs.exists()


def test_an_unusable_former_run_is_refused_and_nothing_is_lost(months, former, runs, capsys):
    def refused(name: str, folder: Path, *more: str) -> str:
        given = (f"--init_from={folder}", *more)
        return failing(capsys, runs, lambda: run_on(months["november"], runs, name, *given))

    run = shutil.copytree(former, runs / "t" / "run")
    assert "holds no finished run" in refused("now", runs / "nowhere")
    assert "is the run to be trained itself" in refused("run", run, "--overwrite", "--lr=.1")
    (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:500])
    assert "best.pt is damaged" in refused("now", run)
    assert "best.pt is damaged" in refused("now", run, "--overwrite")
    (run / "best.pt").unlink()
    assert "best.pt does not exist" in refused("now", run)
    line = failing(capsys, runs, lambda: training.main([f"--evaluate={run}", "--init_from=a"]))
    assert "--evaluate scores the run as it was trained" in line


def test_a_run_of_another_log_is_refused(former, tmp_path, runs, capsys):
    rows = [(f"u{n}", f"x{(n + k) % 5}", "A", OCTOBER + k) for n in range(6) for k in range(4)]
    make(write_log(tmp_path / "raw" / "log.csv", rows), tmp_path / "data", month="202310")
    line = failing(
        capsys, runs, lambda: run_on(tmp_path / "data", runs, "now", f"--init_from={former}")
    )
    assert "no item (domain and id) in common" in line


def test_another_former_run_is_another_run(months, former, runs, capsys):
    run = run_on(months["november"], runs, "now")
    line = failing(
        capsys, runs, lambda: run_on(months["november"], runs, "now", f"--init_from={former}")
    )
    assert f"{run} holds a run with --init_from" in line
    run_on(months["november"], runs, "started", f"--init_from={former}")
    line = failing(capsys, runs, lambda: run_on(months["november"], runs, "started"))
    assert f"with --init_from {former.resolve()}, and this command has none" in line


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_gpu_starts_from_the_same_weights(months, former, runs):
    values = []
    for device in ("cpu", "cuda"):
        more = (f"--init_from={former}", f"--device={device}", "--protocol", "full")
        rows = table(run_on(months["november"], runs, device, *more) / "metrics.csv")
        values.append([float(row["value"]) for row in rows if row["epoch"] == "0"])
    assert values[1] == pytest.approx(values[0], abs=1e-3)


@pytest.mark.nightly
def test_two_processes_start_from_the_same_weights(months, former, runs):
    command(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "main.py",
        *flags(months["november"], runs, "--run_name=two", "--sampled_negatives=0",
               "--dropout=0", "--no-sc_mim", f"--init_from={former}"),
    )  # fmt: skip
    more = ("--dropout=0", "--no-sc_mim", f"--init_from={former}")
    one = table(run_on(months["november"], runs, "one", *more) / "metrics.csv")
    two = table(runs / "t" / "two" / "metrics.csv")
    assert len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        if first["split"] == "train" or first["epoch"] == "0":
            assert float(second["value"]) == pytest.approx(float(first["value"]), rel=1e-4)


@pytest.mark.nightly
def test_the_bundled_log_is_retrained_month_by_month(tmp_path):
    """docs/retraining.md's loop at a tiny size: three datasets, three runs, each from the last."""
    runs, former = tmp_path / "runs", ()
    for month in ("202310", "202311", "202312"):
        data = tmp_path / month
        data_step("--data_name=amazon", f"--strd_ym={month}", f"--out_dir={data}", "--threads=1")
        tiny = ("--batch_size=512", "--sampled_negatives=0", "--protocol", "full", *former)
        training.main(flags(data, runs, f"--run_name={month}", "--eval_users=1000", *tiny))
        former = (f"--init_from={runs / 'amazon' / month}",)
    shas, records = [], []
    for month in ("202310", "202311", "202312"):
        environment = json.loads((runs / "amazon" / month / "environment.json").read_text())
        shas.append(environment["data_sha256"])
        records.append(environment.get("init_from"))
    assert len(set(shas)) == 3
    assert records[0] is None
    for record, sha in zip(records[1:], shas, strict=False):
        assert record["data_sha256"] == sha
        assert record["items"] == {"matched": 480, "new": 0, "gone": 0}
        assert record["trained_targets"] == {"valid": 0, "test": 0}
