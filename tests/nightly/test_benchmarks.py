"""The benchmarks run, print what they promise, and compare the model with its equal."""

import json

import numpy as np
import pytest
import torch
from benchmarks.reference.padded import PaddedSyNCRec, PaddedTrainer, weight_pairs
from tests.support.small_benches import padded_batch, small_bench

from benchmarks.memory import catalogue
from benchmarks.speed import (
    common,
    domains,
    end_to_end,
    gpu_profile,
    kernels,
    loader,
    protocols,
    step,
)
from src.io.errors import UserError

STEP_KEYS = {
    "hidden", "dtype", "tokens", "step_s", "oracle_s", "speedup", "necessary_gflop",
    "peak_gflops", "share_of_peak", "peak_mib", "oracle_peak_mib",
}  # fmt: skip


VARIANTS = {
    "bce": {},
    "ce": {"loss": "ce"},
    "two heads, three layers": {"heads": 2, "layers": 3},
    "no stop-gradient": {"stop_gradient": False},
    "no SC-MIM": {"sc_mim": False},
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda name: name.replace(" ", "-"))
def test_the_padded_oracle_is_the_model_in_losses_and_gradients(variant):
    bench = small_bench(**VARIANTS[variant])
    model = bench.trainer.model
    padded = PaddedSyNCRec.of(model)
    draws = torch.rand(2, bench.tokens, dtype=torch.float64) + 0.5
    coefficients = dict(zip(("single", "cross"), draws, strict=True))
    fast, slow = model(bench.batch, coefficients), padded(padded_batch(bench), coefficients)
    for name, expected in slow._asdict().items():
        torch.testing.assert_close(getattr(fast, name), expected, rtol=1e-5, atol=1e-5, msg=name)
    for losses in (fast, slow):
        (losses.objective + losses.mim).backward()
    for parameter, form, own in weight_pairs(model, padded):
        if own.grad is not None:  # None: the critics without SC-MIM
            torch.testing.assert_close(form(parameter.grad), own.grad, rtol=1e-5, atol=1e-5)


def test_the_oracle_has_every_weight_of_the_model():
    model = small_bench().trainer.model
    padded = PaddedSyNCRec.of(model)
    pairs = weight_pairs(model, padded)
    assert {id(own) for _, _, own in pairs} == {id(own) for own in padded.parameters()}
    theirs = {id(parameter): parameter.numel() for parameter, _, _ in pairs}
    assert sum(theirs.values()) == sum(p.numel() for p in model.parameters())
    assert sum(own.numel() for _, _, own in pairs) == sum(theirs.values())


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_both_trainers_take_the_same_steps(loss):
    bench = small_bench(loss=loss, lr=0.01, clip_norm=1.0)
    slow = PaddedTrainer(bench.trainer.model)
    for _ in range(3):
        bench.step()
        slow.train_step(padded_batch(bench))
    model = bench.trainer.model
    torch.testing.assert_close(model.gap_state, slow.network.gap_state, rtol=1e-5, atol=1e-6)
    assert (model.gap_state != model.gap_state[0]).any()
    for parameter, form, own in weight_pairs(model, slow.network):
        torch.testing.assert_close(form(parameter), own, rtol=1e-5, atol=1e-5)


def test_in_bf16_every_weight_of_the_oracle_learns():
    bench = small_bench(dtype=torch.float32, precision="bf16")
    slow = PaddedTrainer(bench.trainer.model)
    slow.train_step(padded_batch(bench))
    missing = [name for name, own in slow.network.named_parameters() if own.grad is None]
    assert not missing


def test_the_oracle_refuses_a_model_that_it_does_not_have():
    with pytest.raises(ValueError, match="gate token"):
        PaddedSyNCRec.of(small_bench(gate="sequence").trainer.model)


# ------------------------------------------------------------------------ what they measure


def test_the_necessary_work_of_the_papers_setting_is_that_of_the_formula():
    settings = common.paper_settings(hidden=64)
    counts, items = [30, 12], [100, 50]
    experts, towers, scores = 20 * 48 * 64**2 * 42, 6 * 4 * 64**2 * 42, 6 * 2 * 64 * 2 * 42
    assert step.necessary_gflop(settings, counts, items) == pytest.approx(
        1e-9 * (experts + towers + scores)
    )
    softmax = common.paper_settings(hidden=64, loss="ce", towers=False)
    scored = 6 * 2 * 64 * (30 * 100 + 12 * 50)
    assert step.necessary_gflop(softmax, counts, items) == pytest.approx(1e-9 * (experts + scored))


def test_the_log_has_the_lengths_and_domains_of_the_sample():
    lengths = common.training_lengths(500)
    assert lengths.min() == 3
    assert lengths.max() == 50
    assert lengths.mean() == pytest.approx(23.7, abs=0.05)
    assert common.training_lengths(128).mean() == pytest.approx(23.7, abs=0.3)
    dataset = common.generated_dataset(lengths, common.DOMAIN_EVENTS, common.DOMAIN_ITEMS)
    assert np.diff(dataset.item_starts).tolist() == list(common.DOMAIN_ITEMS)
    share = np.bincount(dataset.domains) / len(dataset.domains)
    expected = np.array(common.DOMAIN_EVENTS) / sum(common.DOMAIN_EVENTS)
    np.testing.assert_allclose(share, expected, atol=0.02)
    starts = dataset.item_starts[dataset.domains]
    ends = dataset.item_starts[dataset.domains + 1]
    assert ((dataset.items >= starts) & (dataset.items < ends)).all()


def test_rounds_are_interleaved_and_the_warm_up_is_left_out():
    calls = []

    def run(name, value):
        calls.append(name)
        return value + len(calls)

    found = common.interleaved({"a": lambda: run("a", 0), "b": lambda: run("b", 100)}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert found == {"a": [3, 5], "b": [104, 106]}


def test_a_phase_lasts_from_its_command_to_the_next():
    trace = (
        "+ 90.000000 ROOT=/x\n"
        "+ 100.500000 make_environment requirements.txt\n"
        "++ 101.000000 cat /x/make_dataset.py \n"
        "+ 103.500000 /x/.venv/bin/python /x/make_dataset.py --data_name=amazon\n"
        "+ 110,000000 /x/.venv/bin/python /x/main.py --data_name=amazon\n"
    )
    assert end_to_end.phase_times(trace, 89.0, 170.0) == {
        "environment_s": 3.0, "dataset_s": 6.5, "training_s": 60.0, "total_s": 81.0,
    }  # fmt: skip


def test_a_gpu_is_busy_while_any_kernel_or_copy_runs():
    def event(kind, name, start, duration):
        return {"cat": kind, "name": name, "ts": start, "dur": duration}

    trace = {
        "traceEvents": [
            event("kernel", "product", 0.0, 10.0),
            event("kernel", "sum", 4.0, 2.0),  # on another stream, within the first
            event("gpu_memcpy", "copy", 8.0, 6.0),
            event("kernel", "product", 20.0, 4.0),
            event("cpu_op", "aten::mm", 0.0, 1000.0),
            {"ph": "M"},
        ]
    }
    found = gpu_profile.summarise_trace(trace, steps=2)
    assert (found["launches"], found["copies"]) == (1.5, 0.5)
    assert found["busy_s"] == pytest.approx((14.0 + 4.0) * 1e-6 / 2)
    assert found["longest"][0] == {"kernel": "product", "s": pytest.approx(7e-6)}


# ------------------------------------------------------------------------ what they print


def printed(capsys, benchmark, *flags) -> dict:
    """The JSON object that a benchmark prints, alone on standard output."""
    capsys.readouterr()
    benchmark.main(["--json", "--device=cpu", "--batch=4", "--rounds=1", "--threads=1", *flags])
    return json.loads(capsys.readouterr().out)


def test_step_prints_the_promised_keys(capsys):
    result = printed(capsys, step, "--hidden=8")
    assert result.keys() >= STEP_KEYS
    assert (result["hidden"], result["dtype"]) == (8, "float32")
    assert result["tokens"] == common.training_lengths(4).sum()
    assert result["speedup"] == pytest.approx(result["oracle_s"] / result["step_s"])
    assert result["share_of_peak"] == pytest.approx(
        result["necessary_gflop"] / result["step_s"] / result["peak_gflops"]
    )
    assert result["peak_mib"] > 50
    assert result["oracle_peak_mib"] > 50


def test_step_can_leave_the_oracle_out(capsys):
    result = printed(capsys, step, "--hidden=8", "--loss=ce", "--dtype=bfloat16", "--skip_oracle")
    assert result.keys() >= STEP_KEYS
    assert (result["dtype"], result["loss"]) == ("bfloat16", "ce")
    assert all(result[key] is None for key in ("oracle_s", "speedup", "oracle_peak_mib"))
    assert result["step_s"] > 0


def test_kernels_compares_plain_and_fused_in_every_part(capsys):
    result = printed(capsys, kernels, "--hidden=8", "--dtype", "float32", "bfloat16")
    parts = [(case["dtype"], case["part"]) for case in result["cases"]]
    assert parts == [(dtype, part) for dtype in kernels.PRECISIONS for part in kernels.PARTS]
    for case in result["cases"]:
        (plain,), (fused,) = case["rounds"].values()
        assert case["gain"] == pytest.approx(plain / fused)
        assert case["saved"] == pytest.approx(1 - case["mib"]["fused"] / case["mib"]["plain"])
        assert case["pays"] == (case["gain"] >= 1.15 or case["saved"] >= 0.2)


def test_domains_prints_the_ratio_of_twenty_domains_to_two(capsys):
    result = printed(capsys, domains, "--hidden=8")
    times = dict(zip(result["domains"], result["step_s"], strict=True))
    assert list(times) == [1, 2, 3, 5, 10, 20]
    assert result["ratio"] == pytest.approx(times[20] / times[2])


def test_catalogue_prints_a_time_for_each_size(capsys):
    result = printed(capsys, catalogue, "--hidden=8", "--items", "50", "400", "--memory")
    assert result["items"] == [50, 400]
    assert result["ratio"] == pytest.approx(result["step_s"][1] / result["step_s"][0])
    assert all(time > 0 for time in result["step_s"] + result["dense_step_s"])


def test_protocols_prints_what_all_cost_beside_one(capsys):
    capsys.readouterr()
    sizes = ["--items=40", "--domains=2", "--hidden=8", "--targets=20", "--negatives=5"]
    protocols.main(["--json", "--device=cpu", "--rounds=2", "--threads=1", *sizes])
    result = json.loads(capsys.readouterr().out)
    times = result["rounds"]
    ratios = [b / a for a, b in zip(times["alone"], times["all"], strict=True)]
    assert result["ratio"] == pytest.approx(np.median(ratios))
    assert (result["items"], result["targets"], result["protocols"]) == (40, 20, 11)
    assert result["pass_ratio"] > 0 and result["added_mib"] >= 0


def test_loader_prints_its_rate_beside_training_and_what_two_processes_saw(capsys):
    capsys.readouterr()
    sizes = ["--events=6000", "--items=40", "--batches=2", "--rounds=1"]
    loader.main(["--json", "--device=cpu", "--threads=1", *sizes])
    result = json.loads(capsys.readouterr().out)
    assert result["events"] == pytest.approx(6000, rel=0.01)
    rounds = result["rounds"]
    for by in ("random", "length"):
        (ratio,) = np.divide(rounds["loader"][by], rounds["training"][by])
        assert result["ratio"][by] == pytest.approx(ratio)
        two = result["two_processes"][by]
        assert two["each_user_once"] and sum(two["users"]) == result["users"]
        assert len(two["tokens_per_s"]) == 2 and min(two["tokens_per_s"]) > 0
    assert result["imbalance"]["length"] <= result["imbalance"]["random"]
    assert result["open_s"] > 0 and result["check_s"] > 0


def test_the_loaders_log_has_twenty_events_a_user_and_a_long_tail():
    lengths = loader.user_lengths(200_000)
    assert len(lengths) == 10_000
    assert lengths.min() == 3 and lengths.max() > 150
    assert lengths.mean() == pytest.approx(20, abs=0.05)


def test_without_json_a_table_is_printed(capsys):
    domains.main(["--hidden=8", "--batch=4", "--rounds=1", "--threads=1", "--device=cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["domains", "1", "2", "3", "5", "10", "20"]


def test_the_gpu_profile_says_that_it_needs_a_gpu():
    with pytest.raises(UserError, match="no GPU"):
        gpu_profile.main(["--device=cpu"])


def test_end_to_end_times_the_real_commands_and_can_install_nothing(capfd):
    flags = ["--hidden=8", "--layers=1", "--max_epochs=1", "--threads=1"]
    end_to_end.main(["--json", "--skip_install", "--", *flags])
    out, progress = capfd.readouterr()
    result = json.loads(out)
    phases = [result[f"{phase}_s"] for phase in ("environment", "dataset", "training")]
    assert min(phases) >= 0
    assert result["total_s"] >= sum(phases)
    assert "run folder:" in progress  # train.sh said its last line
    assert "installing" not in progress
