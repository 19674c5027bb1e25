"""One new thing, one new file: models and weightings from main.py to the report.

GRU4Rec and the weightings stand in the tables of names; a model and a weighting of this file, with
two settings each, are put there for the time of a test.
"""

import json
from dataclasses import dataclass

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import main
import recommend
import report
from src.config.cli import setting
from src.config.names import MODELS, WEIGHTINGS, Model
from src.interfaces import StepLosses
from src.nn.initialization import own_stream
from src.nn.softmax_loss import softmax_loss
from src.objective.step_losses import domain_spans
from src.objective.weighting import Uniform
from tests.support.command_runs import DOMAINS, contents, train
from tests.support.process_runs import assert_same_run, exact, launch_runs


@pytest.fixture
def own_names(monkeypatch):
    monkeypatch.setitem(MODELS, "bag", Model(f"{__name__}:Bag", ("cdsr", "sdsr_separate")))
    monkeypatch.setitem(WEIGHTINGS, "tilted", f"{__name__}:Tilted")


@dataclass(frozen=True)
class BagSettings:
    bag_scale: float = setting(1.0, "factor of the mean", group="bag")
    bag_bias: bool = setting(True, "whether there is a bias", group="bag")


class Bag(torch.nn.Module):
    """A whole recommender: the mean of the events before a target, scaled."""

    Settings = BagSettings
    queries_read = "view"

    def __init__(self, settings, item_starts):
        super().__init__()
        self.settings, self.item_starts, self.auxiliary_weights = settings, item_starts, {}
        with own_stream(settings.seed, "items"):
            self.item_table = torch.nn.Parameter(torch.randn(item_starts[-1], settings.hidden))
        self.bias = torch.nn.Parameter(torch.zeros(settings.hidden))

    def forward(self, batch, coefficients=None, gather=None):
        (path,) = self.settings.paths
        outputs = self.outputs(batch, path)
        spans = domain_spans(batch.counts, self.item_starts)
        weights = outputs.new_ones(len(outputs)) if coefficients is None else coefficients[path]
        objective, losses = softmax_loss(outputs, self.item_table, batch.targets, spans, weights)
        return StepLosses(objective, {path: losses}, {}, {})

    def outputs(self, batch, path):
        view = getattr(batch, path)
        slots = view.target_slots
        rows, positions = view.sequence_ids[slots], view.positions[slots]
        tokens = self.item_table[view.inputs][slots] * (positions > 0)[:, None]
        sums = tokens.new_zeros(view.sequences, self.settings.max_len, tokens.shape[1])
        sums = sums.index_put((rows, positions), tokens).cumsum(1)[rows, positions]
        mean = sums / positions.clamp(min=1)[:, None]
        return self.settings.bag_scale * mean + self.settings.bag_bias * self.bias

    def queries(self, batch, path):
        return self.outputs(batch, path)[batch.last_targets][batch.last_rows]

    def reads_domain(self, path):
        return False

    def rows_of(self, name):
        return "items" if name == "item_table" else "whole"

    @staticmethod
    def activation_bytes(settings, tile):
        return 4.0 * settings.hidden


@dataclass(frozen=True)
class TiltedSettings:
    tilted_first: float = setting(2.0, "weight of the first domain", group="tilted")
    tilted_rest: float = setting(1.0, "weight of the others", group="tilted")


class Tilted(Uniform):
    """The first domain weighs more."""

    Settings = TiltedSettings

    def weights(self):
        weights = torch.full_like(self.gap.state, self.settings.tilted_rest)
        weights[0] = self.settings.tilted_first
        return weights


def run_report(capsys, monkeypatch, *words) -> str:
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, words)])
    report.main()
    return capsys.readouterr().out


NEW = {
    "gru4rec": (("--model=gru4rec", "--gru4rec_layers=2"), {"gru4rec_layers": 2}),
    "separate": (("--model=gru4rec", "--mode=sdsr_separate"), {"gru4rec_output": False}),
    "bert4rec": (
        ("--model=bert4rec", "--time_embedding=interval", "--positions=start"),
        {"bert4rec_mask_rate": 0.2},
    ),
    "cl4srec": (("--model=cl4srec", "--cl4srec_weight=.2"), {"cl4srec_weight": 0.2}),
    "inverse": (("--weighting=inverse_loss",), {"inverse_loss_decay": 0.9}),
    "pcgrad": (("--weighting=pcgrad",), {"weighting": "pcgrad", "lc_ntg": False}),
    "upgrad": (("--weighting=upgrad",), {"weighting": "upgrad", "lc_ntg": False}),
    "random": (("--weighting=random",), {"weighting": "random", "lc_ntg": False}),
    "dwa": (("--weighting=dwa", "--dwa_temperature=1"), {"dwa_temperature": 1.0}),
    "famo": (("--weighting=famo",), {"famo_lr": 0.025, "famo_decay": 0.001}),
    "shapley": (("--weighting=shapley",), {"shapley_tau": 0.05}),
    "bag": (("--model=bag", "--bag_scale=2", "--no-bag_bias"), {"bag_scale": 2.0}),
    "tilted": (("--weighting=tilted", "--tilted_first=3"), {"tilted_rest": 1.0}),
}


@pytest.mark.parametrize("name", NEW)
def test_from_main_to_ranks_report_and_recommendations(
    name, data, tmp_path, own_names, capsys, monkeypatch
):
    flags, recorded = NEW[name]
    run = train(data, tmp_path, name, *flags)
    config = json.loads((run / "config.json").read_text())
    assert config.items() >= recorded.items()
    ranks = pq.read_table(run / "ranks.parquet").to_pandas()
    path = "single" if name == "separate" else "cross"
    assert set(ranks.domain) == set(DOMAINS)
    assert path in set(ranks.path)
    table = run_report(capsys, monkeypatch, "table", run)
    assert path in table
    compared = run_report(capsys, monkeypatch, "compare", run, f"{run}:markov")
    assert "macro" in compared
    out = tmp_path / "lists.csv"
    recommend.main([f"--run={run}", "--k=3", f"--out={out}", "--device=cpu"])
    lists = pd.read_csv(out)
    assert set(lists.domain) == set(DOMAINS)
    assert lists["rank"].max() == 3


def test_own_settings_decide_what_is_trained(data, tmp_path, own_names):
    runs = [train(data, tmp_path, f"tilt{first}", "--weighting=tilted", f"--tilted_first={first}")
            for first in (1, 9)]  # fmt: skip
    runs.append(train(data, tmp_path, "uniform", "--weighting=uniform"))
    weights = [torch.load(run / "best.pt")["model"]["item_table"] for run in runs]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    transfer = pd.read_csv(runs[1] / "transfer.csv")
    assert transfer.weight.tolist() == [9.0, 1.0, 1.0]


def test_transfer_is_measured_whatever_weighs_the_losses(data, tmp_path):
    run = train(data, tmp_path, "run", "--weighting=inverse_loss", "--max_epochs=2")
    transfer = pd.read_csv(run / "transfer.csv")
    assert transfer.groupby("epoch").gamma.sum().round(6).tolist() == [1, 1]
    assert transfer.phi.notna().all()
    assert transfer.groupby("epoch").weight.mean().round(5).tolist() == [1, 1]


@pytest.mark.parametrize(
    "flags",
    [
        ("--model=gru4rec", "--weighting=inverse_loss"),
        ("--model=bert4rec", "--weighting=inverse_loss"),
        ("--model=cl4srec", "--dropout=.3"),
        ("--gap=heldout",),
        ("--gap=validation",),
        ("--model=gru4rec", "--weighting=random"),
        ("--weighting=dwa",),
        ("--weighting=famo",),
        ("--weighting=shapley",),
        pytest.param(("--weighting=pcgrad",), marks=pytest.mark.nightly),
        pytest.param(("--weighting=upgrad",), marks=pytest.mark.nightly),
    ],
    ids=[
        "gru4rec",
        "bert4rec",
        "cl4srec",
        "heldout",
        "validation",
        "random",
        "dwa",
        "famo",
        "shapley",
        "pcgrad",
        "upgrad",
    ],
)
def test_a_run_that_is_resumed_ends_as_one_that_was_left_alone(flags, data, tmp_path):
    whole = train(data, tmp_path / "a", "run", *flags, "--max_epochs=3")
    train(data, tmp_path / "b", "run", *flags, "--max_epochs=1")
    resumed = train(data, tmp_path / "b", "run", *flags, "--max_epochs=3", "--resume")
    same = ("metrics.csv", "results.json", "ranks.parquet")
    first, second = contents(whole), contents(resumed)
    assert all(first[file] == second[file] for file in same)
    states = [torch.load(run / "last.pt") for run in (whole, resumed)]
    for one, other in zip(*(flat(state) for state in states), strict=True):
        assert torch.equal(one, other)


def flat(state) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        state = list(state.values())
    return [part for one in state for part in flat(one)] if isinstance(state, list | tuple) else []


@pytest.mark.nightly
def test_two_processes_train_as_one(data, tmp_path):
    names = {
        "gru4rec": "--model", "inverse_loss": "--weighting", "pcgrad": "--weighting",
        "heldout": "--gap", "random": "--weighting", "dwa": "--weighting", "famo": "--weighting",
        "upgrad": "--weighting", "shapley": "--weighting",
    }  # fmt: skip

    def commands(folder):
        more = "--batch_size=14", "--max_epochs=3"
        return [exact(data, folder, name, f"{flag}={name}", *more) for name, flag in names.items()]

    for command in commands(tmp_path / "one"):
        main.main(command)
    runs = [(command, None) for command in commands(tmp_path / "two")]
    launch_runs(2, tmp_path, runs).check_returncode()
    for name in names:
        assert_same_run(tmp_path / "one" / "tiny" / name, tmp_path / "two" / "tiny" / name)
