"""A large catalogue: no table of items is held twice, and the benchmarks say what is held."""

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch

import main
from benchmarks.memory import catalogue, catalogue_memory, catalogue_run
from benchmarks.speed import softmax
from models import SyNCRec
from src.config.settings import Settings
from src.nn.initialization import own_stream
from src.runs.checkpoints import load_checkpoint
from tests.support.builders import make_dataset
from tests.support.command_runs import make_data, train

CPU = torch.device("cpu")
SPARSE = ("--loss=bce", "--sparse_items")
KEYS = ("peak_mib", "tables_mib", "beyond_mib", "growth_mib")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("large"))


def is_mapped(path: Path) -> bool:
    """Whether this process has a file mapped into its memory."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("no /proc here, which says what is mapped")
    return str(path) in maps.read_text()


def test_the_item_table_of_a_seed_stays_what_it_was():
    settings = Settings(hidden=8, seed=7)
    model = SyNCRec(settings, make_dataset([([1, 5], [0, 1])], (4, 30)).item_starts.tolist())
    with own_stream(7, "items"):
        expected = torch.randn(35, 8) * 0.02
    assert torch.equal(model.item_table, expected)


def test_a_mapped_checkpoint_has_the_same_content_and_stays_on_the_disk(data, tmp_path):
    path = train(data, tmp_path, "run", *SPARSE) / "best.pt"
    whole = load_checkpoint(path)
    assert not is_mapped(path)
    mapped = load_checkpoint(path, mapped=True)
    assert is_mapped(path)
    assert whole.keys() == mapped.keys()
    assert all(torch.equal(value, mapped["model"][name]) for name, value in whole["model"].items())


def test_the_moments_are_gone_when_a_run_is_scored(data, tmp_path, monkeypatch):
    made, alive = [], []

    class Noted(main.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.extend(weakref.ref(part) for part in self.optimizers.values())

    def score(*arguments, **flags):
        alive.extend(part() is not None for part in made)
        scored(*arguments, **flags)

    scored = main.score
    monkeypatch.setattr(main, "Trainer", Noted)
    monkeypatch.setattr(main, "score", score)
    gc.disable()  # it may come by chance
    try:
        train(data, tmp_path, "run", *SPARSE)
    finally:
        gc.enable()
    assert alive == [False, False]


# ------------------------------------------------------------------------ the benchmarks


def alone(capsys, part: str, items: int = 50) -> dict:
    """What catalogue_memory.py prints of a part."""
    capsys.readouterr()
    flags = [f"--items={items}", "--hidden=8", "--batch=4", "--rounds=2", "--threads=1"]
    catalogue_memory.main([f"--part={part}", "--device=cpu", *flags])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("part", "tables"), [("train", 3), ("ce", 4), ("eval", 1)])
def test_the_tables_of_a_part_are_counted_to_the_byte(capsys, part, tables):
    found = alone(capsys, part)
    assert found["tables"] == tables
    assert found["tables_mib"] * 2**20 == tables * 51 * 8 * 4
    assert found["peak_mib"] > 50
    assert len(found["times"]) == 2


def test_catalogue_says_what_is_beyond_the_tables_and_how_far_it_grew(capsys):
    sizes = ["--items", "50", "400", "--hidden=8", "--batch=4", "--rounds=1", "--threads=1"]
    catalogue.main(["--json", "--device=cpu", "--skip_dense", "--memory", "train", *sizes])
    result = json.loads(capsys.readouterr().out)
    peak, tables, beyond, growth = (result[key] for key in KEYS)
    assert [size * 2**20 for size in tables] == [3 * 51 * 32, 3 * 401 * 32]
    rest = [one - own - result["empty_mib"] for one, own in zip(peak, tables, strict=True)]
    assert beyond == pytest.approx(rest)
    assert growth == pytest.approx(rest[1] - rest[0])


def test_the_run_is_interrupted_resumed_and_scored(capsys):
    sizes = ["--items=300", "--events=4000", "--users=1200", "--hidden=8", "--batch=8"]
    catalogue_run.main(
        ["--json", "--device=cpu", "--threads=1", "--save_every=10", "--held_out=.02", *sizes]
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["items"], result["events"]) == (300, 4000)
    assert 20 <= result["interrupted_after"] < result["steps"]
    assert result["steps"] == pytest.approx(result["users"] / 8, rel=0.1)
    assert set(result["test_ndcg@10"]) >= {"cross", "single", "popularity"}
    assert all(done["peak_mib"] > 50 for done in result["commands"].values())


def test_torchs_softmax_loss_has_our_gradient(capsys, monkeypatch):
    monkeypatch.setattr(softmax, "measure_alone", lambda *_: 1.0)
    flags = ["--items=70", "--targets=12", "--hidden=8", "--rounds=1", "--threads=1"]
    softmax.main(["--json", "--device=cpu", *flags])
    (size,) = json.loads(capsys.readouterr().out)["sizes"]
    others = {"torch none", "torch sum"} if softmax.has_torchs() else set()
    assert size["difference"].keys() == others
    assert all(apart < 1e-5 for apart in size["difference"].values())
    assert size["seconds"].keys() == others | {"ours"}
