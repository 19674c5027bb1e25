"""No verdict where a compared model was not trained to the end, and unequal budgets are named."""

import json
import shlex
import subprocess

import numpy as np
import pandas as pd
import pytest

import main
from src.config.names import COUNT_MODELS
from src.report import training_ends
from src.report.finished_runs import read_runs
from src.report.formatting import level
from src.report.transfer.data_sets import data_sets
from src.runs.command import parse_command
from src.statistics.bootstrap import estimates
from src.training.convergence import TrainingEnd, last_rise, short_training
from tests.support.command_runs import data_step, flags, make_log
from tests.support.report_commands import cells_of, run_report
from tests.support.run_folders import RISING, Log, write_run
from tests.support.transfer_runs import Analysed, write_models

LOG = Log(domains=("A", "B", "C"), users=240)
GAINS = {"cross": {"A": 1.5, "B": 1.5, "C": 1.5}}
RISE = "its validation still rose by 0.8400 (standard error 0.0"

# ------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 0.1),  # the last epoch against the best before
        ([0.1, 0.5, 0.3, 0.4], -0.1),  # what fell again does not rise
        ([0.1, 0.2, 0.3, 0.4, 0.6, 0.5, 0.7, 0.65], 0.1),  # two epochs of eight
        ([0.3, 0.2], -0.1),
    ],
)
def test_the_rise_is_of_the_best_value_over_the_last_quarter(values, expected):
    steps = 10 * np.arange(1, len(values) + 1)
    assert last_rise(steps, np.array(values)) == pytest.approx(expected)


def test_a_single_validation_shows_no_end():
    assert np.isnan(last_rise(np.array([7]), np.array([0.4])))
    assert "no validation before" in end(rise=np.nan).fault(error=1.0)


def end(**changed):
    values = {
        "domain": "", "epochs": 16, "steps": 160, "best_epoch": 12, "best_step": 120,
        "rise": 0.01, "warmup": 20, "max_epochs": 60,
    }  # fmt: skip
    return TrainingEnd(**values | changed)


def test_a_model_is_at_fault_for_its_rise_or_its_warm_up():
    assert end().fault(error=0.01) == end(warmup=79).fault(error=0.02) == ""
    assert end().fault(error=0.009) == (
        "its validation still rose by 0.0100 (standard error 0.0090) over the last quarter of its "
        "160 steps"
    )
    fault = end(warmup=80).fault(error=0.02)
    assert fault == "its warm-up of 80 steps took half or more of its 160 steps"
    assert end(warmup=0, steps=0).fault(error=0.02) == ""


def test_the_console_says_why_training_stopped_and_which_epoch_was_best():
    assert end().why() == (
        "stopped after epoch 16 (step 160): no better validation for 40 steps; the best epoch was "
        "12"
    )
    assert end(max_epochs=16, best_epoch=16, best_step=160).why() == (
        "stopped after epoch 16 (step 160): --max_epochs 16 reached; the best epoch was the last "
        "(16); more epochs may give a better one"
    )


@pytest.mark.parametrize(
    ("words", "steps", "expected"),
    [
        (
            ["--warmup_steps=100", "--max_epochs=16"],
            2,
            "the warm-up of 100 steps is half or more of the",
        ),
        (["--warmup_steps=16", "--max_epochs=16"], 2, "at most 32 steps of this model (16 epochs"),
        (["--warmup_steps=15", "--max_epochs=16"], 2, ""),
        (["--warmup_steps=0", "--max_epochs=1"], 1, ""),
        (["--lr_schedule=linear", "--warmup_steps=0"], 5000, "--lr_schedule linear and"),
        (["--lr_schedule=linear", "--warmup_steps=90"], 2, "flat at the end may be the schedule's"),
    ],
)
def test_what_takes_half_of_the_steps_is_warned_of_before_training(words, steps, expected):
    warning = short_training(parse_command(words).settings, steps)
    assert expected in warning and bool(warning) == bool(expected)


# ------------------------------------------------------------------------ its standard error


@pytest.mark.parametrize("average", ["macro", "users"])
def test_the_standard_error_is_that_of_the_bootstrap_over_users(tmp_path, average):
    log = Log(domains=("A", "B", "C"), users=300, per_user=2, split="leave_one_out_per_domain")
    gains = {"cross": {"A": 3.0}}
    (run,) = read_runs([write_run(tmp_path / "a", log, gains=gains, select_average=average)])
    (one,) = training_ends.model_ends([run])
    values = run.values("valid", "full", "cross", "ndcg@10")
    assert one.error == training_ends.standard_error(values, average) and not one.bounded
    values = values[(values.domain != "A") | (values.index % 8 == 0)]  # domains of unequal sizes
    codes = pd.factorize(values.user_id)[0], values.domain.map(log.domains.index).to_numpy()
    expected = estimates(values.value.to_numpy(), *codes, list(log.domains))[average].error
    assert training_ends.standard_error(values, average) == pytest.approx(expected, rel=0.1)


def test_an_old_run_without_ranks_has_the_largest_error_that_its_mean_allows(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "a", LOG)])
    (exact,) = training_ends.model_ends([run])
    (run.folder / "ranks.parquet").unlink()
    (one,) = training_ends.model_ends([run])
    cells = [run.results["valid"]["full"]["cross"][name] for name in LOG.domains]
    squares = [cell["ndcg@10"] * (1 - cell["ndcg@10"]) / cell["n"] for cell in cells]
    assert one.bounded and one.error == pytest.approx(np.sqrt(sum(squares)) / 3)
    assert one.error > exact.error


def test_each_domain_s_own_model_is_judged_by_its_own_curve(tmp_path):
    folder = write_run(tmp_path / "a", LOG, mode="sdsr_separate", steps=40)
    rows = pd.read_csv(folder / "metrics.csv")
    rows = rows[(rows.domain != "B") | (rows.epoch < 3)]  # 80 steps, fewer than its warm-up
    rows.loc[(rows.domain == "C") & (rows.epoch == 4), "value"] = 0.9
    rows.to_csv(folder / "metrics.csv", index=False)
    ends = training_ends.model_ends(read_runs([folder]))
    assert [(one.end.domain, one.end.epochs, one.end.steps) for one in ends] == [
        ("A", 4, 160), ("B", 2, 80), ("C", 4, 160),
    ]  # fmt: skip
    assert ends[0].fault.startswith("its warm-up of 100 steps took half or more of its 160")
    assert ends[1].fault.startswith("its warm-up of 100 steps took half or more of its 80")
    found = training_ends.faults(ends, "own")
    assert set(found) == {"A", "B", "C", "macro", "users"}
    assert found["macro"].startswith("own in A, B and C: its warm-up")


# ------------------------------------------------------------------------ compare


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs with a difference in each domain: trained to the end, still rising, in one domain."""
    folder = tmp_path_factory.mktemp("runs")
    made = {
        "joined": write_run(folder / "joined", LOG, mode="cdsr", gains=GAINS),
        "rising": write_run(
            folder / "rising", LOG, mode="cdsr", gains=GAINS, curve=RISING, lr=0.01
        ),
        "own": write_run(folder / "own", LOG, mode="sdsr_separate"),
        "short": write_run(folder / "short", LOG, mode="sdsr_separate", lr=0.002),
    }
    rows = pd.read_csv(made["short"] / "metrics.csv")
    rows.loc[(rows.domain == "B") & (rows.epoch == 4), "value"] = 0.9
    rows.to_csv(made["short"] / "metrics.csv", index=False)
    return made


def compared(monkeypatch, capsys, tmp_path, *folders):
    out = tmp_path / "pairs"
    text = run_report(monkeypatch, capsys, "compare", *folders, "--out", out)
    rows = pd.read_csv(out.with_suffix(".csv"), keep_default_na=False).set_index("domain")
    bold = {cells[1] for cells in cells_of(text)[1:] if "**" in cells[4]}
    return text, rows, bold


def test_trained_models_get_a_verdict(runs, tmp_path, monkeypatch, capsys):
    text, rows, bold = compared(monkeypatch, capsys, tmp_path, runs["joined"], runs["own"])
    assert {"A", "B", "C"} <= bold and set(rows.withheld) == {""}
    assert "cannot tell" not in text.lower() and "Unequal budgets" not in text


def test_compare_withholds_every_verdict_on_a_model_that_still_rose(
    runs, tmp_path, monkeypatch, capsys
):
    text, rows, bold = compared(monkeypatch, capsys, tmp_path, runs["rising"], runs["own"])
    assert bold == set() and (rows.p_holm.astype(float) < 0.05).any()
    assert f"- Cannot tell: not trained to the end (rising:cross: {RISE}" in text
    assert rows.withheld.str.startswith(f"rising:cross: {RISE}").all()


def test_a_domain_s_model_withholds_its_domain_and_the_means(runs, tmp_path, monkeypatch, capsys):
    text, rows, bold = compared(monkeypatch, capsys, tmp_path, runs["joined"], runs["short"])
    assert bold == {"A", "C"}
    assert (rows.withheld != "").to_dict() == {
        "A": False, "B": True, "C": False, "macro": True, "users": True,
    }  # fmt: skip
    assert "- Cannot tell in B: not trained to the end (short:single: its validation" in text
    assert "- Cannot tell in macro and users: not trained to the end (short:single in B: " in text


def test_one_seed_that_still_rose_is_enough(runs, tmp_path, monkeypatch, capsys):
    more = [
        write_run(tmp_path / f"many-seed{seed}", LOG, mode="cdsr", gains=GAINS, seed=seed, **other)
        for seed, other in ((1, {}), (2, {"curve": RISING}))
    ]
    text, _, bold = compared(monkeypatch, capsys, tmp_path, *more, runs["own"])
    assert bold == set() and f"(many:cross, 1 of 2 seeds: {RISE}" in text


def test_a_run_without_its_curve_is_not_judged_and_that_is_said(
    runs, tmp_path, monkeypatch, capsys
):
    folder = write_run(tmp_path / "bare", LOG, mode="cdsr", gains=GAINS)
    (folder / "metrics.csv").unlink()
    text, _, bold = compared(monkeypatch, capsys, tmp_path, folder, runs["own"])
    assert bold
    assert "Without metrics.csv it is not known whether bare:cross was trained to the end." in text


def test_count_models_need_no_training(runs, tmp_path, monkeypatch, capsys):
    text, rows, _ = compared(
        monkeypatch, capsys, tmp_path, runs["joined"], f"{runs['rising']}:markov"
    )
    assert set(rows.withheld) == {""} and "Unequal" not in text


def test_the_table_names_the_models_that_were_not_trained_to_the_end(runs, monkeypatch, capsys):
    text = run_report(monkeypatch, capsys, "table", runs["joined"], runs["short"], runs["rising"])
    assert f"\nNot trained to the end: short in B: {RISE[:30]}" in text
    assert f"; rising: {RISE}" in text and "joined:" not in text
    assert "Not trained" not in run_report(monkeypatch, capsys, "table", runs["joined"])


def test_unequal_budgets_are_named_in_one_line(tmp_path, monkeypatch, capsys):
    first = write_run(tmp_path / "a", LOG, max_epochs=4, lr_schedule="linear", patience_steps=9999)
    second = write_run(tmp_path / "b", LOG, mode="cdsr", steps=2000, lr=0.01)
    text = run_report(monkeypatch, capsys, "compare", first, second)
    (line,) = (line for line in text.splitlines() if "Unequal budgets" in line)
    assert line == (
        "- Unequal budgets: epochs: 4 (a:cross) and 100 (b:cross); learning rate: 0.001 (a:cross) "
        "and 0.01 (b:cross); schedule: linear (a:cross) and constant (b:cross); patience in steps: "
        "9,999 (a:cross) and 720 (b:cross); steps trained: 2,000 (a:cross) and 8,000 (b:cross)."
    )


# ------------------------------------------------------------------------ the transfer report


@pytest.fixture(scope="module")
def undone(tmp_path_factory):
    """Joined still rises; the model of domain B had too few steps; two seeds of some."""
    folder, log = tmp_path_factory.mktemp("undone"), Log(domains=("A", "B"), users=200)
    gains = {"A": 1.5, "B": -1.5}
    folders = write_models(folder, log, modes=("sdsr_separate", "sdsr", "syncrec"), seeds=(1, 2))
    folders += write_models(folder, log, transfer=gains, modes=("cdsr",), curve=RISING)
    return folders


def test_the_box_says_cannot_tell_and_why(undone):
    box = Analysed(undone).box
    assert box.headline == "Gained: no domain. Hurt: no domain. Cannot tell: A and B."
    for row in box.verdicts:
        assert row.words == "cannot tell: not trained to the end (joined)"
    topics = dict(box.topics)
    assert topics["Training"].startswith(
        f"Not trained to the end, so no verdict is drawn: joined: {RISE}"
    )
    assert "not trained to the end" in topics["Against the paired model"]
    (missing,) = (what for what, command in box.steps if not command)
    assert missing == "Which model to serve in A and B: cannot tell: not trained to the end."


def test_what_to_do_next_are_commands_that_main_takes(undone):
    steps = Analysed(undone).box.steps
    commands = [command for _, command in steps if command]
    longer, *loops = commands
    settings = parse_command(shlex.split(longer)[2:]).settings
    assert (settings.mode, settings.resume, settings.patience_steps) == ("cdsr", True, 1440)
    assert shlex.split(longer)[2:4] == ["--config", str(undone[-1] / "config.json")]
    # what a shell makes of the loops, with the commands printed instead of run
    said = subprocess.run(
        ["bash", "-c", "; ".join(loops).replace("do python", "do echo python")],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    made = [parse_command(line.split()[2:]).settings for line in said]
    assert {(one.mode, one.seed, one.run_name) for one in made} == {
        ("sdsr_separate", 3, "tiny-sdsr_separate-seed3"), ("sdsr", 3, "tiny-sdsr-seed3"),
        ("syncrec", 3, "tiny-syncrec-seed3"), ("cdsr", 2, "tiny-cdsr-seed2"),
        ("cdsr", 3, "tiny-cdsr-seed3"),
    }  # fmt: skip


def test_the_path_to_serve_is_the_one_that_is_significantly_better(tmp_path):
    log = Log(domains=("Up", "Flat", "Down"), users=900)
    folders = write_models(
        tmp_path, log, modes=("sdsr_separate", "cdsr"), transfer={"Up": 2.0, "Down": -2.0}
    )
    folders += write_models(tmp_path, log, modes=("syncrec",))
    serve = [step for step in Analysed(folders).box.steps if step[0].startswith("Serve")]
    assert [(what.split(" (")[0], command.split(" --k")[0]) for what, command in serve] == [
        ("Serve Up with the joined model", f"python recommend.py --run {folders[1]}"),
        ("Serve Flat and Down with the domains' own models",
         f"python recommend.py --run {folders[0]}"),
    ]  # fmt: skip
    assert " --domains Flat Down --out " in serve[1][1]


def test_a_blend_is_served_where_it_is_better_than_all_also_than_a_look_up_table(tmp_path):
    log = Log(domains=("Up", "Flat"), users=900)
    gains = {"recent": {"Up": 2.0, "Flat": -3.0}}
    folders = [
        write_run(tmp_path / mode, log, mode=mode, seed=1, gains=gains)
        for mode in ("sdsr_separate", "cdsr")
    ]
    gains |= {"blend": {"Up": 3.0}}
    folders.append(
        write_run(tmp_path / "both", log, mode="syncrec", seed=1, gains=gains, blend=True)
    )
    analysed = Analysed(folders)
    steps = {what.split(" (")[0]: command for what, command in analysed.box.steps}
    assert (
        f"--run {folders[-1]} --k 10 --serve_path blend --domains Up"
        in (steps["Serve Up with SyNCRec blend"])
    )
    assert set(analysed.levels.ranker) == {
        "sdsr_separate", "cdsr", "cross", "single", "served", "blend", *COUNT_MODELS,
    }  # fmt: skip


def test_the_box_says_what_the_blend_has_without_its_parts_where_every_run_does(tmp_path):
    log = Log(domains=("A", "B", "C"), users=240)
    folders = write_models(tmp_path, log, seeds=(1, 2), blend=True)
    assert "SyNCRec's blend" not in Analysed(folders).summary
    values = {"trend": [], "habit": [], "blend": []}
    for folder in (folders[2], folders[5]):
        path = folder / "results.json"
        content = json.loads(path.read_text())
        paths = content["test"]["full"]
        parts = {"trend": paths["markov"], "habit": paths["cross"]}
        path.write_text(json.dumps(content | {"blend_without": {"full": parts}}))
        for name, means in (parts | {"blend": paths["blend"]}).items():
            values[name].append(means["macro"]["mrr"])
        if folder == folders[2]:
            assert "SyNCRec's blend" not in Analysed(folders).summary
    trend, habit, whole = (level(np.mean(values[name])) for name in values)
    assert len({trend, habit, whole}) == 3
    analysed = Analysed(folders, "mrr")
    assert analysed.summary["SyNCRec's blend"].startswith(
        f"In the mean over domains it has {whole}; without trend {trend}, without habit {habit}. "
    )


def test_without_a_model_per_domain_the_box_says_how_to_get_one(tmp_path):
    log = Log(domains=("A", "B"), users=60)
    box = Analysed(write_models(tmp_path, log, seeds=(7,))).box
    assert (
        "No run of one model per domain (--mode sdsr_separate)"
        in dict(box.topics)["Against the paired model"]
    )
    what, command = box.steps[0]
    assert what.startswith("Train one model per domain, which is what a team")
    settings = parse_command(shlex.split(command)[2:]).settings
    assert (settings.mode, settings.seed) == ("sdsr_separate", 7)
    assert settings.run_name == "sdsr_separate-seed7"


def test_a_model_that_warmed_up_too_long_is_trained_anew_with_a_shorter_one(tmp_path):
    log = Log(domains=("A", "B"), users=60)
    folders = write_models(tmp_path, log, modes=("sdsr_separate",), steps=8)
    folders += write_models(tmp_path, log, modes=("cdsr", "syncrec"))
    command = Analysed(folders).box.steps[1][1]
    settings = parse_command(shlex.split(command)[2:]).settings
    assert (settings.warmup_steps, settings.patience_steps, settings.resume) == (6, 1440, False)
    assert settings.run_name == "tiny-sdsr_separate-longer-seed1"


def test_the_box_names_unequal_budgets(tmp_path):
    log = Log(domains=("A", "B"), users=60)
    folders = write_models(tmp_path, log, modes=("sdsr", "syncrec"))
    folders += write_models(tmp_path, log, modes=("cdsr",), max_epochs=60)
    assert dict(Analysed(folders).box.topics)["Training"] == (
        "Every compared model was trained to the end. Unequal budgets: epochs: 100 (on its own "
        "(paired) and SyNCRec) and 60 (joined)."
    )


# ------------------------------------------------------------------------ trained models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a dataset of two domains."""
    folder = tmp_path_factory.mktemp("trained")
    raw = make_log(folder / "raw", users=60)
    data_step(
        "--data_name=tiny", "--strd_ym=202312", f"--raw_dir={raw}", f"--out_dir={folder / 'data'}",
        "--threads=1", "--domains", "A", "B",
    )  # fmt: skip
    return folder


def words_of(folder, mode, epochs):
    """The flags of a run with epochs of one step."""
    return flags(
        folder / "data", folder / "runs", f"--mode={mode}", f"--run_name={mode}-{epochs}",
        f"--max_epochs={epochs}", "--warmup_steps=10", "--lr=0.02", "--batch_size=64",
        "--protocol=full", "--patience_steps=1000",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(folder):
    """One model per domain and one of both, 16 and 60 epochs under the same warm-up:
    {epochs: [joined, own]}."""
    made = {}
    for epochs in (16, 60):
        made[epochs] = []
        for mode in ("cdsr", "sdsr_separate"):
            main.main(words_of(folder, mode, epochs))
            made[epochs].append(folder / "runs" / "tiny" / f"{mode}-{epochs}")
    return made


@pytest.mark.nightly
@pytest.mark.parametrize(("epochs", "told"), [(16, False), (60, True)])
def test_sixteen_epochs_give_no_verdict_where_sixty_may(
    trained, epochs, told, tmp_path, monkeypatch, capsys
):
    text, rows, bold = compared(monkeypatch, capsys, tmp_path, *trained[epochs])
    reason = "its warm-up of 10 steps took half or more of its 16 steps"
    assert (rows.withheld == "").all() == told and (rows.withheld != "").all() == (not told)
    assert (text.count(reason) >= 2) == (not told)
    assert told or bold == set()


def test_main_warns_before_and_says_at_the_end_why_it_stopped(folder, tmp_path, capsys):
    words = words_of(folder, "sdsr_separate", 60)
    main.main([*words, "--max_epochs=2", f"--runs_dir={tmp_path}"])
    said = capsys.readouterr()
    epoch = said.out.index("epoch   1")
    assert said.out.index("WARNING: domain A: the warm-up of 10 steps is half") < epoch
    assert said.out.count("WARNING: domain B: the warm-up of 10 steps is half") == 1
    last = said.out.splitlines()[-3:]
    for domain, line in zip("AB", last, strict=False):
        start = (
            f"domain {domain}: stopped after epoch 2 (step 2): --max_epochs 2 reached; the best "
        )
        assert line.startswith(start)
    assert last[-1].startswith("run folder: ")
    main.main([*words, "--max_epochs=2", f"--runs_dir={tmp_path}"])  # finished already
    again = capsys.readouterr()
    assert "stopped after" not in again.out and "WARNING" not in again.out


def test_runs_of_data_dir_are_called_by_their_data_card(tmp_path):
    """The settings of such a run have the default data_name, and another one was used."""
    folders = []
    for seed, name in enumerate(("one", "two")):
        raw, data = make_log(tmp_path / "raw" / name, seed), tmp_path / "data" / name
        data_step(
            f"--data_name={name}", "--strd_ym=202312", f"--raw_dir={raw}", f"--out_dir={data}",
            "--threads=1",
        )  # fmt: skip
        for mode in ("sdsr", "cdsr", "syncrec"):
            words = flags(data, tmp_path, f"--mode={mode}", f"--run_name={name}-{mode}")
            main.main([*words, "--protocol=full"])
            folders.append(tmp_path / name / f"{name}-{mode}")
    assert {run.config["data_name"] for run in read_runs(folders)} == {"amazon"}
    assert [data.name for data in data_sets(read_runs(folders))] == ["one", "two"]
