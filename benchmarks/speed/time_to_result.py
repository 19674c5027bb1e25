"""Time to a result: from main.py's start to results.json, beside an earlier commit and RecTools.

    python benchmarks/speed/time_to_result.py --abxi DIR --ours benchmarks/speed/faster.json --json
    python benchmarks/speed/time_to_result.py --cases abxi/sasrec --abxi DIR --rectools PYTHON
    python benchmarks/speed/time_to_result.py --cases planted/syncrec --users 60 --max_epochs 1

Two logs, ABXI and the generated one of the preset `planted` (the bundled log of that commit), and
two models, SyNCRec and the plain SASRec, with the settings that the configs had at `--base`, the
last commit before positions counted from the newest event. Both commits get the same dataset
folder, settings and threads, and run in turn, one seed a round; the first of a round alternates.
`--ours FILE` holds settings that this checkout alone has, as {"abxi/syncrec": {"batch_size": 256}}.
Those of benchmarks/speed/faster.json were chosen on validation, with seed 42: batches of 64, and a
learning rate that falls to 0 within eight epochs.

`seconds` is the median wall time of the rounds from the start of a process to its end, and `ndcg`
the mean test NDCG@10 of the first path (`full`, mean over domains); with `_reference` those of the
earlier commit. `shares` are of this checkout's time, all rounds together: `start` (Python and
libraries; and the end of the process), `loading` (dataset, model), `steps`, `validation`, `scoring`
(both splits by all paths and protocols), `writing` (checkpoints, tables, results).

`--rectools` names the Python of an environment with benchmarks/speed/requirements-recommend.txt.
Beside the plain SASRec on ABXI, RecTools' SASRec then trains with its own defaults until its
validation NDCG@10 is that of this checkout's best epoch in the first round, or for
`--rectools_epochs`: once as it comes and once with the allocator setting that ours has. `rectools`
has its seconds, which include its validations by this project's ranking, and `times`, its seconds
over ours to the same figure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.robustness.golden import commit_of, worktree
from benchmarks.speed.common import machine, make_parser, print_result, say, spread, start
from src.io.errors import UserError, run_command
from src.io.paths import ROOT

BASE = "e6a742b"
ABXI = {
    "hidden": 64, "layers": 2, "heads": 1, "dropout": 0.3, "max_len": 50, "batch_size": 128,
    "lr": 0.001, "warmup_steps": 100, "max_epochs": 60, "min_steps": 365, "patience_steps": 365,
}  # fmt: skip
PLANTED = {
    "hidden": 48, "layers": 2, "heads": 1, "dropout": 0.2, "max_len": 50, "batch_size": 128,
    "lr": 0.004, "warmup_steps": 32, "max_epochs": 60, "patience_steps": 128,
}  # fmt: skip
TWO_VIEWS = {"experts_cross": 2, "experts_single": 1}
PLAIN = {"loss": "ce", "softmax_items": "all"}
# The plain SASRec of the earlier commit: SyNCRec's cross task with one expert and nothing else
ONE_EXPERT = {
    "mode": "cdsr", "experts_cross": 1, "experts_single": 0, "gate": "none", "towers": False,
}  # fmt: skip
CASES = {  # {log/model: the settings of both commits}
    "abxi/syncrec": ABXI | TWO_VIEWS,
    "abxi/sasrec": ABXI | PLAIN,
    "planted/syncrec": PLANTED | TWO_VIEWS | {"target_domain_query": True},
    "planted/sasrec": PLANTED | PLAIN,
}
# What this checkout has to be told, to train what the earlier commit trains
AS_BEFORE = {"positions": "start", "gap": "training", "trend": False, "repeat": False}
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
ALLOCATORS: dict[str, dict[str, str]] = {"as it comes": {}, "freed memory kept": KEPT_MEMORY}

# Runs main.py's command in the root of either commit, and prints when its phases ended and how much
# of them was what, in seconds from its start.
WORKER = """
import gc, sys, time
began = time.perf_counter()
parts, validated = dict.fromkeys(("steps", "validation", "scoring", "written"), 0.0), []
gc.disable()
sys.path.insert(0, "")
import json
import main, trainers
from src.runs import evaluate
try:
    import runner as owner
except ImportError:  # before the work had a module of its own
    owner = main
gc.freeze()
gc.enable()
def since():
    return time.perf_counter() - began
marks = {"started": since()}
def clocked(of, name, part):
    function = getattr(of, name)
    def timed(*given, **named):
        entered = since()
        try:
            return function(*given, **named)
        finally:
            parts[part] += since() - entered
    setattr(of, name, timed)
clocked(trainers.Trainer, "train_steps", "steps")
clocked(trainers.Trainer, "validate", "validation")
clocked(owner, "score", "scoring")
clocked(evaluate, "write_scores", "written")
fit, validate = trainers.Trainer.fit, trainers.Trainer.validate
def fitted(*given):
    marks["loaded"] = since()
    fit(*given)
    marks["trained"] = since()
def noted(trainer, targets):
    results = validate(trainer, targets)
    figure = results[trainer.paths[0]]["macro"]["ndcg@10"]
    validated.append((since(), figure))
    return results
trainers.Trainer.fit, trainers.Trainer.validate = fitted, noted
main.main(sys.argv[1:])
print(json.dumps(marks | parts | {"ended": since(), "validated": validated}))
"""


class Run(NamedTuple):
    """A run from its start to its end."""

    seconds: float  # of the whole process
    shares: dict[str, float]  # of its phases, 1 in all
    ndcg: float  # of test
    validated: list[tuple[float, float]]  # (seconds since the start, NDCG@10) of each validation


def run(root: Path, data: Path, settings: dict[str, Any], threads: int) -> Run:
    """Run main.py of the commit checked out at `root`."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(settings))
        words = [f"--config={config}", f"--data_dir={data}", f"--runs_dir={folder}", "--run_name=r"]
        words += [f"--threads={threads}", "--device=cpu"]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", WORKER, *words], cwd=root, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"main.py of {root} ended with status {done.returncode}: {reason}")
        (results,) = Path(folder).rglob("results.json")
        paths = json.loads(results.read_text())["test"]["full"]
    clock = json.loads(done.stdout.splitlines()[-1])
    before = seconds - clock["ended"]  # until the worker's first line
    validated = [(before + at, figure) for at, figure in clock["validated"]]
    ndcg = next(iter(paths.values()))["macro"]["ndcg@10"]
    return Run(seconds, phase_shares(clock, seconds), ndcg, validated)


def phase_shares(clock: dict[str, Any], seconds: float) -> dict[str, float]:
    """The share of each phase in the seconds of a run, from what the worker prints."""
    training = clock["trained"] - clock["loaded"]
    phases = {
        "loading": clock["loaded"] - clock["started"],
        "steps": clock["steps"],
        "validation": clock["validation"],
        "scoring": clock["scoring"] - clock["written"],
        "writing": training - clock["steps"] - clock["validation"] + clock["written"],
    }
    phases = {"start": seconds - sum(phases.values())} | phases
    return {name: part / seconds for name, part in phases.items()}


def compare(
    case: str, roots: dict[str, Path], data: Path, ours: dict[str, Any], asked: argparse.Namespace
) -> tuple[dict[str, Any], Run]:
    """A case by both commits in turn; and this checkout's first run."""
    log, model = case.split("/")
    common = CASES[case] | ({"max_epochs": asked.max_epochs} if asked.max_epochs else {})
    settings = {
        "reference": common | (ONE_EXPERT if model == "sasrec" else {}),
        "checkout": common | {"model": model} | AS_BEFORE | ours,
    }
    runs: dict[str, list[Run]] = {name: [] for name in roots}
    for number in range(asked.rounds):
        for name in list(roots) if number % 2 else reversed(roots):
            say(f"{case}, round {number + 1} of {asked.rounds}: {name}")
            seeded = settings[name] | {"seed": 42 + number}
            runs[name].append(run(roots[name], data, seeded, asked.threads))
    seconds = {name: median(one.seconds for one in made) for name, made in runs.items()}
    ndcg = {name: fmean(one.ndcg for one in made) for name, made in runs.items()}
    total = sum(one.seconds for one in runs["checkout"])
    shares = {
        phase: sum(one.shares[phase] * one.seconds for one in runs["checkout"]) / total
        for phase in runs["checkout"][0].shares
    }
    result = {
        "log": log, "model": model,
        "seconds": seconds["checkout"], "seconds_reference": seconds["reference"],
        "speedup": seconds["reference"] / seconds["checkout"],
        "ndcg": ndcg["checkout"], "ndcg_reference": ndcg["reference"], "shares": shares,
        "ours": ours,
        "rounds": {name: [one.seconds for one in made] for name, made in runs.items()},
        "epochs": {name: [len(one.validated) for one in made] for name, made in runs.items()},
    }  # fmt: skip
    return result, runs["checkout"][0]


def beside_rectools(data: Path, first: Run, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """RecTools' time to the validation figure of this checkout's best epoch, by allocator."""
    reached_at, goal = max(first.validated, key=lambda one: one[1])
    found = []
    for allocator, variables in ALLOCATORS.items():
        say(f"RecTools, {allocator}, to NDCG@10 {goal:.4f}")
        script = Path(__file__).with_name("time_rectools.py")
        words = [str(data), f"--goal={goal}", f"--max_epochs={asked.rectools_epochs}"]
        began = time.perf_counter()
        done = subprocess.run(
            [asked.rectools, str(script), *words, f"--threads={asked.threads}"],
            env=os.environ | variables, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"{script.name} ended with status {done.returncode}: {reason}")
        found.append(
            json.loads(done.stdout.splitlines()[-1])
            | {"allocator": allocator, "goal": goal, "seconds": seconds}
            | {"seconds_ours": reached_at, "times": seconds / reached_at}
        )
    return found


def planted_dataset(root: Path, folder: Path, users: int) -> Path:
    """The dataset of the generated log, made by the earlier commit, whose folders both read."""
    raw, data = folder / "raw", folder / "data"
    flags = ["--preset=planted", f"--out={raw}", *([f"--users={users}"] if users else [])]
    steps = {
        ROOT: ["-m", "src.dataset.generator", *flags],
        root: ["make_dataset.py", "--data_name=planted", "--strd_ym=202312", f"--raw_dir={raw}",
               f"--out_dir={data}"],
    }  # fmt: skip
    for where, words in steps.items():
        done = subprocess.run([sys.executable, *words], cwd=where, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{words[0]} of {where} failed: {done.stderr.strip().splitlines()[-1]}")
    return data


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--base", default=BASE, help=f"the earlier commit ({BASE})")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="(all)")
    parser.add_argument("--abxi", type=Path, help="dataset folder of ABXI, core5, leave-one-out")
    parser.add_argument("--ours", type=Path, help="JSON file of settings of this checkout alone")
    parser.add_argument("--users", type=int, default=0, help="of the generated log (its default)")
    parser.add_argument("--max_epochs", type=int, default=0, help="fewer than the settings have")
    parser.add_argument("--rectools", metavar="PYTHON", help="of an environment with RecTools")
    parser.add_argument("--rectools_epochs", type=int, default=60, help="at most (60)")
    asked = parser.parse_args(arguments)
    process, base = start(asked), commit_of(asked.base)
    asked.threads = machine(process)["threads"]
    if any(case.startswith("abxi") for case in asked.cases) and not asked.abxi:
        raise UserError(
            "the cases of ABXI need --abxi FOLDER; make it with experiments/logs/abxi.py"
        )
    ours = json.loads(asked.ours.read_text()) if asked.ours else {}
    cases = []
    with tempfile.TemporaryDirectory() as folder, worktree(base, Path(folder) / "code") as root:
        roots = {"reference": root, "checkout": ROOT}
        logs = {"abxi": asked.abxi and asked.abxi.resolve()}
        if any(case.startswith("planted") for case in asked.cases):
            logs["planted"] = planted_dataset(root, Path(folder), asked.users)
        for case in asked.cases:
            data = logs[case.partition("/")[0]]
            result, first = compare(case, roots, data, ours.get(case, {}), asked)
            if asked.rectools and case == "abxi/sasrec":
                result["rectools"] = beside_rectools(data, first, asked)
            cases.append(result)
    rows = [["log", "model", "s", "before, s", "times", "NDCG@10", "before", "shares"]]
    for case in cases:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in case["shares"].items())
        rows.append([
            case["log"], case["model"], spread(case["rounds"]["checkout"], 3),
            spread(case["rounds"]["reference"], 3), f"{case['speedup']:.2f}", f"{case['ndcg']:.4f}",
            f"{case['ndcg_reference']:.4f}", shares,
        ])  # fmt: skip
        for beside in case.get("rectools", []):
            name = f"RecTools, {beside['allocator']}"
            reached = "" if beside["reached"] else f"not reached in {beside['epochs']} epochs"
            rows.append([
                case["log"], name, "", f"{beside['seconds']:.1f}", f"{beside['times']:.2f}", "",
                f"{beside['ndcg']:.4f}", reached,
            ])  # fmt: skip
    print_result({"base": base, "cases": cases} | machine(process), rows, asked.json)


if __name__ == "__main__":
    run_command(main)
