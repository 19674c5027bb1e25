"""The configurations that the repository ships."""

import dataclasses
import json
from pathlib import Path

import pytest

from src.config.cli import as_json
from src.config.modes import MODES
from src.config.names import MODELS
from src.config.names import load as load_named
from src.config.settings import BEFORE, SAMPLED_LOSSES, Settings
from src.runs.command import parse_command

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(name: str):
    return parse_command(["--config", str(CONFIGS / f"{name}.json")]).settings


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_config_gives_the_settings_that_it_names(path):
    settings = load(path.stem)
    for name, value in json.loads(path.read_text()).items():
        assert getattr(settings, name) == value


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        pytest.param(path, mode, id=f"{path.stem}-{mode}")
        for path in sorted(CONFIGS.glob("*.json"))
        for mode in MODELS[json.loads(path.read_text()).get("model", "syncrec")].modes
    ],
)
def test_every_config_trains_in_every_mode_of_its_model(path, mode):
    settings = parse_command(["--config", str(path), "--mode", mode]).settings
    recommender = load_named(MODELS[settings.model].path)
    model = recommender(dataclasses.replace(settings, hidden=8, heads=1), [1, 4, 9])
    assert model.settings.paths == MODES[mode].paths
    assert model.item_table.shape == (9, 8)


def test_the_config_of_the_paper_is_the_paper_s_run():
    paper = load("paper")
    assert (paper.max_len, paper.layers, paper.heads, paper.hidden) == (50, 2, 1, 512)
    assert (paper.dropout, paper.batch_size, paper.optimizer, paper.lr) == (0.5, 128, "adam", 1e-3)
    assert (paper.experts_cross, paper.experts_single, paper.loss) == (4, 1, "bce")
    assert (paper.gate, paper.seed, paper.mode) == ("sequence", 42, "syncrec")
    assert paper.lc_ntg
    assert paper.sc_mim
    assert not paper.share_experts
    assert not paper.target_domain_query
    assert not paper.cross_per_domain
    assert paper.positions == "start"
    assert (paper.warmup_steps, paper.clip_norm, paper.weight_decay) == (0, 0, 0)


def test_the_released_config_differs_from_the_paper_s_by_what_the_code_does_instead():
    paper, released = load("paper"), load("released")
    differ = {name for name in vars(paper) if getattr(paper, name) != getattr(released, name)}
    assert differ == {"share_experts", "lc_ntg", "weighting", "patience_steps"}
    assert released.share_experts
    assert not released.lc_ntg
    assert released.weighting == "uniform"


def test_the_strong_config_is_that_of_the_tables_with_a_cross_view_told_the_domain():
    tables, strong = load("tables"), load("strong")
    differ = {name for name in vars(tables) if getattr(tables, name) != getattr(strong, name)}
    assert differ == {"target_domain_query", "cross_per_domain"}


def test_the_config_of_abxi_is_its_paper_s_run():
    abxi = load("abxi_paper")
    assert (abxi.model, abxi.mode, abxi.positions) == ("abxi", "cdsr", "end")
    assert (abxi.layers, abxi.heads, abxi.hidden, abxi.dropout) == (1, 2, 256, 0.5)
    assert (abxi.loss, abxi.negatives, abxi.softmax_temperature) == ("sampled", 128, 0.75)
    assert (abxi.optimizer, abxi.lr, abxi.batch_size, abxi.warmup_epochs) == (
        "adamw",
        1e-4,
        256,
        10,
    )
    assert abxi.weight_decay in range(2, 6)
    assert 4 <= abxi.abxi_rank <= 64


@pytest.mark.parametrize("name", BEFORE)
def test_a_copied_record_of_a_run_has_what_reproduces_it(tmp_path, name):
    """A file of a few settings has today's defaults."""
    record, few = tmp_path / "record.json", tmp_path / "few.json"
    settings = as_json(Settings(mode="syncrec"))
    del settings[name]
    record.write_text(json.dumps(settings))
    few.write_text(json.dumps({"mode": "syncrec", "hidden": 16}))
    values = {path: parse_command(["--config", str(path)]).settings for path in (record, few)}
    assert getattr(values[record], name) == BEFORE[name]
    assert getattr(values[few], name) == getattr(Settings(), name)


@pytest.mark.parametrize("loss", ["ce", *SAMPLED_LOSSES])
def test_what_a_checkpoint_lacks_is_its_settings_default(loss):
    """A checkpoint of before a setting existed is of the same run as its record, so no setting may
    get another value from the loss."""
    settings = Settings(mode="cdsr", loss=loss)
    for field in dataclasses.fields(Settings):
        if field.name not in {*BEFORE, "mode", "loss"}:
            assert getattr(settings, field.name) == field.default, field.name


def test_a_flag_wins_over_the_config():
    settings = parse_command(["--config", str(CONFIGS / "paper.json"), "--hidden", "16"]).settings
    assert (settings.hidden, settings.dropout) == (16, 0.5)


@pytest.mark.parametrize(
    ("flags", "gap"),
    [
        ((), "validation"),
        (("--gap=training",), "training"),
        (("--mode=cdsr",), "training"),
        (("--mode=cdsr", "--gap=heldout"), "training"),
        (("--no-lc_ntg",), "training"),
        (("--weighting=inverse_loss",), "training"),
        (("--config=cdsr",), "training"),
        (("--config=cdsr", "--mode=syncrec"), "validation"),
        (("--config=uniform",), "training"),
        (("--config=uniform", "--lc_ntg"), "validation"),
        (("--config=paper", "--lc_ntg"), "training"),
        (("--config=paper", "--mode=syncrec"), "training"),
    ],
    ids=" ".join,
)
def test_the_gap_is_that_of_what_is_trained(flags, gap, tmp_path):
    """Also where --config is the record of a run, with every setting."""
    records = {
        "default": Settings(mode="syncrec"),
        "cdsr": Settings(mode="cdsr"),
        "uniform": Settings(mode="syncrec", weighting="uniform"),
        "paper": Settings(mode="syncrec", gap="training"),
    }
    for name, settings in records.items():
        (tmp_path / name).write_text(json.dumps(as_json(settings)))
    flags = [flag.replace("--config=", f"--config={tmp_path}/") for flag in flags]
    assert parse_command(flags).settings.gap == gap
    if not any(flag.startswith("--config") for flag in flags):
        assert parse_command([f"--config={tmp_path / 'default'}", *flags]).settings.gap == gap


def test_every_config_is_described():
    text = (CONFIGS / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in CONFIGS.glob("*.json"))
