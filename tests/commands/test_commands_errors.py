"""Mistakes of a user at main.py: one clear line, exit status 2, nothing half-written."""

import json
import shutil

import numpy as np
import pytest

import main
from src.config.settings import DataSettings
from src.dataset.store import folder
from src.io.errors import UserError
from tests.support.command_runs import ROOT, command, contents, failing, flags, make_data, train


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("other"), seed=2)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def run(finished_run, runs):
    """A finished run of one epoch, for this test alone."""
    return shutil.copytree(finished_run("run"), runs / "tiny" / "run")


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--sdsr_context=own"], ["--sdsr_context own", "--mode syncrec", "sdsr_separate"]),
        (["--softmax_items=all", "--loss=bce"], ["--softmax_items all needs --loss ce"]),
        (["--sparse_items"], ["--sparse_items needs a loss with negatives"]),
        (
            ["--sparse_items", "--loss=bce", "--weight_decay=.1"],
            ["--sparse_items does not support weight decay"],
        ),
        (["--resume", "--overwrite"], ["--resume and --overwrite contradict"]),
        (["--eval_users=0"], ["--eval_users must be at least 1"]),
        (["--candidate_seed=-1"], ["--candidate_seed must not be negative"]),
        (["--lr=inf"], ["--lr must be above 0"]),
        (["--run_name=candidates"], ["--run_name candidates is reserved"]),
        (["--share_experts", "--no-stop_gradient"], ["--share_experts and --no-stop_gradient"]),
        (["--share_experts", "--cross_per_domain"], ["--share_experts and --cross_per_domain"]),
        (["--gate=sequence", "--cross_per_domain"], ["--cross_per_domain and --gate sequence"]),
        (
            ["--compile", "--kernels=plain"],
            ["--compile compiles the fused kernels", "--kernels fused"],
        ),
        (["--experts_single=0"], ["--experts_single"]),
        (["--hidden=9", "--heads=2"], ["--hidden 9 is not a multiple of --heads 2"]),
        (["--hidden=0"], ["--hidden must be at least 1"]),
        (["--dropout=1"], ["--dropout must lie in"]),
        (["--lambda_mim=nan"], ["--lambda_mim must not be negative"]),
        (["--negatives=9"], ["--loss ce has no --negatives", "gbce"]),
        (["--gbce_t=1.5"], ["--gbce_t must lie in [0, 1]"]),
        (["--loss=gbce", "--softmax_items=all"], ["--softmax_items all needs --loss ce"]),
        (["--select_metric=auc"], ["--select_metric auc is unknown", "ndcg@10"]),
        (["--protocol", "full", "all"], ["--protocol all is unknown", "full_all, sampled"]),
        (["--protocol", "full-strict"], ["--protocol full-strict is unknown"]),
        (
            ["--protocol", "popular-unseen", "--sampled_negatives=0"],
            ["--protocol popular-unseen draws negatives; give --sampled_negatives above 0"],
        ),
        (
            ["--protocol", "released", "--mode=sdsr_separate"],
            ["--protocol released", "--mode sdsr_separate", "leave it out"],
        ),
        (["--run_name=../up"], ["--run_name '../up'"]),
        (["--device=tpu"], ["--device tpu", "cuda:N"]),
        (["--device=warp:9"], ["--device warp:9", "cuda:N"]),
        (["--mode=both"], ["--mode", "sdsr_separate", "--help"]),
        (["--hiden=8"], ["--hiden", "--help"]),
    ],
)
def test_flags_that_cannot_be_followed(data, runs, capsys, given, said):
    line = failing(capsys, runs, lambda: train(data, runs, "run", *given))
    for part in said:
        assert part in line
    assert not runs.exists()


# ---------------------------------------------------------------- config files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"hiden": 8}', ["unknown setting 'hiden'", "--help"]),
        ('{"hidden": "8"}', ["'hidden' must be int, not '8'"]),
        ('{"towers": 1}', ["'towers' must be bool, not 1"]),
        ('{"mode": "both"}', ["'mode' is 'both'", "sdsr_separate"]),
        ("[1]", ["one JSON object"]),
        ('{\n  "hidden": 8,\n  "layers": \n}', ["line 4"]),
    ],
)
def test_a_config_file_that_cannot_be_followed(data, runs, tmp_path, capsys, content, said):
    config = tmp_path / "c.json"
    config.write_text(content)
    line = failing(capsys, runs, lambda: train(data, runs, "run", f"--config={config}"))
    for part in [str(config), *said]:
        assert part in line


def test_a_config_file_that_is_missing(data, runs, tmp_path, capsys):
    config = tmp_path / "none.json"
    line = failing(capsys, runs, lambda: train(data, runs, "run", f"--config={config}"))
    assert f"{config} does not exist" in line


# ---------------------------------------------------------------- datasets


def test_a_dataset_that_is_missing(runs, tmp_path, capsys):
    line = failing(capsys, runs, lambda: train(tmp_path / "none", runs, "run"))
    assert f"{tmp_path / 'none'} is not a dataset folder" in line
    assert "make_dataset.py" in line


def test_a_variant_that_is_missing_names_those_that_exist(
    data, runs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(folder, "ROOT", tmp_path)
    names = ("202310", "202312", "202312-small", "202312-core-5")
    for name in names:
        shutil.copytree(data, folder.dataset_folder(tmp_path, "shop", name))
    words = ["--data_name=shop", "--strd_ym=202312", "--variant=smal", f"--runs_dir={runs}"]
    line = failing(capsys, runs, lambda: main.main(words))
    assert "shop/202312-smal is not a dataset folder (no data_card.json); of shop there are" in line
    assert (
        "--strd_ym 202310, --strd_ym 202312, --strd_ym 202312 --variant core-5, "
        "--strd_ym 202312 --variant small; give one of these, or run make_dataset.py\n"
    ) in line
    line = failing(capsys, runs, lambda: main.main(["--data_name=shops", *words[1:]]))
    assert line.endswith("is not a dataset folder (no data_card.json); run make_dataset.py\n")


@pytest.mark.parametrize(
    ("exist", "given", "listed"),
    [
        (["202312-a"], {"variant": "b"}, "--strd_ym 202312 --variant a"),
        (["202312", "202401"], {"variant": "a"}, "--strd_ym 202312, --strd_ym 202401"),
        (["202401-a-b_c.d"], {}, "--strd_ym 202401 --variant a-b_c.d"),
        (["202312-core", "202312"], {"strd_ym": "202401", "variant": "core"},
         "--strd_ym 202312, --strd_ym 202312 --variant core"),
        (["202312-a", "202312-torn/"], {"variant": "torn"}, "--strd_ym 202312 --variant a"),
        (["202312-a", ".202312-b.partial/dataset"], {"variant": "b"},
         "--strd_ym 202312 --variant a"),
        (["202312-torn/"], {"variant": "torn"}, ""),
    ],
)  # fmt: skip
def test_a_missing_dataset_is_answered_by_the_flags_of_those_that_exist(
    tmp_path, monkeypatch, exist, given, listed
):
    """A folder with a / has no data card: it is being made, or was spoiled."""
    monkeypatch.setattr(folder, "ROOT", tmp_path)
    for name in exist:
        path = folder.dataset_folder(tmp_path, "shop", name)
        path.mkdir(parents=True)
        if not name.endswith("/"):
            (path / "data_card.json").write_text("{}")
    settings = DataSettings(**{"data_name": "shop", "strd_ym": "202312"} | given)
    with pytest.raises(UserError) as error:
        folder.open_named(settings)
    ways = f"of shop there are {listed}; give one of these, or run" if listed else "run"
    assert str(error.value).endswith(
        f"is not a dataset folder (no data_card.json); {ways} make_dataset.py"
    )


def test_a_dataset_of_another_version(data, runs, tmp_path, capsys):
    old = shutil.copytree(data, tmp_path / "old")
    card = json.loads((old / "data_card.json").read_text())
    (old / "data_card.json").write_text(json.dumps(card | {"format": 0}))
    line = failing(capsys, runs, lambda: train(old, runs, "run"))
    assert "has format 0" in line
    assert "make the dataset again" in line


def test_sequences_with_an_item_that_is_not_in_the_vocabulary(data, runs, tmp_path, capsys):
    wrong = shutil.copytree(data, tmp_path / "wrong")
    items = np.load(wrong / "sequences" / "items.npy")
    items[3] = 10_000
    np.save(wrong / "sequences" / "items.npy", items)
    line = failing(capsys, runs, lambda: train(wrong, runs, "run"))
    assert "item 10000 of user 0 is not in the vocabulary" in line


def test_a_dataset_with_nothing_to_select_by(data, runs, tmp_path, capsys):
    short = shutil.copytree(data, tmp_path / "short")
    split = np.load(short / "sequences" / "split.npy")
    np.save(short / "sequences" / "split.npy", np.zeros_like(split))
    line = failing(capsys, runs, lambda: train(short, runs, "run"))
    assert "has no validation targets" in line
    domains = np.load(short / "sequences" / "domains.npy")
    split[(split == 1) & (domains == 1)] = 0
    np.save(short / "sequences" / "split.npy", split)
    line = failing(capsys, runs, lambda: train(short, runs, "run", "--mode=sdsr_separate"))
    assert "domain B has no validation target" in line


# ---------------------------------------------------------------- run folders and checkpoints


def test_a_run_folder_of_other_settings(run, data, runs, capsys):
    line = failing(capsys, runs, lambda: train(data, runs, "run", "--lr=0.5"))
    for part in (str(run), "--lr 0.001, not 0.5", "--run_name", "--overwrite"):
        assert part in line
    failing(capsys, runs, lambda: train(data, runs, "run", "--lr=0.5", "--resume"))


def test_a_run_folder_of_other_data(run, data, other_data, runs, tmp_path, capsys):
    moved = shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(runs)
    train(moved, runs, "run")
    shutil.rmtree(moved)
    shutil.copytree(other_data, moved)
    line = failing(capsys, runs, lambda: train(moved, runs, "run"))
    assert "other data" in line


def test_an_unfinished_run(run, data, runs, capsys):
    (run / "results.json").unlink()
    line = failing(capsys, runs, lambda: train(data, runs, "run"))
    assert "unfinished run; give --resume or --overwrite" in line


def test_stored_candidates_that_are_torn(data, runs, capsys):
    run = train(data, runs, "run")
    stored = next((runs / "tiny" / "candidates").glob("popular-valid-*.npz"))
    stored.write_bytes(stored.read_bytes()[:60])
    (run / "results.json").unlink()
    line = failing(capsys, runs, lambda: train(data, runs, "run", "--resume"))
    assert f"{stored} cannot be read" in line


# ---------------------------------------------------------------- through the command itself


def test_the_process_ends_with_status_2_and_one_line(data, tmp_path):
    given = flags(data, tmp_path / "runs", "--data_dir=nowhere")
    done = command(ROOT / "main.py", *given, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert contents(tmp_path) == {}
